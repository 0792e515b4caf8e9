from __future__ import annotations

import csv
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.modules import ForeignModule, images, loader, trainer
from tests.helpers.training import MVL, assert_same, fit, foreign, pgd
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, MoonDataModule
from lsa_lightning.attacks import PGD, TPGD, InputSpace
from lsa_lightning.attacks.output_space import AttackOnLogits
from lsa_lightning.functional import relative_error
from lsa_lightning.regularizers import TrainingRamp
from lsa_lightning.unlabelled import FromLoader, Generated, PartOfBatch, Source, Unlabelled

pytestmark = pytest.mark.usefixtures("float64")


def noise(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=generator)


def test_a_loaders_batches_come_over_and_over_and_leave_the_random_state_alone() -> None:
    batches = DataLoader(TensorDataset(*images(5)), batch_size=2, shuffle=True)
    source = FromLoader(batches)
    before = torch.get_rng_state()
    sizes = [len(source.draw(torch.zeros(1))) for _ in range(5)]
    assert sizes == [2, 2, 1, 2, 2]
    assert torch.equal(torch.get_rng_state(), before)


def test_it_goes_on_behind_the_batches_that_were_taken() -> None:
    batches = [torch.full((1, 1), float(i)) for i in range(3)]
    source, resumed = FromLoader(batches), FromLoader(batches)
    for _ in range(5):
        source.draw(torch.zeros(1))
    resumed.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
    assert [float(resumed.draw(torch.zeros(1))) for _ in range(2)] == [2.0, 0.0]


def test_each_process_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsa_lightning.unlabelled.place", lambda: (1, 2))
    source = FromLoader([torch.full((1, 1), float(i)) for i in range(5)])
    assert [float(source.draw(torch.zeros(1))) for _ in range(3)] == [1.0, 3.0, 1.0]


@pytest.mark.parametrize(("share", "samples", "drawn"), [(0.07, 100, 7), (0.55, 100, 55), (0.14, 50, 7), (0.001, 5, 1)])
def test_a_part_of_the_batch_is_rounded_up_but_not_beyond_a_whole_number(
    share: float, samples: int, drawn: int
) -> None:
    assert len(PartOfBatch(share).draw(torch.zeros(samples, 1))) == drawn


def test_a_datamodule_means_its_training_data() -> None:
    data = MoonDataModule(train_size=10, batch_size=4, seed=7)
    x = FromLoader(data).draw(torch.zeros(1, dtype=torch.float64))
    assert x.shape == (4, 2)
    assert x.dtype == torch.float64


def test_a_part_of_a_datamodule_is_what_its_dataloader_of_that_name_gives() -> None:
    data = MoonDataModule(train_size=10, batch_size=4, unlabelled_size=6)
    x = FromLoader(data, part="unlabelled").draw(torch.zeros(1))
    assert torch.equal(x, next(iter(data.unlabelled_dataloader()))[0])


@pytest.mark.parametrize("other", [[torch.zeros(2, 3)], LightningDataModule()])
def test_a_part_that_is_not_there_is_named(other: Any) -> None:
    with pytest.raises(ValueError, match=r"loader to be a LightningDataModule with unlabelled_dataloader\(\), got"):
        FromLoader(other, part="unlabelled")


def test_each_pass_has_an_order_of_its_own_to_which_a_resumed_run_returns() -> None:
    def source() -> FromLoader:
        return FromLoader(MoonDataModule(train_size=10, batch_size=4, unlabelled_size=6), part="unlabelled")

    whole, resumed = source(), source()
    passes = [torch.cat([whole.draw(torch.zeros(1)) for _ in range(2)]) for _ in range(2)]
    assert not torch.equal(*passes)
    assert torch.equal(*(each.sort(dim=0).values for each in passes))
    half = source()
    first = [half.draw(torch.zeros(1)) for _ in range(3)][2]
    resumed.load_state_dict(pickle.loads(pickle.dumps(half.state_dict())))
    assert torch.equal(torch.cat([first, resumed.draw(torch.zeros(1))]), passes[1])
    half.restart()
    assert torch.equal(half.draw(torch.zeros(1)), passes[0][:4])


