"""lsa-train as a user sees it: its run folder, its output, its errors."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import (
    TINY,
    composed_job,
    logged,
    main_as_shown,
    main_in_process,
    read_json,
    read_metrics,
    run_as_script,
    train_tiny,
)

import lsa_lightning
from lsa_lightning.cli.evaluate import evaluate
from lsa_lightning.cli.train import main, train
from lsa_lightning.data import MoonDataModule
from lsa_lightning.models import MLP, RobustClassifier
from lsa_lightning.runs.summary import RunSummary

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

EPOCHS = 3
SEED = 1  # one whose best epoch is not the last
NAMED = ("name=my_run", f"seed={SEED}", "callbacks.checkpoint.mode=min")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of a few epochs: its folder, and what it printed. The epoch of least accuracy counts as its best one."""
    folder = tmp_path_factory.mktemp("train") / "run"
    printed = io.StringIO()
    with redirect_stdout(printed):
        options = (*TINY, f"hydra.run.dir={folder}", f"trainer.max_epochs={EPOCHS}", *NAMED)
        main_in_process(main, *options, figures=True)
    return folder, printed.getvalue()


@pytest.fixture
def folder(run: tuple[Path, str]) -> Path:
    return run[0]


@pytest.fixture
def printed(run: tuple[Path, str]) -> str:
    return run[1]


@pytest.fixture
def summary(folder: Path) -> Any:
    return read_json(folder / "summary.json")


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "evaluation.csv",
        "evaluation.json",
        "profile.csv",
        "profile_pgd.json",
        "profile_fgsm.json",
        "profile_gaussian.json",
        "profile_speckle.json",
        "profile_salt.json",
        "profile_pepper.json",
        "figures/layer_profile.png",
        "figures/layer_profile.svg",
        "figures/accuracy.png",
        "figures/accuracy.svg",
        "figures/mvl_history.png",
        "figures/mvl_history.svg",
        "figures/decision_boundary.png",
        "figures/decision_boundary.svg",
        "figures/training.png",
        "figures/class_accuracy.png",
        "figures/confusion.svg",
        "classes.json",
        "classes.csv",
    ],
)
def test_the_run_folder_holds(folder: Path, name: str) -> None:
    assert (folder / name).stat().st_size > 0


