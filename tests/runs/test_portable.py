from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import read_json, train_tiny

from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.portable import share
from lsa_lightning.runs.read import read_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("somewhere") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def shared(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share(run, tmp_path_factory.mktemp("shared") / "run")


def test_nothing_says_where_the_run_was(run: Path, shared: Path) -> None:
    texts = {file.name: file.read_text() for file in shared.glob("*.*")}
    assert {"config.yaml", "summary.json", "metrics.csv", "classes.json"} <= texts.keys()
    assert [name for name, text in texts.items() if str(run.parent) in text or str(Path.home()) in text] == []
    assert not {"logger", "paths"} & OmegaConf.load(shared / "config.yaml").keys()


def test_the_results_are_the_same(run: Path, shared: Path) -> None:
    ours, theirs = read_run(run), read_run(shared)
    assert theirs.summary.metrics == ours.summary.metrics
    assert theirs.reports.keys() == ours.reports.keys() != set()
    assert theirs.unread == []
    assert read_json(shared / "summary.json")["checkpoint"] == "checkpoints/best.ckpt"


def test_the_model_is_the_same_and_nothing_else_of_training_is_there(run: Path, shared: Path) -> None:
    x = torch.randn(5, 2)
    models = [load_run(str(folder / "checkpoints" / "best.ckpt")).model for folder in (run, shared)]
    assert torch.equal(models[0](x), models[1](x))
    checkpoint = torch.load(shared / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint.keys() == {"state_dict", "epoch", "global_step", "pytorch-lightning_version"}


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / "secret.png").symlink_to(secret)
    assert not (share(run, tmp_path / "shared") / "figures" / "secret.png").exists()


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "summary.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(ValueError, match=r"to hold best\.ckpt or last\.ckpt, found neither"):
        share(tmp_path, tmp_path / "shared")
