"""Many seeds at once against the runs of single seeds: the same numbers, bit by bit."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tests.helpers.hydra_run import composed_job, main_in_process, read_json, read_metrics, tiny_without, train_tiny
from tests.helpers.run_files import differing_files

from lsa_lightning.cli.train import _main, main
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.signals import Stopped
from lsa_lightning.stacked.progress import SeedStatus
from lsa_lightning.stacked.results import SeedResults
from lsa_lightning.stacked.train import train_seeds
from lsa_lightning.utils.processes import Task

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The dirpath has changed")]

SEEDS = (3, 0)
TRAINING_ONLY = ("analysis=null", "evaluation=null")


TWO_EPOCHS = ("trainer.max_epochs=2", "callbacks.robust_validation.every_n_epochs=2")


def train_stacked(folder: Path, *args: str, seeds: tuple[int, ...] = SEEDS) -> None:
    train_tiny(folder, f"seeds=[{','.join(map(str, seeds))}]", *args)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacked") / "run"
    train_stacked(folder, *TWO_EPOCHS)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_folder_is_that_of_a_single_run(stacked: Path, tmp_path: Path, seed: int) -> None:
    train_tiny(tmp_path, f"seed={seed}", *TWO_EPOCHS)
    assert differing_files(stacked / f"seed={seed}", tmp_path) == []


def test_figures_name_the_run_and_its_seed(tmp_path: Path) -> None:
    drawn: list[Task] = []
    with patch("lsa_lightning.runs.folder.run_all", drawn.extend):
        train_stacked(tmp_path)
    signed = [(figure.get_supxlabel(), folder.name) for figure, folder, _ in (task.args for task in drawn)]
    assert set(signed) == {(f"run: train, seed {seed}", f"seed={seed}") for seed in SEEDS}


IN_TWO_PROCESSES = patch("lsa_lightning.stacked.train._threads", lambda cfg: 2)


def test_seeds_shared_out_to_processes_are_those_of_one_process(stacked: Path, tmp_path: Path) -> None:
    with IN_TWO_PROCESSES:
        train_stacked(tmp_path, *TWO_EPOCHS, seeds=(*SEEDS, 1))
    assert [differing_files(stacked / f"seed={seed}", tmp_path / f"seed={seed}") for seed in SEEDS] == [[], []]
    processes = [read_json(tmp_path / f"seed={seed}/status.json")["pid"] for seed in (*SEEDS, 1)]
    assert processes[0] != processes[1] == processes[2] != os.getpid()


def test_few_seeds_leave_many_threads_to_one_process(tmp_path: Path) -> None:
    with patch("lsa_lightning.stacked.train._threads", lambda cfg: 5), patch("torch.set_num_threads"):
        train_stacked(tmp_path, *TRAINING_ONLY)
    assert {read_json(tmp_path / f"seed={seed}/status.json")["pid"] for seed in SEEDS} == {os.getpid()}


def test_of_several_processes_the_first_says_how_far_it_is(tmp_path: Path) -> None:
    args = [*tiny_without("callbacks.progress_bar", "analysis", "evaluation"), *TRAINING_ONLY, "seeds=[3,0]"]
    with IN_TWO_PROCESSES:
        main_in_process(main, *(arg for arg in args if "progress_bar" not in arg), at(tmp_path))
    log = (tmp_path / "train.log").read_text()
    assert [log.count(words) for words in ("Epoch 1/1:", "Seed 3: trained", "Seed 0: trained")] == [1, 1, 1]


class SignalsWhoWaits(SeedStatus):
    """A signal to the process that waits for this one and the others, when the first epoch is over."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)


