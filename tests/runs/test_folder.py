"""Run folders: configuration, tables, figures, versions."""

from __future__ import annotations

import json
import platform
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from omegaconf import OmegaConf
from tests.helpers.hydra_run import composed_job

from lsa_lightning.runs.folder import (
    figures_of,
    figures_together,
    group_of,
    new_folder,
    output_dir,
    save_config,
    save_figure,
    versions,
    write_json,
)


def test_two_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "now"
    assert new_folder(str(path)) == new_folder(str(path)) == str(path)  # the same process asks more than once
    new_folder.cache_clear()
    assert new_folder(str(path)) == f"{path}_1"
    assert path.is_dir()
    (tmp_path / "file").touch()
    assert new_folder(str(tmp_path / "file" / "now")) == str(tmp_path / "file" / "now")  # Hydra says what is wrong


@pytest.mark.parametrize("name", ["train", "evaluate", "analyze"])
def test_every_command_makes_a_folder_of_its_own(name: str, tmp_path: Path) -> None:
    with composed_job(name, [], tmp_path):
        written = OmegaConf.to_container(HydraConfig.get().run, resolve=False)
    assert written["dir"].startswith("${lsa.new_folder:")  # type: ignore[index]


def test_save_config_resolves(tmp_path: Path) -> None:
    returned = save_config(OmegaConf.create({"a": 1, "b": "${a}", "c": [{"d": "${b}"}]}), tmp_path)
    assert returned == {"a": 1, "b": 1, "c": [{"d": 1}]}
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == returned


def test_what_is_read_from_the_environment_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSA_SECRET", "s3cret")
    config = {
        "root": "${oc.env:LSA_SECRET}/data",
        "same": "${root}",
        "decoded": "${oc.decode:${oc.env:LSA_SECRET}}",
        "made": "${oc.create:{a: '${oc.env:LSA_SECRET}'}}",
        "named": "${${resolver}.env:LSA_SECRET}",
        "resolver": "oc",
        "group": "${other}",
        "other": {"list": [1, "${oc.select:root}", "${missing}", "${number}"], "missing": "???"},
        "missing": None,
        "number": 2,
    }
    returned = save_config(OmegaConf.create(config), tmp_path)
    other = {"list": [1, "${oc.select:root}", None, 2], "missing": "???"}
    assert returned == {**config, "group": other, "other": other}
    assert OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == returned
    assert "s3cret" not in (tmp_path / "config.yaml").read_text()
    assert OmegaConf.create(config).root == "s3cret/data"  # the resolver is as before


def test_numbers_from_the_environment_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMA", "0.5")
    config = {"gamma": "${oc.decode:${oc.env:GAMMA}}", "seed": "${oc.decode:${oc.env:SEED,3}}", "on": "${oc.env:GAMMA}"}
    returned = save_config(OmegaConf.create(config), tmp_path)
    assert returned == {"gamma": 0.5, "seed": 3, "on": "${oc.env:GAMMA}"}


def test_output_dir_is_the_run_folder(tmp_path: Path) -> None:
    with composed_job("train", [], tmp_path):
        assert output_dir() == tmp_path


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


def test_a_figure_is_laid_out_once(tmp_path: Path) -> None:
    class Counted(ConstrainedLayoutEngine):
        times = 0

        def execute(self, fig: Figure) -> None:
            Counted.times += 1
            super().execute(fig)

    figure = drawing()
    figure.set_layout_engine(Counted())
    figure.savefig(tmp_path / "one.png")
    times = Counted.times
    save_figure(figure, tmp_path, "one")
    assert Counted.times == 2 * times > 0


def save_all(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        save_figure(drawing(), folder, name)


def test_figures_that_are_drawn_together_give_the_same_files(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    with figures_together():
        save_all(dict.fromkeys(names, tmp_path / "together"))
        assert not (tmp_path / "together").exists()
    save_all(dict.fromkeys(names, tmp_path / "alone"))
    together, alone = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "figures").iterdir()}
        for folder in ("together", "alone")
    )
    assert together == alone


def test_a_figure_that_cannot_be_drawn_in_another_process_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "two").touch()
    with pytest.raises(OSError, match="two/figures"), figures_together():
        save_all({"one": tmp_path / "one", "two": tmp_path / "two"})


@pytest.mark.parametrize("together", [False, True])
def test_figures_of_a_run_name_it(tmp_path: Path, together: bool) -> None:
    with figures_together() if together else nullcontext(), figures_of("moon", 3):
        save_figure(drawing(), tmp_path, "one")
    save_figure(drawing(), tmp_path, "two")
    one, two = ((tmp_path / "figures" / f"{name}.svg").read_text() for name in ("one", "two"))
    assert "<!-- run: moon, seed 3 -->" in one
    assert "run:" not in two


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
