"""What is attacked is what training_step feeds to the model, whatever it does before."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, images, loader, one_batch, trainer
from tests.helpers.reference_loop import at_lr_loop
from tests.helpers.training import assert_same, foreign
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.measures import ComparisonMeasure
from lsa_lightning.objectives import TRADES
from lsa_lightning.utils.isolation import hookable_modules

pytestmark = pytest.mark.usefixtures("float64")

MEAN, STD = 0.4, 0.3


class NormalisesInStep(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self((x - MEAN) / STD), y)


class NormalisesInForward(ForeignModule):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - MEAN) / STD)


class AugmentsInStep(ForeignModule):
    """Flips at random, with torch's global generator."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        return F.cross_entropy(self(torch.where(flipped, x.flip(3), x)), y)


class AugmentsLater(ForeignModule):
    """The first batch is what it is."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x if self.global_step == 0 else 1 - x), y)


class AugmentsAtTimes(ForeignModule):
    """As torch's global generator says; not the first batch."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        flips = torch.rand(()) < 0.6
        return F.cross_entropy(self(1 - x if flips and self.global_step > 0 else x), y)


class WithMetadata(ForeignModule):
    """Its model takes another tensor before the image."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Linear(2, 3)

    def forward(self, meta: Tensor, x: Tensor) -> Tensor:
        return self.net(x) + self.meta(meta)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(torch.ones(len(x), 2), x), y)


class Tokens(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return (self.embedding(ids) * mask[:, :, None]).mean(1)

    def training_step(self, batch: Any) -> Any:
        ids, y, mask = batch
        return F.cross_entropy(self(ids, mask), y)


class PseudoLabels(ForeignModule):
    """Half of a batch has no labels; the model labels it, without gradients."""

    def __init__(self, *, labelled_first: bool) -> None:
        super().__init__()
        self.labelled_first = labelled_first
        self.net.bn1.track_running_stats = False  # they move with each pass

    def labelled(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch["l"][0]), batch["l"][1])

    def unlabelled(self, batch: Any) -> Tensor:
        with torch.no_grad():
            y = self((batch["u"] + 0.02).clamp(0, 1)).argmax(1)
        return F.cross_entropy(self(batch["u"]), y)

    def training_step(self, batch: Any) -> Any:
        parts = [self.labelled, self.unlabelled] if self.labelled_first else [self.unlabelled, self.labelled]
        return torch.stack([part(batch) for part in parts]).sum()


class Keywords(ForeignModule):
    """Its model takes keywords only, and more than the input."""

    def forward(self, *, scale: float, pixel_values: Tensor) -> Tensor:
        return scale * self.net(pixel_values)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(pixel_values=1 - x, scale=2.0), y)


class Checkpointed(NormalisesInStep):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        logits = checkpoint(self, (x - MEAN) / STD, use_reentrant=False)
        return F.cross_entropy(logits, y)


class WithTeacher(NormalisesInStep):
    """Runs the model twice: first without gradients, as for a metric."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        normalised = (x - MEAN) / STD
        with torch.no_grad():
            self(normalised)
        return F.cross_entropy(self(normalised), y)


