"""Whatever runs a model gives it, the batch and the random state back as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.stateful_models import Counting, Drawing, NormalisingInPlace, points
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lsa_lightning import LayerSustainabilityAnalysis, RobustnessEvaluation
from lsa_lightning.attacks import APGD, FGSM, PGD, TPGD, InputSpace, Square
from lsa_lightning.evaluation import correct
from lsa_lightning.utils.isolation import RandomStateAtForward, copied_buffers, lent, scratch_buffers

CPU = torch.device("cpu")


def run_analysis(model: nn.Module, x: Tensor, y: Tensor) -> None:
    LayerSustainabilityAnalysis(model).run([(x, y)], PGD(0.1, steps=2))


def run_evaluation(model: nn.Module, x: Tensor, y: Tensor) -> None:
    RobustnessEvaluation({"pgd": PGD(steps=2)}, [0.1]).run(model, [(x, y)])


def run_in_input_space(model: nn.Module, x: Tensor, y: Tensor) -> None:
    InputSpace(0.0, 1.0)(FGSM(0.1))(model, x, y)


RUNS: dict[str, Callable[[nn.Module, Tensor, Tensor], Any]] = {
    "FGSM": FGSM(0.1),
    "PGD": PGD(0.1, steps=2),
    "TPGD": TPGD(0.1, steps=2),
    "APGD": APGD(0.1, steps=3),
    "Square": Square(0.1, n_queries=3),
    "analysis": run_analysis,
    "evaluation": run_evaluation,
    "input space": run_in_input_space,
}


def random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_buffers_written_in_eval_mode_come_back(run: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
    model = Counting()
    model(torch.rand(3, 8))
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    run(model, *points())
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_global_random_state_comes_back(run: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
    torch.manual_seed(0)
    model, before = Drawing(), random_state()
    run(model, *points())
    assert random_state() == before


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_batch_of_a_model_that_normalises_in_place_stays(run: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
    x, y = points()
    run(NormalisingInPlace(), x, y)
    assert torch.equal(x, points()[0])


def test_accuracy_leaves_buffers_and_batch() -> None:
    x, y = points()
    model = Counting()
    correct(model, x, y)
    assert int(model.calls) == 0
    correct(NormalisingInPlace(), x, y)
    assert torch.equal(x, points()[0])


def test_a_model_that_draws_is_analysed_with_the_same_numbers_in_both_passes() -> None:
    report = LayerSustainabilityAnalysis(Drawing()).run([points(), points()], lambda model, x, y: x.clone())
    assert report.mean.tolist() == [0.0, 0.0]


def test_a_model_that_normalises_in_place_is_analysed_as_one_that_does_not() -> None:
    torch.manual_seed(0)
    model = NormalisingInPlace()
    batch = points()
    found = LayerSustainabilityAnalysis(model).run([batch], FGSM(0.1))
    plain = nn.Sequential(model.fc1, model.act, model.fc2)
    scaled = ((batch[0] - 0.5) / 0.25, batch[1])
    expected = LayerSustainabilityAnalysis(plain).run([scaled], FGSM(0.4, bounds=None))
    # Without bounds on one side only where they do not bind: points at the border move less.
    assert found.layers == ["act"]
    assert float(found.mu) == pytest.approx(float(expected.mu), rel=0.2)


def test_an_attack_does_not_know_the_numbers_by_which_it_is_judged() -> None:
    drawn: list[float] = []

    def draws(x: Tensor) -> Tensor:
        drawn.append(float(torch.rand(())))
        return torch.stack([x.sum(1), -x.sum(1)], dim=1)

    torch.manual_seed(0)
    FGSM(0.1)(draws, *(part[:2] % 2 for part in points()))
    draws(points()[0])
    assert len(set(drawn)) == len(drawn)


def test_lent_gives_back_after_an_exception_and_takes_plain_functions() -> None:
    model, before = Counting(), random_state()

    def draw_and_fail() -> None:
        model(points()[0])
        torch.rand(3)
        assert not model.training
        raise KeyError

    with pytest.raises(KeyError), lent(model, CPU), lent(abs, CPU):
        draw_and_fail()
    assert model.training
    assert int(model.calls) == 0
    assert random_state() == before


def test_batchnorm_in_eval_mode_keeps_its_own_buffers_because_it_writes_none() -> None:
    norm = nn.BatchNorm1d(3).eval()
    with scratch_buffers(norm):
        assert norm.running_mean is norm._buffers["running_mean"]
        inside = norm.running_mean
    assert inside is norm.running_mean


def test_replay_draws_from_pythons_and_numpys_generators_again() -> None:
    model, x = Drawing(), points()[0]
    with RandomStateAtForward(model, CPU) as state:
        first = model(x)
    with state.replay():
        assert torch.equal(model(x), first)


def test_replay_passes_over_scripted_submodules() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(8, 4)), nn.Dropout(0.5))
    x = points()[0]
    with RandomStateAtForward(model, CPU) as state:
        first = model(x)
    with state.replay():
        assert torch.equal(model(x), first)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("attack", [FGSM(0.1), APGD(0.1, steps=3, seed=0)])
def test_reentrant_checkpoints_are_attacked_like_others(attack: Any) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.reentrant = reentrant
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(checkpoint(self.fc1, x, use_reentrant=self.reentrant).relu())

    x, y = points()
    first, again = attack.with_eps(0.1), attack.with_eps(0.1)
    assert torch.equal(first(Checkpointed(True), x, y), again(Checkpointed(False), x, y))


def test_scratch_buffers_may_begin_with_those_of_an_earlier_moment() -> None:
    model, (x, _) = Counting(), points()
    before = copied_buffers(model)
    model(x)
    with scratch_buffers(model, before):
        model(x)
        assert int(model.calls) == 1
    assert int(model.calls) == 1
    model(x)
    assert int(model.calls) == 2


def test_a_model_that_writes_what_it_reads_has_no_error_at_eps_0() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)
            self.register_buffer("scale", torch.ones(()))
            self.scale: Tensor

        def forward(self, x: Tensor) -> Tensor:
            self.scale += 1
            return self.fc2(self.act(self.fc1(x)) + self.act(self.fc1(self.scale * x)))

    report = LayerSustainabilityAnalysis(Growing(), layers=["act#1"]).run([points()], FGSM(0.0))
    assert float(report.mu) == 0