def drawing(**options: Any) -> FromLoader:
    """Numbers 0 to 7, each beside one that is drawn."""

    class Drawing(Dataset[Tensor]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Tensor:
            return torch.tensor([index, torch.rand(()), random.random(), np.random.rand()])

    return FromLoader(DataLoader(Drawing(), batch_size=4, **options))


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "num_workers": 1}])
def test_what_the_loader_draws_goes_on_and_a_resumed_run_draws_the_same(options: dict[str, Any]) -> None:
    source, resumed = drawing(**options), drawing(**options)
    drawn = [source.draw(torch.zeros(1)) for _ in range(5)]
    state = pickle.loads(pickle.dumps(source.state_dict()))
    drawn += [source.draw(torch.zeros(1)) for _ in range(3)]
    numbers = torch.cat(drawn)[:, 1:]
    for column in range(3 if "num_workers" not in options else 1):  # a worker seeds the others as torch's
        assert len(numbers[:, column].unique()) == len(numbers)
    if options:
        orders = torch.cat(drawn)[:, 0].view(4, 8)
        assert len(orders.unique(dim=0)) == 4
    torch.manual_seed(torch.initial_seed())  # what else was drawn meanwhile does not matter
    torch.rand(3)
    resumed.load_state_dict(state)
    for expected in drawn[5:]:
        assert torch.equal(resumed.draw(torch.zeros(1)), expected)


@pytest.mark.parametrize("nothing", [[], DataLoader(TensorDataset(torch.zeros(0, 2)))])
def test_an_empty_loader_is_an_error(nothing: Any) -> None:
    with pytest.raises(ValueError, match="FromLoader: expected at least one batch for each process"):
        FromLoader(nothing).draw(torch.zeros(1))


