"""Checks for masked gradients: signs that a robust accuracy is owed to failing attacks rather than to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsa_lightning.attacks import PGD, Attack, InputSpace, Square
from lsa_lightning.attacks.balls import Ball, Bounds
from lsa_lightning.attacks.base import Model
from lsa_lightning.attacks.gradients import input_gradient
from lsa_lightning.attacks.losses import class_logits, cross_entropy, margin
from lsa_lightning.evaluation import correct
from lsa_lightning.functional import check_finite, predicted_labels
from lsa_lightning.masking.flags import OF_FEW_STEPS, UNSTABLE, MaskingFlag, flags
from lsa_lightning.utils.batch import (
    BatchFn,
    check_samples,
    move_data_to_device,
    part_of_batch,
    read_batch,
    read_samples,
)
from lsa_lightning.utils.checks import flag, function, instance, integer, number, or_none, sequence
from lsa_lightning.utils.isolation import evaluating, preserved_random_state, scratch_buffers
from lsa_lightning.utils.outputs import LogitsOf, OutputFn
from lsa_lightning.utils.precision import widest_float
from lsa_lightning.utils.progress import Progress, forward_passes
from lsa_lightning.utils.random import Purpose, own_generator, seed_of
from lsa_lightning.utils.renamed import renamed

_DIRECTIONS = 8


class MaskingChecks:
    """Runs attacks of different kinds on a few samples, and flags what an honest model would not do.

    The flags, by name:

    - ``pgd_weaker_than_fgsm``: one step fools samples that many steps do not.
    - ``accuracy_rises_with_eps``: PGD fools fewer samples at eps/2 than at eps/4, or at eps than at eps/2.
    - ``steps_do_not_help``: random points of the ball fool samples that PGD does not, also with five times the steps.
    - ``vanishing_gradients``: input gradients of the cross-entropy are 0, below the smallest normal number of their
      dtype, or absent.
    - ``full_range_above_chance``: PGD within the whole range of the bounds leaves more than the share of the most
      frequent label.
    - ``black_box_stronger``: Square, which needs no gradient, fools samples that PGD does not, at eps or at a larger
      radius of :meth:`with_radii`: gradients that are right where a model was trained may be masked farther away.
    - ``not_deterministic``: two passes over the same samples, in eval mode, differ.
    - ``gradients_disagree``: the margin does not change as its input gradient says, along random directions from points
      within eps/2: the cosine of predicted and measured changes is below 0.9 (``flags.AGREEMENT``), on average.

    Comparisons are paired: samples that only one of two attacks fools are counted. A flag is raised if one count
    exceeds the other by more than 2 points of all samples (``flags.TOLERANCE``), and so clearly that chance
    does it with a probability below 0.001 (one-sided sign test, ``flags.SIGNIFICANCE``). Shares are compared by
    the low end of their Wilson interval of the same significance. With fewer than 10 samples no comparison can raise a
    flag.

    Before one of ``flags.OF_FEW_STEPS`` is raised, PGD is run once more, with five times the steps, and a sample counts
    as fooled if either run fools it. That cannot raise these flags, so a model without them need not wait for it.

    A model without flags is not thereby proven honest.

    Args:
        eps: radius > 0, as in training.
        norm: name of the norm, ``"Linf"`` or ``"L2"``.
        bounds: smallest and largest valid input value; None: no bounds, and no ``full_range_above_chance``.
        n_samples: number of samples >= 1, the first of the data.
        steps: steps of PGD >= 1; five times as many where a flag would be raised.
        n_queries: queries >= 1 of the random search and of Square.
        seed: seed of the attacks and of the models.
        batch_fn: ``batch -> (x, y)``.
        output_fn: see :class:`~lsa_lightning.utils.outputs.LogitsOf`.
        input_space: the space of x, if batches are normalised; eps and bounds are in pixels, where the checks are run.
        progress: whether to show how far it is; see :class:`~lsa_lightning.RobustnessEvaluation`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> checks = MaskingChecks(eps=0.1, bounds=None, steps=2, n_queries=5)
        >>> flags = checks.run(torch.nn.Linear(2, 1), [(torch.randn(64, 2), torch.randint(2, (64,)))])
        >>> [name for name, flag in flags.items() if flag.raised]
        []

    Source: the signs are those of Athalye et al. 2018, arXiv 1802.00420, section 3.1, and of Carlini et al. 2019,
    arXiv 1902.06705.
    """

    @renamed(samples="n_samples", queries="n_queries")
    def __init__(
        self,
        eps: float,
        *,
        norm: str = "Linf",
        bounds: Bounds = (0.0, 1.0),
        n_samples: int = 256,
        steps: int = 20,
        n_queries: int = 100,
        seed: int = 0,
        batch_fn: BatchFn = read_batch,
        output_fn: OutputFn | None = None,
        input_space: InputSpace | None = None,
        progress: bool | None = None,
    ) -> None:
        eps, steps = number(self, "eps", eps, above=0), integer(self, "steps", steps, low=1)
        self.n_samples = integer(self, "n_samples", n_samples, low=1)
        self.seed = integer(self, "seed", seed)
        self.batch_fn: BatchFn = function(self, "batch_fn", batch_fn)
        self.output_fn: OutputFn | None = or_none(function, self, "output_fn", output_fn)
        self.input_space = or_none(instance, self, "input_space", input_space, InputSpace)
        self.progress = or_none(flag, self, "progress", progress)
        options: dict[str, Any] = {"norm": norm, "bounds": bounds, "seed": seed}
        # A sample counts as fooled once one point of the ascent fools the model, and costs nothing after that.
        self.pgd = PGD(eps, steps=steps, best="success", **options)
        self.longest = PGD(eps, steps=5 * steps, best="success", **options)
        self.white_box: dict[str, Attack] = {
            "fgsm": PGD(eps, alpha=eps, steps=1, random_start=False, **options),
            "quarter": self.pgd.with_eps(eps / 4),
            "half": self.pgd.with_eps(eps / 2),
            "pgd": self.pgd,
        }
        self.black_box: dict[str, Attack] = {
            "random": RandomSearch(eps, n_queries, **options),
            "square": Square(eps, n_queries, **options),
        }
        self.beyond: list[float] = []

    def with_radii(self, radii: Sequence[float]) -> MaskingChecks:
        """These checks, which compare Square with PGD at those of some radii that exceed eps, too.

        Args:
            radii: those of an evaluation, at least one, each > 0.

        Raises:
            ValueError: if there is none, or one is not positive.

        Example:
            >>> MaskingChecks(eps=0.3).with_radii([0.1, 0.2, 0.3, 0.4]).beyond
            [0.4]
        """
        checks = copy(self)
        checks.beyond = sorted(
            {each for each in sequence(self, "radii", radii, number, above=0) if each > self.pgd.eps}
        )
        return checks

    def run(self, model: nn.Module, dataloader: Iterable[Any]) -> dict[str, MaskingFlag]:
        """Check one model.

        Args:
            model: maps x to logits; runs in eval mode and is left as it was.
            dataloader: any iterable of batches; they are moved to the model's device.

        Returns:
            Flag by name.

        Raises:
            ValueError: if there is no batch.
        """
        instance(self, "model", model, nn.Module)
        device = next(model.parameters(), torch.zeros(())).device
        logits_of = LogitsOf(model, self.output_fn)
        batches: list[CheckedBatch] = []
        missing = self.n_samples
        for index, batch in enumerate(dataloader):
            x, y = read_samples(self.batch_fn, move_data_to_device(batch, device))
            check_samples(x, y)
            x, y = x[:missing], y[:missing]
            batches.append(CheckedBatch(*self.in_pixels(logits_of, x), y, index))
            missing -= len(x)
            if missing == 0:
                break
        if not batches:
            msg = "expected a dataloader with at least one batch, got an empty one"
            raise ValueError(msg)
        return self.flags_of(batches)[0]

    def flags_of(self, batches: Sequence[CheckedBatch], models: int = 1) -> list[dict[str, MaskingFlag]]:
        """The flags of each model; before one of few steps is raised, more are tried.

        Args:
            batches: the samples.
            models: how many models are stacked; a batch has the samples of each one after another.
        """
        few = [*self._black_box().values(), *self._white_box(1).values()]
        with self._progress("Checking for masked gradients", few, models) as progress:
            observed = _by_model([self._observe(batch, progress, models) for batch in batches], models)
        few_steps, most_steps = self.pgd.steps, self.longest.steps
        verdict = partial(flags, eps=self.pgd.eps, beyond=self.beyond, steps=few_steps, most_steps=most_steps)
        found = [verdict(own) for own in observed]
        doubtful = [number for number, own in enumerate(found) if any(own[name].raised for name in OF_FEW_STEPS)]
        doubtful = [number for number in doubtful if not bool(observed[number]["gradient"].isnan().any())]
        if doubtful:
            more = _by_model(self._with_more_steps(batches, models), models)
            for number in doubtful:
                found[number] = verdict(_strongest(observed[number], more[number]))
        return found

    def _with_more_steps(self, batches: Sequence[CheckedBatch], models: int) -> list[dict[str, Tensor]]:
        """By batch and attack, whether it fools a sample with more steps, ``[N]``."""
        rows = []
        with self._progress("Checking with more steps", self._of_more_steps(1).values(), models) as progress:
            for batch in batches:
                attacks = self._of_more_steps(batch.x[0].numel())
                with self._seeded(batch):
                    rows.append({name: self._fooled(attack, batch).cpu() for name, attack in attacks.items()})
                progress.advance(len(batch.x) * sum(map(forward_passes, attacks.values())))
        return rows

    @contextmanager
    def _seeded(self, batch: CheckedBatch) -> Iterator[None]:
        """Inside, a model that draws random numbers draws those of the batch's number."""
        with preserved_random_state(batch.x.device):
            torch.manual_seed(seed_of(self.seed, Purpose.CHECKED_MODEL, batch.number))
            yield

    def _progress(self, label: str, attacks: Iterable[Attack], models: int) -> Progress:
        """About how many forward passes ``attacks`` take, each of which is reported when it is done."""
        return Progress(label, models * self.n_samples * sum(map(forward_passes, attacks)), self.progress)

    def in_pixels(self, model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
        """The model as a function of pixels, and the pixels of a batch."""
        if self.input_space is None:
            return model, x
        return self.input_space.model_of_pixels(model, x), self.input_space.to_pixels(x, self.pgd.bounds)

    def _observe(self, batch: CheckedBatch, progress: Progress, models: int) -> dict[str, Tensor]:
        """What is seen of each sample of a batch, ``[N]`` each; by attack, whether it alone fools the model."""
        with self._seeded(batch):
            row = self._without_attack(batch, models)
            # Attacks that need a gradient fool nobody in a batch where some sample has none.
            black_box = self._black_box()
            attacks = {**black_box, **self._white_box(batch.x[0].numel())}
            usable = black_box if bool(row["gradient"].isnan().any()) else attacks
            for name, attack in attacks.items():
                row[name] = row["clean"] & (self._fooled(attack, batch) if name in usable else ~row["clean"])
                progress.advance(len(batch.x) * forward_passes(attack))
        return {name: values.cpu() for name, values in row.items()}

    def _fooled(self, attack: Attack, batch: CheckedBatch) -> Tensor:
        """Whether ``attack`` leads to a wrong prediction, ``[N]``."""
        model, x, y, number = batch
        return ~correct(model, attack.with_stream(number)(model, x, y), y)

    def _without_attack(self, batch: CheckedBatch, models: int) -> dict[str, Tensor]:
        """What is seen of the model, its gradients and its logits."""
        model, x, y, number = batch
        correct(model, x, y)  # where outputs are no logits or labels no classes, an error
        with evaluating(model), scratch_buffers(model):
            gradient = _largest_gradient(model, x, y)
            generator = own_generator(self.seed, Purpose.DIRECTIONS, number, device=x.device)
            agreement = self._agreement(model, x, y, generator, models)
            with torch.no_grad():
                first, second = class_logits(model(x.clone())), class_logits(model(x.clone()))
        unit = torch.maximum(_unit(model, first, models), _unit(model, second, models))
        return {
            "label": y.flatten(),
            "vanished": ~(gradient >= torch.finfo(gradient.dtype).tiny),
            "gradient": gradient,
            "agreement": agreement,
            "change": (first - second).abs().amax(dim=1) / unit,
            "relabelled": first.argmax(dim=1) != second.argmax(dim=1),
            "clean": first.argmax(dim=1) == y.flatten(),
        }

    def _agreement(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, models: int) -> Tensor:
        """Cosine of predicted and measured changes of the margin, ``[N]``; NaN where there are none to speak of."""
        threat = self.pgd.threat
        start = threat.with_eps(threat.eps / 2).ball(x).random_point(generator)
        near = threat.with_eps(threat.eps / 10).ball(start)
        gradient = _input_gradient(model, start, y, margin)
        wide = widest_float(x.device)
        predicted, measured = [], []
        for _ in range(_DIRECTIONS):
            ahead = near.boundary_point(generator)
            back = near.project(2 * start - ahead)
            with torch.no_grad():
                logits = class_logits(model(ahead.clone()))
                measured.append((margin(logits, y) - margin(model(back.clone()), y)).to(wide))
            predicted.append((gradient.to(wide) * (ahead - back).to(wide)).flatten(1).sum(1))
        return _cosine(torch.stack(predicted), torch.stack(measured), floor=_rounding(model, logits, models))

    def _black_box(self) -> dict[str, Attack]:
        """Attacks that need none."""
        return {**self.black_box, **self._at_beyond("square", self.black_box["square"])}

    def _white_box(self, coordinates: int) -> dict[str, Attack]:
        """Attacks that need a gradient."""
        return {**self.white_box, **self._at_beyond("pgd", self.pgd), **self._in_range(self.pgd, coordinates)}

    def _of_more_steps(self, coordinates: int) -> dict[str, Attack]:
        """The strongest attacks."""
        longest = {"longest": self.longest, **self._at_beyond("longest", self.longest)}
        return {**longest, **self._in_range(self.longest, coordinates)}

    def _at_beyond(self, name: str, attack: Attack) -> dict[str, Attack]:
        return {f"{name} {radius:g}": attack.with_eps(radius) for radius in self.beyond}

    def _in_range(self, attack: PGD, coordinates: int) -> dict[str, Attack]:
        """``attack`` with a ball that holds all inputs of so many coordinates, if there are bounds."""
        if attack.bounds is None:
            return {}
        return {"range": attack.with_eps(attack.threat.diameter(coordinates))}


class CheckedBatch(NamedTuple):
    """A batch in pixels.

    Attributes:
        model: the model as a function of them, or stacked ones.
        x: inputs ``[N, ...]``; those of each stacked model one after another.
        y: labels ``[N]``.
        number: which one it is.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    number: int


class RandomSearch(Attack):
    """Random points of the ball's surface, until one is misclassified; the last one where none is.

    Args:
        eps: radius >= 0.
        n_queries: number of points >= 1.
        norm: name of the norm.
        bounds: smallest and largest valid input value, or None.
        seed: seed of the points, or None.
    """

    def __init__(self, eps: float, n_queries: int, *, norm: str, bounds: Bounds, seed: int | None) -> None:
        super().__init__(eps, norm=norm, bounds=bounds, seed=seed)
        self.n_queries = integer(self, "n_queries", n_queries, low=1)

    @torch.no_grad()
    def perturb(self, model: Model, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Draw and try, with those samples alone that still stand."""
        points, left = x.clone(), torch.arange(len(x), device=x.device)
        for _ in range(self.n_queries):
            # Drawn for all samples, so that nobody's points depend on who was fooled.
            points[left] = ball.boundary_point(self.generator(x.device))[left]
            with part_of_batch(left, len(x)):
                logits = model(points[left])
                check_finite(logits)
                stands = predicted_labels(logits) == y.flatten()[left]
            left = left[stands]
            if len(left) == 0:
                break
        return points


def _by_model(rows: Sequence[dict[str, Tensor]], models: int) -> list[dict[str, Tensor]]:
    """What was seen of each model's samples, of all batches."""
    stacked = {name: torch.cat([row[name].view(models, -1) for row in rows], dim=1) for name in rows[0]}
    return [{name: values[number] for name, values in stacked.items()} for number in range(models)]


def _strongest(observed: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """``observed``, in which a sample counts as fooled by many steps if it is by few or by many."""
    few = {name: observed[name.replace("longest", "pgd")] for name in more}
    return {**observed, **{name: observed["clean"] & (few[name] | fooled) for name, fooled in more.items()}}


def _unit(model: nn.Module, logits: Tensor, models: int) -> Tensor:
    """What changes of a model's logits are measured by, ``[N]``: the largest lead of a class over the next one.

    Neither an offset of all logits nor classes that are ruled out by a very negative one change it.
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    lead = _largest(first - second, models)
    return torch.maximum(lead, _rounding(model, logits, models) / UNSTABLE).clamp_min(1e-12)


def _rounding(model: nn.Module, logits: Tensor, models: int) -> Tensor:
    """How much of a margin may be rounding, ``[N]``, by the coarsest numbers that the model computes with."""
    device = logits.device.type
    dtypes = {logits.dtype, *(each.dtype for each in model.parameters() if each.is_floating_point())}
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    return 8 * max(torch.finfo(dtype).eps for dtype in dtypes) * _largest(logits.topk(2, dim=1).values, models)


def _largest(values: Tensor, models: int) -> Tensor:
    """For each sample, the largest absolute value of its model's batch, ``[N]``."""
    return values.abs().reshape(models, -1).amax(dim=1).repeat_interleave(len(values) // models)


def _largest_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Largest entry of each sample's gradient of the cross-entropy, ``[N]``; NaN if the model gives no gradient."""
    return _input_gradient(model, x, y, cross_entropy).flatten(1).abs().amax(dim=1)


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Gradient of the sum of the losses with respect to ``x``; NaN if the model gives none."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        gradient = input_gradient(model(x.clone()), x, lambda logits: loss(logits, y))[1]
    return torch.full_like(x, torch.nan) if gradient is None else gradient


def _cosine(predicted: Tensor, measured: Tensor, floor: Tensor) -> Tensor:
    """Cosine over the first dimension, ``[N]``; 0 where one is 0, NaN where no entry of either exceeds ``floor``."""
    lengths = predicted.norm(dim=0) * measured.norm(dim=0)
    cosine: Tensor = ((predicted * measured).sum(0) / lengths).where(lengths != 0, 0.0)
    return cosine.where(torch.maximum(predicted.abs(), measured.abs()).amax(0) > floor, torch.nan)
