"""The model and the data of a run, found from a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tests.helpers.hydra_run import train_tiny

from lsa_lightning import MoonDataModule, RobustClassifier
from lsa_lightning.runs.checkpoint import adopt_threat, checkpoint_file, load_run, split_loader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder)
    return folder


def request(checkpoint: Path, **data: object) -> DictConfig:
    """The part of lsa-evaluate's configuration that finds a run."""
    return OmegaConf.create({"ckpt_path": str(checkpoint), "data": {"root": None, "batch_size": None, **data}})


def test_a_checkpoint_finds_its_model_and_data(run: Path) -> None:
    cfg, model, data = load_run(request(run / "checkpoints" / "last.ckpt"))
    stored = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(model, RobustClassifier)
    assert isinstance(data, MoonDataModule)
    assert (data.sizes, data.batch_size) == ([64, 32, 40], 32)
    assert cfg.threat.eps == 0.3
    for name, value in model.state_dict().items():
        assert torch.equal(value.cpu(), stored[name])


def test_entries_of_data_that_are_not_null_replace_the_runs_own(run: Path) -> None:
    _, _, data = load_run(request(run / "checkpoints" / "last.ckpt", batch_size=7))
    assert isinstance(data, MoonDataModule)
    assert (data.batch_size, data.sizes) == (7, [64, 32, 40])


def test_the_configuration_may_lie_beside_the_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path)
    assert load_run(request(tmp_path / "last.ckpt"))[0].name == "train"


def test_a_moved_run_folder_still_works(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    assert isinstance(load_run(request(tmp_path / "moved/checkpoints/best.ckpt"))[1], RobustClassifier)


def test_checkpoint_file_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which does not exist"):
        checkpoint_file(str(tmp_path / "x.ckpt"))
    with pytest.raises(ValueError, match=r"such as RUN/checkpoints/best.ckpt, got .*, which is a folder"):
        checkpoint_file(str(tmp_path))
    (tmp_path / "x.ckpt").touch()
    assert checkpoint_file(str(tmp_path / "x.ckpt")) == tmp_path / "x.ckpt"


def test_weights_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    torch.save({"state_dict": {"backbone.fc1.weight": torch.zeros(1)}}, tmp_path / "other/checkpoints/best.ckpt")
    with pytest.raises(ValueError, match=r"expected .*best.ckpt to hold weights of the model in .*config.yaml, got"):
        load_run(request(tmp_path / "other/checkpoints/best.ckpt"))


def test_the_model_goes_to_a_gpu_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(RobustClassifier, "to", lambda self, device: moved.append(device) or self)
    load_run(request(run / "checkpoints" / "last.ckpt"))
    assert moved == [torch.device("cuda")]


def test_adopted_threat_reaches_the_attacks() -> None:
    cfg = OmegaConf.create({"attack": {"eps": "${oc.select:threat.eps,0.03}"}})
    OmegaConf.set_struct(cfg, True)
    assert cfg.attack.eps == 0.03
    adopt_threat(cfg, OmegaConf.create({"threat": {"eps": 0.3, "bounds": None}}))
    assert cfg.attack.eps == 0.3


@pytest.mark.parametrize(("split", "samples"), [("val", 3), ("test", 5)])
def test_split_loader(split: str, samples: int) -> None:
    loader = split_loader(MoonDataModule(train_size=4, val_size=3, test_size=5), split)
    assert sum(len(x) for x, _ in loader) == samples


def test_split_loader_refuses_another_split() -> None:
    with pytest.raises(ValueError, match="expected split to be 'val' or 'test', got 'training'"):
        split_loader(MoonDataModule(), "training")
