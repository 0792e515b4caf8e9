"""Steps of others that give the model more than x, change it, or use the model beside the attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, ModularConvNet, loader, trainer
from tests.helpers.training import SaveWithin, assert_same, foreign
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import SumMetric

from lsa_lightning import ATLR, AdversarialTraining, RobustValidation
from lsa_lightning.attacks import FGSM, PGD

EPS = 0.1


def at_lr(**options: Any) -> ATLR:
    return ATLR(PGD(EPS, steps=2, bounds=None, seed=0), mvl=["net.act"], analysis_every_n_epochs=0, **options)


class Notes(ModularConvNet):
    """Takes a second input, and tells of both."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(5, 3)
        self.tell: Callable[[tuple[bool, Tensor, Tensor]], None] = lambda given: None

    def forward(self, row: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        self.tell((self.training, row.detach().clone(), image.detach().clone()))
        return super().forward(image) + (self.beside(row) if row.shape[1] == 5 else row)


class TwoInputs(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = Notes()


class RowFirst(TwoInputs):
    """The image is turned round, and comes behind the other input of the batch."""

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["row"], batch["image"].permute(0, 3, 1, 2)

    def forward(self, row: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(row, image)

    def training_step(self, batch: dict[str, Tensor]) -> Any:
        return F.cross_entropy(self(*self.inputs(batch)), batch["label"])

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self(*self.inputs(batch))


class LabelsFirst(RowFirst):
    """What comes first is made of the labels."""

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return F.one_hot(batch["label"], 3).float(), ((batch["image"] - 0.5) / 0.25).permute(0, 3, 1, 2)


class Packed(ForeignModule):
    """Batches are one tensor, of which x is the first columns; the others are a mask."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.swapped = swapped
        self.given: list[tuple[Tensor, Tensor]] = []

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # type: ignore[override]
        x, mask = (second, first) if self.swapped else (first, second)
        self.given.append((x.detach().clone(), mask.detach().clone()))
        return self.net(x * mask)

    def training_step(self, batch: Any) -> Any:
        x, mask = (batch[0][:, :4] - 0.5) / 0.25, batch[2 if len(batch) == 3 else 0][:, -4:]
        return F.cross_entropy(self(*((mask, x) if self.swapped else (x, mask))), batch[1])

    def validation_step(self, batch: Any) -> None:
        pass


class PackedOnTheWay(Packed):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0][:, :4], batch[1], batch[0][:, 4:]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("cls", [Packed, PackedOnTheWay])
def test_what_lies_beside_x_in_memory_is_not_x(cls: type[Packed], swapped: bool) -> None:
    module, packed = cls(swapped), torch.rand(8, 8)
    options: dict[str, Any] = {} if cls is PackedOnTheWay else {"batch_fn": lambda batch: (batch[0][:, :4], batch[1])}
    attack = AdversarialTraining(FGSM(EPS, bounds=None), **options)
    trainer([attack]).fit(module, DataLoader(TensorDataset(packed, torch.arange(8) % 3), 8))
    moved, beside = (
        float((module.given[-1][i] - given).abs().max())
        for i, given in enumerate(((packed[:, :4] - 0.5) / 0.25, packed[:, 4:]))
    )
    assert (moved, beside) == (pytest.approx(EPS, rel=1e-5), 0.0)


class Enlarges(RowFirst):
    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["row"] * 2, F.interpolate(batch["image"].permute(0, 3, 1, 2), 16)

    def forward(self, row: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(row, F.interpolate(image, 8))


class Flattens(Enlarges):
    """Nothing that the model is given looks like x."""

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        row, image = super().inputs(batch)
        return row, image.flatten(1)


@pytest.mark.parametrize("cls", [RowFirst, LabelsFirst, Enlarges])
def test_of_several_inputs_the_one_that_is_most_like_x_is_attacked(cls: type[RowFirst]) -> None:
    module = cls()
    batch = {"image": torch.rand(6, 8, 8, 1), "row": torch.rand(6, 5), "label": torch.arange(6) % 3}
    rows = [{name: tensor[i] for name, tensor in batch.items()} for i in range(6)]
    row, image = module.inputs(batch)
    told: list[tuple[bool, Tensor, Tensor]] = []
    module.net.tell = told.append  # type: ignore[union-attr, assignment]
    callbacks = [at_lr(), RobustValidation({"fgsm": FGSM(2.0, bounds=None)})]
    trainer(callbacks).fit(module, DataLoader(rows, 6), DataLoader(rows, 6))  # type: ignore[arg-type]
    given = [each for each in told if len(each[1]) == 6]
    shown = F.interpolate(image, 8)
    for training, farthest in ((True, EPS), (False, 2.0)):
        moved = [float((seen - shown).abs().max()) for trains, _, seen in given if trains == training]
        assert pytest.approx(farthest, rel=1e-5) in moved
    assert all(torch.equal(seen, row) for _, seen, _ in given)


def test_which_of_several_inputs_is_attacked_is_not_guessed() -> None:
    rows = [{"image": torch.rand(8, 8, 1), "row": torch.rand(5), "label": torch.tensor(i % 3)} for i in range(6)]
    with pytest.raises(MisconfigurationException, match="several floating tensors with a row for each sample"):
        trainer([at_lr()]).fit(Flattens(), DataLoader(rows, 6))  # type: ignore[arg-type]


class KnowsItsEpoch(ForeignModule):
    """A branch opens in the second epoch; what is seen of it in passes of each mode is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.current_epoch, self.trainer.global_step))
        return self.net(x) * (1 + self.current_epoch)


class ByKeyword(KnowsItsEpoch):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x=x), y)