def test_dicts_and_ones_own_batches_are_read() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(FromLoader([{"image": x}]).draw(torch.zeros(1)), x)
    assert torch.equal(FromLoader([("name", x)], batch_fn=lambda batch: batch[1]).draw(torch.zeros(1)), x)
    assert torch.equal(FromLoader([{"id": torch.arange(2), "image": x}]).draw(torch.zeros(4, 3)), x)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"id": torch.arange(2), "age": torch.ones(2)}, r"a mapping with one of the keys .* keys \['id', 'age'\]"),
        (torch.ones(2), r"expected inputs \('M', 3\), as the step's own, got \(2,\); batch_fn"),
        (torch.ones(2, 4), r"expected inputs \('M', 3\), as the step's own, got \(2, 4\)"),
    ],
)
def test_other_inputs_are_an_error(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FromLoader([batch]).draw(torch.zeros(4, 3))


def test_generated_inputs_come_from_a_generator_that_goes_on() -> None:
    source, resumed = Generated(noise, size=2, seed=3), Generated(noise, size=2, seed=3)
    first = source.draw(torch.zeros(5))
    resumed.load_state_dict(pickle.loads(pickle.dumps(source.state_dict())))
    assert torch.equal(resumed.draw(torch.zeros(5)), source.draw(torch.zeros(5)))
    source.restart()
    assert torch.equal(source.draw(torch.zeros(5)), first)
    assert len(Generated(noise).draw(torch.zeros(5))) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartOfBatch(0.0), "PartOfBatch: expected share to be"),
        (lambda: FromLoader(3), "FromLoader: expected loader to be a dataloader"),
        (lambda: FromLoader(torch.zeros(2)), "FromLoader: expected loader to be a dataloader"),
        (lambda: Generated(3), "Generated: expected function to be"),
        (lambda: Generated(noise, size=0), "Generated: expected size to be"),
        (lambda: Unlabelled([1]), "Unlabelled: expected source to be a Source"),
        (lambda: ATLR(pgd(), unlabelled=PartOfBatch()), "ATLR: expected unlabelled to be an Unlabelled"),
    ],
)
def test_arguments_of_a_wrong_kind(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Fixed(Source):
    """Gives the same inputs in each step."""

    def __init__(self) -> None:
        self.x = images(8, seed=5)[0]

    def draw(self, x: Tensor) -> Tensor:
        return self.x


@pytest.mark.parametrize("only", [True, False])
def test_the_first_step_is_the_one_written_out(only: bool) -> None:
    module, expected, source = foreign(), foreign(), Fixed()
    unlabelled = Unlabelled(source, attack=TPGD(0.1, steps=2, seed=1), only=only)
    callback = ATLR(pgd(), regularizer=LayerwiseRegularizer(0.5), mvl=MVL, unlabelled=unlabelled)
    fit(module, callback, limit_train_batches=1, limit_val_batches=0)

    optimizer, net = expected.configure_optimizers(), expected.net.hidden
    (x, y), u = next(iter(loader())), source.x
    x_adv = pgd()(expected, x, y)
    loss = expected.train().training_step((x_adv, y))
    # Behind the step the attack sees the statistics that BatchNorm has then.
    u_adv = TPGD(0.1, steps=2, seed=1)(expected, u, torch.zeros(8, dtype=torch.long))
    penalty = _lr(net(u), net(u_adv))
    if not only:
        penalty = penalty + _lr(net(x), net(x_adv))
    (loss + 0.5 * penalty).backward()
    optimizer.step()
    parameters = dict(expected.named_parameters())
    for name, value in module.named_parameters():
        torch.testing.assert_close(value, parameters[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


class InForward(ForeignModule):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.4) / 0.3)


class InStep(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return functional.cross_entropy(self((x - 0.4) / 0.3), y)


@pytest.mark.parametrize("source", ["fixed", "part"])
@pytest.mark.parametrize("rows", [16, 8])  # the batch has 16
def test_a_step_that_changes_x_changes_nothing_about_them(source: str, rows: int) -> None:
    class FixedRows(Source):
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def draw(self, x: Tensor) -> Tensor:
            return self.x

    u = images(rows, seed=5)[0]
    made = []
    for module, given, options in (
        (foreign(InForward), u, {}),
        (foreign(InStep), (u - 0.4) / 0.3, {"input_space": (0.4, 0.3)}),
    ):
        inputs = FixedRows(given) if source == "fixed" else PartOfBatch(rows / 16)
        attack = TPGD(0.1, steps=2, seed=1)
        callback = ATLR(pgd(), mvl=MVL, unlabelled=Unlabelled(inputs, attack=attack), **options)
        fit(module, callback, limit_val_batches=0)
        made.append(module)
    assert_same(*made, tolerance=1e-5)


def _lr(clean: dict[str, Tensor], adversarial: dict[str, Tensor]) -> Tensor:
    return torch.stack([relative_error(clean[name], adversarial[name]).mean() for name in MVL]).sum()


def test_its_passes_move_no_buffer_and_draw_one_dropout_mask() -> None:
    class Doubled(Fixed):
        def draw(self, x: Tensor) -> Tensor:
            return x

    class Nothing(TPGD):
        def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
            return x.clone()

    module, plain = foreign(dropout=0.5, lr=0.0), foreign(dropout=0.5, lr=0.0)
    callback = ATLR(pgd(), mvl=["net.act"], unlabelled=Unlabelled(Doubled(), attack=Nothing(0.1), only=True))
    run = fit(module, callback, limit_train_batches=1)
    fit(plain, AdversarialTraining(pgd()), limit_train_batches=1)
    assert float(run.callback_metrics["train/loss_lr_unlabelled"]) == 0.0
    assert_same(module, plain, tolerance=0.0)


def test_the_default_partners_are_crafted_under_the_threat_model_of_training() -> None:
    callback = ATLR(pgd(), unlabelled=Unlabelled(PartOfBatch()))
    assert callback.unlabelled is not None
    attack = callback.unlabelled.attack
    assert isinstance(attack, TPGD)
    assert (attack.eps, attack.norm, attack.bounds) == (0.1, "Linf", (0.0, 1.0))


def test_the_default_partners_are_for_the_inputs_and_outputs_that_the_attack_of_training_is_for() -> None:
    within, u = InputSpace(0.5, 0.25)(PGD(0.1, bounds=None)), torch.zeros(5, 3)
    attacks = {
        "inside": ATLR(PGD(0.1, bounds=None), input_space=(0.5, 0.25), unlabelled=Unlabelled(PartOfBatch())),
        "as given": ATLR(within, unlabelled=Unlabelled(PartOfBatch())),
        "on logits": ATLR(AttackOnLogits(within, lambda out: out["y"]), unlabelled=Unlabelled(PartOfBatch())),
    }
    net = torch.nn.Linear(3, 4)
    for name, callback in attacks.items():
        model = (lambda x: {"y": net(x)}) if name == "on logits" else net
        assert callback.unlabelled is not None
        inputs, partners = callback.unlabelled.draw(model, u)
        assert float((partners - inputs).abs().max()) == pytest.approx(0.4), name


def test_a_step_without_a_penalty_is_in_the_mean() -> None:
    def mean_of(ramp: TrainingRamp | None) -> float:
        regularizer = LayerwiseRegularizer(1.0, schedule=ramp)
        callback = ATLR(pgd(), regularizer=regularizer, unlabelled=Unlabelled(PartOfBatch()), mvl=MVL)
        run = fit(foreign(lr=0.0), callback, limit_train_batches=4, limit_val_batches=0)
        both = [float(run.callback_metrics[f"train/loss_lr{which}"]) for which in ("", "_unlabelled")]
        assert both[1] > 0
        return both[1]

    never, half = mean_of(None), mean_of(TrainingRamp(0.49, 0.5))
    assert half < 0.75 * never


def test_their_radius_warms_up_with_that_of_training() -> None:
    moved = []

    class Recorded(TPGD):
        def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
            x_adv = super().__call__(model, x, y)
            moved.append(float((x_adv - x).abs().max()))
            return x_adv

    attack = Recorded(0.1, 0.1, steps=2, bounds=None, seed=1)
    unlabelled = Unlabelled(PartOfBatch(0.5), attack=attack, only=True)
    callback = ATLR(pgd(), mvl=MVL, unlabelled=unlabelled, eps_warmup_epochs=1.5)
    run = fit(foreign(), callback, limit_train_batches=2, max_epochs=2, limit_val_batches=0)
    assert run.global_step == 4
    assert moved == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1], abs=1e-7)


