"""Figures, tables and final results for the loggers that can hold them.

A logger of your own kind is one class: subclass :class:`ResultLogger` with its ``logger_type``.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lsa_lightning.utils.checks import flag
from lsa_lightning.utils.files import replacing, write_text
from lsa_lightning.utils.progress import is_first_process

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

WANDB_ID_FILE = "wandb_id.txt"
MLFLOW_ID_FILE = "mlflow_run_id.txt"

_MLFLOW_LONGEST = 250
"""Characters of a parameter's value, as Lightning cuts it."""


class JobWandbLogger(WandbLogger):
    """Lightning's logger of Weights & Biases with one run per run folder, over all restarts of its job.

    The run's id is made once and kept in :data:`WANDB_ID_FILE` there, so that a job that goes on in its folder goes on
    with its run, and two jobs never share one. A copy of a run folder that is to be a run of its own must not have the
    file.

    Args:
        save_dir: the run folder.
        artifacts: whether to upload the best checkpoint and ``report.html`` at the end, also of an offline run, which
            Lightning's ``log_model`` refuses.
        id: the run's id; None: that of the file.
        **options: those of :class:`lightning.pytorch.loggers.WandbLogger`.

    Raises:
        ValueError: if ``artifacts`` is not True or False.
    """

    def __init__(self, save_dir: str | Path, *, artifacts: bool = False, id: str | None = None, **options: Any) -> None:  # noqa: A002
        self.artifacts = flag(self, "artifacts", artifacts)
        super().__init__(save_dir=save_dir, id=id or wandb_id(Path(save_dir)), **options)


def wandb_id(folder: Path) -> str | None:
    """The id of the W&B run of a run folder, made if there is none; only the first process makes one."""
    file = folder / WANDB_ID_FILE
    if not file.is_file():
        if not is_first_process():
            return None
        write_text(file, uuid.uuid4().hex[:12] + "\n")
    return file.read_text(encoding="utf-8").strip()


class JobMLFlowLogger(MLFlowLogger):
    """Lightning's logger of MLflow with one run per run folder, over all restarts of its job.

    MLflow gives the run its id, which is kept in :data:`MLFLOW_ID_FILE` of the run folder; a run that is not there any
    more is replaced, with a warning. Parameters that a run has in MLflow stay, as MLflow has it; other values that come
    later are tags, ``changed/NAME``.

    Args:
        save_dir: the run folder.
        run_id: the run's id; None: that of the file.
        **options: those of :class:`lightning.pytorch.loggers.MLFlowLogger`.
    """

    def __init__(self, save_dir: str | Path, *, run_id: str | None = None, **options: Any) -> None:
        self._id_file = Path(save_dir) / MLFLOW_ID_FILE
        self._known = self._id_file.read_text(encoding="utf-8").strip() if self._id_file.is_file() else ""
        super().__init__(save_dir=str(save_dir), run_id=run_id or self._known or None, **options)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client, as Lightning has it; at its first use the run is begun, or gone on with."""
        if self._initialized:
            return super().experiment
        if self._run_id == self._known and not self._is_there():
            rank_zero_warn(
                f"MLflow at {self._tracking_uri} has no run {self._known}, which {self._id_file} names: a new one "
                "begins."
            )
            self._run_id = None
        goes_on = self._run_id is not None
        client = super().experiment
        if goes_on:
            client.update_run(self._run_id, status="RUNNING")
        else:
            write_text(self._id_file, f"{self._run_id}\n")
        return client

    def _is_there(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._mlflow_client.get_run(self._known).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Those that the run has not yet as parameters; others of the same name as tags."""
        known = self.experiment.get_run(self.run_id).data.params
        given = _flatten_dict(_convert_params(params))
        for name, value in given.items():
            written = str(value)[:_MLFLOW_LONGEST]
            if known.get(name, written) != written and name != "resume":  # which is another one at each start
                self.experiment.set_tag(self.run_id, f"changed/{name}", written)
        super().log_hyperparams({name: value for name, value in given.items() if name not in known})


class ResultLogger(ABC):
    """Hands what single numbers do not show to a Lightning logger.

    Defining a subclass is enough: :func:`result_loggers` finds it by its ``logger_type``.

    Args:
        logger: an instance of ``logger_type``.
    """

    logger_type: ClassVar[type[Logger]]
    """The Lightning logger that the class is for."""

    kinds: ClassVar[list[type[ResultLogger]]] = []
    """All subclasses, the last defined one first."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ResultLogger.kinds.insert(0, cls)

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    @abstractmethod
    def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Take a figure, ``[H, W, 3]``."""

    @abstractmethod
    def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
        """Take a table."""

    def log_summary(self, values: Mapping[str, float | str], step: int) -> None:  # noqa: B027  (optional)
        """Take the final results by name; a logger that has no place for them leaves them out."""

    @property
    def takes_files(self) -> bool:
        """Whether :meth:`log_file` does something."""
        return False

    def log_file(self, kind: str, path: Path) -> None:  # noqa: B027  (optional)
        """Take a file of a finished run, the best checkpoint (``model``) or the page about the run (``report``)."""

    def interrupt(self) -> None:  # noqa: B027  (optional)
        """The job is stopped from outside and may go on later; :meth:`finish` comes after it, with ``failed``."""

    def finish(self, failed: bool) -> None:  # noqa: B027  (optional)
        """The job ends, after an error if ``failed``; a logger that needs no closing does nothing."""


