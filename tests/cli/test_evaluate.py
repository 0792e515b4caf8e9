"""lsa-evaluate as a user sees it."""

from __future__ import annotations

import csv
import io
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import call, patch

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from tests.helpers.hydra_run import FEW_CHECKS, main_as_shown, main_in_process, read_json, run_as_script, train_tiny
from tests.helpers.run_copies import copy_that_runs_code

from lsa_lightning.attacks import PGD
from lsa_lightning.cli.evaluate import main
from lsa_lightning.comparison.checkpoints import checkpoint_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "trainer.max_epochs=2")
    return folder


def evaluate(run: Path | list[Path], folder: Path, *args: str, figures: bool = False) -> str:
    """What lsa-evaluate prints."""
    printed = io.StringIO()
    paths = [f"{each}/checkpoints/best.ckpt" for each in (run if isinstance(run, list) else [run])]
    path = f"ckpt_path=[{','.join(paths)}]" if isinstance(run, list) else f"ckpt_path={paths[0]}"
    with redirect_stdout(printed):
        options = ("evaluation.attacks.pgd.steps=2", *FEW_CHECKS, f"hydra.run.dir={folder}", *args)
        main_in_process(main, path, *options, figures=figures)
    return printed.getvalue()


def test_the_run_folder_and_the_output(run: Path, tmp_path: Path) -> None:
    printed = evaluate(run, tmp_path, figures=True)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.yaml", "evaluation.csv", "evaluation.json", "figures"} <= files
    assert (tmp_path / "figures" / "accuracy.png").stat().st_size > 0
    drawn = {file.stem: file.read_text() for file in (tmp_path / "figures").glob("*.svg")}
    assert [name for name, text in drawn.items() if "<!-- run: train, seed 0 -->" not in text] == []
    assert "Accuracy in %, 95 % intervals (40 samples, Linf)" in printed
    assert "R&G" in printed
    assert "Masking checks: 0 raised of 6" in printed
    assert f"Run folder: {tmp_path}\n" in printed


def test_the_table_is_the_one_that_training_wrote(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path)
    table, summary = read_json(tmp_path / "evaluation.json"), read_json(run / "summary.json")
    assert table["samples"] == summary["test_samples"]
    for key in ("eps", "accuracy", "intervals", "rg_score", "rg_eps", "training_eps", "norm"):
        assert table[key] == summary[key]
    assert set(table["masking"]) == set(summary["masking"])


@pytest.mark.parametrize(("options", "taken"), [((), []), (("num_threads=3",), [call(3)])])
def test_it_takes_as_many_threads_as_it_is_given(
    run: Path, tmp_path: Path, options: tuple[str], taken: list[Any]
) -> None:
    with patch("torch.set_num_threads") as threads:
        evaluate(run, tmp_path, "evaluation.masking=null", *options)
    assert threads.mock_calls == taken


