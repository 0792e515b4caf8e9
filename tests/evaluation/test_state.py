"""The file of finished batches."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD, Ensemble, ExternalAttack
from lsa_lightning.evaluation import RobustnessEvaluation, evaluate_ensemble
from lsa_lightning.evaluation.state import FinishedBatches, answer_of, digest, settings_of

HEADER = {"attacks": {"fgsm": "FGSM(eps=0.1)"}, "eps": [0.1, 0.2]}
COUNTS = {"samples": 8, "clean": 7}


def answer() -> list[float]:
    return [1.0, 2.0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with batches 0 and 1."""
    path = tmp_path / "folder" / "state.jsonl"
    finished = FinishedBatches(path, HEADER)
    for index in (0, 1):
        finished.note(index, 100 + index, answer, COUNTS)
    return path


def test_what_was_noted_is_recalled(file: Path) -> None:
    finished = FinishedBatches(file, HEADER)
    assert finished.recall(1, 101, answer) == COUNTS
    assert finished.recall(2, 102, answer) is None


def test_a_line_that_was_cut_off_is_left_out_and_written_anew(file: Path) -> None:
    whole = file.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        file.write_text(whole[:-cut])
        finished = FinishedBatches(file, HEADER)
        assert finished.recall(0, 100, answer) == COUNTS
        assert finished.recall(1, 101, answer) is None
        finished.note(1, 101, answer, COUNTS)
        assert file.read_text() == whole


def test_a_header_that_was_cut_off_is_written_anew(file: Path) -> None:
    file.write_text(file.read_text()[:5])
    finished = FinishedBatches(file, HEADER)
    finished.note(0, 100, answer, COUNTS)
    assert FinishedBatches(file, HEADER).recall(0, 100, answer) == COUNTS


def test_other_data_and_another_header_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"expected batch 0 to be the one noted in .*do not shuffle"):
        FinishedBatches(file, HEADER).recall(0, 101, answer)
    with pytest.raises(ValueError, match=r"state.jsonl to belong to this .*its .* is .*, not .*; give another file"):
        FinishedBatches(file, {**HEADER, "eps": [0.1]})


@pytest.mark.parametrize("content", ["junk\n", "[1, 2]\n3\n", '{"a": 1}\n{"b": 2}\n'])
def test_a_file_of_something_else_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ValueError, match=r"expected .*state.jsonl to be"):
        FinishedBatches(file, HEADER)


def test_a_file_that_begins_otherwise_is_quoted(file: Path) -> None:
    file.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"but it begins with \[1, 2\]; give another file"):
        FinishedBatches(file, HEADER)


def test_every_process_writes_its_own_file_and_reads_all(file: Path) -> None:
    second = FinishedBatches(file, HEADER, rank=1)
    assert second.recall(0, 100, answer) == COUNTS
    second.note(2, 102, answer, COUNTS)
    assert len(file.read_text().splitlines()) == 3
    assert FinishedBatches(file, HEADER).recall(2, 102, answer) == COUNTS


def test_a_model_that_says_something_else_is_refused(file: Path) -> None:
    assert FinishedBatches(file, HEADER).recall(0, 100, lambda: [1.0, 2.0001]) == COUNTS
    for other in ([1.0, 2.1], [1.0], [math.nan, 2.0]):
        with pytest.raises(ValueError, match=r"to belong to this model, which has the same weights but computes"):
            FinishedBatches(file, HEADER).recall(0, 100, lambda other=other: other)


def test_the_model_is_asked_once_per_file(file: Path) -> None:
    asked: list[int] = []
    finished = FinishedBatches(file, HEADER)
    for index in (0, 1):
        finished.recall(index, 100 + index, lambda: asked.append(1) or answer())  # type: ignore[func-returns-value]
    finished.note(2, 102, lambda: asked.append(1) or answer(), COUNTS)  # type: ignore[func-returns-value]
    assert asked == [1]


