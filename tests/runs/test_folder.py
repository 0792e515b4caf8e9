"""Run folders: configuration, checkpoints, tables on the terminal."""

from __future__ import annotations

import io
import json
import platform
import shutil
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from tests.helpers.hydra_run import composed_job, train_tiny

from lsa_lightning import MoonDataModule, RobustClassifier, SustainabilityReport
from lsa_lightning.runs import console as console_module
from lsa_lightning.runs.checkpoint import adopt_threat, checkpoint_file, load_run, split_loader
from lsa_lightning.runs.console import print_profiles
from lsa_lightning.runs.folder import group_of, output_dir, save_config, save_figure, versions, write_json


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


def test_save_config_resolves(tmp_path: Path) -> None:
    returned = save_config(OmegaConf.create({"a": 1, "b": "${a}", "c": [{"d": "${b}"}]}), tmp_path)
    assert returned == {"a": 1, "b": 1, "c": [{"d": 1}]}
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == returned


def test_output_dir_is_the_run_folder(tmp_path: Path) -> None:
    with composed_job("train", [], tmp_path):
        assert output_dir() == tmp_path


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


def test_write_json_ends_with_a_newline(tmp_path: Path) -> None:
    write_json({"a": [1, 2.5, None]}, tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": [1, 2.5, None]}


def drawing() -> Figure:
    figure = Figure()
    figure.add_subplot().bar([0, 1], [1, 2], hatch="//", label="some text")
    return figure


def test_figures_get_a_folder_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_figure(drawing(), tmp_path, name)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["one.png", "one.svg", "two.png", "two.svg"]


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        save_figure(drawing(), tmp_path / folder, "one")
    for kind in ("png", "svg"):
        first, second = ((tmp_path / folder / f"figures/one.{kind}").read_bytes() for folder in ("first", "second"))
        assert first == second
    assert b"<text" not in first  # letters are paths
    assert b"<dc:date" not in first


@pytest.mark.parametrize(("mode", "group"), [(RunMode.RUN, "my_run"), (RunMode.MULTIRUN, "sweep_1"), (None, "my_run")])
def test_jobs_of_a_sweep_are_grouped_by_its_folder(
    monkeypatch: pytest.MonkeyPatch, mode: RunMode | None, group: str
) -> None:
    job = OmegaConf.create({"mode": mode, "sweep": {"dir": "runs/my_run/sweep_1"}})
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    assert group_of("my_run") == group


def test_versions_name_what_shapes_a_result() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert {"lsa-lightning", "torch", "lightning", "torchmetrics", "hydra-core", "numpy"} < set(found)


def report(*means: float) -> SustainabilityReport:
    mean = torch.tensor(means, dtype=torch.float64)
    names = [f"backbone.act{i}" for i in range(1, len(means) + 1)]
    return SustainabilityReport(names, names, mean, mean / 2, mean.mean(), mean.std(correction=0), 40)


def printed(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """What goes to the terminal from here on."""
    text = io.StringIO()
    monkeypatch.setattr(console_module, "console", Console(file=text, width=width))
    return text


@pytest.mark.parametrize("width", [80, 120])
def test_the_profile_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = printed(monkeypatch, width)
    names = ["pgd", "fgsm", "gaussian", "speckle", "salt", "pepper"]
    print_profiles({name: report(0.1, 1.25, 0.5) for name in names}, ["backbone.act2"])
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    row = next(line for line in lines if "backbone.act2" in line)
    assert row.count("1.250") == len(names)
    assert "*" in row
    assert not any("*" in line for line in lines if "backbone.act1" in line or "backbone.act3" in line)
    assert next(line for line in lines if " mu " in line).count("0.617") == len(names)


def test_no_vulnerable_layer_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, 80)
    print_profiles({"fgsm": report(0.1, 0.1)}, [])
    assert "MVL under fgsm: none\n" in text.getvalue()
