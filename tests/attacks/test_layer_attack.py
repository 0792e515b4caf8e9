from __future__ import annotations

import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.helpers.modules import ForeignModule, loader, trainer
from torch import Tensor, nn

from lsa_lightning import ATLR, LayerSustainabilityAnalysis, LayerwiseRegularizer, RobustnessEvaluation
from lsa_lightning.attacks import (
    APGD,
    FFGSM,
    FGSM,
    PGD,
    AdaptiveAttack,
    Attack,
    GaussianNoise,
    InputSpace,
    LayerAttack,
    LayerLoss,
)
from lsa_lightning.attacks.layer_loss import ModuleBehind
from lsa_lightning.functional import predicted_labels, relative_error
from lsa_lightning.measures import CosineDistance
from lsa_lightning.utils.outputs import LogitsOf


def network(logits: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, logits)]
        return nn.Sequential(*layers).double().eval()


def batch(net: nn.Module, n: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, predicted_labels(net(x)).clone()


def moved(net: nn.Sequential, layer: int, x: Tensor, x_adv: Tensor) -> Tensor:
    """Relative error of each sample at the output of ``net[layer]``."""
    part = net[: layer + 1]
    return relative_error(part(x), part(x_adv)).detach()


@pytest.mark.parametrize("logits", [1, 3])
def test_equals_the_algorithm_written_out(logits: int) -> None:
    net = network(logits)
    x, y = batch(net)
    loss = LayerLoss(LayerwiseRegularizer({"1": 0.5, "3": 2.0}), layers=["1", "3"], cross_entropy=0.7)
    attack = PGD(0.1, 0.03, steps=4, loss_fn=loss)
    vars(attack)["start"] = lambda ball: ball.x + 0.01
    point = x + 0.01
    for _ in range(4):
        point = point.detach().requires_grad_()
        plain = F.cross_entropy(net(point), y) if logits > 1 else _binary(net(point), y)
        clean, now = (net[:2](x), net[:4](x)), (net[:2](point), net[:4](point))
        errors = [(c - p).norm(dim=1) / c.norm(dim=1) for c, p in zip(clean, now, strict=True)]
        total = 0.7 * len(x) * plain + (0.5 * errors[0] + 2.0 * errors[1]).sum()
        (gradient,) = torch.autograd.grad(total, point)
        point = (point + 0.03 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    torch.testing.assert_close(attack(net, x, y), point.detach())


def _binary(logits: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.flatten(), y.to(logits))


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_moves_its_layer_farther_than_other_attacks(layer: int, norm: str) -> None:
    net = network()
    x, y = batch(net)
    farthest = moved(net, layer, x, LayerAttack(0.1, 20, layers=str(layer), norm=norm, seed=0)(net, x, y))
    for other in (FGSM(0.1, norm=norm), PGD(0.1, norm=norm, seed=0), GaussianNoise(0.1, norm=norm, seed=0)):
        assert farthest.mean() > 1.02 * moved(net, layer, x, other(net, x, y)).mean()


def test_it_finds_the_largest_move_of_a_linear_layer() -> None:
    net = network()[:3]
    x, y = batch(net)
    corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1], dtype=torch.float64)] * 6)
    largest = torch.stack([moved(net, 0, row.expand(64, 6), row + corners).max() for row in x])
    x_adv = LayerAttack(0.1, 50, layers="0", n_restarts=5, bounds=None, seed=0)(net, x, y)
    torch.testing.assert_close(moved(net, 0, x, x_adv), largest, rtol=0.01, atol=0)


def test_any_measure_can_be_increased() -> None:
    net = network()
    x, y = batch(net)
    attack = LayerAttack(0.1, 20, layers="3", measure=CosineDistance(), seed=0)
    turned = [CosineDistance()(net[:4](x), net[:4](each(net, x, y))) for each in (attack, PGD(0.1, seed=0))]
    assert turned[0].mean() > turned[1].mean()


