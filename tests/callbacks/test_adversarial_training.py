from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import FSDPStrategy
from tests.helpers.modules import ForeignModule, images, loader, one_batch, trainer
from tests.helpers.reference_loop import at_loop, at_lr_loop, trades_loop
from tests.helpers.training import assert_same, fit, foreign, pgd
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lsa_lightning import ATLR, AdversarialTraining
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.callbacks import CollapseAlarm
from lsa_lightning.objectives import TRADES

pytestmark = pytest.mark.usefixtures("float64")


def hand_written(**kwargs: Any) -> ForeignModule:
    module = foreign()
    torch.manual_seed(1)
    at_loop(module, loader(), pgd(), module.configure_optimizers(), **kwargs)
    return module


def test_one_epoch_equals_the_hand_written_loop() -> None:
    module = foreign()
    fit(module, AdversarialTraining(pgd()))
    assert_same(module, hand_written())


def test_trades_equals_the_hand_written_loop() -> None:
    module, expected = foreign(), foreign()
    fit(module, AdversarialTraining(pgd(), TRADES(beta=3.0)))
    trades_loop(expected, loader(), pgd(), expected.configure_optimizers(), beta=3.0)
    assert_same(module, expected)


def test_bf16_mixed_stays_close_to_the_hand_written_loop() -> None:
    module = foreign()
    fit(module, AdversarialTraining(pgd()), precision="bf16-mixed")
    expected = hand_written(forward_context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert_same(module, expected, tolerance=2e-3)


def test_an_attack_of_eps_0_is_ordinary_training() -> None:
    module, plain = foreign(dropout=0.5), foreign(dropout=0.5)
    fit(module, AdversarialTraining(FGSM(eps=0.0)), max_epochs=2)
    torch.manual_seed(1)
    trainer([], max_epochs=2).fit(plain, loader(), loader(seed=1))
    assert_same(module, plain, tolerance=0.0)


def test_normalised_batches_are_attacked_in_pixels() -> None:
    seen: list[Tensor] = []

    class Normalised(ForeignModule):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any) -> Tensor:
            seen.append(batch[0])
            return super().training_step(batch)

    x, y = images(16)
    module = foreign(Normalised)
    trainer([AdversarialTraining(FGSM(eps=0.1), input_space=(0.3, 0.2))]).fit(module, one_batch(((x - 0.3) / 0.2, y)))
    moved = (seen[-1] * 0.2 + 0.3 - x).abs()  # the first step is begun twice
    assert moved.max() == pytest.approx(0.1, abs=1e-6)
    assert (seen[-1] * 0.2 + 0.3).min() > -1e-6


def test_a_batch_outside_the_bounds_names_both_remedies() -> None:
    x, y = images(16)
    with pytest.raises(ValueError, match=r"got values in \[-1.488, .*None: no bounds.*input_space=\(mean, std\)"):
        trainer([AdversarialTraining(pgd())]).fit(foreign(), one_batch(((x - 0.3) / 0.2, y)))


def test_a_skipped_batch_stays_skipped() -> None:
    class Skipping(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch)

    module, expected = foreign(Skipping), foreign()
    fit(module, ATLR(FGSM(0.1), mvl=["net.act"], analysis_every_n_epochs=0))
    batches = list(loader())
    optimizer = expected.configure_optimizers()
    at_lr_loop(expected, [batches[0], batches[2]], FGSM(0.1), optimizer, expected.net.hidden, {"net.act": 0.1})
    assert_same(module, expected)


