"""Two processes together are one process with batches twice as large."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tests.helpers.modules import images, loader, trainer
from tests.helpers.reference_loop import at_lr_loop
from tests.helpers.training import MVL, assert_same
from tests.helpers.two_processes import CASES, InOrder, two_processes, without_batch_norm
from torch import Tensor, nn

from lsa_lightning import ATLR, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.callbacks import CollapseAlarm
from lsa_lightning.callbacks.alarm import Signal, StepSeen
from lsa_lightning.functional import relative_error
from lsa_lightning.unlabelled import FromLoader, Unlabelled

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("case", CASES)
def test_training_equals_the_hand_written_loop_on_the_joint_batches(case: str) -> None:
    strategy, options = CASES[case]
    # In bf16, sums and signs near 0 depend on how the samples are cut into batches: small steps keep that small.
    attack, lr = (FGSM(0.01), 0.02) if case == "bf16" else (FGSM(0.1), 0.1)
    module, expected = without_batch_norm(lr), without_batch_norm(lr)
    if case == "find_unused_parameters":
        module.unused = nn.Linear(2, 2)
    callback = ATLR(attack, regularizer=LayerwiseRegularizer(gamma=0.5), mvl=MVL, analysis_every_n_epochs=0)
    two_processes([callback], strategy, **options).fit(module, InOrder(8))
    at_lr_loop(
        expected,
        loader(n=64, batch_size=16),
        attack,
        expected.configure_optimizers(),
        expected.net.hidden,
        dict.fromkeys(MVL, 0.5),
        accumulate=options.get("accumulate_grad_batches", 1),
        clip=options.get("gradient_clip_val"),
        forward_context=(lambda: torch.autocast("cpu", torch.bfloat16)) if case == "bf16" else nullcontext,
    )
    assert_same(module.net, expected.net, tolerance=2e-3 if case == "bf16" else 1e-6)
    assert "training_step" not in vars(module)


def test_the_unlabelled_inputs_of_two_processes_are_those_of_joint_batches() -> None:
    module, expected, attack = without_batch_norm(), without_batch_norm(), FGSM(0.1)
    inputs = images(32, seed=5)[0]
    unlabelled = Unlabelled(FromLoader(inputs.split(4)), attack=attack, only=True)
    regularizer = LayerwiseRegularizer(gamma=0.5)
    callback = ATLR(attack, regularizer=regularizer, mvl=MVL, analysis_every_n_epochs=0, unlabelled=unlabelled)
    two_processes([callback]).fit(module, InOrder(8))
    optimizer, hidden = expected.configure_optimizers(), expected.net.hidden
    for (x, y), u in zip(loader(n=64, batch_size=16), inputs.split(8), strict=True):
        x_adv, u_adv = attack(expected, x, y), attack(expected, u, torch.zeros(8, dtype=torch.long))
        clean, adversarial = hidden(u), hidden(u_adv)
        penalty = torch.stack([relative_error(clean[name], adversarial[name]).mean() for name in MVL]).sum()
        optimizer.zero_grad()
        (expected.training_step((x_adv, y)) + 0.5 * penalty).backward()
        optimizer.step()
    assert_same(module.net, expected.net)


class Collector(pl.Callback):
    """Writes, from each process, what it holds at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        atlr = next(c for c in trainer.callbacks if isinstance(c, ATLR))
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pl_module.modules())
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        values = {
            "history": [entry.to_dict() for entry in atlr.history],
            "mvl": atlr.mvl,
            "hooks": hooks,
            "metrics": metrics,
        }
        torch.save(values, self.folder / f"{trainer.global_rank}.pt")


def test_analysis_and_validation_of_two_processes_equal_those_of_one(tmp_path: Path) -> None:
    attack, validation = FGSM(0.1), RobustValidation({"fgsm": FGSM(0.1)})
    module, single = without_batch_norm(), without_batch_norm()
    two_processes([ATLR(attack, eta=0.05), validation, Collector(tmp_path)], max_epochs=2).fit(module, InOrder(8))
    alone = ATLR(attack, eta=0.05)
    one = trainer([alone, RobustValidation({"fgsm": FGSM(0.1)})], max_epochs=2)
    one.fit(single, InOrder(16))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0]["mvl"] == ranks[1]["mvl"] == alone.mvl != []
    assert ranks[0]["history"] == ranks[1]["history"]
    for entry, expected in zip(ranks[0]["history"], alone.history, strict=True):
        assert entry["samples"] == expected["samples"]
        torch.testing.assert_close(torch.tensor(entry["mean"]), torch.tensor(expected["mean"]), rtol=0, atol=1e-5)
    for key in ("val/acc_clean", "val/acc_fgsm", "lsa/mu", "train/loss_base", "train/loss_lr"):
        assert ranks[0]["metrics"][key] == pytest.approx(float(one.callback_metrics[key]), abs=1e-5)
    assert ranks[0]["hooks"] == ranks[1]["hooks"] == 0


