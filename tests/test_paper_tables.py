"""The paper's tables: every row composes, names layers that its model has, and one command runs and prints them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.helpers.fake_data import write_every_data_set
from tests.helpers.hydra_run import TINY, TINY_IMAGES, composed_job, main_in_process

from hydra_plugins.lsa_lightning_rows import RowSweep
from lsa_lightning.cli.train import main as train_main
from lsa_lightning.layers.probe import check_names_exist
from lsa_lightning.utils.paths import CONF_DIR

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Experiment logs directory")]


def rows_of(table: str) -> dict[str, list[str]]:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "experiment" / "paper" / f"{table}.yaml"))
    rows: dict[str, list[str]] = node["hydra"]["sweeper"]["rows"]
    return rows


ROWS = [(table, name) for table in ("table2", "table3", "table4") for name in rows_of(table)]


def test_the_rows_are_those_of_the_paper() -> None:
    bases = ("AT-FGSM", "AT-PGD", "AT-FAST", "AT-TRADES")
    variants = ("", "-LR-L0", "-LR-L1", "-LR-L2", "-LR-LSA")
    assert list(rows_of("table2")) == ["Normal", *(base + variant for base in bases for variant in variants)]
    layers = [f"AT-APGD-LR-L{number}" for number in range(4)]
    assert list(rows_of("table3")) == ["Normal", "AT-APGD", *layers, "AT-APGD-LR-LSA"]
    four = ("Normal", "AT-APGD", "AT-APGD-LR-L1", "AT-APGD-LR-LSA")
    assert list(rows_of("table4")) == [f"{model}-{row}" for model in "CD" for row in four]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_a_row_trains_what_its_name_says(table: str, name: str, tmp_path: Path) -> None:
    with composed_job("train", [f"experiment=paper/{table}", *rows_of(table)[name]], tmp_path) as cfg:
        OmegaConf.to_container(cfg, resolve=True)
        method = cfg.callbacks.get("atlr", cfg.callbacks.get("adversarial_training"))
        assert (method is None) == name.endswith("Normal")
        assert ("atlr" in cfg.callbacks) == ("-LR-" in name)
        if method is not None:
            attacks = {"FGSM": "FGSM", "PGD": "PGD", "FAST": "FFGSM", "TRADES": "TPGD", "APGD": "APGD"}
            base = name.partition("AT-")[2].partition("-")[0]
            assert method.attack._target_.endswith(f".{attacks[base]}")
            assert method.objective._target_.endswith(".TRADES" if base == "TRADES" else ".AT")
        layers = cfg.callbacks.atlr.mvl if "atlr" in cfg.callbacks else None
        if "-LR-L" in name and not name.endswith("LSA"):
            assert len(layers) == 1
            if not name.startswith("D-"):
                number = int(name[-1])
                assert list(layers) == [f"backbone.act{number + 1}"]
                check_names_exist(instantiate(cfg.model, _convert_="all"), list(layers))
        else:
            assert layers is None


TWO_ROWS = "hydra.sweeper.only=[AT-FGSM,AT-FGSM-LR-L2]"


def test_one_command_runs_the_seeds_of_each_row_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "table"
    settings = [*TINY, "seeds=[0,1]", f"hydra.sweep.dir={folder}"]
    main_in_process(train_main, "-m", "experiment=paper/table2", TWO_ROWS, *settings)
    assert sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob("summary.json")) == [
        f"{row}/seed={seed}" for row in ("AT-FGSM-LR-L2", "AT-FGSM") for seed in (0, 1)
    ]
    table, paired = pd.read_csv(folder / "comparison.csv"), pd.read_csv(folder / "paired.csv")
    assert set(table.group) == {"AT-FGSM", "AT-FGSM-LR-L2"}
    assert set(table.attack.dropna()) == {"fgsm", "pgd", "exact"}
    assert table.ceiling.notna().all()
    assert set(table.checked) == {2}
    exact = table[table.metric == "accuracy/exact/0.3"].set_index("group")["mean"]
    pgd = table[table.metric == "accuracy/pgd/0.3"].set_index("group")["mean"]
    assert (exact <= pgd).all()
    assert set(zip(paired.group, paired.base, strict=True)) == {("AT-FGSM-LR-L2", "AT-FGSM")}
    assert paired.n.eq(2).all()
    printed = " ".join(capsys.readouterr().out.split())
    assert "R&G under exact" in printed
    assert "ceiling" in printed
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("summary.json")}
    main_in_process(train_main, "-m", "experiment=paper/table2", TWO_ROWS, *settings)
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("summary.json")}


IMAGES = {
    "table3": ("AT-APGD-LR-LSA", ()),
    "table4": (
        "D-AT-APGD-LR-LSA",
        (
            *("++model.backbone.depth=10", "++model.backbone.width=1", "trainer.limit_val_batches=1"),
            "data.dataset_cls.path=tests.helpers.fake_data.UncheckedCIFAR10",
        ),
    ),
}


@pytest.mark.parametrize("table", IMAGES)
def test_the_tables_of_images_run(table: str, tmp_path: Path) -> None:
    write_every_data_set(tmp_path / "files")
    row, own = IMAGES[table]
    tiny = [each for each in TINY_IMAGES if "limit_train_batches" not in each]
    quick = ["attack.steps=1", "evaluation.attacks.ensemble.steps=1", "evaluation.attacks.ensemble.n_queries=2"]
    settings = [*tiny, *quick, *own, f"data.root={tmp_path / 'files'}", "seed=0"]
    settings += ["++trainer.limit_train_batches=1", f"hydra.sweep.dir={tmp_path / 'table'}"]
    main_in_process(train_main, "-m", f"experiment=paper/{table}", f"hydra.sweeper.only=[{row}]", *settings)
    found = pd.read_csv(tmp_path / "table" / row / "seed-0" / "evaluation.csv")
    attacks = {"fgsm", "pgd", "ensemble"}
    assert set(found.attack) == (attacks | {"ceiling"} if table == "table3" else attacks)


def test_a_row_that_is_not_in_the_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected only\[0\] to be one of \['A', 'B'\], got 'C'"):
        RowSweep(rows={"A": [], "B": ["seed=1"]}, only=["C"])


def test_the_jobs_are_each_row_with_each_combination_and_the_command_line_counts_last() -> None:
    sweep = RowSweep(rows={"A": [], "B": ["attack=fgsm"]}, params={"seed": "range(0,3)"})
    assert sweep.jobs(["seed=5,6", "data.root=x"]) == [
        ["name=A", "seed=5", "data.root=x"],
        ["name=A", "seed=6", "data.root=x"],
        ["name=B", "attack=fgsm", "seed=5", "data.root=x"],
        ["name=B", "attack=fgsm", "seed=6", "data.root=x"],
    ]
    assert [job[1] for job in RowSweep(rows={"A": []}, params={"seed": "range(0,3)"}).jobs([])] == [
        *("seed=0", "seed=1", "seed=2")
    ]
