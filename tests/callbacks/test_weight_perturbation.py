from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.two_processes import CASES, InOrder, two_processes, without_batch_norm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, LayerwiseRegularizer
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.attacks.losses import dlr
from lsa_lightning.callbacks import AdversarialWeightPerturbation
from lsa_lightning.callbacks.weight_perturbation import direction_loss
from lsa_lightning.objectives import AT, MART, TRADES, Objective

pytestmark = pytest.mark.usefixtures("float64")

GAMMA = 0.05
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def pgd() -> PGD:
    return PGD(eps=0.1, steps=3, seed=0)


def foreign(dropout: float = 0.0) -> ForeignModule:
    torch.manual_seed(0)
    return ForeignModule(dropout)


def at(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv), y)


def trades(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, adversarial = F.log_softmax(model(x), 1), F.log_softmax(model(x_adv), 1)
    return F.nll_loss(clean, y) + 3.0 * (clean.exp() * (clean - adversarial)).sum() / len(x)


def awp_loop(module: ForeignModule, loss: Loss, accumulate: int = 1, epochs: int = 1) -> None:
    """AWP written out: the direction is taken on a copy, so that BatchNorm's statistics move once a step."""
    optimizer, attack = module.configure_optimizers(), pgd()
    for index, (x, y) in [*enumerate(loader(), start=1)] * epochs:
        module.eval()
        x_adv = attack(module, x, y)
        module.train()
        proxy = foreign()
        proxy.load_state_dict(module.state_dict())
        loss(proxy, x, x_adv, y).backward()
        originals = [p.detach().clone() for p in module.parameters()]
        with torch.no_grad():
            for p, copy in zip(module.parameters(), proxy.parameters(), strict=True):
                if p.ndim > 1:
                    p.add_(GAMMA * p.norm() * copy.grad / copy.grad.norm())
        (loss(module, x, x_adv, y) / accumulate).backward()
        with torch.no_grad():
            for p, original in zip(module.parameters(), originals, strict=True):
                p.copy_(original)
        if index % accumulate == 0 or index == len(loader()):
            optimizer.step()
            optimizer.zero_grad()


def fit(module: ForeignModule, callbacks: list[pl.Callback], **options: Any) -> None:
    torch.manual_seed(1)
    trainer(callbacks, **options).fit(module, loader(), loader(seed=1))


def assert_same(module: nn.Module, other: nn.Module, tolerance: float) -> None:
    expected = other.state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("objective", "loss"), [(AT(), at), (TRADES(3.0), trades)], ids=["at", "trades"])
def test_training_equals_the_hand_written_loop(accumulate: int, objective: Objective, loss: Loss) -> None:
    module, expected, without = foreign(), foreign(), foreign()
    partner = AdversarialTraining(pgd(), objective)
    fit(
        module,
        [AdversarialWeightPerturbation(GAMMA), partner],
        accumulate_grad_batches=accumulate,
        max_epochs=2,
    )
    awp_loop(expected, loss, accumulate, epochs=2)
    assert_same(module, expected, 2e-6)
    fit(without, [AdversarialTraining(pgd(), objective)], accumulate_grad_batches=accumulate, max_epochs=2)
    assert (module.net.fc1.weight - without.net.fc1.weight).abs().max() > 1e-4
    assert partner.before_step == []


@pytest.mark.parametrize(
    "callback", [AdversarialWeightPerturbation(0.0), AdversarialWeightPerturbation(0.1, warmup_epochs=1)]
)
def test_gamma_0_and_warmup_change_nothing(callback: AdversarialWeightPerturbation) -> None:
    module, expected = foreign(dropout=0.5), foreign(dropout=0.5)
    fit(module, [AdversarialTraining(pgd()), callback])
    fit(expected, [AdversarialTraining(pgd())])
    assert_same(module, expected, 0.0)