def test_the_attack_meets_the_model_attached_to_its_trainer() -> None:
    plain, keyword = foreign(KnowsItsEpoch), foreign(ByKeyword)
    for module in (plain, keyword):
        trainer([at_lr()], max_epochs=3).fit(module, loader(), loader(seed=1))
    assert {step for _, step in keyword.seen} >= set(range(9))  # type: ignore[union-attr]
    assert_same(keyword, plain, tolerance=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8, torch.int64])
def test_a_step_may_convert_what_it_gives_the_model(dtype: torch.dtype) -> None:
    class Converts(ForeignModule):
        def training_step(self, batch: Any) -> Any:
            x, y = batch
            return F.cross_entropy(self(x.float()), y)

    x, y = torch.randint(0, 2, (12, 1, 8, 8)).to(dtype), torch.arange(12) % 3
    converts, given = foreign(Converts), foreign()
    for module, inputs in ((converts, x), (given, x.float())):
        trainer([at_lr()]).fit(module, DataLoader(TensorDataset(inputs, y), 4))
    assert_same(converts, given, tolerance=0)


class Normalises(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self((x - 0.5) / 0.25), y)


class LooksAgain(pl.Callback):
    """Calls the model under gradients after the step."""

    def __init__(self) -> None:
        self.differences: list[float] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._look(pl_module)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(pl_module)

    def _look(self, module: Any) -> None:
        x = torch.full((16, 1, 8, 8), 0.3)
        with torch.enable_grad():
            self.differences.append(float((module(x.clone()) - module.net(x)).abs().max()))


@pytest.mark.parametrize("first", [False, True])
def test_calls_of_the_model_after_the_step_get_what_they_are_given(first: bool) -> None:
    looks = LooksAgain()
    trainer([looks, at_lr()] if first else [at_lr(), looks]).fit(foreign(Normalises), loader(), loader(seed=1))
    assert looks.differences == [0.0] * 6


class Cached(Normalises):
    """Parametrizations are computed once in the step."""

    def __init__(self) -> None:
        super().__init__()
        weight_norm(self.net.fc1)

    def training_step(self, batch: Any) -> Any:
        with parametrize.cached():
            return super().training_step(batch)


