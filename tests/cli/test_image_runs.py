"""lsa-train, lsa-analyze and lsa-evaluate on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.fake_data import write_mnist
from tests.helpers.hydra_run import TINY_IMAGES, composed_job, main_in_process, read_json

from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.jobs.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Experiment logs directory"),
    pytest.mark.usefixtures("undrawn"),
]


def run(folder: Path, *args: str) -> dict[str, Any]:
    """One tiny job on 60 training and 12 test digits, whose run folder is ``folder``."""
    write_mnist(folder.parent / "files", 64, 12)
    tiny = [each for each in TINY_IMAGES if "evaluation.masking=null" not in args or "masking." not in each]
    settings = ["experiment=mnist_at_apgd_lr", *tiny, f"data.root={folder.parent / 'files'}", "attack.steps=2"]
    with composed_job("train", [*settings, *args], folder) as cfg:
        train(cfg)
    return dict(read_json(folder / "summary.json"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("options", [(), ("data.cache=true",), ("data.num_workers=1",)])
def test_two_runs_with_the_same_seed_are_bit_identical(tmp_path: Path, options: tuple[str, ...]) -> None:
    summary = run(tmp_path / "first")
    again = run(tmp_path / "second", *options)
    torch.testing.assert_close(weights(tmp_path / "second"), weights(tmp_path / "first"), rtol=0, atol=0)
    for key in ("accuracy", "profiles", "mvl_history"):
        assert again[key] == summary[key]


def test_the_summary_and_the_other_entry_points(tmp_path: Path) -> None:
    summary = run(tmp_path / "run")
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    inputs = {"adversarial_images", "largest_errors", "class_accuracy", "confusion"}
    assert figures == {"layer_profile", "accuracy", "mvl_history", "training", *inputs}
    assert summary["trained"]["data"] == "torchvision.datasets.MNIST"
    assert summary["trained"]["attack"].startswith("APGD(")
    assert len(summary["profiles"]["pgd"]) == 4
    assert summary["eps"] == [0.0, 0.1, 0.3]
    assert summary["test_samples"] == 4
    checkpoint = f"ckpt_path={tmp_path}/run/checkpoints/last.ckpt"
    main_in_process(analyze_main, checkpoint, f"hydra.run.dir={tmp_path}/analyze", "limit_batches=2")
    main_in_process(evaluate_main, checkpoint, f"hydra.run.dir={tmp_path}/evaluate")
    assert read_json(tmp_path / "analyze" / "profile_pgd.json")["samples"] == 8
    assert read_json(tmp_path / "evaluate" / "evaluation.json")["samples"] == 12


def test_the_best_checkpoint_is_chosen_by_robust_accuracy(tmp_path: Path) -> None:
    run(tmp_path / "run", "trainer.max_epochs=2")
    state = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["callbacks"]
    assert any("'monitor': 'val/acc_pgd'" in key for key in state)


def test_a_backbone_for_colours_is_trained_on_grey_images(tmp_path: Path) -> None:
    net = "model.backbone._target_=torchvision.models.shufflenet_v2_x0_5"
    summary = run(tmp_path / "run", "model=torchvision", net, "evaluation.masking=null")
    assert summary["trained"]["model"].endswith("shufflenet_v2_x0_5")