class Watch(pl.Callback):
    """The weights before each step's forward pass, in its backward pass, and wherever hooks look."""

    def __init__(self) -> None:
        self.inside: list[Tensor] = []
        self.outside: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: ForeignModule, batch: Any, batch_idx: int) -> None:
        self.outside.append(pl_module.net.fc1.weight.detach().clone())

    def on_before_backward(self, trainer: Any, pl_module: ForeignModule, loss: Tensor) -> None:
        assert torch.equal(pl_module.net.fc1.weight, self.outside[-1])
        loss.register_hook(lambda _: self.inside.append(pl_module.net.fc1.weight.detach().clone()))

    def on_after_backward(self, trainer: Any, pl_module: ForeignModule) -> None:
        assert torch.equal(pl_module.net.fc1.weight, self.outside[-1])

    def on_before_optimizer_step(self, trainer: Any, pl_module: ForeignModule, optimizer: Any) -> None:
        assert torch.equal(pl_module.net.fc1.weight, self.outside[-1])


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}], ids=["float32", "bf16-mixed"])
def test_weights_are_perturbed_by_gamma_during_the_step_alone(options: dict[str, Any]) -> None:
    watch = Watch()
    regularized = ATLR(pgd(), regularizer=LayerwiseRegularizer(gamma=0.1), mvl=["net.act"], analysis_every_n_epochs=0)
    fit(foreign(), [regularized, AdversarialWeightPerturbation(0.05), watch], **options)
    assert len(watch.inside) == 3
    for before, during in zip(watch.outside, watch.inside, strict=True):
        assert float((during - before).norm() / before.norm()) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_hooks_and_state_dicts_see_the_true_weights_at_any_place_in_the_list(first: bool) -> None:
    saved: list[Tensor] = []

    class Saving(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            loss = super().training_step(batch)
            perturbed = self.net.fc1.weight.detach().clone()
            state = self.state_dict()["net.fc1.weight"]
            assert torch.equal(self.net.fc1.weight, perturbed)
            assert not torch.equal(state, perturbed)
            saved.append(state)
            return loss

    torch.manual_seed(0)
    watch, callback = Watch(), AdversarialWeightPerturbation(0.05)
    others = [callback, watch] if first else [watch, callback]
    fit(Saving(), [*others, AdversarialTraining(pgd())])
    assert all(torch.equal(mine, true) for mine, true in zip(saved, watch.outside, strict=True))
    assert all(not torch.equal(inside, true) for inside, true in zip(watch.inside, watch.outside, strict=True))


def test_weights_recomputed_in_the_backward_pass_are_the_perturbed_ones() -> None:
    class Checkpointed(ForeignModule):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.net, x, use_reentrant=False)

    module, expected = Checkpointed(), ForeignModule()
    expected.load_state_dict(module.state_dict())
    for run in (module, expected):
        run.net.bn1 = nn.Identity()  # its statistics move twice where the forward pass is repeated
        fit(run, [AdversarialWeightPerturbation(GAMMA), AdversarialTraining(FGSM(0.1))])
    assert_same(module, expected, 1e-6)


