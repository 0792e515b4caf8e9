"""``metrics.csv``: whole at any moment, and continued by a resumed run as if it had never been interrupted."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_warn

from lsa_lightning.utils.files import append_text, flush, write_text


class MetricsFile(ExperimentWriter):
    """The rows of ``metrics.csv``. A row is appended; only a new column rewrites the file, beside the old one.

    Args:
        log_dir: the folder of the file.

    Attributes:
        rows: how many rows are in the file.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.rows = 0

    def save(self) -> None:
        """Write the rows that were logged since the last time."""
        if not self.metrics:
            return
        known = self.rows > 0
        if self._record_new_keys() or not known:
            former = self._read()[: self.rows] if known else []
            write_text(self.path, self._lines([*former, *self.metrics], header=True))
        else:
            append_text(self.path, self._lines(self.metrics))
        self.rows += len(self.metrics)
        self.metrics = []

    def keep(self, rows: int | None, step: int) -> None:
        """Go on after the first rows of the file that an earlier attempt has left.

        Args:
            rows: how many; None, where the checkpoint does not say: those of steps before ``step``.
            step: the step to go on with.
        """
        found = self._read() if self.path.is_file() else []
        kept = [row for row in found if int(row["step"]) < step] if rows is None else found[:rows]
        if found and rows is not None and len(found) < rows:
            rank_zero_warn(f"{self.path} holds {len(found)} of the {rows} rows that came before the checkpoint.")
        if kept:
            self.metrics_keys = sorted(kept[0])
            write_text(self.path, self._lines(kept, header=True))
        self.rows = len(kept)

    def _read(self) -> list[dict[str, str]]:
        """The rows on the disk, without one that was cut off when the process died."""
        text = self.path.read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))

    def _lines(self, rows: Iterable[Mapping[str, Any]], *, header: bool = False) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _check_log_dir_exists(self) -> None:
        """Lightning's own deletes what is there."""


class MetricsLogger(CSVLogger):
    """Lightning's CSV logger on a :class:`MetricsFile`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:
        """The file, made when it is first needed."""
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @property
    def rows(self) -> int:
        """How many rows there are; they are on the disk then."""
        file: MetricsFile = self.experiment
        file.save()
        if file.rows:
            flush(file.path)
        return file.rows
