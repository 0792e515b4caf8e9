"""Which runs belong together, and what sets the others apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lsa_lightning.comparison.groups import Group, cautions, config_differences, group_by_seed
from lsa_lightning.comparison.metrics import CLEAN, Spread, measured
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.summary import RunSummary


def run(
    number: int,
    name: str = "moon",
    seed: int = 0,
    accuracy: Any = None,
    eps: Any = (0.0, 0.1),
    samples: int = 100,
    method: str = "normal",
    data_name: str = "Moon",
    **config: Any,
) -> Run:
    folder = f"/runs/{number}"
    accuracy = accuracy or {"fgsm": [90.0, 80.0 + number]}
    table = RobustnessTable(list(eps), accuracy, samples)
    trained = {"data": data_name, "method": method}
    summary = RunSummary(name, seed, trained, epochs=1, training_seconds=1.0, evaluation=table)
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


def test_a_name_that_all_share_sets_nothing_apart() -> None:
    runs = [run(i, objective={"_target_": f"x.{name}"}) for i, name in enumerate(["AT", "MART"])]
    assert [group.label for group in group_by_seed(runs)] == ["objective=AT", "objective=MART"]
    assert [group.label for group in group_by_seed(runs[:1])] == ["moon"]


def test_methods_of_one_name_are_told_apart_first() -> None:
    runs = [run(0, "moon", method="AdversarialTraining"), *(run(i, method="ATLR", **gamma(i)) for i in (1, 2))]
    assert [group.label for group in group_by_seed(runs)] == ["AdversarialTraining", "ATLR, gamma=1", "ATLR, gamma=2"]


def test_a_section_is_labelled_by_what_it_makes() -> None:
    runs = [run(0), run(1, scheduler={"_target_": "x.OneCycle", "lr": 1}), run(2, scheduler={"lr": 2})]
    labels = ["no scheduler", "scheduler=OneCycle", "scheduler"]
    assert [group.label for group in group_by_seed(runs)] == labels


def test_groups_that_differ_in_much_are_labelled_by_the_fewest_entries_that_tell_them_apart() -> None:
    runs = [run(i, **dict.fromkeys("abcde", i)) for i in range(3)]
    assert [group.label for group in group_by_seed(runs)] == ["a=0", "a=1", "a=2"]
    runs = [run(i, **dict.fromkeys("abcd", i // 2), e=i % 2, **gamma(0.1 * (i // 2))) for i in range(4)]
    labels = ["gamma=0.0, e=0", "gamma=0.0, e=1", "gamma=0.1, e=0", "gamma=0.1, e=1"]
    assert [group.label for group in group_by_seed(runs)] == labels


def test_forms_of_the_regularizer_are_labelled_by_their_method() -> None:
    runs = [run(i, **gamma(i), **dict.fromkeys("abcd", i)) for i in range(3)]
    for first in ({}, None):  # nothing is said of the default, also before there were others
        for each, method in zip(runs, [first, {"name": "gated"}, {"name": "centered"}], strict=True):
            each.config["method"] = method
        assert [group.label for group in group_by_seed(runs)] == ["method=default", "method=gated", "method=centered"]


def test_labels_are_never_the_same() -> None:
    first, second = run(0), run(1, eps=(0.0, 0.3))
    twins = [Run(Path(f"/{i}/job"), r.config, r.summary, {}) for i, r in enumerate([first, second])]
    assert [group.label for group in group_by_seed(twins)] == ["/0/job", "/1/job"]


def test_other_data_test_sets_and_radii_are_never_averaged() -> None:
    runs = [run(0), run(1, seed=1, samples=50), run(2, seed=2, eps=(0.0, 0.3)), run(3, seed=3, data_name="other")]
    groups = group_by_seed(runs)
    assert [group.runs for group in groups] == [[each] for each in runs]
    assert len({group.label for group in groups}) == 4
    assert [group.label for group in groups[1::2]] == ["Moon, 50 test samples", "other"]
    found = " ".join(cautions(groups))
    assert "different data, Moon, other" in found
    assert "test sets of different size, 50, 100 samples" in found
    assert "at different eps or in different norms" in found
    assert cautions(groups[:1]) == []


def test_where_and_how_a_run_was_kept_sets_nothing_apart() -> None:
    runs = [
        run(i, seed=i, logger={"wandb": {"name": f"moon/{i}"}}, resume=path, optimized_metric=path)
        for i, path in enumerate([None, "last.ckpt"])
    ]
    assert len(group_by_seed(runs)) == 1


def test_runs_that_started_from_a_checkpoint_are_others_than_those_from_scratch() -> None:
    paths = [None, None, "other/0/last.ckpt", "other/1/last.ckpt"]
    runs = [run(i, seed=i % 2, **({} if i == 1 else {"ckpt_path": path})) for i, path in enumerate(paths)]
    groups = group_by_seed(runs)
    assert [group.runs for group in groups] == [runs[:2], runs[2:]]
    assert [group.label for group in groups] == ["no ckpt_path", "ckpt_path=given"]
    (found,) = cautions(groups)
    assert found == (
        "The runs of ckpt_path=given started from different checkpoints: other/0/last.ckpt, other/1/last.ckpt."
    )


def test_a_regularizer_that_no_callback_has_sets_nothing_apart() -> None:
    runs = [run(i, regularizer={"gamma": i}, callbacks={"at": {"attack": {}}}) for i in range(2)]
    assert len(group_by_seed(runs)) == 1
    assert len(group_by_seed([run(i, **gamma(i)) for i in range(2)])) == 2


def test_runs_of_one_seed_count_once_by_their_mean() -> None:
    group = Group("moon", [run(0), run(2), run(4, seed=1)])
    assert group.repetitions == 2
    (accuracy,) = [metric for metric in measured(group.runs[0]) if metric.eps == (0.1,)]
    assert list(group.values(accuracy).values()) == [81.0, 84.0]
    assert group.spread(accuracy) == Spread.of([81.0, 84.0])
    (found,) = cautions([group])
    assert "more than once with one seed" in found
    assert "/runs/0, /runs/2." in found


def test_any_seed_makes_a_run_another_one() -> None:
    group = Group("moon", [run(i, data={"seed": i, "noise": 0.2}) for i in range(3)])
    assert group.repeated == []
    assert group.spread(CLEAN) == Spread.of([90.0] * 3)


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


def test_a_group_has_mean_and_spread_of_accuracy_and_score() -> None:
    group = Group("moon", [run(0), run(4, seed=1)])
    assert group.accuracy("fgsm") == {0.0: Spread.of([90.0, 90.0]), 0.1: Spread.of([80.0, 84.0])}
    assert group.rg_score("fgsm") == Spread.of([170.0, 174.0])


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