def test_processes_draw_different_random_starts(tmp_path: Path) -> None:
    class Spy(PGD):
        def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
            start = ball.random_point(self.generator(x.device))
            torch.save(start - x, tmp_path / f"start{torch.distributed.get_rank()}.pt")
            return start

    two_processes([ATLR(Spy(0.1), mvl=MVL, analysis_every_n_epochs=0)]).fit(without_batch_norm(), loader(n=16))
    first, second = (torch.load(tmp_path / f"start{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.allclose(first, second)


class MeanLabel(Signal):
    """Of batches that begin with label 0 alone, if it is told so; others show nothing."""

    name = "mean_label"

    def __init__(self, some: bool) -> None:
        self.some = some

    def __call__(self, seen: StepSeen) -> Tensor | None:
        return None if self.some and seen.y[0] != 0 else seen.y.double().mean()


class NotesLevels(pl.Callback):
    """Writes, from each process, the level of the alarm after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.levels: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        alarm = next(c.alarm for c in trainer.callbacks if isinstance(c, ATLR))
        assert alarm is not None
        self.levels.append(alarm.level)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.save(self.levels, self.folder / f"{trainer.global_rank}.pt")


def test_processes_hear_one_alarm_that_of_joint_batches(tmp_path: Path) -> None:
    def callbacks(folder: Path, some: bool = False) -> list[pl.Callback]:
        alarm = CollapseAlarm(MeanLabel(some), deviations=0.0, rise=0.0, smoothing=1, patience=1, decay=0.5)
        options: dict[str, Any] = {"regularizer": LayerwiseRegularizer(0.5), "mvl": MVL, "analysis_every_n_epochs": 0}
        return [ATLR(FGSM(0.1), alarm=alarm, gated=True, **options), NotesLevels(folder)]

    module, single = without_batch_norm(), without_batch_norm()
    two_processes(callbacks(tmp_path), max_epochs=3).fit(module, InOrder(8))
    (tmp_path / "one").mkdir()
    trainer(callbacks(tmp_path / "one"), max_epochs=3).fit(single, InOrder(16))
    first, second, one = (torch.load(tmp_path / name, weights_only=True) for name in ("0.pt", "1.pt", "one/0.pt"))
    assert first == second == one
    assert {0.0, 1.0} <= set(one)
    two_processes(callbacks(tmp_path, some=True), max_epochs=3).fit(without_batch_norm(), InOrder(8))
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("0.pt", "1.pt"))
    assert first == second
    assert_same(module.net, single.net, tolerance=1e-6)


class NotesStarts(PGD):
    """Keeps the random starts of its calls, in a file for each process of each run."""

    def __init__(self, folder: Path, run: str) -> None:
        super().__init__(0.1, steps=1, seed=0)
        self._note = folder, run

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Any) -> Tensor:
        folder, run = self._note
        file = folder / f"{run}{torch.distributed.get_rank()}.pt"
        start = ball.random_point(self.generator(x.device)) - x
        torch.save([*(torch.load(file) if file.exists() else []), start.flatten()[:4]], file)
        return x + start


def test_resumed_processes_draw_what_each_would_have_drawn(tmp_path: Path) -> None:
    def fit(run: str, epochs: int, ckpt_path: Path | None = None) -> pl.Trainer:
        atlr = ATLR(NotesStarts(tmp_path, run), mvl=MVL, analysis_every_n_epochs=0)
        saves = [SavesAtEnd(tmp_path / "half.ckpt")] if run == "half" else []
        fitting = two_processes([atlr, *saves], max_epochs=epochs)
        fitting.fit(without_batch_norm(), InOrder(8), ckpt_path=ckpt_path)
        return fitting

    fit("whole", 2)
    fit("half", 1)
    fit("rest", 2, tmp_path / "half.ckpt")
    for rank in (0, 1):
        whole, half, rest = (torch.load(tmp_path / f"{run}{rank}.pt") for run in ("whole", "half", "rest"))
        assert torch.equal(torch.stack(whole), torch.stack([*half, *rest]))
    first, second = (torch.load(tmp_path / f"rest{rank}.pt") for rank in (0, 1))
    assert not torch.allclose(torch.stack(first), torch.stack(second))


class SavesAtEnd(pl.Callback):
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.file)
