"""The one table of a sweep: its rows, its files, and how it is printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lsa_lightning.comparison import results as module
from lsa_lightning.comparison.metrics import Spread
from lsa_lightning.comparison.results import Results, print_left_out, print_results
from lsa_lightning.evaluation import Ceiling, RobustnessTable
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.read import LeftOut, Run
from lsa_lightning.runs.summary import RunSummary

AT = {"at": {"_target_": "x.AdversarialTraining", "attack": {}, "objective": {}}}


def at_lr(gamma: float) -> dict[str, Any]:
    node = {"_target_": "x.ATLR", "attack": {}, "objective": {}, "eta": 0.0, "regularizer": {"gamma": gamma}}
    return {"atlr": node}


def run(callbacks: dict[str, Any], seed: int, clean: float, eps: tuple[float, ...] = (0.0, 0.1, 0.3)) -> Run:
    rows = {attack: [clean, clean - 10, clean - 20 - seed] for attack in ("fgsm", "pgd")}
    table = RobustnessTable(list(eps), rows, 100, 0.3, norm="Linf")
    method = next(iter(callbacks.values()))["_target_"].partition(".")[2]
    summary = RunSummary("moon", seed, {"method": method}, 1, 1.0, evaluation=table)
    config = {"name": "moon", "seed": seed, "callbacks": callbacks}
    return Run(Path(f"/{method}/{seed}"), config, summary, {})


@pytest.fixture
def results() -> Results:
    base = [run(AT, 0, 80.0), run(AT, 1, 82.0)]
    return Results.of([*base, run(at_lr(0.1), 0, 83.0), run(at_lr(0.1), 1, 86.0), run(at_lr(1.0), 1, 70.0)])


def test_each_metric_has_its_methods_and_what_the_regularizer_changes(results: Results) -> None:
    assert list(results.sections) == [
        "clean accuracy",
        "accuracy under fgsm, eps 0.3",
        "accuracy under pgd, eps 0.3",
        "R&G under fgsm",
        "R&G under pgd",
    ]
    at, first, second = results.sections["clean accuracy"]
    assert (at.label, at.spread, at.difference) == ("AdversarialTraining", Spread.of([80.0, 82.0]), None)
    assert (first.label, first.difference) == ("ATLR, gamma=0.1", Spread.of([3.0, 4.0]))
    assert (second.spread, second.difference) == (Spread.of([70.0]), Spread.of([-12.0]))


def test_what_is_compared_with_what_is_said_once(results: Results) -> None:
    assert results.bases == [
        "Base of ATLR, gamma=0.1: AdversarialTraining, in pairs of seeds 0, 1.",
        "Base of ATLR, gamma=1.0: AdversarialTraining, in pairs of seeds 1.",
    ]
    alone = Results.of([run(at_lr(0.1), 0, 83.0), run(at_lr(1.0), 0, 83.0)])
    assert alone.bases == ["Base of gamma=0.1; gamma=1.0: none, since no run here is the same but for the regularizer."]
    assert not alone.has_pairs
    apart = Results.of([run(at_lr(0.1), 0, 83.0), run(AT, 1, 83.0)])
    assert apart.bases == ["Base of ATLR: AdversarialTraining, with no seed in common."]


def test_scores_over_other_radii_stand_in_sections_of_their_own() -> None:
    sections = Results.of([run(AT, 0, 80.0), run(AT, 1, 80.0, eps=(0.0, 0.2, 0.3))]).sections
    assert "R&G under pgd (eps 0, 0.1, 0.3 in Linf)" in sections
    assert "R&G under pgd (eps 0, 0.2, 0.3 in Linf)" in sections
    assert [len(rows) for rows in sections.values()][:3] == [2, 2, 2]


def test_the_files_are_tidy(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path)
    table, paired = pd.read_csv(tmp_path / "comparison.csv"), pd.read_csv(tmp_path / "paired.csv")
    assert list(table.columns) == [
        *("group", "metric", "attack", "eps", "summed_eps", "norm", "training"),
        *("n", "mean", "std", "ci_low", "ci_high", "ceiling", "flagged", "checked"),
    ]
    assert len(table) == 3 * 7
    assert not table.duplicated(["group", "metric"]).any()
    row = table[(table.group == "ATLR, gamma=0.1") & (table.metric == "accuracy/pgd/0.3")].iloc[0]
    spread = Spread.of([63.0, 65.0])
    assert (row.attack, row.eps, row.norm, row.training, row.n) == ("pgd", 0.3, "Linf", True, 2)
    assert (row["mean"], row["std"]) == (spread.mean, pytest.approx(spread.std))
    assert (row.ci_low, row.ci_high) == pytest.approx(spread.interval)
    single = table[(table.group == "ATLR, gamma=1.0")]
    assert set(single.n) == {1}
    assert single[["std", "ci_low", "ci_high"]].isna().all(axis=None)
    score = table[table.metric == "rg_score/pgd"].iloc[0]
    assert (score.summed_eps, pd.isna(score.eps), score.training) == ("0 0.1 0.3", True, False)
    assert list(paired.columns) == ["group", "base", *table.columns[1:-3], "room_closed", "flagged", "checked"]
    difference = paired[(paired.group == "ATLR, gamma=0.1") & (paired.metric == "accuracy/clean")].iloc[0]
    assert (difference.base, difference.n, difference["mean"]) == ("AdversarialTraining", 2, 3.5)
    assert (difference.ci_low, difference.ci_high) == pytest.approx(Spread.of([3.0, 4.0]).interval)


MASKED = {"black_box_stronger": MaskingFlag(True, "Square fools more"), "vanishing_gradients": MaskingFlag(False, "")}


@pytest.fixture
def beside() -> Results:
    """A base and a method whose ceilings are known, and one of whose runs is flagged."""
    runs = [run(AT, 0, 80.0), run(AT, 1, 80.0), run(at_lr(0.1), 0, 85.0), run(at_lr(0.1), 1, 85.0)]
    for number, each in enumerate(runs):
        masking = MASKED if number == 3 else {}
        runs[number] = replace(below(100.0, each), summary=replace(below(100.0, each).summary, masking=masking))
    return Results.of(runs)


def below(most: float, run: Run) -> Run:
    """The run on samples of which a classifier can get so many percent right."""
    table = run.summary.evaluation
    assert table is not None
    ceiling = Ceiling(table.eps, [most, 90.0, 80.0], table.eps, 250.0, 100)
    return replace(run, summary=replace(run.summary, evaluation=replace(table, ceiling=ceiling)))


def test_the_room_below_the_ceiling_that_a_method_closes(beside: Results, tmp_path: Path) -> None:
    base, method, ceiling = beside.sections["clean accuracy"]
    assert (base.room, method.room) == (None, Spread(2, 25.0, 0.0, (25.0, 25.0)))  # 5 points of 20
    assert (ceiling.label, ceiling.spread.mean, ceiling.flags) == ("ceiling", 100.0, None)
    score = beside.sections["R&G under pgd"]
    assert score[1].room is not None
    assert score[1].room.mean == pytest.approx(100 * 15 / (250 - 209.5))
    beside.save(tmp_path)
    table, paired = pd.read_csv(tmp_path / "comparison.csv"), pd.read_csv(tmp_path / "paired.csv")
    assert table.set_index(["group", "metric"]).loc[("ATLR", "accuracy/pgd/0.3"), "ceiling"] == 80.0
    assert paired.set_index("metric").loc["accuracy/clean", "room_closed"] == pytest.approx(25.0)


def test_the_room_is_that_of_the_seeds_in_pairs(beside: Results) -> None:
    more = Results.of([*beside.runs, below(98.0, run(at_lr(0.1), 2, 97.0))])
    (room,) = [row.room for row in more.sections["clean accuracy"] if row.room is not None]
    assert room == Spread(2, 25.0, 0.0, (25.0, 25.0))


def test_a_ceiling_of_some_seeds_is_not_that_of_others(beside: Results) -> None:
    others = [below(90.0, run(at_lr(0.1), seed, 85.0)) for seed in (2, 3)]
    rows = Results.of([*beside.runs[:2], *others]).sections["clean accuracy"][2:]
    assert [(row.label, row.spread.mean) for row in rows] == [
        ("ceiling of AdversarialTraining", 100.0),
        ("ceiling of ATLR", 90.0),
    ]


def test_where_a_run_went_on_sets_it_not_apart() -> None:
    def on(seed: int, **settings: Any) -> list[Run]:
        runs = (run(callbacks, seed, 80.0) for callbacks in (AT, at_lr(0.1)))
        return [replace(each, config={**each.config, **settings}) for each in runs]

    here = on(0, trainer={"devices": 1})
    there = on(1, trainer={"devices": 1, "accelerator": "gpu"}, cluster={"parallel": 2}, num_threads=1)
    found = Results.of([*here, *there])
    assert [row.spread.n for row in found.sections["clean accuracy"]] == [2, 2]
    assert found.bases == ["Base of ATLR: AdversarialTraining, in pairs of seeds 0, 1."]
    parts = (on(seed, model={"parts": [{"trust": seed}]}) for seed in (0, 1))  # of that name, but not that entry
    apart = Results.of([run for both in parts for run in both])
    assert [row.spread.n for row in apart.sections["clean accuracy"]] == [1, 1, 1, 1]
    larger_batches = Results.of([*here, *on(1, trainer={"devices": 2})])
    assert [row.spread.n for row in larger_batches.sections["clean accuracy"]] == [1, 1, 1, 1]


def test_ceilings_of_different_samples_stand_apart_with_a_caution(beside: Results) -> None:
    assert not any("different test samples" in caution for caution in beside.notes)
    other = [replace(each, config={**each.config, "data": {"noise": 0.4}}) for each in beside.runs[2:]]
    apart = Results.of([*beside.runs[:2], *(below(90.0, each) for each in other)])
    *methods, first, second = apart.sections["clean accuracy"]
    assert [row.label for row in (first, second)] == [f"ceiling of {row.label}" for row in methods]
    assert [row.spread.mean for row in (first, second)] == [100.0, 90.0]
    assert any("different test samples" in caution for caution in apart.cautions)


def test_a_single_pair_has_no_share_of_the_room(beside: Results, tmp_path: Path) -> None:
    single = Results.of([run for run in beside.runs if run.summary.seed == 0])
    assert [row.room for row in single.sections["clean accuracy"]] == [None] * 3
    assert not single.has_room
    single.save(tmp_path)
    assert pd.read_csv(tmp_path / "paired.csv")["room_closed"].isna().all()


def test_the_ceiling_is_explained_where_there_is_one(beside: Results, results: Results) -> None:
    assert any(note.startswith("Ceiling: ") and "not the sum" in note for note in beside.notes)
    assert not any("eiling" in note for note in results.notes)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (1.01, "+1.01 points (95 % interval +0.94 to +1.07, n 2), a detectable difference"),
        (
            1.0 + 1e-13,
            "+1.00 points (95 % interval +1.00 to +1.00, n 2), all pairs alike, from which nothing can be told about ",
        ),
    ],
)
def test_an_interval_without_0_is_a_detectable_difference(second: float, words: str) -> None:
    pairs = [run(AT, 0, 80.0), run(AT, 1, 81.0), run(at_lr(0.1), 0, 81.0), run(at_lr(0.1), 1, 81.0 + second)]
    assert words in str(Results.of(pairs).headlines[-1])


def test_each_row_and_each_file_says_which_runs_are_flagged(
    beside: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, method, _ = beside.sections["clean accuracy"]
    assert (base.flags, method.flags) == ((0, 0, 2), (1, 1, 2))
    beside.save(tmp_path)
    for name in ("comparison", "paired"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert table[table.group == "ATLR"][["flagged", "checked"]].drop_duplicates().to_numpy().tolist() == [[1, 1]]
    print_results(beside)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.split()[:1] == ["ATLR"] and "±" in line]
    assert all(row[-1] == "1/1" for row in rows)
    assert rows[0][-5:] == ["+25", "±", "0", "%", "1/1"]
    assert "Masking flags were raised in 1 of 1 runs checked, of 4 in all." in " ".join(printed.split())


def test_without_a_pair_the_file_has_its_columns(tmp_path: Path) -> None:
    Results.of([run(AT, 0, 80.0)]).save(tmp_path)
    assert (tmp_path / "paired.csv").read_text().startswith("group,base,metric,")
    assert len(pd.read_csv(tmp_path / "paired.csv")) == 0


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal(
    results: Results, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.console, "width", width)
    print_results(results)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= min(width, 100)
    start = next(i for i, line in enumerate(lines) if line.strip() == "clean accuracy")
    std, pairs = ([], []) if width == 80 else (["2.12"], [["2"], ["1"]])
    (row,) = [line.split() for line in lines[start : start + 7] if "gamma=0.1" in line]
    (single,) = [line.split() for line in lines[start : start + 7] if "gamma=1.0" in line]
    both, one = pairs or ([], [])
    assert row == ["ATLR,", "gamma=0.1", "2", "84.50", "±", "19.06", *std, "+3.50", "±", "6.35", *both]
    assert single == ["ATLR,", "gamma=1.0", "1", "70.00", "-12.00", *one]
    assert "Student's t" in " ".join(lines)


def test_names_and_titles_stay_whole_in_80_columns(
    results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.console, "width", 80)
    print_results(results)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert set(results.sections) <= set(lines)
    assert sum(line.startswith("ATLR, gamma=0.1 ") for line in lines) >= len(results.sections)


def test_paired_differences_stand_above_the_table(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert [str(each) for each in results.headlines if each.metric == "clean accuracy"] == [
        "ATLR, gamma=0.1 minus AdversarialTraining, clean accuracy: +3.50 points (95 % interval -2.85 to +9.85, n 2), "
        "no detectable difference",
        "ATLR, gamma=1.0 minus AdversarialTraining, clean accuracy: -12.00 points (no interval from one pair, n 1), "
        "which cannot tell",
    ]
    assert not any(each.metric.startswith("R&G") for each in results.headlines)
    print_results(results)
    printed = " ".join(capsys.readouterr().out.split())
    assert all(str(each) in printed for each in results.headlines)
    assert printed.index(str(results.headlines[0])) < printed.index("mean ± 95 %")


def test_without_a_base_the_table_has_no_differences(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(Results.of([run(AT, 0, 80.0)]))
    printed = capsys.readouterr().out
    assert "minus base" not in printed
    assert "Minus base" not in printed


def test_markup_in_labels_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(at_lr(0.1), 0, 80.0), run(at_lr(0.1), 0, 80.0)
    one.config["callbacks"]["atlr"]["mvl"] = ["[red]act1[/red]"]
    print_results(Results.of([one, two]))
    assert "mvl=['[red]act1[/red]']" in "".join(capsys.readouterr().out.split())


def test_jobs_left_out_are_named_from_the_folder_of_the_sweep(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.console, "width", 80)
    jobs = [
        LeftOut(Path("/sweep/a/1"), "failed", "why [bold]not[/bold]"),
        LeftOut(Path("/other/2"), "running", "last updated"),
    ]
    print_left_out(jobs, ["/sweep/0/profile_pgd.json: cut"], Path("/sweep"))
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip()]
    assert ["a/1", "failed", "why", "[bold]not[/bold]"] in rows
    assert ["/other/2", "running", "last", "updated"] in rows
    assert "unreadable, left out of its job: /sweep/0/profile_pgd.json: cut" in printed


def test_nothing_left_out_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_left_out([], [], Path("/sweep"))
    assert capsys.readouterr().out == ""


def test_the_headline_is_the_attack_that_the_base_stands_worst_and_clean_accuracy(results: Results) -> None:
    (pair, _) = results.pairs
    weaker = {"pgd": [80.0, 75.0, 70.0], "square": [80.0, 70.0, 55.0]}
    tables = [replace(each.summary.evaluation, accuracy=weaker) for each in results.runs if each.summary.evaluation]
    runs = [
        replace(each, summary=replace(each.summary, evaluation=table))
        for each, table in zip(results.runs, tables, strict=True)
    ]
    assert [metric.attack for metric in Results.of(runs).pairs[0].worst_case] == ["square"]
    titles = [each.metric for each in results.headlines][:2]
    assert titles == [pair.worst_case[0].title, "clean accuracy"]
