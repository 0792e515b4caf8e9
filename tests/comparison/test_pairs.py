"""Which run is the base of an AT-LR, in the configurations that lsa-train writes, and what is said of the pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from scipy.stats import ttest_rel
from tests.helpers.hydra_run import composed_job

from lsa_lightning.comparison.groups import group_by_seed
from lsa_lightning.comparison.metrics import CLEAN, Metric, Spread
from lsa_lightning.comparison.pairs import Pair, pair_with_bases
from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.runs.read import Run
from lsa_lightning.runs.summary import RunSummary

CLEAN_ACCURACY = {("moon_at", 0): 90.0, ("moon_at", 1): 92.0, ("moon_at", 2): 91.0}
CLEAN_ACCURACY |= {("moon_at_lr", 0): 91.0, ("moon_at_lr", 1): 92.5, ("moon_at_lr", 2): 93.0}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The configuration of a job by its overrides, composed once."""
    known: dict[tuple[str, ...], Any] = {}

    def compose(*overrides: str) -> Any:
        if overrides not in known:
            folder = tmp_path_factory.mktemp("run")
            with composed_job("train", overrides, folder) as cfg:
                known[overrides] = OmegaConf.to_container(cfg, resolve=True)
        return known[overrides]

    return compose


def run(config: dict[str, Any], seed: int = 0, samples: int = 100, data: str = "Moon") -> Run:
    clean = CLEAN_ACCURACY.get((config["name"], seed), 90.0)
    table = RobustnessTable([0.0, 0.3], {"pgd": [clean, 50.0]}, samples, 0.3, norm="Linf")
    summary = RunSummary(config["name"], seed, {"data": data}, 1, 1.0, evaluation=table)
    return Run(Path(f"/{config['name']}/{seed}"), {**config, "seed": seed}, summary, {})


def pairs_of(*runs: Run) -> list[tuple[str, str | None]]:
    """The labels of the groups with the regularizer and their bases."""
    pairs = pair_with_bases(group_by_seed(runs))
    return [(pair.group.label, None if pair.base is None else pair.base.label) for pair in pairs]


def test_the_base_is_the_same_experiment_without_the_regularizer(config: Any) -> None:
    runs = [run(config(f"experiment={name}")) for name in ("moon_normal", "moon_at", "moon_at_lr", "moon_mart")]
    assert pairs_of(*runs) == [("moon_at_lr", "moon_at")]


def test_the_base_may_differ_in_the_group_of_callbacks_alone(config: Any) -> None:
    (pair,) = pair_with_bases(group_by_seed([run(config("callbacks=at")), run(config("callbacks=at_lr"))]))
    assert pair.base is not None
    assert "adversarial_training" in pair.base.runs[0].config["callbacks"]


@pytest.mark.parametrize(
    "override",
    ["objective=trades", "attack=fgsm", "data.noise=0.3", "callbacks=at_awp", "trainer.max_epochs=2", "optimizer.lr=1"],
)
def test_what_else_differs_is_no_base(config: Any, override: str) -> None:
    ((_, base),) = pairs_of(run(config("callbacks=at", override)), run(config("callbacks=at_lr")))
    assert base is None


def test_each_group_has_the_base_of_its_own_attack(config: Any) -> None:
    runs = [
        run({**config(f"experiment={name}", f"attack={attack}"), "name": f"{name}_{attack}"})
        for name in ("moon_at", "moon_at_lr")
        for attack in ("pgd", "fgsm")
    ]
    assert pairs_of(*runs) == [("moon_at_lr_pgd", "moon_at_pgd"), ("moon_at_lr_fgsm", "moon_at_fgsm")]


def test_what_only_the_regularizer_depends_on_may_differ(config: Any) -> None:
    settings = ("regularizer.gamma=0.5", "callbacks.atlr.eta=1.0", "callbacks.atlr.top_k=2", "measure=cosine_distance")
    runs = [run(config("experiment=moon_at")), run(config("experiment=moon_at_lr", *settings))]
    assert pairs_of(*runs) == [("moon_at_lr", "moon_at")]


