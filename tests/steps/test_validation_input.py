"""What is measured and analysed in validation is what validation_step feeds to the model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import foreign
from torch import Tensor, nn

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import APGD, FAB, FGSM, PGD, Attack, Square
from lsa_lightning.steps.given_batch import GivenBatch
from lsa_lightning.steps.model_call import ModelCall, bound
from lsa_lightning.utils.batch import WholeBatchError, part_of_batch
from lsa_lightning.utils.isolation import evaluating

MEAN, STD = 0.5, 0.05


class Scored(ForeignModule):
    """Logs its own accuracy."""

    def score(self, logits: Tensor, y: Tensor) -> Tensor:
        self.log("own", (logits.argmax(1) == y).float().mean(), batch_size=len(y))
        return F.cross_entropy(logits, y)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self(x), y)


class InForward(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - MEAN) / STD)


class InStep(Scored):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self((x - MEAN) / STD), y)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self((x - MEAN) / STD), y)


class InPlaceInStep(InStep):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        x.sub_(MEAN).div_(STD)
        self.score(self(x), y)


class InPlaceInForward(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(MEAN).div_(STD))


class Keyword(Scored):
    def forward(self, *, pixel_values: Tensor, scale: float) -> Tensor:
        return scale * self.net(pixel_values)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self(pixel_values=(x - MEAN) / STD, scale=2.0), y)


class WholeBatch(Scored):
    """Its model takes the batch, and a mask that differs from batch to batch."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["pixels"] * batch["mask"])

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        return self({"pixels": x, "mask": (y > 0).float().view(-1, 1, 1, 1)})

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.logits(x, y), y)

    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self.logits(x, y), y)


class NeverCallsItself(Scored):
    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self.net((x - MEAN) / STD), y)


class InvertsLater(Scored):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.score(self(x if batch_idx == 0 else 1 - x), y)


class JoinsViews(Scored):
    def validation_step(self, batch: Any) -> None:
        x, y = batch
        self.score(self(torch.cat([x, x.flip(3)])).chunk(2)[0], y)


SPACE = {"input_space": (MEAN, STD)}
CASES: list[tuple[type[Scored], dict[str, Any]]] = [
    (Scored, {}),
    (InvertsLater, {}),
    (InForward, {}),
    (InStep, SPACE),
    (InPlaceInStep, SPACE),
    (InPlaceInForward, {}),
    (Keyword, SPACE),
    (WholeBatch, {}),
]


@cache
def weights() -> dict[str, Tensor]:
    """Of a net that has learnt to classify normalised inputs."""
    module = foreign(InForward)
    trainer([], max_epochs=10).fit(module, loader())
    return module.state_dict()


def learnt(cls: type[Scored], **options: Any) -> Scored:
    module = cls(**options)
    module.load_state_dict(weights())
    return module


def validated(cls: type[Scored], **options: Any) -> dict[str, float]:
    run = trainer([RobustValidation({"fgsm": FGSM(0.02)}, **options)])
    run.validate(learnt(cls), loader(seed=1, batch_size=20), verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_the_clean_accuracy_is_the_modules_own(cls: type[Scored], options: dict[str, Any]) -> None:
    metrics = validated(cls, **options)
    assert metrics["own"] > 0.5 or cls not in {InForward, InStep}
    assert metrics["val/acc_clean"] == pytest.approx(metrics["own"], abs=1e-6)


@pytest.mark.parametrize("cls", [InStep, InPlaceInStep, InPlaceInForward])
def test_normalising_at_any_place_is_the_same_under_attack(cls: type[Scored]) -> None:
    assert validated(cls, **(SPACE if cls is not InPlaceInForward else {})) == pytest.approx(validated(InForward))


def test_each_of_several_dataloaders_is_looked_at() -> None:
    class SecondNormalised(Scored):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            x, y = batch
            self.score(self((x - MEAN) / STD if dataloader_idx else x), y)

    run = trainer([RobustValidation({"fgsm": FGSM(0.0, bounds=None)})])
    run.validate(learnt(SecondNormalised), [loader(seed=1), loader(seed=1)], verbose=False)
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    assert metrics["own/dataloader_idx_0"] != metrics["own/dataloader_idx_1"]
    for index in (0, 1):
        own = metrics[f"own/dataloader_idx_{index}"]
        assert metrics[f"val/acc_clean/dataloader_idx_{index}"] == pytest.approx(own, abs=1e-6)


def test_the_analysis_sees_what_the_step_feeds_to_the_model() -> None:
    means = []
    for cls, options in ((InForward, {}), (InStep, SPACE), (InPlaceInStep, SPACE)):
        callback = ATLR(FGSM(0.02, bounds=None), regularizer=LayerwiseRegularizer(gamma=0.0), top_k=1, **options)
        trainer([callback]).fit(learnt(cls, lr=0.0), loader(), loader(seed=1))
        means.append(callback.history[0].report.mean)
    assert means[0].max() > 0.05
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means[2], means[0], rtol=1e-4, atol=1e-5)