class Defended(nn.Linear):
    """Same weights, but other functions: a temperature, a rounded input, a gradient that is let through or not."""

    def __init__(self, temperature: float = 1.0, levels: int = 0, through: bool = True) -> None:
        super().__init__(3, 2)
        self.temperature, self.levels, self.through = temperature, levels, through
        self.register_buffer("shift", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.levels:
            rounded = (x * self.levels).round() / self.levels
            x = x + (rounded - x).detach() if self.through else rounded
        return super().forward(x + self.shift) / self.temperature


def answer_to(x: Tensor, **settings: Any) -> list[float]:
    torch.manual_seed(0)
    return answer_of(Defended(**settings), x)


def test_the_answer_tells_functions_of_the_same_weights_apart() -> None:
    x = torch.rand(4, 3)
    answers = [answer_to(x), answer_to(x, temperature=1.1), answer_to(x, levels=4)]
    answers += [answer_to(x, levels=4, through=False)]
    shifted = Defended()
    torch.nn.init.ones_(shifted.shift)
    torch.manual_seed(0)
    shifted.reset_parameters()
    answers.append(answer_of(shifted, x))
    assert len({tuple(answer) for answer in answers}) == 5
    assert answer_to(x) == answers[0]


def test_settings_do_not_depend_on_addresses_and_miss_nothing_private() -> None:
    class Private(PGD):
        def __init__(self, k: int, function: Any) -> None:
            super().__init__(0.1)
            self._k, self._function = k, function

    def made(k: int, add: float) -> dict[str, str]:
        return settings_of({"private": Private(k, lambda x: x + add)})

    assert made(1, 1.0) == made(1, 1.0)
    assert len({str(made(k, add)) for k, add in [(1, 1.0), (2, 1.0), (1, 2.0)]}) == 3
    external = [settings_of({"a": ExternalAttack(partial(Taking, c=c))}) for c in (1, 1, 2)]
    assert external[0] == external[1] != external[2]
    assert "0x" not in str(external)


class Taking:
    """As an attack of another library."""

    def __init__(self, model: Any, c: int = 1) -> None:
        self.model, self.c = model, c


def test_drawing_random_numbers_changes_no_settings() -> None:
    attack = PGD(0.1)
    before = settings_of({"pgd": attack})
    attack.generator(torch.device("cpu"))
    assert settings_of({"pgd": attack}) == before


def test_without_a_file_nothing_is_noted() -> None:
    finished = FinishedBatches(None, HEADER)
    finished.note(0, 100, answer, COUNTS)
    assert finished.recall(0, 100, answer) is None


def test_the_digest_tells_bytes_and_names_apart() -> None:
    x = torch.arange(4.0)
    same = digest({"x": x})
    assert digest({"x": x.clone()}) == same
    assert digest({"x": x.view(2, 2).T.contiguous().T.flatten()}) == same
    assert len({same, digest({"y": x}), digest({"x": x.flip(0)}), digest({"x": x.bfloat16()})}) == 4


def test_an_extra_state_that_is_no_tensor_counts(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        extra: Any = None

        def get_extra_state(self) -> Any:
            return self.extra

        def set_extra_state(self, state: Any) -> None:
            self.extra = state

    torch.manual_seed(0)
    model, batches = Counting(2, 3), [(torch.rand(8, 2), torch.zeros(8).long())]
    model.extra = {"calls": 1}
    before = digest(model.state_dict())
    assert digest(model.state_dict()) == before
    RobustnessEvaluation({"fgsm": FGSM()}, [0.1]).run(model, batches, tmp_path / "state.jsonl")
    evaluate_ensemble(model, batches, Ensemble(0.1, attacks={"fgsm": FGSM(0.1)}))
    model.extra = {"calls": 2}
    assert digest(model.state_dict()) != before


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": self.first(x), "second": self.second(x)}


@pytest.mark.parametrize("ensemble", [False, True])
def test_another_head_is_another_model(ensemble: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batches = TwoHeads(), [(torch.rand(8, 2), torch.zeros(8).long())]

    def run(head: str) -> None:
        file, options = tmp_path / "state.jsonl", {"output_fn": lambda output: output[head]}
        if ensemble:
            attacks = Ensemble(0.1, attacks={"fgsm": FGSM(0.1)})
            evaluate_ensemble(model, batches, attacks, state_file=file, **options)
        else:
            RobustnessEvaluation({"fgsm": FGSM()}, [0.1], **options).run(model, batches, file)

    run("first")
    run("first")
    with pytest.raises(ValueError, match="same weights but computes something else"):
        run("second")