@pytest.mark.parametrize("method", ["centered", "gated", "amplified", "unlabelled"])
def test_a_method_is_paired_with_the_same_base(config: Any, method: str) -> None:
    methods = [run(config("experiment=moon_at_lr", f"method={method}"), seed) for seed in (0, 1)]
    runs = [*(run(config("experiment=moon_at"), seed) for seed in (0, 1)), *methods]
    (pair,) = pair_with_bases(group_by_seed(runs))
    assert (pair.base_label, pair.seeds) == ("moon_at", [0, 1])


def test_of_several_bases_the_nearest_is_taken(config: Any) -> None:
    runs = [
        run(config(f"experiment={name}", f"measure={measure}"))
        for name in ("moon_at", "moon_at_lr")
        for measure in ("relative_error", "cosine_distance")
    ]
    pairs = pair_with_bases(group_by_seed(runs))
    assert [pair.base.runs[0].config["measure"] for pair in pairs if pair.base is not None] == [
        pair.group.runs[0].config["measure"] for pair in pairs
    ]


def test_a_base_that_was_measured_on_other_data_is_none(config: Any) -> None:
    at, at_lr = config("experiment=moon_at"), config("experiment=moon_at_lr")
    assert pairs_of(run(at, samples=50), run(at_lr)) == [("moon_at_lr", None)]
    assert pairs_of(run(at, data="other"), run(at_lr)) == [("moon_at_lr", None)]


def paired(config: Any, base_seeds: tuple[int, ...], seeds: tuple[int, ...]) -> Pair:
    at = [run(config("experiment=moon_at"), seed) for seed in base_seeds]
    at_lr = [run(config("experiment=moon_at_lr"), seed) for seed in seeds]
    (pair,) = pair_with_bases(group_by_seed([*at_lr, *at]))
    return pair


def test_of_equal_rows_of_the_base_the_exact_one_is_its_worst_case(config: Any) -> None:
    rows = {"fgsm": [90.0, 50.0], "exact": [90.0, 50.0]}
    table = RobustnessTable([0.0, 0.3], rows, 100, 0.3, norm="Linf")
    runs = [
        Run(Path(f"/{name}"), config(f"experiment={name}"), RunSummary(name, 0, {}, 1, 1.0, evaluation=table), {})
        for name in ("moon_at", "moon_at_lr")
    ]
    (pair,) = pair_with_bases(group_by_seed(runs))
    assert [metric.attack for metric in pair.worst_case] == ["exact"]


def test_differences_are_those_of_runs_of_one_seed(config: Any) -> None:
    pair = paired(config, (2, 0, 1), (0, 1, 2))
    spread = pair.difference(CLEAN)
    assert pair.seeds == [0, 1, 2]
    assert spread is not None
    assert spread[:2] == (3, pytest.approx(3.5 / 3))
    expected = ttest_rel([91.0, 92.5, 93.0], [90.0, 92.0, 91.0]).confidence_interval(0.95)
    assert spread.interval == pytest.approx((expected.low, expected.high))


def test_seeds_without_a_partner_are_left_out_of_the_differences(config: Any) -> None:
    pair = paired(config, (1, 5), (0, 1, 2))
    assert pair.seeds == [1]
    assert pair.difference(CLEAN) == Spread(1, 0.5, None, None)
    assert pair.difference(Metric("fgsm", (0.3,), norm="Linf")) is None


def test_an_arm_that_was_not_analysed_is_paired_by_its_seeds(config: Any) -> None:
    plain = [run(config("experiment=moon_at", "analysis=null"), seed) for seed in (0, 1)]
    regularized = [run(config("experiment=moon_at_lr"), seed) for seed in (0, 1)]
    (pair,) = pair_with_bases(group_by_seed([*plain, *regularized]))
    assert pair.seeds == [0, 1]


def test_no_seed_in_common_gives_no_difference(config: Any) -> None:
    pair = paired(config, (5,), (0,))
    assert (pair.base is None, pair.seeds, pair.difference(CLEAN)) == (False, [], None)