def test_after_a_signal_the_seeds_in_all_processes_begin_again(
    tmp_path: Path, stacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with IN_TWO_PROCESSES:
        with patch("lsa_lightning.stacked.train.SeedStatus", SignalsWhoWaits), pytest.raises(Stopped):
            main_in_process(main, *tiny_without(), "seeds=[3,0]", *TWO_EPOCHS, at(tmp_path))
        assert states(tmp_path) == ["interrupted"] * 2
        assert capsys.readouterr().out.count("Stopped by SIGTERM") == 1
        train_stacked(tmp_path, *TWO_EPOCHS)
    assert [differing_files(tmp_path / f"seed={seed}", stacked / f"seed={seed}") for seed in SEEDS] == [[], []]


class FailsForOne(SeedStatus):
    """An error in the process of seed 0, while the other one waits."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if "seed=0" in str(self.attempts[0].folder):
            msg = "expected this, got that"
            raise ValueError(msg)
        time.sleep(60)


def test_an_error_in_one_of_the_processes_is_noted_for_its_seeds_alone(tmp_path: Path) -> None:
    failing = patch("lsa_lightning.stacked.train.SeedStatus", FailsForOne)
    with IN_TWO_PROCESSES, failing, pytest.raises(ValueError, match=r"^expected this, got that$"):
        train_stacked(tmp_path, *TRAINING_ONLY)
    found = [read_json(tmp_path / f"seed={seed}/status.json") for seed in SEEDS]
    assert [(each["state"], each["reason"]) for each in found] == [
        ("interrupted", "SIGTERM"),
        ("failed", "ValueError: expected this, got that"),
    ]
    assert found[0]["pid"] != found[1]["pid"]


def test_several_processes_prepare_their_data_once(tmp_path: Path) -> None:
    with IN_TWO_PROCESSES, patch("lsa_lightning.MoonDataModule.prepare_data", lambda self: note_pid(tmp_path)):
        train_stacked(tmp_path / "run", *TRAINING_ONLY)
    assert (tmp_path / "pids").read_text().split()[0] == str(os.getpid())


def note_pid(folder: Path) -> None:
    with (folder / "pids").open("a") as file:
        print(os.getpid(), file=file)


@pytest.mark.parametrize(
    "args",
    [
        ("experiment=moon_normal",),
        ("experiment=moon_at", "attack=fgsm"),
        ("experiment=moon_at", "attack=ffgsm", "optimizer=sgd", "scheduler=cyclic"),
        ("experiment=moon_at", "attack=apgd", "attack.steps=3", "scheduler=one_cycle"),
        ("experiment=moon_mart", "attack.steps=2", "callbacks.adversarial_training.eps_warmup_epochs=2"),
        ("experiment=moon_at_lr", "attack=tpgd", "attack.steps=2", "objective=trades", "callbacks.atlr.top_k=1"),
        ("experiment=moon_at_lr", "measure=centered_relative_error", "attack.steps=2", "threat.norm=L2"),
        ("experiment=moon_at_lr", "method=centered", "attack.steps=2"),
        ("experiment=moon_at_lr", "measure=cosine_distance", "attack.steps=2", "callbacks.atlr.warmup_epochs=1"),
        (
            "experiment=moon_at_lr",
            "attack.steps=2",
            "callbacks.atlr.mvl=[backbone.act2]",
            "regularizer.per_sample=false",
        ),
        ("experiment=moon_at_lr", "attack.steps=2", "+trainer.accumulate_grad_batches=2", "callbacks.atlr.eta=-1"),
        ("experiment=moon_at", "attack.steps=2", "model.backbone.out_features=2", "data.train_size=72"),
        ("experiment=moon_at", "attack=fgsm", "data._target_=tests.helpers.hydra_run.ShuffledMoons"),
    ],
)
def test_weights_are_those_of_single_runs(args: tuple[str, ...], tmp_path: Path) -> None:
    train_stacked(tmp_path / "stacked", *TRAINING_ONLY, "trainer.max_epochs=2", *args)
    for seed in SEEDS:
        train_tiny(tmp_path / str(seed), *TRAINING_ONLY, f"seed={seed}", "trainer.max_epochs=2", *args)
        for name in ("last", "best"):
            own, single = weights(tmp_path / f"stacked/seed={seed}", name), weights(tmp_path / str(seed), name)
            torch.testing.assert_close(own, single, rtol=0, atol=1e-6)


def test_checkpoints_and_folders_are_read_by_the_other_commands(stacked: Path) -> None:
    run = load_run(str(stacked / "seed=3/checkpoints/best.ckpt"))
    assert run.config.seed == 3
    report = write_report([stacked])
    assert report.jobs.left_out == []
    assert {found.summary.seed for found in report.jobs.runs} == set(SEEDS)


def test_a_seed_goes_on_alone(tmp_path: Path) -> None:
    train_stacked(tmp_path / "stacked", *TRAINING_ONLY, "method=paper")
    main_in_process(main, f"resume={tmp_path}/stacked/seed=3", "trainer.max_epochs=2")
    train_tiny(tmp_path / "single", *TRAINING_ONLY, "method=paper", "seed=3", "trainer.max_epochs=2")
    assert read_metrics(tmp_path / "stacked/seed=3") == read_metrics(tmp_path / "single")
    own, single = weights(tmp_path / "stacked/seed=3"), weights(tmp_path / "single")
    torch.testing.assert_close(own, single, rtol=0, atol=0)


class StopsInSecondEpoch(SeedStatus):
    """A signal when the first epoch is over."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)


def states(folder: Path) -> list[str]:
    return [read_json(folder / f"seed={seed}/status.json")["state"] for seed in SEEDS]


class LosesASignal(SeedStatus):
    """A signal whose error was lost, as in the callback of a weak reference."""

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.signals.received = signal.SIGTERM


def test_a_signal_whose_error_was_lost_stops_before_the_next_batch(tmp_path: Path) -> None:
    with patch("lsa_lightning.stacked.train.SeedStatus", LosesASignal), pytest.raises(Stopped):
        train_stacked(tmp_path, *TRAINING_ONLY)
    assert states(tmp_path) == ["interrupted"] * 2
    assert not list(tmp_path.rglob("best.ckpt"))


def test_after_a_signal_in_training_all_seeds_begin_again(tmp_path: Path, stacked: Path) -> None:
    with patch("lsa_lightning.stacked.train.SeedStatus", StopsInSecondEpoch), pytest.raises(Stopped) as stopped:
        train_stacked(tmp_path, *TWO_EPOCHS)
    assert stopped.value.code == 143
    assert states(tmp_path) == ["interrupted"] * 2
    train_stacked(tmp_path, *TWO_EPOCHS)
    assert states(tmp_path) == ["finished"] * 2
    assert [differing_files(tmp_path / f"seed={seed}", stacked / f"seed={seed}") for seed in SEEDS] == [[], []]


def stop_at(seed: int) -> Callable[[SeedResults, float], None]:
    """In place of the end of a seed: a signal at that of ``seed``."""
    end = SeedResults.end

    def ended(results: SeedResults, seconds: float) -> None:
        if results.job.seed == seed:
            signal.raise_signal(signal.SIGINT)
        end(results, seconds)

    return ended


def test_the_line_that_is_printed_after_a_signal_leaves_finished_seeds_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.object(SeedResults, "end", stop_at(SEEDS[1])), pytest.raises(Stopped) as stopped:
        main_in_process(main, *tiny_without("analysis", "evaluation"), *TRAINING_ONLY, "seeds=[3,0]", at(tmp_path))
    assert stopped.value.code == 130
    assert states(tmp_path) == ["finished", "interrupted"]
    before = (tmp_path / "seed=3/summary.json").stat().st_mtime_ns
    assert f"lsa-train resume={tmp_path}\n" in capsys.readouterr().out
    main_in_process(main, f"resume={tmp_path}")
    assert states(tmp_path) == ["finished"] * 2
    assert (tmp_path / "seed=3/summary.json").stat().st_mtime_ns == before
    log = (tmp_path / "train.log").read_text()
    assert "Finished before: seeds 3" in log
    assert "Seed 0: trained" in log


def test_finished_seeds_are_trained_for_longer_one_by_one(tmp_path: Path) -> None:
    args = [*tiny_without("analysis", "evaluation"), *TRAINING_ONLY, "seeds=[3,0]", at(tmp_path)]
    main_in_process(main, *args)
    before = [file.read_bytes() for file in sorted(tmp_path.glob("seed=*/summary.json"))]
    with pytest.raises(ValueError, match=r"max_epochs: 1, now 2. Go on with each seed alone: resume=.*/seed=3"):
        main_in_process(main, f"resume={tmp_path}", "trainer.max_epochs=2")
    assert [file.read_bytes() for file in sorted(tmp_path.glob("seed=*/summary.json"))] == before


def at(folder: Path) -> str:
    return f"hydra.run.dir={folder}"


def test_progress_shows_the_means_over_the_seeds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = [*tiny_without("callbacks.progress_bar", "analysis", "evaluation"), *TRAINING_ONLY, "seeds=[0,1]"]
    shown = [arg for arg in args if "progress_bar" not in arg]
    with caplog.at_level(logging.INFO), composed_job("train", shown, tmp_path) as cfg:
        train_seeds(cfg)
    rows = [read_metrics(tmp_path / f"seed={seed}") for seed in (0, 1)]
    base, penalty, clean = (
        sum(float(row[key]) for each in rows for row in each if row[key]) / 2
        for key in ("train/loss_base", "train/loss_lr", "val/acc_clean")
    )
    assert "Training: from epoch 1/1, under PGD at eps 0.3" in caplog.messages
    lines = [message for message in caplog.messages if message.startswith("Epoch 1/1")]
    assert [line.rpartition(", ")[0].partition(", pgd")[0] for line in lines] == [
        f"Epoch 1/1: loss {base + penalty:.4g}, clean {100 * clean:.1f} %"
    ]


def test_finished_seeds_are_left_as_they_are(tmp_path: Path) -> None:
    train_stacked(tmp_path, *TRAINING_ONLY, seeds=(0,))
    before = (tmp_path / "seed=0/summary.json").stat().st_mtime_ns
    train_stacked(tmp_path, *TRAINING_ONLY, seeds=(0, 1))
    assert (tmp_path / "seed=0/summary.json").stat().st_mtime_ns == before
    assert read_json(tmp_path / "seed=1/summary.json")["seed"] == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("seeds=[]",), "seeds"),
        (("seeds=[0,1,0]",), "expected different seeds, got 0 twice"),
        (("seeds=[-1]",), "seeds"),
        (("seeds=3",), "seeds"),
        (("experiment=moon_awp",), "AdversarialWeightPerturbation"),
        (("experiment=moon_at_fast",), "CatastrophicOverfittingStop"),
        (("attack=ensemble",), "the attack Ensemble"),
        (("attack=adaptive",), "the attack AdaptiveAttack, which watches layers"),
        (("+trainer.gradient_clip_val=1.0",), "gradient_clip_val"),
        (("trainer.devices=2",), "trainer.devices=2"),
        (("trainer.precision=bf16-mixed",), "trainer.precision=bf16-mixed"),
        (("+callbacks.atlr.backbone=backbone",), "backbone=backbone"),
        (("method=gated",), r"an alarm \(CollapseAlarm"),
        (("method=unlabelled",), "unlabelled inputs"),
    ],
)
def test_what_cannot_be_trained_so_is_named_before_anything_runs(
    args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    settings = [setting for setting in tiny_without() if not setting.startswith(tuple(a.split("=")[0] for a in args))]
    seeds = () if args[0].startswith("seeds") else ("seeds=[0,1]",)
    with composed_job("train", [*settings, *seeds, *args], tmp_path) as cfg, pytest.raises(ValueError, match=message):
        train_seeds(cfg)
    assert not list(tmp_path.rglob("metrics.csv"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("PlateauMoonModel", "a schedule that is the same for all seeds, got one that steps down where a metric rests"),
        ("NoisyMoonModel", "training steps that draw no random numbers"),
    ],
)
def test_what_the_seeds_would_have_in_common_is_named(model: str, message: str, tmp_path: Path) -> None:
    own = ("~model", f"+model._target_=tests.helpers.hydra_run.{model}", "seeds=[0,1]")
    settings = tiny_without("model", "optimizer", "analysis", "evaluation")
    with (
        composed_job("train", [*settings, *own, *TRAINING_ONLY], tmp_path) as cfg,
        pytest.raises((ValueError, MisconfigurationException), match=message),
    ):
        train_seeds(cfg)


def test_the_means_over_the_seeds_and_the_next_step_come_last(tmp_path: Path) -> None:
    printed = train_tiny(tmp_path, "seeds=[0,1]", "analysis=null", "evaluation.masking=null")
    scores = [read_json(tmp_path / f"seed={seed}" / "summary.json")["rg_score"]["pgd"] for seed in (0, 1)]
    *lines, where, command = printed.splitlines()
    assert any(line.split()[:5] == ["R&G", "under", "pgd", f"{sum(scores) / 2:.2f}", "±"] for line in lines)
    assert "2 seeds, in %" in printed
    assert (where, command) == (f"Folder of all runs: {tmp_path}", f"Compare them with: lsa-report {tmp_path}")


def test_a_sweeper_gets_the_mean_over_the_seeds(tmp_path: Path) -> None:
    overrides = [*tiny_without("analysis"), "seeds=range(0,2)", "analysis=null", "evaluation.masking=null"]
    with composed_job("train", overrides, tmp_path) as cfg:
        score = _main.__wrapped__(cfg)
    each = [read_json(tmp_path / f"seed={seed}/summary.json")["rg_score"]["pgd"] for seed in range(2)]
    assert score == pytest.approx(sum(each) / 2)
