"""What each kind of logger does with figures, tables and final results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image
from tests.helpers.drawings import TABLE, drawing, read_board

from lsa_lightning.runs.loggers import (
    CSVResults,
    JobMLFlowLogger,
    JobWandbLogger,
    MLFlowResults,
    ResultLogger,
    TensorBoardResults,
    WandbResults,
    pixels_of,
    result_loggers,
    wandb_id,
)

RESULTS = {"test/rg_score_pgd": 321.5, "test/mvl": "fc1, fc2"}


class RecordingMLFlowLogger(MLFlowLogger):
    """Lightning's logger with a client that records its calls, and no mlflow."""

    def __init__(self) -> None:
        self.client = Mock()
        self._run_id = "run-7"
        self._initialized = True
        self._checkpoint_callback = None

    @property
    def experiment(self) -> Any:
        return self.client


def test_each_logger_has_the_adapter_of_its_kind(tmp_path: Path) -> None:
    loggers = [
        CSVLogger(tmp_path),
        TensorBoardLogger(tmp_path),
        WandbLogger(save_dir=tmp_path, offline=True),
        RecordingMLFlowLogger(),
    ]
    adapters = result_loggers(loggers)
    assert [type(adapter) for adapter in adapters] == [CSVResults, TensorBoardResults, WandbResults, MLFlowResults]
    assert [adapter.logger for adapter in adapters] == loggers


def test_a_logger_of_another_kind_is_left_alone() -> None:
    assert result_loggers([Mock(spec=Logger)]) == []


class MyLogger(CSVLogger):
    """A logger of somebody else's."""


@pytest.fixture
def _kinds_stay() -> Any:
    kinds = list(ResultLogger.kinds)
    yield
    ResultLogger.kinds[:] = kinds


@pytest.mark.usefixtures("_kinds_stay")
def test_one_class_makes_a_logger_known_and_goes_before_that_of_its_base(tmp_path: Path) -> None:
    class MyResults(ResultLogger):
        logger_type = MyLogger

        def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
            self.shown = (key, pixels.shape, step)

        def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
            pass

    first, second = result_loggers([MyLogger(tmp_path), CSVLogger(tmp_path)])
    assert isinstance(first, MyResults)
    assert type(second) is CSVResults
    first.log_figure("a", pixels_of(drawing()), 3)
    assert first.shown == ("a", (50, 100, 3), 3)
    first.log_summary(RESULTS, 3)
    first.log_file("report", tmp_path / "report.html")
    first.interrupt()
    first.finish(failed=True)  # none of them has to be written
    assert not first.takes_files


def test_without_its_class_a_logger_has_the_adapter_of_its_base(tmp_path: Path) -> None:
    (adapter,) = result_loggers([MyLogger(tmp_path)])
    assert type(adapter) is CSVResults


def test_a_figure_and_its_file_give_the_same_pixels(tmp_path: Path) -> None:
    drawing().savefig(tmp_path / "x.png")
    np.testing.assert_array_equal(pixels_of(drawing()), pixels_of(tmp_path / "x.png"))
    expected = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    np.testing.assert_array_equal(pixels_of(drawing()), expected)
    assert expected.std() > 10


def board(folder: Path) -> TensorBoardResults:
    return TensorBoardResults(TensorBoardLogger(folder, name="board", version=""))


def test_tensorboard_shows_a_figure(tmp_path: Path) -> None:
    board(tmp_path).log_figure("a/figure", pixels_of(drawing()), 7)
    (shown,) = read_board(tmp_path / "board").Images("a/figure")
    assert (shown.step, shown.width, shown.height) == (7, 100, 50)
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown.encoded_image_string)), pixels_of(drawing()))


def test_a_table_is_text_in_tensorboard(tmp_path: Path) -> None:
    board(tmp_path).log_table("a/table", TABLE, 3)
    (text,) = read_board(tmp_path / "board").Tensors("a/table/text_summary")
    expected = "| epoch | mvl |\n| --- | --- |\n| 0 | fc1, fc2 |\n| 1 |  |"
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (3, expected)


