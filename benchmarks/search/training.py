"""Trains copies of one network side by side, one per seed, as a trial's hyperparameters say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, NFGSM, PGD, TPGD, Attack
from lsa_lightning.data import Augmentation
from lsa_lightning.functional import classification_loss, kl_divergence, predicted_labels
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.measures import CenteredRelativeError, ComparisonMeasure, RelativeError, RelativeSquaredError
from lsa_lightning.regularizers import TrainingRamp
from lsa_lightning.stacked.network import split, stack
from lsa_lightning.utils.isolation import scratch_buffers

MEASURES: dict[str, ComparisonMeasure] = {
    measure.name: measure for measure in (RelativeError(), RelativeSquaredError(), CenteredRelativeError())
}


@dataclass(frozen=True)
class Trial:
    """Hyperparameters of a training.

    Attributes:
        attack: of training: ``pgd`` (5 steps), ``fgsm`` or ``nfgsm``.
        eps: its radius.
        lr: learning rate of AdamW, which falls to 0 along a cosine.
        weight_decay: of AdamW.
        beta: weight of TRADES' term; 0: AT on the adversarial examples.
        awp: relative size of an adversarial weight perturbation; 0: none.
        keep_best: early stopping: the weights that validated best are kept; else the last ones.
        gamma: weight of the layer-wise penalty; 0: none.
        measure: its comparison measure.
        layers: what it is on: names of layers.
        mvl: whether, of these, it is in each step on the most vulnerable layers of the step (Algorithm 1).
        ramp: whether gamma grows from 0 at 10 % of training to full at 50 %.
        unlabelled: whether the penalty is on unlabelled inputs too.
        kl: weight of KL(f(u) || f(u_adv)) on unlabelled inputs, the opponent's use of them; 0: none.
    """

    attack: str = "pgd"
    eps: float = 0.3
    lr: float = 0.003
    weight_decay: float = 0.0
    beta: float = 0.0
    awp: float = 0.0
    keep_best: bool = False
    gamma: float = 0.0
    measure: str = "relative_error"
    layers: tuple[str, ...] = ("learnable",)
    mvl: bool = False
    ramp: bool = False
    unlabelled: bool = False
    kl: float = 0.0


@dataclass(frozen=True, eq=False)
class Data:
    """The data of S seeds: inputs ``[S, N, ...]`` and labels ``[S, N]`` by split; ``pool`` has no labels."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    pool: Tensor


@dataclass(frozen=True, eq=False)
class Setting:
    """A data set of some size, with its network and threat model.

    Attributes:
        name: the setting's.
        data: makes the data of the given seeds.
        network: makes a network.
        eps: radius of the threat.
        radii: what is evaluated; the score is the sum of the accuracies there, in percent.
        spread: the radii of training to choose from.
        bounds: of inputs.
        steps: training steps.
        batch: samples in a step.
        layers: the layers to choose from, each a tuple of names.
        lrs: the learning rates to choose from.
        warmup: share of training over which the radius grows to its full size.
        augmentation: of training images and unlabelled ones.
        first: seeds on which every trial is tried.
        more: those on which the best few are, too.
        kept: how many these are.
        seeds: those of the final runs.
        validations: how often training is validated.
        device: where it is trained.
        together: how many of the final runs are trained side by side, and so are written together.
        layout: of images, and of the weights that are judged.
        quick: whether the passes of training are in bfloat16; a CPU with instructions for it takes,
            in channels_last, 0.4 of the time of float32.
    """

    name: str
    data: Callable[[list[int]], Data]
    network: Callable[[], nn.Module]
    eps: float
    radii: tuple[float, ...]
    spread: tuple[float, ...]
    bounds: tuple[float, float] | None
    steps: int
    batch: int
    layers: tuple[tuple[str, ...], ...]
    lrs: tuple[float, ...] = (0.001, 0.003, 0.01)
    warmup: float = 0.0
    augmentation: Augmentation | None = None
    first: range = range(1000, 1004)
    more: range = range(1004, 1016)
    kept: int = 4
    seeds: range = range(20)
    validations: int = 8
    device: str = "cpu"
    together: int = 20
    layout: torch.memory_format = torch.preserve_format
    quick: bool = False


@dataclass
class Trained:
    """Stacked networks, and what validation said.

    Attributes:
        net: the stacked networks, with the weights that were kept.
        scores: validation score of each seed with these weights.
        history: mean validation score at each validation.
    """

    net: nn.Module
    scores: Tensor
    history: list[float] = field(default_factory=list)


