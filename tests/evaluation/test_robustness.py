"""Accuracy over attacks times eps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.progress import every_progress
from torch import Tensor, nn

from lsa_lightning import RobustnessEvaluation
from lsa_lightning.attacks import FGSM, PGD, Attack, GaussianNoise
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.evaluation import RobustnessTable, evaluate_robustness

RADII = [0.2, 0.5, 1.0]


class Sign(nn.Module):
    """One logit: the first coordinate. A point falls to FGSM if and only if its margin is below eps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) @ self.weight


def points() -> tuple[Tensor, Tensor]:
    """20 points, all classified correctly, with margins 0.05, 0.15, ..., 0.95 on either side."""
    margins = torch.arange(10) / 10 + 0.05
    x = torch.stack([torch.cat([margins, -margins]), torch.zeros(20)], dim=1)
    return x, torch.tensor([1] * 10 + [0] * 10)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    x, y = points()
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def fgsm() -> FGSM:
    return FGSM(eps=0.1, bounds=None)


def test_accuracy_is_the_share_of_points_with_a_larger_margin() -> None:
    table = evaluate_robustness(Sign(), batches(20), attacks={"fgsm": fgsm()}, eps=RADII)
    assert table.eps == [0.0, *RADII]
    assert table.accuracy == {"fgsm": [100.0, 80.0, 50.0, 0.0]}
    assert table.samples == 20


def test_batches_of_unequal_size_count_by_samples() -> None:
    whole = evaluate_robustness(Sign(), batches(20), attacks={"fgsm": fgsm()}, eps=RADII)
    assert evaluate_robustness(Sign(), batches(1, 3, 16), attacks={"fgsm": fgsm()}, eps=RADII) == whole


def test_wrong_predictions_lower_the_clean_column_of_every_attack() -> None:
    x, y = points()
    y[:5] = 0
    table = evaluate_robustness(Sign(), [(x, y)], attacks={"fgsm": fgsm(), "pgd": PGD(0.1, bounds=None)}, eps=[0.001])
    assert [row[0] for row in table.accuracy.values()] == [75.0, 75.0]


def test_radii_are_sorted_and_counted_once() -> None:
    table = evaluate_robustness(Sign(), batches(20), attacks={"fgsm": fgsm()}, eps=[0.5, 0.25, 0.5])
    assert table.eps == [0.0, 0.25, 0.5]
    assert len(table.accuracy["fgsm"]) == 3


def test_limit_batches_limits_the_samples() -> None:
    assert (
        evaluate_robustness(Sign(), batches(4, 4, 12), attacks={"fgsm": fgsm()}, eps=RADII, limit_batches=2).samples
        == 8
    )


class Recorder(Attack):
    """Leaves inputs alone and remembers with which eps it was used."""

    seen: list[float]

    def __init__(self, eps: float) -> None:
        super().__init__(eps, bounds=None)
        self.seen = []

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        self.seen.append(self.eps)
        return x


def test_each_attack_runs_once_per_radius_and_batch() -> None:
    attack = Recorder(0.3)
    evaluate_robustness(Sign(), batches(10, 10), attacks={"recorder": attack}, eps=RADII)
    assert attack.seen == [*RADII, *RADII]
    assert attack.eps == 0.3


def test_several_classes_and_dict_batches() -> None:
    x = torch.eye(3)
    batch = {"image": x, "label": torch.tensor([0, 1, 0])}
    table = evaluate_robustness(nn.Identity(), [batch], attacks={"fgsm": fgsm()}, eps=[0.4, 0.6])
    assert table.accuracy["fgsm"] == pytest.approx([200 / 3, 200 / 3, 0.0])


def test_the_model_is_left_as_it_was() -> None:
    model = Sign()
    model.train()
    model.dropout.eval()
    evaluate_robustness(model, batches(20), attacks={"fgsm": fgsm()}, eps=RADII)
    assert model.training
    assert not model.dropout.training
    assert model.weight.grad is None


def test_own_batch_function() -> None:
    x, y = points()
    swapped = [(y, x)]
    table = evaluate_robustness(
        Sign(), swapped, attacks={"fgsm": fgsm()}, eps=[0.25], batch_fn=lambda batch: (batch[1], batch[0])
    )
    assert table.accuracy["fgsm"][0] == 100.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": {}}, "RobustnessEvaluation: expected attacks to be a mapping of at least one name, got {}"),
        ({"attacks": FGSM(0.1)}, "attacks to be a mapping of at least one name, got FGSM"),
        ({"attacks": {"fgsm": FGSM}}, r"expected attacks\[\'fgsm\'\] to be an Attack, got <class"),
        ({"eps": []}, r"eps to be a list of at least one value, got \[\]"),
        ({"eps": 0.1}, "eps to be a list of at least one value, got 0.1"),
        ({"eps": "0.1"}, "eps to be a list of at least one value, got '0.1'"),
        ({"limit_batches": "x"}, "limit_batches to be an integer >= 1 or None, got 'x'"),
        ({"eps": [0.0, 0.1]}, r"eps\[0\] to be a finite number > 0, got 0.0"),
        ({"eps": [0.1, float("inf")]}, r"eps\[1\] to be a finite number > 0, got inf"),
        ({"limit_batches": 0}, "limit_batches to be an integer >= 1 or None, got 0"),
        ({"dataloader": []}, "got an empty one"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"dataloader": batches(20), "attacks": {"fgsm": fgsm()}, "eps": RADII, **arguments}
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(Sign(), **given)


