"""Which runs belong together, and what sets the others apart."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.comparison import Group, Spread, config_differences, group_by_seed
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.summary import RunSummary


def run(
    number: int, name: str = "moon", seed: int = 0, accuracy: Any = None, eps: Any = (0.0, 0.1), **config: Any
) -> Run:
    folder = f"/runs/{number}"
    accuracy = accuracy or {"fgsm": [90.0, 80.0 + number]}
    table = RobustnessTable(list(eps), accuracy, 100)
    summary = RunSummary(name, seed, trained={}, epochs=1, training_seconds=1.0, evaluation=table)
    whole = {
        "name": name,
        "seed": seed,
        "data": {"seed": seed, "noise": 0.2},
        "trainer": {"root": f"{folder}/checkpoints"},
        "paths": {"output_dir": folder},
        **config,
    }
    return Run(Path(folder), whole, summary, {})


def gamma(value: float) -> dict[str, Any]:
    return {"regularizer": {"gamma": value}, "callbacks": {"atlr": {"regularizer": {"gamma": value}}}}


def test_runs_that_differ_by_seed_and_folder_are_one_group() -> None:
    runs = [run(0, seed=0), run(1, seed=1), run(2, seed=2, data={"seed": 2, "noise": 0.3})]
    groups = group_by_seed(runs)
    assert [group.runs for group in groups] == [runs[:2], runs[2:]]
    assert [group.seeds for group in groups] == [[0, 1], [2]]


def test_a_group_is_labelled_by_its_name() -> None:
    assert [group.label for group in group_by_seed([run(0, "a"), run(1, "b"), run(2, "b", seed=1)])] == ["a", "b"]


def test_groups_of_one_name_are_labelled_by_what_differs() -> None:
    runs = [run(0, **gamma(0.1)), run(1, **gamma(1.0)), run(2, "other")]
    assert [group.label for group in group_by_seed(runs)] == ["moon, gamma=0.1", "moon, gamma=1.0", "other"]


def test_the_name_of_a_target_is_that_of_what_it_makes() -> None:
    runs = [run(i, objective={"_target_": name}) for i, name in enumerate(["AT", "MART"])]
    assert [group.label for group in group_by_seed(runs)] == ["moon, objective=AT", "moon, objective=MART"]


def test_groups_that_differ_in_much_are_labelled_by_their_folders() -> None:
    runs = [run(i, **dict.fromkeys("abcd", i)) for i in range(2)]
    assert [group.label for group in group_by_seed(runs)] == ["moon, 0", "moon, 1"]
    sections = [run(0), run(1, callbacks={"x": 1})]
    assert [group.label for group in group_by_seed(sections)] == ["moon, 0", "moon, 1"]


def test_labels_are_never_the_same() -> None:
    first, second = (run(i, **dict.fromkeys("abcd", i)) for i in range(2))
    twins = [Run(Path(f"/{i}/job"), r.config, r.summary, {}) for i, r in enumerate([first, second])]
    assert [group.label for group in group_by_seed(twins)] == ["moon, job, /0/job", "moon, job, /1/job"]


def test_differences_leave_out_seeds_folders_and_copies() -> None:
    runs = [run(0, seed=0, **gamma(0.1)), run(1, seed=1, **gamma(1.0))]
    assert config_differences(runs) == {"regularizer.gamma": [0.1, 1.0]}


def test_entries_of_one_name_that_vary_otherwise_are_kept() -> None:
    runs = [run(0, a={"eps": 0.1}, b={"eps": 0.1}), run(1, a={"eps": 0.2}, b={"eps": 0.3})]
    assert config_differences(runs) == {"a.eps": [0.1, 0.2], "b.eps": [0.1, 0.3]}


def test_a_section_that_some_runs_lack_is_one_entry() -> None:
    section = {"_target_": "ATLR", "eta": 0.0}
    assert config_differences([run(0, atlr=section), run(1)]) == {"atlr": [section, None]}


def test_equal_configurations_have_no_differences() -> None:
    assert config_differences([run(0), run(1, seed=5)]) == {}


def test_spread_is_the_sample_standard_deviation() -> None:
    assert Spread.of([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7.0**0.5))
    assert Spread.of([2.0]) == (2.0, None)


def test_a_group_has_mean_and_spread_of_accuracy_and_score() -> None:
    group = Group("moon", [run(0), run(4, seed=1)])
    assert group.accuracy("fgsm") == {0.0: (90.0, 0.0), 0.1: (82.0, statistics.stdev([80.0, 84.0]))}
    assert group.rg_score("fgsm") == (172.0, statistics.stdev([170.0, 174.0]))


def test_what_not_all_runs_measured_has_no_mean() -> None:
    group = Group(
        "moon", [run(0), run(1, seed=1, accuracy={"fgsm": [70.0, 50.0], "pgd": [70.0, 40.0]}, eps=(0.0, 0.2))]
    )
    assert group.accuracy("fgsm").keys() == {0.0}
    assert group.accuracy("pgd") == {}
    assert group.rg_score("pgd") is None


def test_a_run_without_an_evaluation_takes_the_mean_from_its_group() -> None:
    whole = run(0)
    bare = Run(Path("/bare"), whole.config, replace(whole.summary, evaluation=None), {})
    group = Group("moon", [whole, bare])
    assert group.accuracy("fgsm") == {}
    assert group.rg_score("fgsm") is None
