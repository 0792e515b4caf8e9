"""Every command of docs/own_data_and_model.md runs, with the files that the page writes."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.helpers.fake_data import write_mnist
from tests.helpers.hugging_face import stand_ins
from tests.helpers.hydra_run import FEW_CHECKS, main_in_process, read_json
from tests.helpers.pictures import write_pictures

from lsa_lightning import ATLR
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.cli.train import main
from lsa_lightning.utils.paths import CONF_DIR

PAGE = (Path(__file__).parents[2] / "docs" / "own_data_and_model.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/]+\.(?:py|yaml))`\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if "data=mine" not in line  # says what is meant by the other ones
]
ONE_STEP = [
    f"{place}.pgd.steps=1"
    for place in ("analysis.attacks", "evaluation.attacks", "callbacks.robust_validation.attacks")
]
CPU = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
QUICK = (
    "debug=quick",
    *CPU,
    "attack.steps=1",
    *ONE_STEP,
    *FEW_CHECKS,
)

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the page's project, with data for it, as the current one; its modules can be imported."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write_pictures(tmp_path / "pictures")
    write_mnist(tmp_path / "data")
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 4)), columns=list("abcd"))
    table.assign(label=np.arange(60) % 3).to_csv(tmp_path / "flowers.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with stand_ins():
        yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def typed(command: str) -> list[str]:
    """What follows the program's name; images are small, and read in this process."""
    words = shlex.split(command)
    arguments = words[words.index("lsa-train") + 1 :]
    return [
        *arguments,
        *(["data.num_workers=0", "data.image_shape=[3,32,32]"] if "data=image_folder" in arguments else []),
        *(["data.num_workers=0", "data.val_size=4"] if "data=mnist" in arguments else []),
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "model=torchvision" in command])
def test_every_large_model_trains(project: Path, command: str) -> None:
    stages = ("analysis=null", "evaluation=null", "attack.steps=1", ONE_STEP[-1])
    main_in_process(main, *typed(command), "debug=quick", *CPU, *stages, f"hydra.run.dir={project}/run")
    assert read_json(project / "run" / "summary.json")["mvl_history"][0]["layers"]


@pytest.mark.parametrize("command", [command for command in COMMANDS if "model=torchvision" not in command])
def test_every_other_command_runs(project: Path, command: str) -> None:
    main_in_process(main, *typed(command), *QUICK, f"hydra.run.dir={project}/run")
    summary = read_json(project / "run" / "summary.json")
    assert summary["epochs"] == 1
    assert summary["mvl_history"][0]["layers"]
    assert 0 < summary["test_samples"] <= 128
    assert len(summary["eps"]) >= 3


def test_a_run_of_a_folder_is_evaluated_and_resumed_from_any_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = next(command for command in COMMANDS if "data=image_folder" in command)
    main_in_process(main, *typed(command), *QUICK, "model=cnn", f"hydra.run.dir={project}/run")
    config = OmegaConf.load(project / "run" / "config.yaml")
    assert (config.data.root, config.data.num_classes) == (str(project / "pictures"), 2)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    checkpoint = f"ckpt_path={project}/run/checkpoints/best.ckpt"
    main_in_process(
        evaluate_main,
        checkpoint,
        "evaluation.masking=null",
        "evaluation.attacks.pgd.steps=1",
        f"hydra.run.dir={project}/e",
    )
    assert read_json(project / "e" / "evaluation.json")["samples"] == 2
    main_in_process(main, f"resume={project}/run", "trainer.max_epochs=2")
    assert read_json(project / "run" / "summary.json")["epochs"] == 2


def test_our_groups_in_groups_of_an_app(project: Path) -> None:
    def composed(*overrides: str) -> Any:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(project / "app"), version_base="1.3"):
            return compose("config", list(overrides))

    callback = instantiate(composed().callbacks.atlr, _convert_="all")
    assert isinstance(callback, ATLR)
    assert repr(callback.attack).startswith("PGD(steps=10")
    assert callback.attack.eps == 0.1
    fast = instantiate(composed("experiment=fast").callbacks.atlr, _convert_="all")
    assert repr(fast.attack) == "FGSM(norm='Linf', bounds=(0.0, 1.0), eps=0.1, alpha=0.1)"
    GlobalHydra.instance().clear()


def test_the_page_names_what_exists() -> None:
    assert len(COMMANDS) >= 6
    assert len(FILES) >= 11
    assert (CONF_DIR / "data" / "image_folder.yaml").is_file()
