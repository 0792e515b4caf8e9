"""The bar and the lines of a training."""

from __future__ import annotations

import io
import itertools
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import SaveWithin, assert_same
from tests.helpers.two_processes import two_processes, without_batch_norm
from torch.utils.data import DataLoader, IterableDataset

from lsa_lightning import ATLR, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM
from lsa_lightning.callbacks import TrainingProgress
from lsa_lightning.callbacks import progress as module
from lsa_lightning.callbacks.progress import EpochTimes, accuracies_of, number_of_epochs, regularized_in_words
from lsa_lightning.utils import progress as lines

STEPS = 3
"""Training batches per epoch."""


def fit(*callbacks: pl.Callback, model: pl.LightningModule | None = None, **options: Any) -> pl.Trainer:
    run = trainer(list(callbacks), **{"max_epochs": 2, "enable_progress_bar": True, **options})
    run.fit(model or ForeignModule(), loader(), loader(seed=1))
    return run


class Losses(pl.Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


class Log(logging.Handler):
    """The lines that are said."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(lines.__name__)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    with logging_to(handler):
        yield handler


def test_a_line_per_epoch_says_loss_accuracies_layers_and_time_left(log: Log) -> None:
    losses, atlr = Losses(), ATLR(FGSM(eps=0.1), top_k=1)
    validation = RobustValidation({"fgsm": FGSM(eps=0.1), "stronger": FGSM(eps=0.3)})
    run = fit(TrainingProgress(), losses, atlr, validation)
    first, *epochs, last = log.messages
    assert first == "Training: from epoch 1/2, under FGSM at eps 0.1"
    assert re.fullmatch(r"Training: done in 0:00:\d\d", last)
    assert len(epochs) == 2
    clean, *robust = (float(run.callback_metrics[f"val/acc_{name}"]) for name in ("clean", "fgsm", "stronger"))
    assert epochs[1].startswith(
        f"Epoch 2/2: loss {sum(losses.values[STEPS:]) / STEPS:.4g}, "
        f"clean {100 * clean:.1f} %, robust {100 * min(robust):.1f} %, regularizes {atlr.mvl[0]}, "
    )
    assert all(re.search(r", 0:00:\d\d left$", line) for line in epochs)


def test_accuracies_that_are_repeated_are_those_of_their_epoch(log: Log, tmp_path: Path) -> None:
    callbacks = [TrainingProgress(), RobustValidation({"fgsm": FGSM(0.1)}, every_n_epochs=3)]  # the bar comes first
    fit(*callbacks, max_epochs=5).save_checkpoint(tmp_path / "last.ckpt")
    said = [re.search(r"robust [\d.]+ %( \(epoch \d\))?, 0:", line) for line in log.messages[1:-1]]
    assert [match and match[1] for match in said] == [None, " (epoch 1)", None, " (epoch 3)", None]
    assert all(said)
    log.messages.clear()
    run = trainer([*callbacks], enable_progress_bar=True, max_epochs=8)
    run.fit(ForeignModule(), loader(), loader(seed=1), ckpt_path=tmp_path / "last.ckpt")
    assert "(epoch 6)" in log.messages[2]
    assert "(epoch" not in log.messages[1] + log.messages[3]


def test_without_our_callbacks_there_is_the_loss(log: Log) -> None:
    fit(TrainingProgress())
    assert re.fullmatch(r"Epoch 1/2: loss [\d.]+, 0:00:\d\d left", log.messages[1])


def test_the_loss_of_accumulated_batches_is_not_divided(log: Log) -> None:
    losses = Losses()
    fit(TrainingProgress(), losses, max_epochs=1, accumulate_grad_batches=STEPS)
    assert f"loss {sum(losses.values):.4g}" in log.messages[1]


class ManualModule(ForeignModule):
    """Optimizes by itself, and returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        return None


def test_a_step_that_returns_nothing_has_no_loss(log: Log) -> None:
    fit(TrainingProgress(), model=ManualModule(), max_epochs=1)
    assert log.messages[1] == "Epoch 1/1: 0:00:00 left"


def test_a_resumed_fit_goes_on_at_its_epoch(tmp_path: Path, log: Log) -> None:
    fit(TrainingProgress()).save_checkpoint(tmp_path / "last.ckpt")
    log.messages.clear()
    run = trainer([TrainingProgress()], enable_progress_bar=True, max_epochs=3)
    run.fit(ForeignModule(), loader(), loader(seed=1), ckpt_path=tmp_path / "last.ckpt")
    assert log.messages[0] == "Training: from epoch 3/3, no attack"
    assert [line.partition(":")[0] for line in log.messages[1:]] == ["Epoch 3/3", "Training"]


def test_a_fit_that_goes_on_within_an_epoch_counts_the_rest_of_it(tmp_path: Path, log: Log) -> None:
    fit(SaveWithin(tmp_path / "within.ckpt"))
    callback = TrainingProgress()
    run = trainer([callback], enable_progress_bar=True, max_epochs=3)
    with patch.object(EpochTimes, "go_on", autospec=True) as go_on:
        run.fit(ForeignModule(), loader(), loader(seed=1), ckpt_path=tmp_path / "within.ckpt")
    assert [call.args[1] for call in go_on.call_args_list] == [1 / STEPS]
    assert log.messages[0] == "Training: from epoch 2/3, no attack"
    assert [line.partition(":")[0] for line in log.messages[1:]] == ["Epoch 2/3", "Epoch 3/3", "Training"]


class Breaks(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            msg = "planted"
            raise RuntimeError(msg)


def test_a_fit_that_breaks_says_where_and_leaves_no_bar(log: Log) -> None:
    callback = TrainingProgress()
    with pytest.raises(RuntimeError, match="planted"):
        fit(callback, Breaks())
    assert re.fullmatch(r"Training: stopped in epoch 2 after 0:00:\d\d", log.messages[-1])
    pickle.loads(pickle.dumps(callback))  # the bar has a lock, which cannot be pickled


@pytest.mark.parametrize("off", [TrainingProgress(shown=False), TrainingProgress()], ids=["shown", "disabled"])
def test_nothing_is_said_if_it_is_off(off: TrainingProgress, log: Log) -> None:
    if off.shown is None:
        off.disable()
    fit(off, max_epochs=1)
    assert log.messages == []
    off.enable()


def test_a_fit_without_training_says_nothing(log: Log) -> None:
    fit(TrainingProgress(), max_epochs=0)
    assert log.messages == []


def test_the_bar_is_a_line_of_80_columns_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    error = io.StringIO()
    monkeypatch.setattr(lines, "Console", lambda **_: Console(file=error, width=80))
    monkeypatch.setattr(module, "SECONDS_BETWEEN_UPDATES", 0.0)
    fit(TrainingProgress(shown=True), RobustValidation({"fgsm": FGSM(eps=0.1)}))
    (line,) = error.getvalue().splitlines()  # where it is no terminal, the last state alone is printed
    assert len(line) == 80
    assert re.match(r"Epoch 2/2 ━+ loss [\d.]+, clean [\d.]+ %, robust [\d.]+ % 0:00:\d\d left", line)


def test_the_longest_words_leave_it_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    error = io.StringIO()
    monkeypatch.setattr(lines, "Console", lambda **_: Console(file=error, width=80))
    longest = ("Epoch 1000/1000", "loss 1.234e-05, clean 100.0 %, robust 100.0 %", "> 23:59:59 left")
    for name, words in zip(("_epoch", "_figures", "_left"), longest, strict=True):
        monkeypatch.setattr(module._Fit, name, words)
    fit(TrainingProgress(shown=True))
    (line,) = error.getvalue().splitlines()
    assert len(line) == 80
    assert all(words in line for words in longest)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_within_an_epoch_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, log: Log, seconds: float
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", seconds)
    fit(TrainingProgress(), max_epochs=1)
    within = [line for line in log.messages if "trained" in line]
    assert len(within) == (0 if seconds else 2 * STEPS)  # batches of training and of validation
    if within:
        assert re.match(r"Epoch 1/1: 33% trained, loss [\d.]+, > 0:00:0\d left", within[0])


def test_of_two_processes_the_first_alone_speaks(tmp_path: Path) -> None:
    with logging_to(logging.FileHandler(tmp_path / "train.log")):
        two_processes([TrainingProgress()], enable_progress_bar=True).fit(without_batch_norm(), loader(n=16))
    said = (tmp_path / "train.log").read_text().splitlines()
    assert [line.partition(":")[0] for line in said] == ["Training", "Epoch 1/1", "Training"]


def test_training_is_the_same_with_and_without() -> None:
    models = []
    for callbacks in ([], [TrainingProgress()]):
        torch.manual_seed(1)
        models.append(ForeignModule())
        fit(*callbacks, model=models[-1], enable_progress_bar=bool(callbacks))
    assert_same(*models, tolerance=0)


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_first_epoch_gives_the_least_time_left(clock: Clock) -> None:
    times = EpochTimes()
    assert times.left(5, 0.0) == ""
    clock.now = 10.0
    assert times.left(5, 0.25) == "> 0:03:10 left"  # 40 seconds an epoch, 4.75 epochs


def test_later_epochs_are_as_long_as_the_last_ones(clock: Clock) -> None:
    times = EpochTimes()
    for seconds in (60.0, 80.0):
        clock.now += seconds
        times.end_epoch()
    assert times.left(3, 0.0) == "0:03:30 left"
    clock.now += 30
    assert times.left(3, 0.1) == "0:03:00 left"
    clock.now += 100  # an epoch that is longer than the others
    assert times.left(3, 0.9) == "0:02:20 left"
    assert times.left(0, 0.0) == "0:00:00 left"


def test_epochs_long_ago_do_not_count(clock: Clock) -> None:
    times = EpochTimes()
    for seconds in itertools.chain([1000.0], itertools.repeat(10.0, 10)):
        clock.now += seconds
        times.end_epoch()
    assert times.left(1, 0.0) == "0:00:10 left"


def test_the_rest_of_an_epoch_counts_as_that_much_of_one(clock: Clock) -> None:
    times = EpochTimes()
    times.go_on(0.75)
    clock.now = 5.0
    assert times.left(2, 0.8) == "> 0:02:00 left"
    clock.now = 20.0
    times.end_epoch()
    assert times.left(2, 0.0) == "0:02:40 left"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 7}, 7),
        ({"max_epochs": -1}, None),
        ({"max_epochs": -1, "max_steps": 4}, 2),
        ({"max_epochs": 7, "max_steps": 4}, 2),
        ({"max_epochs": 1, "max_steps": 4}, 1),
        ({"max_epochs": 7, "max_steps": 4, "accumulate_grad_batches": 3}, 4),
        ({"max_epochs": 7, "max_steps": 4, "accumulate_grad_batches": 2}, 2),
    ],
)
def test_the_number_of_epochs(options: dict[str, Any], expected: int | None) -> None:
    run = trainer([], **options)
    run.fit_loop.max_batches = STEPS
    assert number_of_epochs(run) == expected