def train(setting: Setting, trial: Trial, seeds: list[int], data: Data) -> Trained:
    """Train one network per seed.

    The starts of attacks are drawn for all of them together: among other seeds a seed has other ones.
    """
    nets = []
    for seed in seeds:
        torch.manual_seed(seed)
        nets.append(setting.network())
    net = stack(nets).to(setting.device)
    optimizer: Any = torch.optim.AdamW(net.parameters(), lr=trial.lr, weight_decay=trial.weight_decay)
    every = max(1, setting.steps // setting.validations)
    draws = [torch.Generator().manual_seed(1_000_003 * (seed + 1)) for seed in seeds]
    batches, pools = _Batches(data.train, setting.batch, draws), _Batches((data.pool,), setting.batch, draws)
    changed = _changing(setting, draws[0])
    step = _Step(setting, trial, net, len(seeds))
    best, kept, history = torch.full((len(seeds),), -torch.inf), _weights(net), []
    for number in range(setting.steps):
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * 0.5 * (1 + math.cos(math.pi * number / setting.steps))
        x, y = batches.draw()
        u = changed(pools.draw()[0]) if step.wants_pool else None
        with torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=setting.quick):
            step.take(optimizer, changed(x), y, u, number / setting.steps)
        last = number + 1 == setting.steps
        if (number + 1) % every == 0 and (trial.keep_best or last):
            scores = score(setting, net, data.val, steps=10)
            history.append(float(scores.mean()))
            better = scores > best if trial.keep_best else torch.ones_like(scores, dtype=torch.bool)
            best = scores.where(better, best)
            for name, weight in _weights(net).items():
                kept[name][better] = weight[better]
    net.load_state_dict(kept)
    return Trained(net.eval(), best, history)


def score(setting: Setting, net: nn.Module, part: tuple[Tensor, Tensor], steps: int) -> Tensor:
    """The sum of the accuracies at the setting's radii, in percent, of each seed, under PGD with some steps."""
    x, y = part
    models = len(x)
    net.eval()
    total = torch.zeros(models)
    for eps in setting.radii:
        attacked = x.flatten(0, 1)
        if eps > 0:
            attack = PGD(eps, 2.5 * eps / steps, steps=steps, best="success", bounds=setting.bounds, seed=0)
            attacked = attack(net, attacked, y.flatten())
        with torch.no_grad():
            right = predicted_labels(net(attacked)) == y.flatten()
        total += 100 * right.view(models, -1).float().mean(1).cpu()
    return total


