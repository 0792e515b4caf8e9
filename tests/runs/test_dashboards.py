"""What a run of lsa-train leaves in W&B and TensorBoard, read back with their own readers."""

from __future__ import annotations

import csv
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import matplotlib.image
import numpy as np
import pytest
import wandb
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers.hydra_run import TINY, logged, main_in_process, read_json, read_metrics, train_tiny
from tests.helpers.wandb_run import OFFLINE, WandbRun, keep_wandb_in, read_every_wandb, read_wandb

from lsa_lightning.cli.train import main

EPOCHS = 2
LAYERS = [f"{i:02d}_backbone.act{i + 1}" for i in range(3)]
FIGURES = {
    f"figures/{name}"
    for name in (
        "accuracy",
        "class_accuracy",
        "confusion",
        "decision_boundary",
        "layer_profile",
        "mvl_history",
        "training",
    )
}
LIVE_FIGURES = {"lsa/history", "lsa/profile"}
COLUMNS = {"step": "trainer/global_step"}
"""Names of columns of metrics.csv that W&B has under another one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with all loggers."""
    folder = tmp_path_factory.mktemp("dashboards") / "run"
    loggers = ("logger=many", OFFLINE[1], "logger.wandb.artifacts=true")
    options = (*loggers, f"trainer.max_epochs={EPOCHS}", "name=my_run", "seed=3")
    with pytest.MonkeyPatch.context() as monkeypatch:
        keep_wandb_in(folder.parent, monkeypatch)
        now_and_then = ("callbacks.report_logger.every_n_epochs=1", "callbacks.robust_validation.every_n_epochs=2")
        train_tiny(folder, *options, *now_and_then, figures=True)
        yield folder


@pytest.fixture(scope="module")
def run(folder: Path) -> WandbRun:
    return read_wandb(folder)


@pytest.fixture(scope="module")
def events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return events


def csv_keys(folder: Path) -> list[str]:
    return list(read_metrics(folder)[0])


def test_the_csv_is_complete(folder: Path) -> None:
    keys = {"epoch", "step", "train/loss", "train/loss_base", "train/loss_lr"}
    keys |= {"val/acc_clean", "val/acc_pgd", "val/rg_score"}
    keys |= {f"lsa/{kind}/{layer}" for kind in ("relative_error", "in_mvl") for layer in LAYERS}
    assert keys | {"lsa/mu", "lsa/sigma", "lsa/mvl_size"} <= set(csv_keys(folder))


def test_wandb_holds_every_value_of_the_csv(folder: Path, run: WandbRun) -> None:
    for column in csv_keys(folder):
        key = COLUMNS.get(column, column)
        expected = [value for _, value in logged(folder, column)]
        assert expected
        if column in ("epoch", "step"):
            assert {row[key] for row in run.history if key in row} >= set(expected)
        else:
            assert [value for _, value in run.series(key)] == pytest.approx(expected), key
            assert run.summary[key] == pytest.approx(expected[-1])


def test_wandb_has_one_line_per_layer_with_a_point_per_analysed_epoch(folder: Path, run: WandbRun) -> None:
    lines = sorted({key for row in run.history for key in row if key.startswith("lsa/relative_error/")})
    assert lines == [f"lsa/relative_error/{layer}" for layer in LAYERS]
    for key in lines:
        assert run.series(key) == logged(folder, key)
        assert [epoch for epoch, _ in run.series(key)] == [0, *range(EPOCHS)]  # the first list comes before training


def media(run: WandbRun, key: str) -> list[Path]:
    """The files that the history names under ``key``, in the order of time."""
    rows = [row for row in run.history if f"{key}._type" in row]
    paths = [row.get(f"{key}.path") or row[f"{key}.filenames"] for row in rows]
    return [run.files / (path if isinstance(path, str) else path[0]) for path in paths]