def csv(folder: Path) -> CSVResults:
    return CSVResults(CSVLogger(folder, name="", version=""))


def test_the_csv_logger_has_files_beside_its_metrics(tmp_path: Path) -> None:
    logger = csv(tmp_path)
    logger.log_figure("lsa/profile", pixels_of(drawing()), 1)
    logger.log_table("lsa/mvl", TABLE, 1)
    np.testing.assert_array_equal(pixels_of(tmp_path / "lsa" / "profile.png"), pixels_of(drawing()))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "lsa" / "mvl.csv", keep_default_na=False), TABLE)
    logger.log_table("lsa/mvl", TABLE[:1], 2)
    assert len(pd.read_csv(tmp_path / "lsa" / "mvl.csv")) == 1


def test_mlflow_gets_artifacts_metrics_and_tags() -> None:
    logger = RecordingMLFlowLogger()
    (adapter,) = result_loggers([logger])
    pixels = pixels_of(drawing())
    adapter.log_figure("figures/accuracy", pixels, 4)
    adapter.log_table("tables/profile", TABLE, 4)
    adapter.log_summary(RESULTS, 4)
    logger.client.log_image.assert_called_once_with("run-7", pixels, "figures/accuracy.png")
    logger.client.log_text.assert_called_once_with("run-7", TABLE.to_csv(index=False), "tables/profile.csv")
    logger.client.log_metric.assert_called_once_with("run-7", "test/rg_score_pgd", 321.5, step=4)
    logger.client.set_tag.assert_called_once_with("run-7", "test/mvl", "fc1, fc2")