def test_csv_and_json_agree(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "eps=[0.2,0.6]", "split=val")
    table = read_json(tmp_path / "evaluation.json")
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        rows = [(row["attack"], float(row["eps"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    rows, ceiling = [row for row in rows if row[0] != "ceiling"], [row[2] for row in rows if row[0] == "ceiling"]
    assert ceiling == table["ceiling"]["accuracy"]
    assert rows == [
        (name, eps, accuracy)
        for name, row in table["accuracy"].items()
        for eps, accuracy in zip(table["eps"], row, strict=True)
    ]
    assert table["samples"] == 32


@pytest.mark.parametrize(("eps", "columns"), [("[0.2,0.1]", [0.0, 0.1, 0.2, 0.3]), ("0.4", [0.0, 0.3, 0.4])])
def test_eps_is_a_radius_or_a_list(run: Path, tmp_path: Path, eps: str, columns: list[float]) -> None:
    printed = evaluate(run, tmp_path, f"eps={eps}")
    table = read_json(tmp_path / "evaluation.json")
    assert (table["eps"], table["training_eps"]) == (columns, 0.3)
    assert table["rg_eps"] == [radius for radius in columns if radius != 0.3]
    assert f"eps {columns[-1]:g}" in printed


def test_attacks_can_be_changed_and_added(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "~evaluation.attacks.fgsm", "+attack@evaluation.attacks.noise=gaussian")
    assert list(read_json(tmp_path / "evaluation.json")["accuracy"]) == ["pgd", "noise", "exact"]
    assert OmegaConf.load(tmp_path / "config.yaml").evaluation.attacks.noise.eps == 0.3


def test_the_weights_of_the_checkpoint_decide(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "opposite")
    path = tmp_path / "opposite" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for name in ("backbone.head.weight", "backbone.head.bias"):
        checkpoint["state_dict"][name].neg_()
    torch.save(checkpoint, path)
    evaluate(tmp_path / "opposite", tmp_path / "evaluation")
    clean = read_json(run / "summary.json")["accuracy"]["fgsm"][0]
    assert read_json(tmp_path / "evaluation" / "evaluation.json")["accuracy"]["fgsm"][0] == pytest.approx(100 - clean)


@pytest.mark.parametrize("eps", ["[]", "[-0.1]", "0", "big"])
def test_a_wrong_eps_is_refused(run: Path, tmp_path: Path, eps: str) -> None:
    with pytest.raises(
        InstantiationException,
        match=r"expected eps(\[0\])? to be a (list of|finite number > 0)",
    ):
        evaluate(run, tmp_path, f"eps={eps}")


def test_data_of_the_run_can_be_overridden(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "data.batch_size=8")
    assert read_json(tmp_path / "evaluation.json")["samples"] == 40


def test_help_shows_examples_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    run_as_script("evaluate", "--help")
    shown = capsys.readouterr().out
    assert "lsa-evaluate ckpt_path=RUN/checkpoints/last.ckpt 'eps=[0.1,0.2]' evaluation.attacks.pgd.steps=50" in shown
    assert "_target_: lsa_lightning.attacks.PGD" in shown


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with another seed, so on other points."""
    folder = tmp_path_factory.mktemp("train") / "other"
    train_tiny(folder, "seed=1", "evaluation.eps=[0.7]")
    return folder


def test_several_checkpoints_stand_side_by_side(run: Path, other_run: Path, tmp_path: Path) -> None:
    printed = evaluate([run, other_run], tmp_path / "both", "eps=0.2")
    entries = read_json(tmp_path / "both" / "evaluation.json")["checkpoints"]
    checkpoints = [f"{each}/checkpoints/best.ckpt" for each in (run, other_run)]
    labels = checkpoint_labels(checkpoints)
    assert ["seed 0" in labels[checkpoints[0]], "seed 1" in labels[checkpoints[1]]] == [True, True]
    for place, (each, entry) in enumerate(zip((run, other_run), entries, strict=True)):
        alone = tmp_path / f"alone_{place}"
        evaluate(each, alone, "eps=0.2")
        assert read_json(alone / "evaluation.json") == entry
        classes = (tmp_path / "both" / str(place) / "classes.json").read_text()
        assert classes == (alone / "classes.json").read_text()
        assert f"{labels[checkpoints[place]]}: {checkpoints[place]}" in printed
    assert entries[0]["accuracy"] != entries[1]["accuracy"]


def test_other_radii_of_training_are_said(run: Path, other_run: Path, tmp_path: Path) -> None:
    third = tmp_path / "third"
    train_tiny(third, "threat.eps=0.2")
    assert "Trained at different eps" not in evaluate([run, other_run], tmp_path / "two")
    printed = evaluate([run, third], tmp_path / "three", "eps=0.2")
    labels = checkpoint_labels([f"{each}/checkpoints/best.ckpt" for each in (run, third)])
    first, other = labels.values()
    assert f"Trained at different eps: {first} 0.3, {other} 0.2" in printed.replace("\n", " ")


def test_several_checkpoints_share_the_radii_of_the_first(run: Path, other_run: Path, tmp_path: Path) -> None:
    evaluate([run, other_run], tmp_path)
    assert [e["eps"] for e in read_json(tmp_path / "evaluation.json")["checkpoints"]] == [[0.0, 0.1, 0.3]] * 2


def test_checkpoints_that_cannot_be_compared_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="or several different ones"):
        evaluate([run, run], tmp_path)
    shutil.copytree(run, tmp_path / "images")
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.data = {"_target_": "tests.helpers.hydra_run.PoisonedMoons", "seed": 0}
    OmegaConf.save(cfg, tmp_path / "images" / "config.yaml")
    with pytest.raises(ValueError, match=r"the same data set, got .*MoonDataModule and, for .*PoisonedMoons"):
        evaluate([run, tmp_path / "images"], tmp_path / "out", "trust=[tests]")


def test_started_again_it_goes_on_and_gives_the_same_table(
    run: Path, other_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Going on" not in evaluate([run, other_run], tmp_path / "whole")
    calls, attack = [], PGD.perturb

    def dies(self: PGD, *args: Any) -> Any:
        calls.append(self.eps)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attack(self, *args)

    monkeypatch.setattr(PGD, "perturb", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate([run, other_run], tmp_path / "again")
    assert not (tmp_path / "again" / "evaluation.json").exists()
    monkeypatch.setattr(PGD, "perturb", attack)
    assert "Going on from the finished batches in" in evaluate([run, other_run], tmp_path / "again")
    for name in ("evaluation.json", "evaluation.csv"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_what_is_measured_without_an_attack_is_the_runs_own(run: Path, tmp_path: Path) -> None:
    assert "exact: right in the whole ball" in evaluate(run, tmp_path / "own")
    assert set(read_json(tmp_path / "own" / "evaluation.json")["accuracy"]) == {"fgsm", "pgd", "exact"}
    evaluate(run, tmp_path / "without", "evaluation.exact=false", "evaluation.ceiling=false")
    table = read_json(tmp_path / "without" / "evaluation.json")
    assert (set(table["accuracy"]), table["ceiling"]) == ({"fgsm", "pgd"}, None)
    evaluate(run, tmp_path / "l2", "threat.norm=L2")
    table = read_json(tmp_path / "l2" / "evaluation.json")
    assert table["norm"] == "L2"  # of all rows
    assert table["training_eps"] is None, "training was in Linf"
    assert set(table["accuracy"]) == {"fgsm", "pgd", "exact"}


def test_masking_checks_can_be_turned_off(run: Path, tmp_path: Path) -> None:
    assert "Masking" not in evaluate(run, tmp_path, "~evaluation.masking", "+evaluation.masking=null")
    assert read_json(tmp_path / "evaluation.json")["masking"] == {}


def test_a_missing_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main_as_shown(main, f"hydra.run.dir={tmp_path}")
    assert capsys.readouterr().err == "lsa-evaluate: expected ckpt_path=RUN/checkpoints/best.ckpt, got none\n"


def test_a_run_folder_runs_no_code(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, ran = copy_that_runs_code(run, tmp_path)
    refused = r"^lsa-evaluate: .*config.yaml: threat.norm: expected data, got 'timeit.timeit'"
    with pytest.raises(SystemExit):
        main_as_shown(main, f"ckpt_path={foreign}/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/out")
    assert re.match(refused, capsys.readouterr().err)
    assert not ran.exists()
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_the_first_samples_alone_are_measured_though_they_are_one_batch(run: Path, tmp_path: Path) -> None:
    printed = evaluate(run, tmp_path, "limit_samples=25", "evaluation.masking.n_samples=40")
    assert "(25 samples, Linf)" in printed
    assert sum(map(sum, read_json(tmp_path / "classes.json")["clean"])) == 25