def test_the_analysis_follows_arguments_that_change_with_the_batch() -> None:
    callback = ATLR(FGSM(0.02), mvl=["net.act"])
    trainer([callback]).fit(learnt(WholeBatch, lr=0.0), loader(), loader(seed=1, batch_size=20))
    assert torch.isfinite(callback.history[0].report.mean).all()


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            NeverCallsItself,
            "validation_step never calls NeverCallsItself, .* but gives x, or what it makes of x, to other",
        ),
        (JoinsViews, "validation_step never gives JoinsViews, which is attacked, the 16 samples"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(cls: type[Scored], message: str) -> None:
    module, before = foreign(cls), foreign(cls)
    run = trainer([RobustValidation({"fgsm": FGSM(0.0, bounds=None)})], num_sanity_val_steps=1)
    with pytest.raises(MisconfigurationException, match=message):
        run.fit(module, loader(), loader(seed=1))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before.parameters(), strict=True))


def test_a_step_that_never_calls_a_model_that_takes_no_x_is_an_error() -> None:
    class TakesBatches(WholeBatch):
        def training_step(self, batch: Any) -> Any:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

    with pytest.raises(MisconfigurationException, match=r"training_step never calls TakesBatches.*does not take x"):
        trainer([AdversarialTraining(FGSM(0.1))]).fit(foreign(TakesBatches), loader())


def test_what_the_steps_log_before_they_call_the_model_is_logged_once() -> None:
    class LogsFirst(Scored):
        def training_step(self, batch: Any) -> Any:
            x, y = batch
            self.log_dict({"train_mean": 2 * x.mean() - y.sum()}, on_step=False, on_epoch=True, batch_size=len(x))
            return super().training_step(batch)

        def validation_step(self, batch: Any) -> None:
            x, y = batch
            self.log("val_sum", y.float().sum(), reduce_fx="sum", batch_size=len(x))
            self.score(self(2 * x - 1), y)

    logged = []
    callbacks = [AdversarialTraining(FGSM(0.0)), RobustValidation({"fgsm": FGSM(0.0, bounds=None)})]
    for chosen in ([], callbacks):
        run = trainer(chosen, limit_train_batches=3)
        run.fit(foreign(LogsFirst), loader(), loader(seed=1))
        logged.append({key: float(run.callback_metrics[key]) for key in ("train_mean", "val_sum", "own")})
    assert logged[1] == logged[0]


def test_further_rows_follow_the_first_samples_and_no_others() -> None:
    x, mask = torch.rand(4, 2), torch.rand(4)
    call = ModelCall((x,), {"mask": mask, "scale": 2.0}, x)
    assert torch.equal(call.arguments(x[:3])[1]["mask"], mask[:3])
    assert torch.equal(call.arguments(x + 1)[1]["mask"], mask)
    with pytest.raises(WholeBatchError, match=r"expected the 4 samples of the batch.* got 3"):
        call.arguments(x[1:])
    with part_of_batch(torch.tensor([1, 3]), 4):
        assert torch.equal(call.arguments(x[1:3])[1]["mask"], mask[[1, 3]])
    assert ModelCall((x,), {"scale": 2.0}, x).arguments(x[1:])[1] == {"scale": 2.0}


class Numbered(nn.Module):
    """Takes the number of each sample beside it, and sees that they belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor, *, number: Tensor) -> Tensor:
        assert torch.equal(x.mean(1).round(), number)
        return self.fc(x - number[:, None])


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.4, best="success", bounds=None),
        APGD(0.4, 5, best="success", bounds=None),
        FAB(0.4, bounds=None),
        Square(0.4, 30, bounds=None),
    ],
    ids=repr,
)
def test_further_rows_follow_the_samples_that_an_attack_keeps(attack: Attack) -> None:
    torch.manual_seed(0)
    model, number = Numbered(), torch.arange(40.0)
    beside = torch.randn(40, 3)
    x = number[:, None] + beside - beside.mean(1, keepdim=True)
    y = model(x, number=number).argmax(1)
    function = bound(model, ModelCall((x,), {"number": number}, x).arguments)
    standing = function(attack(function, x, y)).argmax(1) == y
    assert 0 < standing.sum() < len(y)


def test_arguments_without_a_place_in_memory_are_passed_over() -> None:
    x, graph = torch.rand(4, 4), torch.eye(4).to_sparse()
    call = GivenBatch(x, x).call((graph, x), {})
    assert call is not None
    assert call.x is x
    given = GivenBatch((x, graph), x)
    assert given.is_given(ModelCall((x,), {}, x))
    assert not given.is_given(call)
    assert not given.is_aside(call)


def test_a_bound_function_has_a_mode_of_its_own() -> None:
    class Auxiliary(nn.Module):
        def forward(self, *, x: Tensor) -> Tensor:
            return x + 1 if self.training else x

    model, x = Auxiliary(), torch.zeros(2, 3)
    function = bound(model, ModelCall((), {"x": x}, x).arguments)
    with evaluating(function):
        assert torch.equal(function(x), x)
    assert model.training
    assert torch.equal(function(x), x + 1)