@pytest.mark.parametrize("options", [{"max_steps": 4, "max_epochs": -1}, {"max_epochs": 2}])
def test_batches_of_unknown_number_have_no_known_end(options: dict[str, Any]) -> None:
    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            return iter(loader())

    run = trainer([TrainingProgress()], enable_progress_bar=True, **options)
    run.fit(ForeignModule(), DataLoader(Stream(), batch_size=None), loader(seed=1))
    assert number_of_epochs(run) == (2 if "max_steps" not in options else None)


def test_the_least_accuracy_of_several_dataloaders() -> None:
    metrics = {
        "val/acc_clean/dataloader_idx_0": torch.tensor(0.75),
        "val/acc_clean/dataloader_idx_1": torch.tensor(0.5),
        "val/acc_pgd/dataloader_idx_0": torch.tensor(0.25),
        "train/acc": torch.tensor(0.1),
    }
    assert accuracies_of(metrics) == {"clean": 0.5, "robust": 0.25}
    assert accuracies_of({}) == {}


def test_the_robust_accuracy_is_the_one_that_checkpoints_are_chosen_by() -> None:
    values = {"clean": 1.0, "fgsm": 0.25, "pgd": 0.5}
    metrics = {f"val/acc_{name}": torch.tensor(value) for name, value in values.items()}
    assert accuracies_of(metrics, "val/acc_pgd") == {"clean": 1.0, "pgd": 0.5}
    assert (
        accuracies_of(metrics, "val/acc_clean") == accuracies_of(metrics, "val/loss") == {"clean": 1.0, "robust": 0.25}
    )


@pytest.mark.parametrize(
    ("mvl", "words"),
    [
        ([], "regularizes nothing"),
        (["backbone.act1", "fc"], "regularizes act1, fc"),
        (["a", "b", "c", "logits"], "regularizes a, b, c, logits"),
        (["a", "b", "c", "d", "logits"], "regularizes 5 layers"),
    ],
)
def test_a_long_list_of_layers_is_a_number(mvl: list[str], words: str) -> None:
    callback = ATLR(FGSM(eps=0.1))
    callback.mvl = mvl
    assert regularized_in_words([callback]) == words


def test_shown_must_be_a_flag() -> None:
    with pytest.raises(ValueError, match="expected shown to be"):
        TrainingProgress(shown="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(("gamma", "words"), [(0.0, "regularizes nothing"), ({"b": 0.1, "c": 0.0}, "regularizes b")])
def test_layers_without_a_weight_are_not_regularized(gamma: Any, words: str) -> None:
    callback = ATLR(FGSM(0.1), regularizer=LayerwiseRegularizer(gamma), mvl=["a", "b", "c"])
    assert regularized_in_words([callback]) == words