def test_labels_and_logits_of_any_shape_will_do() -> None:
    net = nn.Sequential(*network(12)[:4], nn.Linear(12, 12).double(), nn.Unflatten(1, (3, 2, 2)))
    x = batch(network())[0]
    y = torch.zeros(len(x), 2, 2)
    assert LayerAttack(0.1, 3, layers="1")(net, x, y).shape == x.shape
    with pytest.raises(ValueError, match="expected the model to return logits of shape"):
        AdaptiveAttack(0.1, 3, layers=["1"])(net, x, y)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_the_adaptive_attack_increases_both_terms_together(gamma: float) -> None:
    net = network()
    x, y = batch(net)
    regularizer = LayerwiseRegularizer(gamma)
    options: dict[str, Any] = {"norm": "L2", "n_restarts": 3, "seed": 0}
    adaptive = AdaptiveAttack(0.3, 20, regularizer=regularizer, best="loss", **options)(net, x, y)
    plain = APGD(0.3, 20, **options)(net, x, y)
    assert torch.equal(adaptive, plain) == (gamma == 0)

    def loss(x_adv: Tensor) -> float:
        penalty = sum(moved(net, layer, x, x_adv).mean() for layer in (1, 3))
        return float((F.cross_entropy(net(x_adv), y) + gamma * penalty).detach())

    assert loss(adaptive) > loss(plain) or gamma == 0


def test_to_evaluate_the_adaptive_attack_keeps_the_first_misclassified_point() -> None:
    net = network()
    x, y = batch(net, 60)
    y[0] = (y[0] + 1) % 3
    options: dict[str, Any] = {"regularizer": LayerwiseRegularizer(gamma=0.1), "seed": 0}
    x_adv, last = (AdaptiveAttack(0.12, 20, best=best, **options)(net, x, y) for best in ("success", "loss"))
    assert torch.equal(x_adv[0], x[0])
    fooled, at_the_end = (predicted_labels(net(each)) != y for each in (x_adv, last))
    assert at_the_end.sum() <= fooled.sum() < 60
    assert fooled.sum() > 1