def test_the_stored_configuration_is_resolved(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    config = OmegaConf.load(folder / "config.yaml")
    assert "${" not in text
    assert config.data.seed == config.seed == SEED
    assert config.callbacks.atlr.attack.eps == config.threat.eps == 0.3
    assert config.paths.output_dir == str(folder)


def test_the_stored_configuration_is_the_one_that_ran(folder: Path) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    assert config.trainer.max_epochs == EPOCHS
    assert list(config.model.backbone.hidden) == [8, 8, 8]


def test_metrics_have_every_epoch(folder: Path) -> None:
    validated = ("val/loss", "val/acc_clean", "val/acc_pgd", "val/rg_score")
    for key in ("train/loss", "train/acc", "train/loss_base", *validated):
        assert [epoch for epoch, _ in logged(folder, key)] == list(range(EPOCHS)), key


def test_metrics_hold_a_column_for_each_layer(folder: Path) -> None:
    keys = set(read_metrics(folder)[0])
    for i in range(3):
        assert {f"lsa/relative_error/{i:02d}_backbone.act{i + 1}", f"lsa/in_mvl/{i:02d}_backbone.act{i + 1}"} <= keys
    assert {"lsa/mu", "lsa/sigma", "lsa/mvl_size", "train/loss_lr"} <= keys


def test_the_mvl_history_agrees_with_the_metrics(folder: Path, summary: Any) -> None:
    _, *sizes = [int(value) for _, value in logged(folder, "lsa/mvl_size")]  # the first list comes before training
    assert [len(entry["mvl"]) for entry in summary["mvl_history"]] == sizes
    assert [entry["epoch"] for entry in summary["mvl_history"]] == list(range(EPOCHS))
    assert [entry["mu"] for entry in summary["mvl_history"]] == pytest.approx(
        [value for _, value in logged(folder, "lsa/mu")][1:]
    )
    for i, layer in enumerate(f"backbone.act{n}" for n in (1, 2, 3)):
        assert {entry["layers"][i] for entry in summary["mvl_history"]} == {layer}
        _, *series = [value for _, value in logged(folder, f"lsa/relative_error/{i:02d}_{layer}")]
        assert [entry["mean"][i] for entry in summary["mvl_history"]] == pytest.approx(series)


def test_the_summary_says_what_was_trained(folder: Path, summary: Any) -> None:
    assert (summary["name"], summary["seed"], summary["epochs"], summary["test_samples"]) == (
        "my_run",
        SEED,
        EPOCHS,
        40,
    )
    trained = summary["trained"]
    assert trained["model"] == "lsa_lightning.models.MLP"
    assert trained["data"] == "lsa_lightning.MoonDataModule"
    assert trained["method"] == "ATLR"
    assert trained["attack"].startswith("PGD(steps=10")
    assert trained["objective"] == "AT()"
    assert "gamma=0.1" in trained["regularizer"]
    assert summary["versions"]["lsa-lightning"] == lsa_lightning.__version__
    assert summary["training_seconds"] > 0
    assert summary["checkpoint"] == str(folder / "checkpoints" / "best.ckpt")


def test_the_summary_agrees_with_the_evaluation_table(folder: Path, summary: Any) -> None:
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = [(row["attack"], float(row["eps"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    assert [row[2] for row in rows[-3:]] == summary["ceiling"]["accuracy"]
    assert rows[:-3] == [
        (attack, eps, accuracy)
        for attack, row in summary["accuracy"].items()
        for eps, accuracy in zip(summary["eps"], row, strict=True)
    ]
    assert summary["eps"] == [0.0, 0.1, 0.3]
    for attack, row in summary["accuracy"].items():
        assert summary["rg_score"][attack] == pytest.approx(sum(row))


def test_the_summary_agrees_with_the_profiles(folder: Path, summary: Any) -> None:
    for attack, errors in summary["profiles"].items():
        report = read_json(folder / f"profile_{attack}.json")
        assert errors == dict(zip(report["layers"], report["mean"], strict=True))
    assert summary["mu"] == read_json(folder / "profile_pgd.json")["mu"]
    assert summary["mvl"] == [
        layer for layer, mean in sorted(summary["profiles"]["pgd"].items(), key=lambda pair: -pair[1])
        if mean > summary["mu"]
    ]  # fmt: skip


def _best_on_test_points(folder: Path) -> tuple[RobustClassifier, torch.Tensor, torch.Tensor]:
    """The best checkpoint's model and the test split, without the library's own way to them."""
    model = RobustClassifier(MLP(hidden=(8, 8, 8)))
    model.load_state_dict(torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    data = MoonDataModule(train_size=64, val_size=32, test_size=40, seed=SEED)
    data.setup("test")
    return model, *data.splits[2].tensors


def _fgsm_by_hand(model: RobustClassifier, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x).flatten(), y.float())
    return (x + eps * torch.autograd.grad(loss, x)[0].sign()).detach()


def test_the_accuracies_agree_with_a_recomputation_from_the_checkpoint(folder: Path, summary: Any) -> None:
    model, x, y = _best_on_test_points(folder)
    logits = [model(_fgsm_by_hand(model, x, y, eps)).flatten() for eps in summary["eps"]]
    by_hand = [100 * float(((z > 0) == (y == 1)).float().mean()) for z in logits]
    assert summary["accuracy"]["fgsm"] == pytest.approx(by_hand, abs=1e-4)
    assert len(set(by_hand)) > 1


def test_the_relative_error_agrees_with_a_recomputation_from_the_checkpoint(folder: Path, summary: Any) -> None:
    model, x, y = _best_on_test_points(folder)
    clean, moved = (model.backbone.act1(model.backbone.fc1(z)) for z in (x, _fgsm_by_hand(model, x, y, 0.3)))
    by_hand = ((clean - moved).norm(dim=1) / clean.norm(dim=1)).mean().item()
    assert summary["profiles"]["fgsm"]["backbone.act1"] == pytest.approx(by_hand, rel=1e-5)


def test_the_evaluated_checkpoint_is_the_best_one(folder: Path) -> None:
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    scores = [value for _, value in logged(folder, "val/acc_pgd")]
    assert best["epoch"] == scores.index(min(scores)) < EPOCHS - 1
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == EPOCHS - 1


def test_the_validation_of_the_summary_is_that_of_the_measured_weights(
    folder: Path, printed: str, summary: Any
) -> None:
    epoch = summary["checkpoint_epoch"]
    assert epoch < EPOCHS - 1
    for key, value in summary["validation"].items():
        assert dict(logged(folder, key))[epoch] == pytest.approx(value)
    assert {"val/acc_clean", "val/acc_pgd", "val/loss", "val/rg_score"} <= summary["validation"].keys()
    assert f"Measured: the weights of epoch {epoch + 1}/{EPOCHS}, the best val/acc_pgd, " in printed


def test_the_summary_names_the_epoch_that_was_measured(tmp_path: Path) -> None:
    train_tiny(tmp_path, "trainer.max_epochs=3", "callbacks.checkpoint.monitor=epoch")
    assert read_json(tmp_path / "summary.json")["checkpoint_epoch"] == 2


def test_the_output_names_tables_layers_scores_and_folder(folder: Path, printed: str, summary: Any) -> None:
    assert "Relative error per layer (mean over 40 samples)" in printed
    assert "Accuracy in %, 95 % intervals (40 samples, Linf)" in printed
    assert "Masking checks: 0 raised of 6" in printed
    assert f"MVL of the trained network under pgd: {', '.join(summary['mvl'])}" in printed
    fgsm, pgd = (summary["rg_score"][attack] for attack in ("fgsm", "pgd"))
    assert f"R&G: {fgsm:.2f} of 300 under fgsm, {pgd:.2f} of 300 under pgd" in printed
    assert "Tip" not in printed
    assert f"\nRun folder: {folder}\n" in printed
    assert "summary.json" in printed


def test_the_output_is_free_of_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train_tiny(tmp_path)
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
@pytest.mark.parametrize("has_it", [False, True])
def test_bfloat16_where_the_cpu_has_none_is_warned_of(
    tmp_path: Path, has_it: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("lsa_lightning.jobs.job.has_bfloat16", lambda device: has_it)
    train_tiny(tmp_path, "trainer.precision=bf16-mixed", "analysis=null", "evaluation=null")
    told = [str(w.message) for w in recwarn if "instructions for bfloat16" in str(w.message)]
    assert len(told) == (0 if has_it else 1)


def test_the_same_seed_gives_the_same_metrics(tmp_path: Path) -> None:
    for name in ("first", "second"):
        train_tiny(tmp_path / name, "trainer.max_epochs=2", "seed=5")
    first, second = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("first", "second"))
    assert first == second
    assert read_json(tmp_path / "first/evaluation.json") == read_json(tmp_path / "second/evaluation.json")


def test_a_sweep_gives_each_job_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_in_process(main, "-m", *TINY, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    runs = [tmp_path / "sweep" / job for job in ("seed-0", "seed-1")]
    assert [read_json(run / "summary.json")["seed"] for run in runs] == [0, 1]
    assert [OmegaConf.load(run / "config.yaml").data.seed for run in runs] == [0, 1]
    assert (runs[0] / "metrics.csv").read_text() != (runs[1] / "metrics.csv").read_text()
    assert (runs[1] / "checkpoints" / "last.ckpt").is_file()
    assert capsys.readouterr().out.endswith(f"Compare them with: lsa-report {tmp_path}/sweep\n")


def test_the_default_run_folder_carries_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with patch("lsa_lightning.cli.train.train", return_value=None):
        main_in_process(main, "experiment=moon_at")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["moon_at"]


@pytest.mark.parametrize(("batch_size", "batches"), [(16, 4), (64, 1)])
def test_the_batch_size_changes_the_number_of_steps(tmp_path: Path, batch_size: int, batches: int) -> None:
    train_tiny(tmp_path, f"data.batch_size={batch_size}")
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == batches


def test_resuming_continues_the_epoch_count_and_the_history(folder: Path, tmp_path: Path, summary: Any) -> None:
    train_tiny(tmp_path, f"trainer.max_epochs={EPOCHS + 1}", *NAMED, f"ckpt_path={folder}/checkpoints/last.ckpt")
    after = read_json(tmp_path / "summary.json")
    assert after["epochs"] == EPOCHS + 1
    assert [epoch for epoch, _ in logged(tmp_path, "train/loss")] == [EPOCHS]
    assert after["mvl_history"][:EPOCHS] == summary["mvl_history"]
    assert len(after["mvl_history"]) == EPOCHS + 1


def test_resuming_gives_what_an_uninterrupted_run_gives(tmp_path: Path) -> None:
    constant = (*NAMED, "method=paper")  # a ramp depends on how long training will be
    train_tiny(tmp_path / "whole", f"trainer.max_epochs={EPOCHS}", *constant)
    train_tiny(tmp_path / "first", f"trainer.max_epochs={EPOCHS - 1}", *constant)
    checkpoint = f"ckpt_path={tmp_path}/first/checkpoints/last.ckpt"
    train_tiny(tmp_path / "second", f"trainer.max_epochs={EPOCHS}", *constant, checkpoint)
    last = [row for row in read_metrics(tmp_path / "whole") if row["epoch"] == str(EPOCHS - 1)]
    assert read_metrics(tmp_path / "second") == last


def test_resuming_from_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected ckpt_path to be a checkpoint file, .* got .*nothing\.ckpt"):
        train_tiny(tmp_path, f"ckpt_path={tmp_path}/nothing.ckpt")
    assert not (tmp_path / "metrics.csv").exists()


def test_a_logger_or_callback_set_to_null_is_left_out(tmp_path: Path) -> None:
    train_tiny(
        tmp_path,
        "logger.csv=null",
        "callbacks.checkpoint=null",
        "callbacks.last_checkpoint=null",
        "+trainer.enable_checkpointing=false",
    )
    assert not (tmp_path / "metrics.csv").exists()
    assert not (tmp_path / "checkpoints").exists()
    assert read_json(tmp_path / "summary.json")["checkpoint"] is None


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_weights_of_another_type_are_measured_as_they_are_evaluated_later(precision: str, tmp_path: Path) -> None:
    train_tiny(tmp_path / "run", f"trainer.precision={precision}")
    trained = RunSummary.load(tmp_path / "run").evaluation
    assert trained is not None
    overrides = [f"ckpt_path={tmp_path}/run/checkpoints/best.ckpt"]
    with composed_job("evaluate", overrides, tmp_path / "again") as cfg:
        (again,) = evaluate(cfg).values()
    assert {name: again.table.accuracy[name] for name in trained.accuracy} == trained.accuracy


def test_robust_accuracy_can_be_measured_in_some_epochs_only(tmp_path: Path) -> None:
    train_tiny(tmp_path, "callbacks.robust_validation.every_n_epochs=2", "trainer.max_epochs=4")
    first, measured, repeated, last = logged(tmp_path, "val/acc_pgd")  # the first and the last are in any case
    assert [first[0], measured[0], repeated, last[0]] == [0, 1, (2, measured[1]), 3]
    epochs = [
        torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    ]
    best = 3 if last[1] > max(first[1], measured[1]) else int(measured[1] > first[1])
    assert epochs == [best, 3]  # never the third, whose value is repeated


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_model_without_a_backbone_entry_is_named_by_its_class(tmp_path: Path) -> None:
    target = "tests.helpers.hydra_run.PlainMoonModel"
    overrides = [*(item for item in TINY if not item.startswith("model.")), "~model", f"+model._target_={target}"]
    with composed_job("train", overrides, tmp_path) as cfg:
        summary = train(cfg)
    assert summary is not None
    assert summary.trained["model"] == target


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("regularizer.gamma=-1", "expected gamma to be a finite number >= 0"),
        ("attack.steps=0", "PGD: expected steps to be an integer >= 1, got 0"),
        ("data.noise=-1", "MoonDataModule: expected noise to be a finite number >= 0, got -1"),
        ("callbacks.atlr.top_k=0", "ATLR: expected top_k to be an integer >= 1 or None, got 0"),
        ("model.backbone.hidden=[]", "MLP: expected hidden to be a list of at least one value, got []"),
        ("evaluation.masking.n_samples=0", "expected n_samples to be an integer >= 1, got 0"),
        ("evaluation.limit_batches=0", "expected limit_batches to be an integer >= 1 or None, got 0"),
        ("analysis.attacks.salt.amount=2", "got 2"),
        ("analysis.mvl_from=fgm", "expected mvl_from to be one of ['pgd', 'fgsm', "),
        ("analysis.layers=[nowhere]", "analysis.layers: expected names of submodules, got unknown ['nowhere']"),
        ("analysis.attacks.salt=2.5", "expected attacks['salt'] to be an Attack, got 2.5"),
        ("evaluation.attacks.pgd=null", "expected draw to be one of ['fgsm'] or None, got 'pgd'"),
        ("evaluation.attacks.pgd=2.5", "expected attacks['pgd'] to be an Attack, got 2.5"),
        ("optimized_metric=1.5", "expected optimized_metric to be a name or None, got 1.5"),
        ("evaluation.draw=fgm", "expected draw to be one of ['fgsm', 'pgd'] or None, got 'fgm'"),
        ("optimized_metric=rg_score/fgm", "one of mu, sigma, accuracy/clean, accuracy/fgsm/0.1, accuracy/fgsm/0.3,"),
        ("optimized_metric=last", "rg_score/pgd, rg_score/exact, a val/... of training, or null, got 'last'"),
        (
            "model.backbone._target_=missing.Net",
            "model.backbone: expected missing to be installed, for missing.Net: pip",
        ),
        ("callbacks.atlr.mvl=[act3]", "these exist: normalize, backbone, backbone.fc1"),
    ],
)
def test_an_invalid_value_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main_as_shown(main, *TINY, f"hydra.run.dir={tmp_path}", option)
    assert exit_.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.csv").exists()
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("option", "message"),
    [("data.nois=0.1", "did you mean data.noise?"), ("objective=trade", "did you mean objective=trades?")],
)
def test_a_mistyped_option_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main_as_shown(main, f"hydra.run.dir={tmp_path}/run", option)
    assert exit_.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("callbacks", "where"), [("at_lr", "finite inputs"), ("normal", "finite logits")])
def test_nan_in_a_batch_ends_the_run_and_keeps_what_was_there(tmp_path: Path, callbacks: str, where: str) -> None:
    poisoned = (
        f"callbacks={callbacks}",
        "data._target_=tests.helpers.hydra_run.PoisonedMoons",
        "+trainer.reload_dataloaders_every_n_epochs=1",
        "trainer.max_epochs=3",
    )
    with pytest.raises(ValueError, match=f"expected {where}"):
        train_tiny(tmp_path, *poisoned)
    assert [epoch for epoch, _ in logged(tmp_path, "val/acc_clean")] == [0]
    assert [epoch for epoch, _ in logged(tmp_path, "train/loss")][:1] == [0]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    assert not (tmp_path / "summary.json").exists()


def test_help_shows_examples_groups_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    run_as_script("train", "--help")
    shown = capsys.readouterr().out
    assert "lsa-train experiment=moon_at_lr" in shown
    assert "attack: adaptive, apgd, autoattack, blur" in shown
    assert "_target_: lsa_lightning.RobustClassifier" in shown


ALIKE = (
    "experiment=moon_at_lr",
    "data._target_=tests.helpers.hydra_run.MoonsInBatches",
    "attack.random_start=false",  # each process draws its own
    "callbacks.checkpoint.monitor=epoch",
    "trainer.max_epochs=2",
)


def test_two_processes_train_and_measure_what_one_does_with_twice_the_batch_size(tmp_path: Path) -> None:
    folder, single = tmp_path / "two", tmp_path / "one"
    overrides = ("trainer=ddp", "trainer.devices=2", "data.batch_size=16", f"hydra.run.dir={folder}")
    command = [sys.executable, "-m", "lsa_lightning.cli.train", *TINY, *ALIKE, *overrides]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    train_tiny(single, *ALIKE, "data.batch_size=32")
    both = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (folder, single)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)
    assert read_json(folder / "evaluation.json") == read_json(single / "evaluation.json")
    for name in ("pgd", "fgsm", "gaussian", "salt"):
        found, expected = (read_json(run / f"profile_{name}.json") for run in (folder, single))
        assert found["samples"] == 40
        assert found["layers"] == expected["layers"]
        assert found["mean"] == pytest.approx(expected["mean"], abs=1e-5)
        assert found["sigma"] == pytest.approx(expected["sigma"], abs=1e-5)
    states = [
        (folder / "state" / name).read_text().splitlines() for name in ("evaluation.jsonl", "evaluation.jsonl.rank1")
    ]
    assert [[json.loads(line)["batch"] for line in lines[1:]] for lines in states] == [[0, 2], [1]]
    assert (done.stdout.count("R&G:"), done.stdout.count("MVL of the trained network under")) == (1, 1)
