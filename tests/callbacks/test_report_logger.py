"""ReportLogger in a Lightning project that has nothing to do with lsa-train."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import pandas as pd
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tests.helpers.drawings import read_board
from tests.helpers.modules import ForeignModule, loader, trainer

from lsa_lightning import ATLR
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import ReportLogger
from lsa_lightning.plotting import layers

STEPS = 3
"""Optimizer steps per epoch."""


def fit(
    callbacks: list[pl.Callback], loggers: list[Logger], epochs: int, ckpt_path: Path | None = None, **kwargs: Any
) -> pl.Trainer:
    run = trainer(callbacks, logger=loggers, max_epochs=epochs, log_every_n_steps=1, **kwargs)
    run.fit(ForeignModule(), loader(), loader(seed=1), ckpt_path=ckpt_path)
    return run


def board(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name="board", version="")


def atlr(**kwargs: Any) -> ATLR:
    return ATLR(FGSM(eps=0.1), top_k=1, **kwargs)


@pytest.mark.parametrize(
    ("every", "epochs", "drawn"),
    [(0, 3, [3]), (1, 3, [1, 2, 3]), (2, 3, [2, 3]), (2, 2, [2]), (10, 1, [1])],
)
def test_figures_and_table_come_every_n_epochs_and_at_the_end(
    tmp_path: Path, every: int, epochs: int, drawn: list[int]
) -> None:
    fit([atlr(), ReportLogger(every)], [board(tmp_path)], epochs)
    events = read_board(tmp_path / "board")
    assert set(events.Tags()["images"]) == {"lsa/history", "lsa/profile"}
    steps = [epoch * STEPS for epoch in drawn]
    for key in ("lsa/history", "lsa/profile"):
        assert [image.step for image in events.Images(key)] == steps
    assert [text.step for text in events.Tensors("lsa/mvl/text_summary")] == steps


def test_the_figures_show_the_history_of_the_callback(tmp_path: Path) -> None:
    callback = atlr()
    with (
        patch.object(layers, "plot_mvl_history", wraps=layers.plot_mvl_history) as heat_map,
        patch("lsa_lightning.plotting.plot_mvl_history", heat_map),
        patch("lsa_lightning.plotting.plot_profiles", wraps=layers.plot_profiles) as profile,
    ):
        fit([ReportLogger(0), callback], [board(tmp_path)], 2)
    assert heat_map.call_args.args == (
        [0, 1],
        [dict(zip(entry.report.layers, entry.report.z_scores.tolist(), strict=True)) for entry in callback.history],
        [entry.mvl for entry in callback.history],
    )
    names, means = profile.call_args.args
    assert list(names) == callback.history[-1]["layers"]
    assert means == {"epoch 1": callback.history[-1]["mean"]}
    assert profile.call_args.kwargs["mvl"] == callback.mvl
    text = read_board(tmp_path / "board").Tensors("lsa/mvl/text_summary")[0].tensor_proto.string_val[0].decode()
    assert [row.split(" | ")[:2] for row in text.splitlines()[2:]] == [
        [f"| {entry['epoch']}", ", ".join(entry["mvl"])] for entry in callback.history
    ]


def test_figures_and_table_lie_beside_metrics_csv(tmp_path: Path) -> None:
    callback = atlr()
    fit([callback, ReportLogger(1)], [CSVLogger(tmp_path, name="", version="")], 2)
    assert {path.name for path in (tmp_path / "lsa").iterdir()} == {"history.png", "profile.png", "mvl.csv"}
    table = pd.read_csv(tmp_path / "lsa" / "mvl.csv")
    assert table["epoch"].tolist() == [0, 1]
    assert table["mu"].tolist() == pytest.approx([float(entry.report.mu) for entry in callback.history])


@pytest.mark.parametrize("callbacks", [[ReportLogger(1)], [atlr(), ReportLogger(1)]], ids=["no ATLR", "no logger"])
def test_without_a_history_or_a_logger_for_it_nothing_is_drawn(tmp_path: Path, callbacks: list[pl.Callback]) -> None:
    loggers: list[Logger] = [board(tmp_path)] if len(callbacks) == 1 else []
    with patch("lsa_lightning.plotting.plot_mvl_history") as draw:
        fit(callbacks, loggers, 1)
    draw.assert_not_called()


def test_the_csv_file_is_the_same_with_and_without(tmp_path: Path) -> None:
    contents = []
    for name, more in (("with", [ReportLogger(1)]), ("without", [])):
        pl.seed_everything(0)
        logger = CSVLogger(tmp_path / name, name="", version="")
        fit([atlr(), *more], [logger, board(tmp_path / name)], 2)
        contents.append((tmp_path / name / "metrics.csv").read_bytes())
    assert contents[0] == contents[1]


def test_only_the_first_process_draws(tmp_path: Path) -> None:
    callback = atlr()
    fit([callback], [], 1)
    for first, calls in ((False, 0), (True, 1)):
        process = SimpleNamespace(
            callbacks=[callback], loggers=[board(tmp_path)], is_global_zero=first, global_step=STEPS
        )
        with patch("lsa_lightning.runs.loggers.TensorBoardResults.log_table") as log:
            ReportLogger().on_train_end(process, ForeignModule())  # type: ignore[arg-type]
        assert log.call_count == calls


def test_a_resumed_run_goes_on_with_the_history(tmp_path: Path) -> None:
    fit([atlr(), ReportLogger(1)], [], 1).save_checkpoint(tmp_path / "last.ckpt")
    callback = atlr()
    fit([callback, ReportLogger(1)], [board(tmp_path)], 2, tmp_path / "last.ckpt")
    assert len(callback.history) == 2
    assert [image.step for image in read_board(tmp_path / "board").Images("lsa/history")] == [2 * STEPS]


def test_a_fast_dev_run_draws_nothing(tmp_path: Path) -> None:
    with patch("lsa_lightning.plotting.plot_mvl_history") as draw:
        fit([atlr(), ReportLogger(1)], [board(tmp_path)], 1, fast_dev_run=True)
    draw.assert_not_called()


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="expected every_n_epochs to be an integer >= 0, got -1"):
        ReportLogger(-1)