def test_samples_that_are_left_are_compared_with_their_own_partners() -> None:
    net = network()
    x, y = batch(net)
    attack = PGD(0.12, steps=8, random_start=False, best="success", loss_fn=LayerLoss(layers=["1", "3"]))
    alone = torch.cat([attack(net, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    together = attack(net, x, y)
    assert 0 < (predicted_labels(net(together)) != y).sum() < len(x)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("attack", [FGSM, FFGSM, PGD, APGD])
def test_it_is_a_loss_of_every_gradient_attack(attack: type[Attack]) -> None:
    net = network()
    x, y = batch(net)
    seed = {} if attack is FGSM else {"seed": 0}
    loss = LayerLoss(LayerwiseRegularizer(gamma=100.0))
    x_adv, plain = attack(0.1, loss_fn=loss, **seed)(net, x, y), attack(0.1, **seed)(net, x, y)
    assert (x_adv - x).abs().max() <= 0.1
    # Relative errors have no gradient at x itself.
    assert torch.equal(x_adv, plain) == (attack is FGSM)


def test_names_are_those_of_the_users_module() -> None:
    net = network()
    x, y = batch(net)
    wrapped = LogitsOf(lambda rows: {"scores": net(rows)}, output_fn=lambda output: output["scores"])
    with pytest.raises(ValueError, match=r"expected a model that is an nn.Module, whose layers .* got <function"):
        LayerAttack(0.1, 3, layers="1")(wrapped, x, y)
    inner = LogitsOf(net)
    behind = ModuleBehind.of(InputSpace(0.5, 0.25).model_of_pixels(inner, x), x)
    assert behind.module is net
    assert torch.equal(behind.x, (x - 0.5) / 0.25)
    attack = LayerAttack(0.1, 10, layers="1", bounds=None, seed=0)
    again = LayerAttack(0.1, 10, layers="1", bounds=None, seed=0)
    assert torch.equal(attack(inner, x, y), again(net, x, y))
    normalised = (x - 0.5) / 0.25
    x_adv = InputSpace(0.5, 0.25)(LayerAttack(0.1, 10, layers="1", seed=0))(net, normalised, y)
    assert (x_adv - normalised).abs().max() <= 0.4 + 1e-9
    others = InputSpace(0.5, 0.25)(PGD(0.1, seed=0))(net, normalised, y)
    assert moved(net, 1, normalised, x_adv).mean() > moved(net, 1, normalised, others).mean()


def test_wrong_layers_are_named() -> None:
    net = network()
    x, y = batch(net)
    with pytest.raises(ValueError, match=r"expected names of submodules, got unknown \['fc'\]; these exist: 0, 1, 2"):
        LayerAttack(0.1, layers="fc")(net, x, y)
    with pytest.raises(ValueError, match=r"expected a gamma for one of the layers \['1', '3'\], got LayerwiseReg"):
        AdaptiveAttack(0.1, regularizer=LayerwiseRegularizer({"4": 1.0}))(net, x, y)
    with pytest.raises(ValueError, match=r"expected regularizer to be a LayerwiseRegularizer or None, got 0\.1"):
        AdaptiveAttack(0.1, regularizer=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected cross_entropy to be a finite number >= 0, got -1"):
        LayerLoss(cross_entropy=-1)


def test_nothing_is_left_behind() -> None:
    net, attack = network(), AdaptiveAttack(0.1, 3, seed=0)
    attack(net, *batch(net))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    copy = pickle.loads(pickle.dumps(attack))
    assert repr(copy) == repr(attack)
    assert "loss_fn=LayerLoss(LayerwiseRegularizer(gamma=1.0" in repr(attack)


def test_the_analysis_shows_how_far_a_layer_can_be_moved() -> None:
    net = network().float()
    data = [tuple(part.float() if part.is_floating_point() else part for part in batch(network()))]
    analysis = LayerSustainabilityAnalysis(net)
    plain = analysis.run(data, PGD(0.1, seed=0))
    for place, layer in enumerate(plain.layers):
        report = analysis.run(data, LayerAttack(0.1, 20, layers=layer, seed=0))
        assert report.mean[place] > plain.mean[place]
        assert f"layers=['{layer}']" in report.attack


def test_an_evaluation_has_it_among_its_attacks() -> None:
    net = network().float()
    x, y = batch(network(), 40)
    attacks = {"pgd": PGD(steps=5, best="success"), "adaptive": AdaptiveAttack(steps=5)}
    table = RobustnessEvaluation(attacks, eps=[0.05, 0.12]).run(net, [(x.float(), y)])
    assert table.accuracy["adaptive"][0] == 100
    assert table.accuracy["adaptive"][2] < table.accuracy["adaptive"][1] < 100


class Halved(ForeignModule):
    """Gives its network something else than the batch's x, and a further tensor with a row per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Scaled(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x / 2, torch.full((len(x), 1, 1, 1), 2.0))


class Scaled(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.net(x * scale)


@pytest.mark.parametrize(("module", "backbone"), [(ForeignModule, None), (Halved, "backbone")])
def test_it_trains_foreign_modules(module: type[ForeignModule], backbone: str | None) -> None:
    attack = PGD(0.05, steps=2, bounds=None, loss_fn=LayerLoss(LayerwiseRegularizer(gamma=1.0)))
    net, callback = module(), ATLR(attack, backbone=backbone, analysis_limit_batches=1)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    run: pl.Trainer = trainer([callback])
    run.fit(net, loader(), loader())
    assert callback.mvl
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


class TwoHeads(nn.Module):
    """What it calls logits is not what counts."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.body, self.key = network(), key
        self.auxiliary = nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {self.key: self.auxiliary(x), "main": self.body(x)}


@pytest.mark.parametrize("key", ["logits", "other"])
@pytest.mark.parametrize("attack", [LayerAttack, AdaptiveAttack])
@pytest.mark.parametrize("layers", ["logits", "probabilities", ["body.1", "logits"]])
def test_outputs_are_what_output_fn_reads(attack: type[Attack], layers: Any, key: str) -> None:
    model, plain = TwoHeads(key), network()
    x, y = batch(plain)
    read = LogitsOf(model, output_fn=lambda output: output["main"])
    names = [name.removeprefix("body.") for name in layers] if isinstance(layers, list) else layers
    options: dict[str, Any] = {"bounds": None, "seed": 0}
    x_adv = attack(0.1, 5, layers=layers, **options)(read, x, y)  # type: ignore[call-arg, misc]
    assert torch.equal(x_adv, attack(0.1, 5, layers=names, **options)(plain, x, y))  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("attack", [LayerAttack, AdaptiveAttack])
def test_layers_are_looked_up_with_inputs_of_the_model(attack: type[Attack], dtype: torch.dtype) -> None:
    net = network().to(dtype)
    x, y = batch(network())
    inputs = ((x - 0.5) / 0.25).to(dtype)
    x_adv = InputSpace(0.5, 0.25)(attack(0.1, 3, layers="1", seed=0))(net, inputs, y)  # type: ignore[call-arg]
    assert 0.3 < (x_adv.double() - inputs.double()).abs().max() <= 0.4 + 1e-6


def test_a_gamma_for_a_layer_that_does_not_count_is_named() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"some of the layers \['1', '3'\], got one for \['5'\] too"):
        AdaptiveAttack(0.1, regularizer=LayerwiseRegularizer({"1": 1.0, "5": 1.0}))(net, *batch(net))