class Uncached(Cached):
    def training_step(self, batch: Any) -> Any:
        return Normalises.training_step(self, batch)


def test_weights_that_the_step_caches_have_their_gradients() -> None:
    cached, plain = foreign(Cached), foreign(Uncached)
    for module in (cached, plain):
        trainer([at_lr()]).fit(module, loader(), loader(seed=1))
    assert_same(cached, plain, tolerance=1e-6)


class Counts(Normalises):
    """Logs in forward, and counts in its steps before the model is called."""

    def __init__(self, normalises: bool = True) -> None:
        super().__init__()
        self.normalises = normalises
        self.samples, self.seen = SumMetric(), SumMetric()

    def forward(self, x: Tensor) -> Tensor:
        if self.trainer.validating or not self.trainer.training:
            self.seen.update(len(x))
        else:
            self.log("trained", float(self.training), on_step=False, on_epoch=True, batch_size=len(x))
        return self.net(x)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x=(x - 0.5) / 0.25) if self.normalises else self(x), y)

    def validation_step(self, batch: Any) -> None:
        self.samples.update(len(batch[0]))
        self((batch[0] - 0.5) / 0.25)
        self.log_dict({"samples": self.samples, "seen": self.seen}, on_step=False, on_epoch=True)


@pytest.mark.parametrize("normalises", [False, True])
def test_what_the_model_logs_and_counts_is_of_the_steps_alone(normalises: bool) -> None:
    attack = FGSM(EPS, bounds=None)
    run = trainer([ATLR(attack, top_k=1), RobustValidation({"fgsm": attack})])
    run.fit(Counts(normalises), loader(), loader(seed=1))
    assert float(run.callback_metrics["trained"]) == 1
    assert float(run.callback_metrics["samples"]) == float(run.callback_metrics["seen"]) == 48


class Flat(Normalises):
    """Penalises the gradient of its own input."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        x = ((x - 0.5) / 0.25).requires_grad_()
        loss = F.cross_entropy(self(x), y)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + gradient.square().sum()


class FlatInPixels(Flat):
    """The gradient is that of the batch."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(self((x - 0.5) / 0.25), y)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + (0.25 * gradient).square().sum()


class FlatAlready(Flat):
    """The same of batches that are normalised."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(self(x), y)
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + gradient.square().sum()


def test_a_step_may_take_gradients_of_its_own_input() -> None:
    x, y = next(iter(loader(batch_size=48)))
    flat, pixels, already = foreign(Flat), foreign(FlatInPixels), foreign(FlatAlready)
    for module, inputs in ((flat, x), (pixels, x), (already, (x - 0.5) / 0.25)):
        trainer([AdversarialTraining(PGD(EPS, steps=2, bounds=None, seed=0))]).fit(
            module, DataLoader(TensorDataset(inputs, y), 16)
        )
    assert_same(flat, already, tolerance=1e-6)
    assert_same(pixels, already, tolerance=1e-6)


def test_a_resumed_epoch_of_a_run_without_a_list_makes_one(tmp_path: Path) -> None:
    trainer([SaveWithin(tmp_path / "within.ckpt")], max_epochs=2).fit(foreign(), loader(), loader(seed=1))
    callback, seen = ATLR(FGSM(EPS), top_k=1), []

    class Sees(pl.Callback):
        def on_train_batch_end(self, *_: object, **__: object) -> None:
            seen.append(callback.mvl)

    run = trainer([callback, Sees()], max_epochs=2)
    run.fit(foreign(), loader(), loader(seed=1), ckpt_path=tmp_path / "within.ckpt")
    assert len(seen) == 2
    assert None not in seen


class Stateful(nn.Module):
    """A recurrent net whose first hidden state is a buffer for a batch of one size."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.act = nn.Tanh()
        self.head = nn.Linear(8, 3)
        self.register_buffer("hidden", torch.zeros(1, samples, 8))

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.gru(x.flatten(1, 2), self.hidden)
        return self.head(self.act(out[:, -1]))  # type: ignore[no-any-return]


