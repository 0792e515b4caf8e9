"""The model and the data of a run, found from a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.helpers.hydra_run import train_tiny
from torch import nn

from lsa_lightning import MoonDataModule, RobustClassifier
from lsa_lightning.runs.checkpoint import TrainedRun, checkpoint_file, given, load_run, split_loader
from lsa_lightning.runs.trust import Trust


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder)
    return folder


def test_a_checkpoint_finds_its_model_and_data(run: Path) -> None:
    found = load_run(f"{run}/checkpoints/last.ckpt")
    stored = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert isinstance(found.model, RobustClassifier)
    assert isinstance(found.data, MoonDataModule)
    assert (found.data.sizes, found.data.batch_size) == ([64, 32, 40], 32)
    for name, value in found.model.state_dict().items():
        assert torch.equal(value.cpu(), stored[name])


def test_a_run_tells_its_data_set_threat_radii_and_measure(run: Path) -> None:
    found = load_run(f"{run}/checkpoints/last.ckpt")
    assert found.data_set == "lsa_lightning.MoonDataModule"
    assert found.threat == {"norm": "Linf", "eps": 0.3, "bounds": None}
    assert found.eval_eps == [0.1, 0.3]
    assert found.measure == {"_target_": "lsa_lightning.measures.RelativeError"}


OLD = {"threat": {"eps": 0.2, "bounds": [0, 1], "eval_eps": [0.1]}}
MEASURE = {"_target_": "lsa_lightning.measures.CosineDistance"}


@pytest.mark.parametrize(("attack", "norm"), [({"norm": "L2"}, "L2"), ({}, "Linf")])
def test_the_threat_of_an_older_run_has_the_norm_of_its_attack(attack: dict[str, str], norm: str) -> None:
    run = TrainedRun(OmegaConf.create({**OLD, "attack": attack}), nn.Identity(), MoonDataModule())  # type: ignore[arg-type]
    assert run.threat == {"norm": norm, "eps": 0.2, "bounds": [0, 1]}
    assert run.eval_eps == [0.1]


@pytest.mark.parametrize(
    ("config", "measure"),
    [({"regularizer": {"measure": MEASURE}}, MEASURE), ({"analysis": {"measure": MEASURE}}, MEASURE), ({}, None)],
)
def test_the_measure_of_an_older_run_is_that_of_its_regularizer_or_analysis(
    config: dict[str, object], measure: object
) -> None:
    run = TrainedRun(OmegaConf.create({**OLD, **config}), nn.Identity(), MoonDataModule())  # type: ignore[arg-type]
    assert run.measure == measure


def test_entries_of_data_that_are_not_null_replace_the_runs_own(run: Path) -> None:
    data = load_run(f"{run}/checkpoints/last.ckpt", OmegaConf.create({"batch_size": 7, "sizes": None})).data
    assert isinstance(data, MoonDataModule)
    assert (data.batch_size, data.sizes) == (7, [64, 32, 40])


def test_given_are_the_entries_that_are_not_null() -> None:
    assert given(OmegaConf.create({"norm": "L2", "eps": None})) == {"norm": "L2"}


def test_the_configuration_may_lie_beside_the_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path)
    assert load_run(f"{tmp_path}/last.ckpt").config.name == "train"


def test_a_moved_run_folder_still_works(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    assert isinstance(load_run(f"{tmp_path}/moved/checkpoints/best.ckpt").model, RobustClassifier)


def test_checkpoint_file_refuses_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which does not exist"):
        checkpoint_file(str(tmp_path / "x.ckpt"))
    with pytest.raises(ValueError, match=r"such as RUN/checkpoints/best.ckpt, got .*, which is a folder"):
        checkpoint_file(str(tmp_path))
    (tmp_path / "x.ckpt").touch()
    assert checkpoint_file(str(tmp_path / "x.ckpt")) == tmp_path / "x.ckpt"


@pytest.mark.parametrize("content", ["- a list", "model: !!python/object/apply:os.getpid []"])
def test_a_configuration_that_is_no_mapping_of_plain_values_is_refused(run: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"expected .*config.yaml to "):
        load_run(f"{tmp_path}/other/checkpoints/best.ckpt")


def test_a_model_of_somebody_elses_needs_trust(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    config = OmegaConf.load(run / "config.yaml")
    config.data = {"_target_": "tests.helpers.hydra_run.PoisonedMoons"}
    OmegaConf.save(config, tmp_path / "other" / "config.yaml")
    path = f"{tmp_path}/other/checkpoints/best.ckpt"
    message = r"config.yaml: data: expected a LightningDataModule, got 'tests.*Moons'; .* trust=\[tests\] or trust=all"
    with pytest.raises(ValueError, match=message):
        load_run(path)
    for trust in (Trust.of(["tests"]), Trust.of("all")):
        assert type(load_run(path, trust=trust).data).__name__ == "PoisonedMoons"


def test_callbacks_of_somebody_elses_are_not_needed(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    config = OmegaConf.load(run / "config.yaml")
    config.callbacks.own = {"_target_": "no_such_package.Callback"}
    config.logger.csv.save_dir = "${oc.env:NO_SUCH_VARIABLE}"
    OmegaConf.save(config, tmp_path / "other" / "config.yaml")
    assert load_run(f"{tmp_path}/other/checkpoints/best.ckpt").training_eps == 0.3


def test_weights_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    torch.save({"state_dict": {"backbone.fc1.weight": torch.zeros(1)}}, tmp_path / "other/checkpoints/best.ckpt")
    with pytest.raises(ValueError, match=r"expected .*best.ckpt to hold weights of the model in .*config.yaml, got"):
        load_run(f"{tmp_path}/other/checkpoints/best.ckpt")


def test_the_model_goes_to_a_gpu_where_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(RobustClassifier, "to", lambda self, device: moved.append(device) or self)
    load_run(f"{run}/checkpoints/last.ckpt")
    assert moved == [torch.device("cuda")]


@pytest.mark.parametrize(("split", "samples"), [("val", 3), ("test", 5)])
def test_split_loader(split: str, samples: int) -> None:
    loader = split_loader(MoonDataModule(train_size=4, val_size=3, test_size=5), split)
    assert sum(len(x) for x, _ in loader) == samples


def test_split_loader_refuses_another_split() -> None:
    with pytest.raises(ValueError, match="expected split to be 'val' or 'test', got 'training'"):
        split_loader(MoonDataModule(), "training")


def test_a_configuration_of_something_else_is_said(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text("lr: 0.1\nmodel: resnet18\n")
    with pytest.raises(ValueError, match=r"found .*config.yaml of something else; for checkpoints that lsa-train did"):
        load_run(f"{tmp_path}/other/checkpoints/best.ckpt")
