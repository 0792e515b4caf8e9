from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import read_json, train_tiny

from lsa_lightning.runs.checkpoint import load_run
from lsa_lightning.runs.portable import share
from lsa_lightning.runs.read import read_run
from lsa_lightning.runs.status import State, Status

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


def test_the_weights_are_those_that_were_measured_whatever_their_file_is_called(tmp_path: Path) -> None:
    train_tiny(tmp_path / "run", "callbacks.checkpoint.filename=top", "trainer.max_epochs=6", "optimizer.lr=0.3")
    assert read_json(tmp_path / "run/summary.json")["checkpoint_epoch"] < 5  # else it is the last one
    shared = share(tmp_path / "run", tmp_path / "shared")
    measured = torch.load(tmp_path / "run/checkpoints/top.ckpt", weights_only=True)["state_dict"]
    copied = torch.load(shared / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(copied[name], measured[name]) for name in measured)


def test_a_run_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "summary.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(ValueError, match=r"to hold best\.ckpt, the weights that summary\.json is about, found none"):
        share(tmp_path, tmp_path / "shared")


@pytest.mark.parametrize("state", [State.RUNNING, State.INTERRUPTED, State.FAILED])
def test_a_run_that_goes_on_is_refused(run: Path, tmp_path: Path, state: State) -> None:
    shutil.copytree(run, tmp_path / "run")
    Status(state).save(tmp_path / "run")
    with pytest.raises(ValueError, match=f"expected a finished run, got .*says {state.value}"):
        share(tmp_path / "run", tmp_path / "shared")


def test_weights_of_another_epoch_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/checkpoints/best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    torch.save({**checkpoint, "epoch": 7}, file)
    with pytest.raises(ValueError, match=r"weights of epoch 0, which .* is about, got those of epoch 7"):
        share(tmp_path / "run", tmp_path / "shared")
