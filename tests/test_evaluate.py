"""lsa-evaluate as a user sees it."""

from __future__ import annotations

import csv
import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import main_in_process, read_json, run_as_script, train_tiny

from lsa_lightning.evaluate import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "trainer.max_epochs=2")
    return folder


def evaluate(run: Path, folder: Path, *args: str, checkpoint: str = "best") -> str:
    """What lsa-evaluate prints."""
    printed = io.StringIO()
    path = f"ckpt_path={run}/checkpoints/{checkpoint}.ckpt"
    with redirect_stdout(printed):
        main_in_process(main, path, "evaluation.attacks.pgd.steps=2", f"hydra.run.dir={folder}", *args)
    return printed.getvalue()


def test_the_run_folder_and_the_output(run: Path, tmp_path: Path) -> None:
    printed = evaluate(run, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.yaml", "evaluation.csv", "evaluation.json", "figures"} <= files
    assert (tmp_path / "figures" / "accuracy.png").stat().st_size > 0
    assert "Accuracy in % (40 samples)" in printed
    assert "R&G" in printed
    assert f"Run folder: {tmp_path}\n" in printed


def test_the_table_is_the_one_that_training_wrote(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path)
    table, summary = read_json(tmp_path / "evaluation.json"), read_json(run / "summary.json")
    assert table["samples"] == summary["test_samples"]
    for key in ("eps", "accuracy", "rg_score"):
        assert table[key] == summary[key]


def test_csv_and_json_agree(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "eps=[0.2,0.6]", "split=val")
    table = read_json(tmp_path / "evaluation.json")
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        rows = [(row["attack"], float(row["eps"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    assert rows == [
        (name, eps, accuracy)
        for name, row in table["accuracy"].items()
        for eps, accuracy in zip(table["eps"], row, strict=True)
    ]
    assert table["samples"] == 32


@pytest.mark.parametrize(("eps", "columns"), [("[0.2,0.1]", [0.0, 0.1, 0.2]), ("0.4", [0.0, 0.4])])
def test_eps_is_a_radius_or_a_list(run: Path, tmp_path: Path, eps: str, columns: list[float]) -> None:
    printed = evaluate(run, tmp_path, f"eps={eps}")
    assert read_json(tmp_path / "evaluation.json")["eps"] == columns
    assert f"eps {columns[-1]:g}" in printed


def test_attacks_can_be_changed_and_added(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "~evaluation.attacks.fgsm", "+attack@evaluation.attacks.noise=gaussian")
    assert list(read_json(tmp_path / "evaluation.json")["accuracy"]) == ["pgd", "noise"]
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


@pytest.mark.parametrize("eps", ["[]", "[-0.1]", "0"])
def test_a_wrong_eps_is_refused(run: Path, tmp_path: Path, eps: str) -> None:
    with pytest.raises(ValueError, match="at least one eps, each > 0"):
        evaluate(run, tmp_path, f"eps={eps}")


def test_data_of_the_run_can_be_overridden(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path, "data.batch_size=8")
    assert read_json(tmp_path / "evaluation.json")["samples"] == 40


def test_help_shows_examples_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    run_as_script("evaluate", "--help")
    shown = capsys.readouterr().out
    assert "lsa-evaluate ckpt_path=RUN/checkpoints/last.ckpt 'eps=[0.1,0.2]' evaluation.attacks.pgd.steps=50" in shown
    assert "_target_: lsa_lightning.attacks.PGD" in shown