def test_a_step_of_several_calls_perturbs_once_and_gives_the_true_weights_back() -> None:
    class TwoViews(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            x, y = batch
            return torch.stack([F.cross_entropy(self(view), y) for view in (1 - x, x.flip(3))]).sum()

    module = TwoViews(lr=0.0)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    fit(module, [AdversarialWeightPerturbation(0.05), AdversarialTraining(pgd())])
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_a_skipped_batch_leaves_no_perturbed_weights_for_the_hooks_after_it() -> None:
    class Skipping(ForeignModule):
        def training_step(self, batch: Any) -> None:
            super().training_step(batch)

    class Average(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: ForeignModule, *_: Any) -> None:
            assert torch.equal(pl_module.net.fc1.weight, before)

    torch.manual_seed(0)
    module = Skipping()
    before = module.net.fc1.weight.detach().clone()
    fit(module, [Average(), AdversarialTraining(pgd()), AdversarialWeightPerturbation(0.05)])


def test_low_precision_copies_of_the_weights_are_renewed() -> None:
    """Autocast caches them within a step; the loss must be that of the perturbed weights."""
    seen: list[Tensor] = []

    class Recording(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:
            loss = super().training_step(batch)
            seen.append(loss.detach().float())
            return loss

    losses = []
    for gamma in (0.0, 0.5):
        seen.clear()
        torch.manual_seed(0)
        fit(Recording(), [AdversarialTraining(pgd()), AdversarialWeightPerturbation(gamma)], precision="bf16-mixed")
        losses.append(float(seen[0]))
    assert losses[1] > losses[0] + 0.05


@pytest.mark.parametrize("fails", [True, False], ids=["raises", "skips the batch"])
def test_weights_come_back_without_a_backward_pass(fails: bool) -> None:
    class Odd(ForeignModule):
        def training_step(self, batch: Any) -> Any:
            super().training_step(batch)
            if fails:
                msg = "failing on purpose"
                raise RuntimeError(msg)

    torch.manual_seed(0)
    module = Odd()
    before = {name: value.clone() for name, value in module.named_parameters()}
    partner = AdversarialTraining(pgd())
    run = trainer([partner, AdversarialWeightPerturbation(GAMMA)])
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            run.fit(module, loader())
    else:
        run.fit(module, loader())
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert partner.before_step == []


@pytest.mark.parametrize("partners", [0, 2])
def test_it_needs_one_adversarial_training(partners: int) -> None:
    callbacks: list[pl.Callback] = [AdversarialTraining(pgd(), backbone=name) for name in ("net", None)[:partners]]
    with pytest.raises(MisconfigurationException, match="expects one AdversarialTraining or ATLR among the callbacks"):
        trainer([*callbacks, AdversarialWeightPerturbation()]).fit(foreign(), loader())


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"gamma": float("nan")}, {"warmup_epochs": -1}], ids=str)
def test_bad_arguments_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected (gamma|warmup_epochs) to be .* >= 0, got"):
        AdversarialWeightPerturbation(**options)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_perturb_alike_and_equal_one(case: str) -> None:
    strategy, options = CASES[case]
    # In bf16, sums and signs near 0 depend on how the samples are cut into batches: small steps keep that small.
    eps, lr = (0.01, 0.02) if case == "bf16" else (0.1, 0.1)
    module, single = without_batch_norm(lr), without_batch_norm(lr)
    callbacks = [AdversarialTraining(FGSM(eps)), AdversarialWeightPerturbation(GAMMA)]
    if case == "find_unused_parameters":
        module.unused = nn.Linear(2, 2)
    two_processes(callbacks, strategy, **options).fit(module, InOrder(8))
    again = [AdversarialTraining(FGSM(eps)), AdversarialWeightPerturbation(GAMMA)]
    trainer(again, **options).fit(single, InOrder(16))
    assert_same(module.net, single.net, 5e-3 if case == "bf16" else 2e-6)


class Regresses(ForeignModule):
    """Two numbers for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2))  # type: ignore[assignment]

    def training_step(self, batch: Any) -> Any:
        return F.mse_loss(self(batch[0]), batch[1])


def squared_errors(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().mean(1)


def numbers() -> DataLoader[Any]:
    torch.manual_seed(2)
    x = torch.rand(24, 1, 8, 8)
    return DataLoader(TensorDataset(x, 3 * x.flatten(1)[:, :2] - 1), 8)


def test_weights_move_up_the_loss_that_the_attack_increases() -> None:
    torch.manual_seed(0)
    module = Regresses()
    torch.manual_seed(0)
    by_hand = Regresses()
    attack = FGSM(0.1, loss_fn=squared_errors)
    trainer([AdversarialTraining(attack), AdversarialWeightPerturbation(0.05)]).fit(module, numbers())
    optimizer = by_hand.configure_optimizers()
    for x, y in numbers():
        x_adv = attack(by_hand, x, y)
        weights = [parameter for parameter in by_hand.parameters() if parameter.ndim > 1]
        gradients = torch.autograd.grad(F.mse_loss(by_hand(x_adv), y), weights)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(0.05 * weight.norm() / gradient.norm() * gradient)
        optimizer.zero_grad()
        F.mse_loss(by_hand(x_adv), y).backward()
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [TRADES(), MART()])
def test_objectives_that_compare_scores_need_classes(objective: Objective) -> None:
    attack = FGSM(0.1, loss_fn=squared_errors)
    callback = AdversarialTraining(attack, objective)
    for _ in range(2):  # each fit looks
        with pytest.raises(MisconfigurationException, match="compares scores of classes: expected labels that are"):
            trainer([callback]).fit(Regresses(), numbers())


class Close(Objective):
    """An objective of one's own, of numbers."""

    def term(self, clean_logits: Tensor, adversarial_logits: Tensor, y: Tensor) -> Tensor:
        return (clean_logits - adversarial_logits).square().mean()


def test_an_objective_of_ones_own_need_not_be_about_classes() -> None:
    attack = FGSM(0.1, loss_fn=squared_errors)
    trainer([AdversarialTraining(attack, Close())]).fit(Regresses(), numbers())


def test_labels_that_are_classes_have_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = direction_loss(AT(), nn.Identity(), logits, logits, y, dlr)
    assert loss == F.cross_entropy(logits, y)