class _Step:
    """The step of all seeds: attack, loss, penalty, update."""

    def __init__(self, setting: Setting, trial: Trial, net: nn.Module, models: int) -> None:
        self.trial, self.net, self.models, self.warmup = trial, net, models, setting.warmup
        bounds, eps = setting.bounds, trial.eps
        attacks: dict[str, Callable[[], Attack]] = {
            "pgd": lambda: PGD(eps, eps / 2, steps=5, bounds=bounds, seed=0),
            "fgsm": lambda: FGSM(eps, bounds=bounds),
            "nfgsm": lambda: NFGSM(eps, bounds=bounds, seed=0),
        }
        without_labels = TPGD(eps, eps / 2, steps=5, bounds=bounds, seed=0)
        self.without_labels = _growing(without_labels)
        self.attack = self.without_labels if trial.beta else _growing(attacks[trial.attack]())
        self.wants_pool = trial.unlabelled or trial.kl > 0
        self.layers = _names(net, trial.layers) if trial.gamma else []
        self.measure = MEASURES[trial.measure]

    def take(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, u: Tensor | None, share: float) -> None:
        """One update."""
        size = _SIZES - 1 if share >= self.warmup else int(_SIZES * share / self.warmup)
        x_adv = self._partners(self.attack[size], x, y)
        labels = torch.zeros(0 if u is None else len(u), dtype=torch.long, device=x.device)
        u_adv = None if u is None else self._partners(self.without_labels[size], u, labels)
        moved = self._perturb_weights(x, x_adv, y)
        loss = self._base(x, x_adv, y)
        if self.layers:
            ramp = TrainingRamp()(share) if self.trial.ramp else 1.0
            pairs = [(x, x_adv)] if u is None or u_adv is None else [(x, x_adv), (u, u_adv)]
            loss = loss + ramp * self.trial.gamma * sum(self._penalty(*pair) for pair in pairs) / len(pairs)
        if self.trial.kl and u is not None and u_adv is not None:
            with scratch_buffers(self.net):
                loss = loss + self.trial.kl * self._each(kl_divergence(self.net(u), self.net(u_adv)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter, move in moved.items():
                parameter.sub_(move)
        optimizer.step()

    def _partners(self, attack: Attack, x: Tensor, y: Tensor) -> Tensor:
        self.net.eval()
        x_adv = attack(self.net, x, y)
        self.net.train()
        return x_adv

    def _each(self, values: Tensor) -> Tensor:
        """The sum over models of the means over their samples."""
        return values.view(self.models, -1).mean(1).sum()

    def _base(self, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        if not self.trial.beta:
            return self._each(classification_loss(self.net(x_adv), y, "none"))
        clean, adversarial = self.net(x), self.net(x_adv)
        return self._each(classification_loss(clean, y, "none") + self.trial.beta * kl_divergence(clean, adversarial))

    def _penalty(self, x: Tensor, x_adv: Tensor) -> Tensor:
        sides = []
        for inputs in (x, x_adv):
            with scratch_buffers(self.net), LayerProbe(self.net, self.layers, len(x), stop_early=True) as probe:
                self.net(inputs)
            sides.append(probe.representations)
        errors = torch.stack([self._compared(clean, sides[1][name]) for name, clean in sides[0].items()])
        return (errors * _vulnerable(errors) if self.trial.mvl else errors).sum()

    def _compared(self, clean: Tensor, perturbed: Tensor) -> Tensor:
        """The mean error of each model, ``[S]``."""
        if self.measure.sample_by_sample:
            return self.measure(clean, perturbed).view(self.models, -1).mean(1)
        pairs = zip(split(clean, self.models), split(perturbed, self.models), strict=True)
        return torch.stack([self.measure(*pair).mean() for pair in pairs])

    def _perturb_weights(self, x: Tensor, x_adv: Tensor, y: Tensor) -> dict[nn.Parameter, Tensor]:
        """Move each model's weights to where its loss is larger; by how much they were moved."""
        if not self.trial.awp:
            return {}
        weights = [parameter for parameter in self.net.parameters() if parameter.ndim > 2]
        gradients = torch.autograd.grad(self._base(x, x_adv, y), weights)
        moved = {}
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                own = (len(weight), *[1] * (weight.ndim - 1))
                size = weight.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
                moved[weight] = self.trial.awp * size.view(own) * gradient
                weight.add_(moved[weight])
        return moved


class _Batches:
    """Batches of all seeds, each in an order of its own that is drawn anew when it is used up."""

    def __init__(self, tensors: tuple[Tensor, ...], size: int, draws: list[torch.Generator]) -> None:
        self.tensors, self.size, self.draws = tensors, min(size, tensors[0].shape[1]), draws
        self._order = torch.zeros(len(draws), 0, dtype=torch.long)

    def draw(self) -> tuple[Tensor, ...]:
        """``[S B, ...]`` of each tensor."""
        if self._order.shape[1] < self.size:
            n = self.tensors[0].shape[1]
            self._order = torch.stack([torch.randperm(n, generator=draw) for draw in self.draws])
        rows, self._order = self._order[:, : self.size], self._order[:, self.size :]
        rows = rows.to(self.tensors[0].device)
        models = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        return tuple(tensor[models, rows].flatten(0, 1) for tensor in self.tensors)


def _vulnerable(errors: Tensor) -> Tensor:
    """Which layers of each model are in its MVL, ``[L, S]``: select_mvl's rule for eta 0, for all models at once."""
    return errors.detach() > errors.detach().mean(0)


def _growing(attack: Attack) -> list[Attack]:
    """The attack at radii that grow to its own."""
    return [*(attack.scaled((k + 1) / _SIZES) for k in range(_SIZES - 1)), attack]


_SIZES = 10


def _changing(setting: Setting, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Augments images as the setting says, and lays them out so."""
    augmentation = setting.augmentation

    def change(images: Tensor) -> Tensor:
        if augmentation is not None:
            images = augmentation(images, torch.rand(len(images), augmentation.numbers, generator=draw))
        return images.to(memory_format=setting.layout)

    return change


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def _names(net: nn.Module, layers: tuple[str, ...]) -> list[str]:
    """Names of layers, where ``learnable`` stands for each activation."""
    all_of_them = [name for name, _ in net.named_modules() if name.rpartition(".")[2].startswith("act")]
    return [name for layer in layers for name in (all_of_them if layer == "learnable" else [layer])]