@pytest.mark.parametrize("samples", [1, 2, 24])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_model_may_take_batches_of_one_size_alone(samples: int, fixed: bool) -> None:
    module = foreign()
    module.net = Stateful(samples)
    callback = ATLR(FGSM(EPS), mvl=["net.act"] if fixed else None, layers=["net.act"], top_k=None if fixed else 1)
    run = trainer([callback])
    run.fit(module, loader(batch_size=samples), loader(batch_size=samples))
    assert callback.mvl == ["net.act"]
    assert float(run.callback_metrics["train/loss_lr"]) > 0


@pytest.mark.parametrize("samples", [1, 2])
def test_few_samples_may_come_with_further_rows(samples: int) -> None:
    rows = [{"image": torch.rand(8, 8, 1), "row": torch.rand(5), "label": torch.tensor(i % 3)} for i in range(4)]
    run = trainer([at_lr()])
    run.fit(RowFirst(), DataLoader(rows, samples), DataLoader(rows, samples))  # type: ignore[arg-type]
    assert float(run.callback_metrics["train/loss_lr"]) > 0


class KeywordOnly(ForeignModule):
    def forward(self, *, pixels: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(pixels)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(pixels=x), y)

    def validation_step(self, batch: Any) -> None:
        self(pixels=batch[0])


def test_a_compiled_model_may_be_called_by_keyword() -> None:
    plain, compiled = foreign(KeywordOnly), foreign(KeywordOnly)
    compiled.compile(backend="eager")
    for module in (plain, compiled):
        trainer([at_lr(), RobustValidation({"fgsm": FGSM(EPS, bounds=None)})]).fit(module, loader(), loader(seed=1))
    assert_same(compiled, plain, tolerance=1e-6)


class Pictures:
    """A batch of somebody's own class, which Lightning moves by its method ``to``."""

    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.image, self.label = image, label
        self.beside: Any = self  # a circle

    def to(self, device: Any, **_: Any) -> Pictures:
        return Pictures(self.image.to(device), self.label.to(device))


class LockedPictures(Pictures):
    def __init__(self, image: Tensor, label: Tensor) -> None:
        super().__init__(image, label)
        self.lock = Lock()  # which cannot be copied

    def to(self, device: Any, **_: Any) -> Pictures:
        return LockedPictures(self.image.to(device), self.label.to(device))


class Scaling(ForeignModule):
    """Replaces the inputs in the batch by what it makes of them."""

    def training_step(self, batch: Pictures) -> Tensor:
        batch.image = batch.image * 2 - 1
        return F.cross_entropy(self(batch.image), batch.label)

    def validation_step(self, batch: Pictures) -> None:
        batch.image = batch.image * 2 - 1
        accuracy = (self(batch.image).argmax(1) == batch.label).float().mean()
        self.log("own", accuracy, batch_size=len(batch.label))


@pytest.mark.parametrize("cls", [Pictures, LockedPictures])
def test_a_batch_of_a_class_of_ones_own_is_changed_once(cls: type[Pictures]) -> None:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> Pictures:
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def batch_fn(batch: Pictures) -> tuple[Tensor, Tensor]:
        return batch.image, batch.label

    options: dict[str, Any] = {"batch_fn": batch_fn}
    still = PGD(0.0, steps=1, bounds=None)
    callbacks = [AdversarialTraining(still, **options), RobustValidation({"still": still}, **options)]
    runs = []
    for given in (callbacks, []):
        run, module = trainer(given, max_epochs=2), foreign(Scaling)
        run.fit(module, loader(collate=collate), loader(seed=1, collate=collate))
        runs.append((run, module))
    assert_same(runs[0][1], runs[1][1])
    metrics = runs[0][0].callback_metrics
    assert metrics["own"] == runs[1][0].callback_metrics["own"] == metrics["val/acc_clean"] == metrics["val/acc_still"]