def test_wandb_holds_the_figures(folder: Path, run: WandbRun) -> None:
    for key in FIGURES:
        (file,) = media(run, key)
        shown = matplotlib.image.imread(file)[..., :3]
        drawn = matplotlib.image.imread(folder / f"{key}.png")[..., :3]
        np.testing.assert_array_equal(shown, drawn)
        assert run.summary[f"{key}._type"] == "images/separated"
    for key in LIVE_FIGURES:
        files = media(run, key)
        assert len(files) == EPOCHS
        assert all(matplotlib.image.imread(file).std() > 0.05 for file in files)


def table(run: WandbRun, key: str) -> dict[str, Any]:
    return dict(read_json(media(run, key)[-1]))


def test_wandb_holds_the_mvl_table(folder: Path, run: WandbRun) -> None:
    history = read_json(folder / "summary.json")["mvl_history"]
    assert table(run, "lsa/mvl") == {
        "columns": ["epoch", "mvl", "mu", "sigma"],
        "data": [[e["epoch"], ", ".join(e["mvl"]), pytest.approx(e["mu"]), pytest.approx(e["sigma"])] for e in history],
    }
    assert any(entry["mvl"] for entry in history)


@pytest.mark.parametrize("name", ["evaluation", "profile"])
def test_wandb_holds_the_tables_of_the_run_folder(folder: Path, run: WandbRun, name: str) -> None:
    with (folder / f"{name}.csv").open(newline="") as file:
        columns, *rows = csv.reader(file)
    shown = table(run, f"tables/{name}")
    assert shown["columns"] == columns
    assert [row[0] for row in shown["data"]] == [row[0] for row in rows]
    number = columns.index("accuracy") if name == "evaluation" else -1
    assert [row[number] for row in shown["data"]] == pytest.approx([float(row[number]) for row in rows])


def test_wandb_holds_the_configuration_as_searchable_values(folder: Path, run: WandbRun) -> None:
    expected = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(expected, dict)
    assert {key: run.config[key] for key in expected} == expected
    assert run.config["regularizer"]["gamma"] == 0.1


def test_wandbs_run_is_named_grouped_and_tagged(folder: Path, run: WandbRun) -> None:
    assert run.info["project"] == "lsa-lightning"
    assert run.info["run_group"] == "my_run"
    assert run.info["display_name"] == "my_run/run"
    assert run.info["job_type"] == "train"
    assert run.info["tags"] == ["moon", "mlp", "at_lr"]
    assert run.exit_code == 0


def test_wandbs_final_summary_holds_the_results(folder: Path, run: WandbRun) -> None:
    expected = read_json(folder / "summary.json")
    for attack in ("fgsm", "pgd"):
        assert run.summary[f"test/rg_score_{attack}"] == expected["rg_score"][attack]
        for eps, accuracy in list(zip(expected["eps"], expected["accuracy"][attack], strict=True))[1:]:
            assert run.summary[f"test/acc_{attack}_eps_{eps:g}"] == pytest.approx(accuracy / 100)
    assert run.summary["test/acc"] == pytest.approx(expected["accuracy"]["pgd"][0] / 100)
    assert run.summary["test/mvl"] == ", ".join(expected["mvl"])
    raised = [name for name, flag in expected["masking"].items() if flag["raised"]]
    assert run.summary["test/masking"] == (", ".join(raised) or "none")
    assert (run.summary["test/mu"], run.summary["test/sigma"]) == (expected["mu"], expected["sigma"])


def test_wandbs_final_summary_holds_the_best_of_the_monitored_metric_and_its_epoch(folder: Path, run: WandbRun) -> None:
    validated = logged(folder, "val/acc_pgd")
    best = max(value for _, value in validated)
    assert run.summary["best/val/acc_pgd"] == pytest.approx(best)
    assert run.summary["best/epoch"] == next(epoch for epoch, value in validated if value == best)


def test_wandb_holds_the_learning_rate(run: WandbRun) -> None:
    assert run.series("lr-Adam") == [(epoch, pytest.approx(0.05)) for epoch in range(EPOCHS)]


def test_wandbs_id_is_that_of_the_folder_and_names_its_artifacts(folder: Path, run: WandbRun) -> None:
    assert run.info["run_id"] == (folder / "wandb_id.txt").read_text().strip()
    names = {kind: f"{kind}-{run.info['run_id']}" for kind in ("model", "report")}
    assert [(kind, name) for kind, name in sorted(run.artifacts) if kind != "run_table"] == sorted(names.items())
    assert "<html" in (folder / "report.html").read_text()