@pytest.mark.parametrize("backbone", [None, "net"])
def test_foreign_training_steps_may_call_a_submodule(backbone: str | None) -> None:
    class Direct(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

    module, expected = foreign(Direct, dropout=0.5), foreign(dropout=0.5)
    names = ["net.act"] if backbone is None else ["act"]
    fit(module, ATLR(pgd(), mvl=names, backbone=backbone, analysis_every_n_epochs=0))
    fit(expected, ATLR(pgd(), mvl=["net.act"], analysis_every_n_epochs=0))
    assert_same(module, expected, tolerance=0.0)


def test_trades_without_the_modules_output_says_what_to_name() -> None:
    class Direct(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

    with pytest.raises(MisconfigurationException, match="the model's own output"):
        fit(foreign(Direct), AdversarialTraining(pgd(), TRADES()))
    fit(foreign(Direct), AdversarialTraining(pgd(), TRADES(), backbone="net"))


def test_two_callbacks_stack_and_leave_in_any_order() -> None:
    module = foreign()
    own = module.training_step
    batches: list[Tensor] = []
    module.net.register_forward_pre_hook(lambda net, args: batches.append(args[0]) if net.training else None)
    torch.manual_seed(1)
    trainer([AdversarialTraining(FGSM(0.01)), AdversarialTraining(FGSM(0.1))]).fit(module, loader(16))
    assert (batches[0] - images(16)[0]).abs().max() == pytest.approx(0.11, abs=1e-6)
    assert module.training_step == own


def test_two_callbacks_equal_the_hand_written_loop() -> None:
    inner, outer = FGSM(0.02), FGSM(0.1)
    module, expected = foreign(), foreign()
    torch.manual_seed(1)
    trainer([AdversarialTraining(inner), AdversarialTraining(outer)]).fit(module, loader())
    both = lambda model, x, y: inner(model, outer(model, x, y), y)  # noqa: E731
    at_loop(expected, loader(), both, expected.configure_optimizers())
    assert_same(module, expected)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("which", ["penalty", "objective", "alarm"])
def test_what_looks_at_the_passes_of_a_step_is_alone(which: str, first: bool) -> None:
    looking: dict[str, Callable[[], AdversarialTraining]] = {
        "penalty": lambda: ATLR(FGSM(0.1), mvl=["net.act"]),
        "objective": lambda: AdversarialTraining(FGSM(0.1), TRADES()),
        "alarm": lambda: AdversarialTraining(FGSM(0.1), alarm=CollapseAlarm()),
    }
    callbacks = [looking[which](), AdversarialTraining(FGSM(0.02))]
    name = type(callbacks[0]).__name__
    with pytest.raises(MisconfigurationException, match=f"expected {name}, which looks at .* as the only callback"):
        trainer(callbacks if first else callbacks[::-1]).fit(foreign(), loader(), loader(seed=1))


def test_of_two_models_each_may_have_a_callback_that_looks_at_its_passes() -> None:
    class Two(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.other = copy.deepcopy(self.net)
            self.other.relu2 = self.net.relu2  # has nothing to train

        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y) + F.cross_entropy(self.other(x), y)

    module = Two().double()
    atlr = ATLR(FGSM(0.1), mvl=["act"], backbone="net", analysis_every_n_epochs=0)
    trainer([atlr, AdversarialTraining(FGSM(0.02), backbone="other")]).fit(module, loader(), loader(seed=1))


def test_reentrant_checkpoints_train_in_every_step_alike() -> None:
    class Reentrant(ForeignModule):
        def forward(self, x: Tensor) -> Tensor:
            first = checkpoint(self.net.conv1, x, use_reentrant=True)
            return self.net.fc2(self.net.act(self.net.fc1(first.flatten(1))))

    norms: list[float | None] = []

    class Note(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            gradient = pl_module.net.conv1.weight.grad
            norms.append(None if gradient is None else float(gradient.norm()))

    trainer([AdversarialTraining(FGSM(0.1)), Note()]).fit(foreign(Reentrant), loader())
    assert len(norms) > 1
    assert None not in norms


class Failing(ForeignModule):
    def training_step(self, batch: Any) -> Any:
        msg = "planted"
        raise RuntimeError(msg)


@pytest.mark.parametrize("error", ["in the step", "in the attack"])
def test_after_an_exception_the_module_is_as_it_was(error: str) -> None:
    module = foreign(Failing if error == "in the step" else ForeignModule)
    module.net.bn1.eval()
    attack = pgd()
    if error == "in the attack":
        module.net.fc2.register_forward_pre_hook(_raise)
    hooks = _hooks(module)
    with pytest.raises(RuntimeError, match="planted"):
        fit(module, ATLR(attack, mvl=["net.act"]))
    assert "training_step" not in vars(module)
    assert _hooks(module) == hooks


def _raise(*_: object) -> None:
    msg = "planted"
    raise RuntimeError(msg)


def _hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_manual_optimization_is_refused() -> None:
    module = foreign()
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="expected automatic_optimization=True"):
        fit(module, AdversarialTraining(pgd()))
    assert "training_step" not in vars(module)


def test_sharding_strategies_are_refused() -> None:
    run = trainer([])
    run.strategy.__class__ = FSDPStrategy
    with pytest.raises(MisconfigurationException, match="one device or with DDP, got FSDPStrategy"):
        AdversarialTraining(pgd()).on_fit_start(run, foreign())


def test_an_unknown_backbone_is_refused_with_those_that_exist() -> None:
    with pytest.raises(MisconfigurationException, match=r"got 'resnet'; these exist: net, net\.conv1"):
        fit(foreign(), AdversarialTraining(pgd(), backbone="resnet"))


def test_a_batch_that_cannot_be_read_is_described() -> None:
    with pytest.raises(MisconfigurationException, match=r"got a dict with keys \['pixels'\]; pass batch_fn="):
        trainer([AdversarialTraining(pgd())]).fit(foreign(), one_batch({"pixels": images(4)[0]}))


def test_a_step_without_a_loss_is_refused() -> None:
    class Lossless(ForeignModule):
        def training_step(self, batch: Any) -> Any:
            return {"logits": self(batch[0])}

    module = foreign(Lossless)
    with pytest.raises(MisconfigurationException, match="expected training_step to return a loss tensor"):
        fit(module, AdversarialTraining(pgd()))
    assert "training_step" not in vars(module)


def test_the_step_can_be_refitted_and_logs_the_base_loss() -> None:
    module = foreign()
    callback = AdversarialTraining(pgd())
    first = fit(module, callback)
    fit(module, callback)
    assert float(first.callback_metrics["train/loss_base"]) > 0
    assert "training_step" not in vars(module)


def test_random_starts_differ_between_steps_and_repeat_between_runs() -> None:
    starts: list[Tensor] = []

    class Spy(PGD):
        def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
            starts.append(ball.random_point(self.generator(x.device)) - x)
            return x

    for _ in range(2):
        torch.manual_seed(3)
        trainer([AdversarialTraining(Spy(eps=0.1))]).fit(foreign(), loader(32))
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[0], starts[1])


class Watched(FGSM):
    """Notes the eps and the start of each step; copies note in the same lists."""

    def __init__(self, eps: float) -> None:
        super().__init__(eps, bounds=None)
        self.seen: list[float] = []
        self.draws: list[float] = []

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        self.seen.append(self.eps)
        self.draws.append(float(torch.rand(1, generator=self.generator(x.device))))
        return super().perturb(model, x, y, ball)


def test_eps_rises_step_by_step_to_the_attacks_own_and_stays_there() -> None:
    attack = Watched(0.6)
    steps = len(loader())
    fit(foreign(), AdversarialTraining(attack, eps_warmup_epochs=1.5), max_epochs=2)
    expected = [min(0.6, 0.6 * (step + 1) / (1.5 * steps)) for step in range(2 * steps)]
    assert attack.seen == pytest.approx(expected)
    assert len(set(attack.draws)) == 2 * steps  # each step has random numbers of its own


def test_the_warmup_of_eps_is_logged_and_none_is_not() -> None:
    warm, plain = trainer([AdversarialTraining(pgd(), eps_warmup_epochs=1.0)]), trainer([AdversarialTraining(pgd())])
    for each in (warm, plain):
        each.fit(foreign(), loader(), loader(seed=1))
    steps = len(loader())
    assert float(warm.callback_metrics["train/eps"]) == pytest.approx(pgd().eps * (steps + 1) / (2 * steps), rel=0.05)
    assert "train/eps" not in plain.callback_metrics


def test_a_negative_warmup_of_eps_is_refused() -> None:
    with pytest.raises(ValueError, match="expected eps_warmup_epochs to be a finite number >= 0, got -1"):
        ATLR(pgd(), eps_warmup_epochs=-1)


def test_a_warmup_of_eps_needs_to_know_how_long_an_epoch_is() -> None:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(images())

    endless = torch.utils.data.DataLoader(Endless(), batch_size=None)
    with pytest.raises(MisconfigurationException, match="dataloader with a length"):
        trainer([AdversarialTraining(pgd(), eps_warmup_epochs=1.0)]).fit(foreign(), endless)


@pytest.mark.parametrize("answer", [None, 3, "xy", (1, 2), (torch.zeros(1),)])
def test_a_batch_fn_that_gives_no_pair_of_tensors_is_refused(answer: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected batch_fn to return the tensors \(x, y\), got"):
        fit(foreign(), AdversarialTraining(pgd(), batch_fn=lambda _: answer))


def test_a_batch_fn_may_give_a_list() -> None:
    module = foreign()
    fit(module, AdversarialTraining(pgd(), batch_fn=lambda batch: list(batch[:2])))
    assert_same(module, hand_written())


def test_a_module_without_forward_is_told_to_name_its_backbone() -> None:
    class Mute(ForeignModule):
        forward = pl.LightningModule.forward

    with pytest.raises(
        MisconfigurationException, match=r"expected Mute to have a forward, or backbone .* net, net\.conv1"
    ):
        fit(foreign(Mute), AdversarialTraining(pgd()))