@pytest.mark.parametrize(("failed", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_mlflow_is_told_how_the_run_ended(failed: bool, status: str) -> None:
    logger = RecordingMLFlowLogger()
    MLFlowResults(logger).finish(failed)
    logger.client.set_terminated.assert_called_once_with("run-7", status)


def test_the_real_mlflow_holds_artifacts_metrics_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (adapter,) = result_loggers([MLFlowLogger("x", tracking_uri=uri, artifact_location=str(tmp_path / "files"))])
    adapter.log_figure("figures/accuracy", pixels_of(drawing()), 4)
    adapter.log_table("tables/profile", TABLE, 4)
    adapter.log_summary(RESULTS, 4)
    adapter.finish(failed=True)
    run = mlflow.MlflowClient(uri).get_run(adapter.logger.run_id)
    assert run.data.metrics == {"test/rg_score_pgd": 321.5}
    assert run.data.tags["test/mvl"] == "fc1, fc2"
    assert run.info.status == "FAILED"
    (image,) = tmp_path.rglob("accuracy.png")
    np.testing.assert_array_equal(pixels_of(image), pixels_of(drawing()))
    (table,) = tmp_path.rglob("profile.csv")
    pd.testing.assert_frame_equal(pd.read_csv(table, keep_default_na=False), TABLE)


def test_a_job_that_goes_on_goes_on_with_its_mlflow_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = {"tracking_uri": uri, "artifact_location": str(tmp_path / "files")}
    first, other = (JobMLFlowLogger(tmp_path / name, **options) for name in ("a", "b"))
    first.log_hyperparams({"trainer": {"max_epochs": 3}, "seed": 0})
    first.log_metrics({"loss": 1.0}, step=15)
    first.finalize("failed")
    again = JobMLFlowLogger(tmp_path / "a", **options)
    again.log_hyperparams({"trainer": {"max_epochs": 5}, "seed": 0, "name": "x"})
    client = mlflow.MlflowClient(uri)
    assert client.get_run(again.run_id).info.status == "RUNNING"
    again.log_metrics({"loss": 0.5}, step=31)
    again.finalize("success")
    other.log_metrics({"loss": 2.0}, step=15)
    assert again.run_id == first.run_id != other.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert [(point.step, point.value) for point in client.get_metric_history(first.run_id, "loss")] == [
        (15, 1.0),
        (31, 0.5),
    ]
    assert run.data.params == {"trainer/max_epochs": "3", "seed": "0", "name": "x"}
    assert {name: tag for name, tag in run.data.tags.items() if "/" in name} == {"changed/trainer/max_epochs": "5"}


@pytest.mark.parametrize("gone", ["deleted", "elsewhere", "emptied"])
def test_an_mlflow_run_that_is_not_there_any_more_is_replaced(gone: str, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uris = [f"sqlite:///{tmp_path}/{name}.db" for name in ("here", "there")]
    options = {"artifact_location": str(tmp_path / "files")}
    before = JobMLFlowLogger(tmp_path, tracking_uri=uris[0], **options).run_id
    if gone == "deleted":
        mlflow.MlflowClient(uris[0]).delete_run(before)
    if gone == "emptied":
        (tmp_path / "mlflow_run_id.txt").write_text("")
    again = JobMLFlowLogger(tmp_path, tracking_uri=uris[gone == "elsewhere"], **options)
    if gone == "emptied":
        assert again.run_id != before
    else:
        with pytest.warns(UserWarning, match=f"has no run {before}, which .*mlflow_run_id.txt names: a new one begins"):
            assert again.run_id != before
    assert (tmp_path / "mlflow_run_id.txt").read_text().strip() == again.run_id


def test_a_given_mlflow_run_goes_before_that_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mlflow_run_id.txt").write_text("of the folder\n")
    with patch.object(MLFlowLogger, "__init__", return_value=None) as begun:
        JobMLFlowLogger(tmp_path)
        JobMLFlowLogger(tmp_path, run_id="mine")
    assert [call.kwargs["run_id"] for call in begun.call_args_list] == ["of the folder", "mine"]


def test_a_run_folder_has_one_wandb_id_and_another_one_another(tmp_path: Path) -> None:
    first, again, other = (JobWandbLogger(tmp_path / name, offline=True) for name in ("a", "a", "b"))
    assert first.version == again.version == (tmp_path / "a" / "wandb_id.txt").read_text().strip()
    assert other.version not in (first.version, None)


def test_a_given_wandb_id_goes_before_that_of_the_folder(tmp_path: Path) -> None:
    assert JobWandbLogger(tmp_path, id="mine", offline=True).version == "mine"
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_makes_a_wandb_id(tmp_path: Path) -> None:
    with patch("lsa_lightning.runs.loggers.is_first_process", lambda: False):
        assert wandb_id(tmp_path) is None
        (tmp_path / "wandb_id.txt").write_text("abc\n")
        assert wandb_id(tmp_path) == "abc"


def test_artifacts_must_be_a_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected artifacts to be"):
        JobWandbLogger(tmp_path, artifacts="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("artifacts", [False, True])
def test_wandb_takes_files_if_it_is_told_to(tmp_path: Path, artifacts: bool) -> None:
    adapters = result_loggers([JobWandbLogger(tmp_path, artifacts=artifacts, offline=True)])
    assert [adapter.takes_files for adapter in adapters] == [artifacts]
    assert not WandbResults(WandbLogger(save_dir=tmp_path, offline=True)).takes_files


def test_an_interrupted_run_without_wandb_is_left_alone() -> None:
    WandbResults(Mock(spec=WandbLogger)).interrupt()


@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 1)])
def test_wandb_gets_images_tables_a_summary_and_the_end(failed: bool, code: int) -> None:
    logger = Mock(spec=WandbLogger, experiment=Mock())
    (adapter,) = result_loggers([logger])
    pixels = pixels_of(drawing())
    adapter.log_figure("figures/accuracy", pixels, 4)
    adapter.log_table("lsa/mvl", TABLE, 4)
    adapter.log_summary(RESULTS, 4)
    logger.log_image.assert_called_once_with("figures/accuracy", [pixels], 4)
    logger.log_table.assert_called_once_with("lsa/mvl", dataframe=TABLE, step=4)
    logger.experiment.summary.update.assert_called_once_with(RESULTS)
    with patch("wandb.finish") as finish:
        adapter.finish(failed)
    finish.assert_called_once_with(exit_code=code)