def test_every_key_that_the_recipe_for_a_workspace_names_is_there(run: WandbRun) -> None:
    text = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    keys = set(re.findall(r"`((?:(?:val|train|test|lsa|best|figures|tables)/|lr-)[^`*<]+)`", text))
    assert len(keys) > 10
    assert keys <= {key.partition("._type")[0] for key in run.summary}


def test_tensorboard_holds_every_value_of_the_csv(folder: Path, events: EventAccumulator) -> None:
    keys = set(csv_keys(folder)) - {"step"}
    assert keys <= set(events.Tags()["scalars"])
    for key in keys - {"epoch"}:
        expected = [(int(row["step"]), float(row[key])) for row in read_metrics(folder) if row[key]]
        points = events.Scalars(key)
        assert [point.step for point in points] == [step for step, _ in expected]
        assert [point.value for point in points] == pytest.approx([value for _, value in expected])


def test_tensorboard_holds_figures_and_the_mvl_table(events: EventAccumulator) -> None:
    images = {tag: len(events.Images(tag)) for tag in events.Tags()["images"]}
    assert images == dict.fromkeys(FIGURES, 1) | dict.fromkeys(LIVE_FIGURES, EPOCHS)
    assert min(image.width for tag in images for image in events.Images(tag)) > 500
    text = events.Tensors("lsa/mvl/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| epoch | mvl | mu | sigma |"
    assert len(text.splitlines()) == 2 + EPOCHS


@pytest.mark.slow
def test_jobs_of_a_sweep_are_runs_of_their_own_in_one_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_wandb_in(tmp_path, monkeypatch)
    with patch("wandb.finish", wraps=wandb.finish) as finish:
        main_in_process(main, "-m", *TINY, *OFFLINE, "seed=0,1", "name=my_run", f"hydra.sweep.dir={tmp_path}/sweep_7")
    assert wandb.run is None
    assert [call.kwargs for call in finish.call_args_list] == [{"exit_code": 0}] * 2
    runs = [read_wandb(tmp_path / "sweep_7" / job) for job in ("seed-0", "seed-1")]
    assert len({run.info["run_id"] for run in runs}) == 2
    assert [run.info["run_group"] for run in runs] == ["sweep_7"] * 2
    assert [run.info["display_name"] for run in runs] == ["my_run/seed-0", "my_run/seed-1"]
    assert [run.config["seed"] for run in runs] == [0, 1]


class IsStopped(pl.Callback):
    """Ctrl-C in the second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_a_job_that_is_stopped_and_goes_on_in_its_folder_is_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_wandb_in(tmp_path, monkeypatch)
    options = (*OFFLINE, "trainer.max_epochs=2", "analysis=null", "evaluation=null")
    handler = signal.getsignal(signal.SIGINT)  # which Lightning switches off
    with pytest.raises(SystemExit):
        train_tiny(tmp_path / "run", *options, f"+callbacks.stop._target_={__name__}.IsStopped")
    signal.signal(signal.SIGINT, handler)
    train_tiny(tmp_path / "run", *options, figures=True)
    first, second = read_every_wandb(tmp_path / "run")
    assert first.info["run_id"] == second.info["run_id"]
    assert (first.preempting, second.preempting) == (True, False)
    assert (first.exit_code, second.exit_code) == (1, 0)
    # It was stopped before the first batch of epoch 1, at which the checkpoint of epoch 0 would have been written.
    assert [epoch for run in (first, second) for epoch, _ in run.series("val/acc_clean")] == [0, 0, 1]


def test_a_failed_job_is_finished_and_marked_in_wandb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_wandb_in(tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="planted"):
        train_tiny(tmp_path / "run", *OFFLINE, "+callbacks.fails._target_=tests.helpers.hydra_run.FailsAtTheEnd")
    assert wandb.run is None
    run = read_wandb(tmp_path / "run")
    assert run.exit_code == 1
    assert not run.preempting
    assert run.series("val/acc_clean")