class WandbResults(ResultLogger):
    """Images, tables and the run's summary in Weights & Biases."""

    logger_type = WandbLogger

    def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """An image."""
        self.logger.log_image(key, [pixels], step)

    def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
        """A table that W&B can sort and filter."""
        self.logger.log_table(key, dataframe=table, step=step)

    def log_summary(self, values: Mapping[str, float | str], step: int) -> None:
        """The run's summary, which runs are sorted and filtered by."""
        self.logger.experiment.summary.update(dict(values))

    @property
    def takes_files(self) -> bool:
        """Whether the logger was told to."""
        return getattr(self.logger, "artifacts", False)

    def log_file(self, kind: str, path: Path) -> None:
        """An artifact ``<kind>-<run id>`` of type ``kind``."""
        import wandb

        run = self.logger.experiment
        artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
        artifact.add_file(str(path))
        run.log_artifact(artifact)

    def interrupt(self) -> None:
        """Mark the run as one that goes on; W&B calls it preempted then, not failed or crashed."""
        import wandb

        if wandb.run is not None:
            wandb.run.mark_preempting()

    def finish(self, failed: bool) -> None:
        """End the run, else the next job of a sweep would write into it; one that failed is marked so."""
        import wandb

        wandb.finish(exit_code=int(failed))


class TensorBoardResults(ResultLogger):
    """Images and text in TensorBoard."""

    logger_type = TensorBoardLogger

    def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """An image."""
        self.logger.experiment.add_image(key, pixels, step, dataformats="HWC")
        self.logger.experiment.flush()  # what comes after fit is not flushed by Lightning

    def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
        """A table in Markdown."""
        self.logger.experiment.add_text(key, _markdown(table), step)
        self.logger.experiment.flush()


class MLFlowResults(ResultLogger):
    """Image and JSON artifacts, metrics and tags in MLflow."""

    logger_type = MLFlowLogger

    def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """An artifact ``<key>.png``; a later one replaces it."""
        self.logger.experiment.log_image(self.logger.run_id, pixels, f"{key}.png")

    def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
        """An artifact ``<key>.csv``; a later one replaces it."""
        self.logger.experiment.log_text(self.logger.run_id, table.to_csv(index=False), f"{key}.csv")

    def log_summary(self, values: Mapping[str, float | str], step: int) -> None:
        """Numbers as metrics, words as tags."""
        for name, value in values.items():
            if isinstance(value, str):
                self.logger.experiment.set_tag(self.logger.run_id, name, value)
            else:
                self.logger.experiment.log_metric(self.logger.run_id, name, value, step=step)

    def finish(self, failed: bool) -> None:
        """Say how the run ended."""
        self.logger.finalize("failed" if failed else "success")


class CSVResults(ResultLogger):
    """Files beside ``metrics.csv``."""

    logger_type = CSVLogger

    def log_figure(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        """``<key>.png``; a later one replaces it."""
        from matplotlib.image import imsave

        with replacing(self._file(f"{key}.png")) as new:
            imsave(new, pixels)

    def log_table(self, key: str, table: pd.DataFrame, step: int) -> None:
        """``<key>.csv``; a later one replaces it."""
        write_text(self._file(f"{key}.csv"), table.to_csv(index=False))

    def _file(self, name: str) -> Path:
        return Path(self.logger.log_dir) / name


def result_loggers(loggers: Iterable[Logger]) -> list[ResultLogger]:
    """An adapter for each of ``loggers`` that there is a kind for; the others hold numbers alone."""
    adapters = (
        next((kind(logger) for kind in ResultLogger.kinds if isinstance(logger, kind.logger_type)), None)
        for logger in loggers
    )
    return [adapter for adapter in adapters if adapter is not None]


def pixels_of(image: Figure | Path) -> NDArray[np.uint8]:
    """``[H, W, 3]`` of a figure, or of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imread

    if isinstance(image, Path):  # matplotlib reads PNG as values in [0, 1]
        return (255 * imread(image)[..., :3]).round().astype(np.uint8)
    canvas: Any = FigureCanvasAgg(image)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