def test_it_is_logged_and_leaves_the_labelled_penalty_out(tmp_path: Path) -> None:
    callback = ATLR(pgd(), mvl=MVL, unlabelled=Unlabelled(PartOfBatch(0.5), only=True))
    fit(foreign(), callback, logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1)
    (row,) = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/loss_lr_unlabelled"]]
    assert float(row["train/loss_lr_unlabelled"]) > 0
    assert "train/loss_lr" not in row


@pytest.mark.parametrize("source", [lambda: Generated(noise, seed=3), lambda: FromLoader(loader(n=40))])
def test_a_resumed_run_goes_on_with_the_same_inputs(source: Any, tmp_path: Path) -> None:
    def callback() -> ATLR:
        return ATLR(pgd(), mvl=MVL, unlabelled=Unlabelled(source()), regularizer=LayerwiseRegularizer(0.5))

    whole, resumed, file = foreign(), foreign(), tmp_path / "epoch.ckpt"
    fit(whole, callback(), max_epochs=2)
    fit(foreign(), half := callback(), max_epochs=1).save_checkpoint(file)
    assert half.state_dict()["unlabelled"]["source"]
    torch.manual_seed(1)
    trainer([callback()], max_epochs=2).fit(resumed, loader(), loader(seed=1), ckpt_path=file)
    assert_same(resumed, whole)