class Smoothed(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(50 * self(x), y, label_smoothing=0.2)


class HeadOutside(ForeignModule):
    """``net`` gives features; the head is another module."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.head(self.net(x)).roll(1, dims=1), y)


class LossOfSomethingElse(HeadOutside):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        self(x)
        return F.cross_entropy(self.head(x.flatten(1)[:, :3]), y)


class Shuffles(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), (y + 1) % 3)


class Mixes(ForeignModule):
    """Mixup."""

    share = 0.7

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        logits = self(self.share * x + (1 - self.share) * x.roll(1, 0))
        return self.share * F.cross_entropy(logits, y) + (1 - self.share) * F.cross_entropy(logits, y.roll(1))


class NeverCallsItself(ForeignModule):
    """Its forward is not what the step computes."""

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.net((x - MEAN) / STD), y)


class StemBefore(ForeignModule):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 1)

    def training_step(self, batch: Any) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(self.stem(x)), y)


class Broken(ComparisonMeasure):
    def __call__(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        msg = "planted"
        raise RuntimeError(msg)


def atlr(**options: Any) -> ATLR:
    options = {"mvl": ["net.relu1", "net.act"], "analysis_every_n_epochs": 0, **options}
    return ATLR(options.pop("attack", PGD(eps=0.1, steps=2, seed=0)), **options)


def fitted(module: ForeignModule, *callbacks: pl.Callback, epochs: int = 2) -> pl.Trainer:
    torch.manual_seed(1)
    run = trainer(list(callbacks), max_epochs=epochs)
    run.fit(module, loader())
    return run


@pytest.mark.parametrize("objective", [None, TRADES(1.0)])
def test_normalising_in_the_step_equals_normalising_in_the_forward(objective: Any) -> None:
    inside, before = foreign(NormalisesInForward), foreign(NormalisesInStep)
    fitted(inside, atlr(objective=objective))
    fitted(before, atlr(objective=objective, input_space=(MEAN, STD)))
    assert_same(before, inside, tolerance=1e-5)


def test_without_the_space_of_its_inputs_the_bounds_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected inputs inside bounds=.*input_space=\(mean, std\)"):
        fitted(foreign(NormalisesInStep), atlr())


@pytest.mark.parametrize("cls", [AugmentsInStep, AugmentsLater, AugmentsAtTimes, WithMetadata, Keywords, ForeignModule])
def test_at_eps_0_the_penalty_is_0(cls: type[ForeignModule]) -> None:
    run = fitted(foreign(cls), atlr(attack=FGSM(0.0), regularizer=LayerwiseRegularizer(gamma=1.0)))
    assert float(run.callback_metrics["train/loss_lr"]) == 0


@pytest.mark.parametrize(
    "cls",
    [AugmentsInStep, AugmentsLater, AugmentsAtTimes, NormalisesInStep, Keywords, Checkpointed, WithTeacher, Smoothed],
)
def test_without_an_effect_it_is_the_plain_run_bit_for_bit(cls: type[ForeignModule]) -> None:
    plain, trained = foreign(cls, dropout=0.3), foreign(cls, dropout=0.3)
    fitted(plain)
    callback = atlr(attack=FGSM(0.0, bounds=None), regularizer=LayerwiseRegularizer(gamma=0.0))
    fitted(trained, callback)
    assert_same(trained, plain, tolerance=0)


def test_the_augmented_input_is_attacked_and_compared() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Recording(FGSM):
        def __call__(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
            x_adv = super().__call__(model, x, y)
            seen.append((x, x_adv))
            return x_adv

    module = foreign(Keywords)
    given: list[Tensor] = []
    handle = module.net.register_forward_pre_hook(lambda net, args: given.append(args[0]) if net.training else None)
    fitted(module, AdversarialTraining(Recording(0.1)), epochs=1)
    handle.remove()
    x = next(iter(loader()))[0]
    assert torch.equal(seen[0][0], 1 - x)
    assert torch.equal(given[0], seen[0][1])
    assert 0 < (seen[0][1] - seen[0][0]).abs().max() <= 0.1


def test_a_step_that_begins_to_augment_is_attacked_behind_it_and_so_after_a_resume() -> None:
    expected, module, callback, resumed = foreign(), foreign(AugmentsLater), atlr(attack=FGSM(0.1)), atlr()
    fitted(module, callback, epochs=1)
    batches = [(x if number == 0 else 1 - x, y) for number, (x, y) in enumerate(loader())]
    gamma = {"net.relu1": 0.1, "net.act": 0.1}
    at_lr_loop(expected, batches, FGSM(0.1), expected.configure_optimizers(), expected.net.hidden, gamma)
    assert_same(module, expected, tolerance=1e-6)
    resumed.load_state_dict(callback.state_dict())
    assert callback.state_dict()["at_model"]
    assert resumed.state_dict()["at_model"]
    resumed.start_afresh()
    assert not resumed.state_dict()["at_model"]


def test_of_several_arguments_the_batchs_own_x_is_attacked() -> None:
    module, given = foreign(WithMetadata), []
    handle = module.register_forward_pre_hook(lambda _, args: given.append(args) if len(args) == 2 else None)
    fitted(module, AdversarialTraining(FGSM(0.1)), epochs=1)
    handle.remove()
    meta, x = given[0]
    assert torch.equal(meta, torch.ones(len(x), 2))
    assert 0 < (x - next(iter(loader()))[0]).abs().max() <= 0.1


def test_integers_are_not_passed_over_for_another_argument() -> None:
    batch = (torch.zeros(4, 5, dtype=torch.long), torch.tensor([0, 1, 2, 0]), torch.ones(4, 5))
    with pytest.raises(
        MisconfigurationException, match=r"gives Tokens, .*, inputs of torch.int64, which cannot be pert"
    ):
        trainer([AdversarialTraining(FGSM(0.1, bounds=None))]).fit(foreign(Tokens), one_batch(batch))


def test_inputs_without_labels_are_left_alone_wherever_the_step_runs_them() -> None:
    first, last = foreign(PseudoLabels, labelled_first=True), foreign(PseudoLabels, labelled_first=False)
    x, y = images(16)
    batch = {"l": (x, y), "u": images(16, seed=3)[0]}
    for module in (first, last):
        callback = atlr(batch_fn=lambda each: each["l"], attack=FGSM(0.1))
        trainer([callback]).fit(module, one_batch(batch))
    assert_same(last, first, tolerance=1e-6)
    assert not torch.equal(last.net.fc2.weight, foreign(PseudoLabels, labelled_first=True).net.fc2.weight)


@pytest.mark.parametrize("cls", [Checkpointed, WithTeacher])
def test_checkpoints_and_second_passes_see_the_same_partner(cls: type[ForeignModule]) -> None:
    expected, module = foreign(NormalisesInStep), foreign(cls)
    for each in (expected, module):
        each.net.bn1.track_running_stats = False  # a second pass in training moves them
        fitted(each, atlr(input_space=(MEAN, STD)))
    assert_same(module, expected, tolerance=1e-6)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (HeadOutside, {"backbone": "net", "mvl": ["act"]}, "no logits"),
        (LossOfSomethingElse, {}, "not computed from what LossOfSomethingElse returns"),
        (Shuffles, {}, "other classes than the labels"),
        (Mixes, {}, "mixup"),
        (NeverCallsItself, {}, "never calls NeverCallsItself"),
        (StemBefore, {"backbone": "net", "mvl": ["act"]}, "trainable parameters"),
    ],
)
def test_what_cannot_be_attacked_is_said_before_the_first_update(
    cls: type[ForeignModule], options: dict[str, Any], message: str
) -> None:
    module, before = foreign(cls), foreign(cls)
    with pytest.raises(MisconfigurationException, match=message):
        fitted(module, atlr(**options))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before.parameters(), strict=True))


def test_mixing_that_begins_later_is_an_error_too() -> None:
    class MixesLater(Mixes):
        def training_step(self, batch: Any) -> Any:
            self.share = 1.0 if self.global_step == 0 else 0.5
            return super().training_step(batch)

    class Mixed(MixesLater):
        def training_step(self, batch: Any) -> Any:
            x, y = batch
            return super().training_step((x.flip(3), y))

    for cls in (Mixed, MixesLater):
        with pytest.raises(MisconfigurationException, match="mixup"):
            fitted(foreign(cls), atlr())


@pytest.mark.parametrize("cls", [AugmentsInStep, ForeignModule])
@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays(cls: type[ForeignModule], fails: bool) -> None:
    module = foreign(cls)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hookable_modules(module))

    before, step = hooks(), module.training_step
    callback = atlr(attack=FGSM(0.1))
    if fails:
        callback.regularizer.measure = Broken()
        with pytest.raises(RuntimeError, match="planted"):
            fitted(module, callback)
    else:
        fitted(module, callback)
    assert hooks() == before
    assert module.training_step == step
