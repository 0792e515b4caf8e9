"""Tables of layers and accuracies, and masking flags, on the terminal."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest
import torch
from rich.console import Console
from tests.helpers.tables import EPS, FLAGS, OTHER, TABLE

from lsa_lightning import SustainabilityReport
from lsa_lightning.evaluation import Ceiling, RobustnessTable
from lsa_lightning.runs import console as console_module
from lsa_lightning.runs.console import ConsoleHandler, NoTips, print_accuracies, print_analysis, print_masking, show
from lsa_lightning.runs.stages import Analysis


def report(*means: float, measure: str = "relative_error") -> SustainabilityReport:
    mean = torch.tensor(means, dtype=torch.float64)
    names = [f"backbone.act{i}" for i in range(1, len(means) + 1)]
    return SustainabilityReport(
        names, names, mean, mean / 2, mean.mean(), mean.std(correction=0), 40, "PGD()", measure=measure
    )


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> io.StringIO:
    """What goes to the terminal, 80 columns wide unless the test says otherwise."""
    text = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=text, width=getattr(request, "param", 80)))
    return text


@pytest.mark.parametrize("printed", [80, 120], indirect=True)
def test_the_table_of_layers_fits_the_terminal(printed: io.StringIO) -> None:
    names = ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    print_analysis(Analysis({name: report(0.1, 1.25, 0.5) for name in names}, "pgd", ["backbone.act2"]))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= console_module.console.width
    assert "…" not in printed.getvalue()
    row = next(line for line in lines if "backbone.act2" in line)
    assert row.count("1.250") == len(names)
    assert "*" in row
    assert not any("*" in line for line in lines if "backbone.act1" in line or "backbone.act3" in line)
    assert next(line for line in lines if " mu " in line).count("0.617") == len(names)


def test_title_and_last_line_name_the_measure_and_the_attack_that_the_mvl_comes_from(printed: io.StringIO) -> None:
    reports = {name: report(0.1, 0.1, measure="cosine_distance") for name in ("pgd", "fgsm")}
    print_analysis(Analysis(reports, "fgsm", []))
    lines = printed.getvalue().splitlines()
    assert lines[0] == "Cosine distance per layer (mean over 40 samples)"
    assert lines[-1] == "MVL of the trained network under fgsm: none"


def test_of_many_layers_the_first_are_named_and_all_counted(printed: io.StringIO) -> None:
    means = [0.5] * 53
    names = [f"backbone.act{i}" for i in range(1, 54)]
    print_analysis(Analysis({"pgd": report(*means)}, "pgd", names))
    line = printed.getvalue().splitlines()[-1]
    assert line.endswith(": " + ", ".join(names[:8]) + ", ... (53 layers)")


@pytest.mark.parametrize("printed", [80, 120], indirect=True)
def test_a_row_of_accuracies_above_a_row_of_intervals(printed: io.StringIO) -> None:
    print_accuracies({"": TABLE})
    lines = printed.getvalue().splitlines()
    assert lines[0] == "Accuracy in %, 95 % intervals (10000 samples)"
    head = next(i for i, line in enumerate(lines) if "fgsm" in line)
    assert lines[head].split() == ["fgsm", "100.00", "90.00", "80.00", "70.00", "60.00", "50.12", "450.12"]
    intervals = ["100-100", "89.4-90.6", "79.2-80.8", "69.1-70.9", "59.0-61.0", "49.1-51.1"]
    assert lines[head + 1].split() == intervals
    assert [f"eps {e:g}" in printed.getvalue() for e in EPS[1:]] == [True] * 5


def test_two_checkpoints_fit_80_columns_side_by_side(printed: io.StringIO) -> None:
    print_accuracies({"A": TABLE, "B": OTHER})
    lines = printed.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in printed.getvalue()
    rows = [line.split() for line in lines if "square" in line or "fgsm" in line]
    assert [row[:3] for row in rows] == [
        ["fgsm", "A", "100.00"],
        ["fgsm", "B", "50.00"],
        ["square", "A", "100.00"],
        ["square", "B", "50.00"],
    ]


def test_what_comes_from_no_attack_is_explained_and_flagged_rows_are_marked(printed: io.StringIO) -> None:
    ceiling = Ceiling([0.0, 0.1], [100.0, 80.0], [0.0, 0.1], 175.0, 50)
    rows = {"pgd": [90.0, 60.0], "exact": [90.0, 58.0]}
    table = RobustnessTable([0.0, 0.1], rows, 50, at_most={"exact": [90.0, 58.5]}, ceiling=ceiling)
    print_accuracies({"A": table, "B": table}, flagged=["B"])
    text = printed.getvalue()
    rows_of = [line.split() for line in text.splitlines() if line.strip()]
    assert ["pgd", "A", "90.00", "60.00", "150.00"] in rows_of
    assert ["pgd", "B", "!", "90.00", "60.00", "150.00"] in rows_of
    assert ["exact", "B", "90.00", "58.00", "148.00"] in rows_of  # no gradient can hide anything from it
    assert ["ceiling", "A", "100.00", "80.00", "175.00"] in rows_of
    assert "too low by at most 0.50 points" in text
    assert "what no classifier exceeds on these samples, from 50 of them at a time" in text
    assert "!: raised masking flags" in text


def test_the_column_of_the_training_radius_is_marked(printed: io.StringIO) -> None:
    table = RobustnessTable([0.0, 0.1, 0.15], {"pgd": [90.0, 40.0, 20.0]}, 50, 0.15, [0.0, 0.1], "L2")
    print_accuracies({"": table})
    title, _, first, second, *rest = printed.getvalue().splitlines()
    assert title == "Accuracy in %, 95 % intervals (50 samples, L2)"
    end = first.index("eps 0.15") + len("eps 0.15")
    assert second[:end].endswith("training")
    assert second.count("training") == 1
    assert next(line for line in rest if "pgd" in line).split()[-1] == "130.00"


@pytest.mark.parametrize(("printed", "whole"), [(80, 0), (120, 7)], indirect=["printed"])
def test_a_seventh_column_breaks_intervals_rather_than_cutting_them_off(printed: io.StringIO, whole: int) -> None:
    print_accuracies({"": RobustnessTable([*EPS, 0.6], {"square": [86.78] * 7}, 10000, 0.6)})
    shown = printed.getvalue()
    assert "…" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= console_module.console.width
    assert shown.count("87.4") == shown.count("86.1-") == 7
    assert shown.count("86.1-87.4") == whole


@pytest.mark.parametrize("printed", [60, 80, 120], indirect=True)
@pytest.mark.parametrize("columns", [9, 11, 26])
def test_more_columns_than_a_line_has_room_for_go_to_further_tables(printed: io.StringIO, columns: int) -> None:
    eps = [round(0.05 * i, 2) for i in range(columns)]
    accuracy = [round(91.25 - i, 2) for i in range(columns)]
    print_accuracies({"": RobustnessTable(eps, {"pgd": accuracy, "square": accuracy}, 1000, 0.3)})
    shown = printed.getvalue()
    assert "…" not in shown
    assert shown.count("training") == 1
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= console_module.console.width
    numbers = [line.split()[1:] for line in shown.splitlines() if "pgd" in line]
    assert [number for line in numbers for number in line] == [*map("{:.2f}".format, [*accuracy, sum(accuracy)])]
    sizes = [len(line) for line in numbers]
    assert max(sizes) - min(sizes) <= len(numbers) + 1


def test_the_largest_score_stands_above_the_scores(printed: io.StringIO) -> None:
    print_accuracies({"": RobustnessTable([0.0, 0.1, 0.15], {"pgd": [90.0, 40.0, 20.0]}, 50, 0.15, [0.0, 0.1])})
    _, _, first, second, *_ = printed.getvalue().splitlines()
    assert first.split()[-1] == "R&G"
    assert second.split()[-2:] == ["of", "200"]


def test_the_threshold_stands_under_the_attack_that_the_mvl_comes_from(printed: io.StringIO) -> None:
    reports = {name: report(0.1, 0.3) for name in ("pgd", "fgsm")}
    print_analysis(Analysis(reports, "fgsm", [], eta=1.0))
    (line,) = [line for line in printed.getvalue().splitlines() if "threshold" in line]
    assert [cell.strip() for cell in line.split("│")[2:5]] == ["threshold", "", "0.300"]


def test_radii_that_are_fractions_of_255_are_shown_so(printed: io.StringIO) -> None:
    print_accuracies({"": RobustnessTable([0.0, 4 / 255, 0.2], {"pgd": [90.0, 40.0, 20.0]}, 50)}, steps="pgd 20")
    assert re.findall(r"eps \S+", printed.getvalue()) == ["eps 4/255", "eps 0.2"]
    assert "Steps: pgd 20." in printed.getvalue()


def test_advertisements_are_no_lines_of_the_log() -> None:
    lines = ("💡 Tip: buy", "Trainer already configured with model summary callbacks: []", "GPU available: False")
    records = [logging.LogRecord("lightning", logging.INFO, "", 0, line, None, None) for line in lines]
    assert [NoTips().filter(record) for record in records] == [False, False, True]


def test_without_a_training_radius_no_column_is_marked(printed: io.StringIO) -> None:
    print_accuracies({"": TABLE})
    assert "training" not in printed.getvalue()


def test_flags_that_are_raised_or_do_not_apply_are_named(printed: io.StringIO) -> None:
    print_masking(FLAGS)
    assert printed.getvalue().splitlines() == [
        "Masking checks: 1 raised of 2",
        "  black_box_stronger: Square fools 9 of 20 samples",
        "  full_range_above_chance: does not apply: the inputs have no bounds",
    ]


def test_without_checks_nothing_is_said(printed: io.StringIO) -> None:
    print_masking({})
    assert printed.getvalue() == ""


class Output(io.StringIO):
    """The output stream."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "level", "shown", "expected"),
    [
        (False, logging.INFO, False, "INFO: x %\n"),
        (True, logging.INFO, False, "x %\n"),
        (True, logging.WARNING, False, "WARNING: x %\n"),
        (False, logging.INFO, True, ""),
    ],
)
def test_a_line_of_the_log_is_printed_unless_it_is_shown_already(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, level: int, shown: bool, expected: str
) -> None:
    monkeypatch.setattr(sys, "stdout", output := Output(terminal))
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    record = logging.LogRecord("x", level, "", 0, "x %", None, None)
    record.shown = shown
    handler.handle(record)
    assert output.getvalue() == expected


def test_what_is_shown_is_in_the_log_without_colours_and_not_printed_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    monkeypatch.setattr(console_module, "console", terminal)
    caplog.set_level(logging.INFO)
    show("Trained in 3 s: " + "x" * 200)
    print_accuracies({"": TABLE})
    assert "\x1b" in terminal.file.getvalue()  # type: ignore[attr-defined]
    assert caplog.messages[0] == "Trained in 3 s: " + "x" * 200
    title, *table = caplog.messages[1].splitlines()
    assert title == "Accuracy in %, 95 % intervals (10000 samples)"
    assert any(line.split()[:2] == ["fgsm", "100.00"] for line in table)
    assert "\x1b" not in caplog.text
    assert all(record.shown for record in caplog.records)  # type: ignore[attr-defined]