class Noisy(Sign):
    """Draws random numbers, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.3 * torch.randn(len(x))


def evaluation(**options: Any) -> RobustnessEvaluation:
    attacks = {"fgsm": fgsm(), "pgd": PGD(0.1, steps=3, bounds=None), "noise": GaussianNoise(0.1, bounds=None, seed=5)}
    return RobustnessEvaluation(attacks, [0.3, 0.6], **options)


class InterruptionError(RuntimeError):
    pass


def interrupted(data: list[Any], after: int) -> Iterator[Any]:
    yield from data[:after]
    raise InterruptionError


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_evaluation_goes_on_to_the_same_table(tmp_path: Path, after: int) -> None:
    data, state = batches(4, 6, 3, 7), tmp_path / "state.jsonl"
    whole = evaluation().run(Noisy(), data)
    with pytest.raises(InterruptionError):
        evaluation().run(Noisy(), interrupted(data, after), state)
    torch.randn(7)  # what happened in between has no influence
    seen = []
    model = Noisy()
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    assert evaluation().run(model, data, state) == whole
    asked = [len(data[0][0])]  # at one batch, whether this is the model of the file
    assert set(seen) - {1} == {len(x) for x, _ in data[after:]} | set(asked)  # 1: outputs in [0, 1] are looked at again
    seen.clear()
    assert evaluation().run(model, data, state) == whole
    assert seen == asked


def _killed(state: Path) -> None:
    """Evaluates in a process of its own, which dies while the third batch is loaded."""

    def data() -> Iterator[Any]:
        yield from batches(4, 6, 10)[:2]
        os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    evaluation().run(Noisy(), data(), state)


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_table(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    child = multiprocessing.get_context("spawn").Process(target=_killed, args=(state,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert len(state.read_text().splitlines()) == 3
    data = batches(4, 6, 10)
    assert evaluation().run(Noisy(), data, state) == evaluation().run(Noisy(), data)


def test_a_state_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    evaluation().run(Sign(), batches(20), state)
    changed = Sign()
    changed.weight.data[1] = 2.0
    for other, model in ((evaluation(seed=1), Sign()), (evaluation(), changed)):
        with pytest.raises(ValueError, match="give another file"):
            other.run(model, batches(20), state)
    with pytest.raises(ValueError, match="do not shuffle"):
        evaluation().run(Sign(), batches(10, 10), state)


def test_the_seed_decides_and_the_global_state_stays() -> None:
    def table(seed: int) -> RobustnessTable:
        return evaluation(seed=seed).run(Noisy(), batches(20))

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = table(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert table(0) == first
    assert any(table(seed) != first for seed in (1, 2, 3))


def test_batches_do_not_share_their_random_numbers() -> None:
    drawn: list[Tensor] = []

    class Draws(Recorder):
        def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
            drawn.append(torch.rand(5, generator=self.generator(x.device)))
            return x

    RobustnessEvaluation({"draws": Draws(0.1)}, [0.1]).run(Sign(), batches(10, 10))
    assert not torch.equal(*drawn)


def test_no_batch_outlives_its_turn() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal most
        for _ in range(30):
            x, y = (tensor.clone() for tensor in points())
            alive.append(weakref.ref(x))
            yield x, y
            del x, y
            most = max(most, sum(reference() is not None for reference in alive))

    evaluation().run(Sign(), data())
    assert most <= 1


def test_several_models_side_by_side(tmp_path: Path) -> None:
    opposite = Sign()
    opposite.weight.data.neg_()
    data = batches(8, 12)
    tables = evaluation().compare({"right": Sign(), "wrong": opposite}, data, tmp_path)
    assert tables == {"right": evaluation().run(Sign(), data), "wrong": evaluation().run(opposite, data)}
    assert tables["wrong"].accuracy["fgsm"][0] == 0.0
    assert {path.name for path in tmp_path.iterdir()} == {"right.jsonl", "wrong.jsonl"}


def test_progress_counts_forward_passes_and_what_was_recalled(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    with every_progress() as shown:
        with pytest.raises(InterruptionError):
            evaluation().run(Sign(), interrupted(batches(10, 10), 1), state)
        evaluation().run(Sign(), batches(10, 10), state)
    passes = 1 + 2 * (3 + 3 * 3 + 3)  # clean, and FGSM, three steps of PGD and noise at two radii
    assert shown[1].total == 2 * passes
    assert [progress.done for progress in shown] == [passes, 2 * passes]


def test_intervals_are_wilsons_around_each_accuracy() -> None:
    table = evaluate_robustness(Sign(), batches(20), attacks={"fgsm": fgsm()}, eps=RADII)
    lows_and_highs = table.intervals["fgsm"]
    assert lows_and_highs[2] == pytest.approx((29.93, 70.07), abs=0.01)
    for (low, high), accuracy in zip(lows_and_highs, table.accuracy["fgsm"], strict=True):
        assert low <= accuracy <= high
    assert lows_and_highs[0][1] == 100
    assert lows_and_highs[0][0] < 90


def test_several_models_need_batches_that_come_again() -> None:
    evaluation = RobustnessEvaluation({"fgsm": FGSM(0.1)}, eps=[0.1], progress=False)
    models = {"one": nn.Linear(2, 3), "other": nn.Linear(2, 3)}
    batches = iter([(torch.rand(4, 2), torch.tensor([0, 1, 2, 0]))])
    with pytest.raises(ValueError, match="expected dataloader to be one that can be gone through once per model"):
        evaluation.compare(models, batches)
    assert len(list(batches)) == 1
