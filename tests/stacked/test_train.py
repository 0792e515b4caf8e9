"""Many seeds at once against the runs of single seeds: the same numbers, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers.hydra_run import composed_job, read_json, tiny_without, train_tiny
from tests.helpers.run_files import differing_files

from lsa_lightning.cli.report import write_report
from lsa_lightning.cli.train import _main
from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.stacked.train import train_seeds

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The dirpath has changed")]

SEEDS = (3, 0)
TRAINING_ONLY = ("analysis=null", "evaluation=null")


def train_stacked(folder: Path, *args: str, seeds: tuple[int, ...] = SEEDS) -> None:
    train_tiny(folder, f"seeds=[{','.join(map(str, seeds))}]", *args)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacked") / "run"
    train_stacked(folder, "trainer.max_epochs=2")
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_folder_is_that_of_a_single_run(stacked: Path, tmp_path: Path, seed: int) -> None:
    train_tiny(tmp_path, f"seed={seed}", "trainer.max_epochs=2")
    assert differing_files(stacked / f"seed={seed}", tmp_path) == []


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
        ("experiment=moon_at_lr", "measure=cosine_distance", "attack.steps=2", "callbacks.atlr.warmup_epochs=1"),
        (
            "experiment=moon_at_lr",
            "attack.steps=2",
            "callbacks.atlr.mvl=[backbone.act2]",
            "regularizer.per_sample=false",
        ),
        ("experiment=moon_at_lr", "attack.steps=2", "+trainer.accumulate_grad_batches=2", "callbacks.atlr.eta=-1"),
        ("experiment=moon_at", "attack.steps=2", "model.backbone.out_features=2", "data.train_size=72"),
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
    page, unfinished = write_report([stacked])
    assert unfinished == []
    assert "seed" in page.read_text()


def test_a_seeds_checkpoint_is_resumed_alone(tmp_path: Path) -> None:
    train_stacked(tmp_path / "stacked", *TRAINING_ONLY)
    train_tiny(tmp_path / "single", *TRAINING_ONLY, "seed=3", "trainer.max_epochs=2")
    checkpoint = f"ckpt_path='{tmp_path}/stacked/seed=3/checkpoints/last.ckpt'"
    train_tiny(tmp_path / "resumed", *TRAINING_ONLY, "seed=3", "trainer.max_epochs=2", checkpoint)
    torch.testing.assert_close(weights(tmp_path / "resumed"), weights(tmp_path / "single"), rtol=0, atol=0)


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
        (("+trainer.gradient_clip_val=1.0",), "gradient_clip_val"),
        (("trainer.devices=2",), "trainer.devices=2"),
        (("trainer.precision=bf16-mixed",), "trainer.precision=bf16-mixed"),
        (("+callbacks.atlr.backbone=backbone",), "backbone=backbone"),
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


def test_a_sweeper_gets_the_mean_over_the_seeds(tmp_path: Path) -> None:
    overrides = [*tiny_without("analysis"), "seeds=range(0,2)", "analysis=null", "evaluation.masking=null"]
    with composed_job("train", overrides, tmp_path) as cfg:
        score = _main.__wrapped__(cfg)
    each = [read_json(tmp_path / f"seed={seed}/summary.json")["rg_score"]["pgd"] for seed in range(2)]
    assert score == pytest.approx(sum(each) / 2)
