"""How radii and folders may be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.helpers.hydra_run import main_in_process, read_json, tiny_without, train_tiny

from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.cli.meant import take_as_meant
from lsa_lightning.cli.train import main

NO_STAGES = tiny_without("analysis", "evaluation.attacks", "evaluation.masking")


def meant(**values: Any) -> Any:
    """What is made of these nodes."""
    cfg = OmegaConf.create({"seed": 0, **values})
    take_as_meant(cfg, "lsa-train")
    return cfg


@pytest.mark.parametrize(
    ("written", "number"),
    [("8/255", 8 / 255), (" 1 / 4 ", 0.25), ("-1/2", -0.5), ("2.5/5.", 0.5), ("0/255", 0.0)],
)
def test_a_fraction_is_a_number(written: str, number: float) -> None:
    assert meant(threat={"eps": written}).threat.eps == number
    assert meant(attacks=[{"alpha": [written]}]).attacks[0].alpha == [number]


@pytest.mark.parametrize("written", ["8/255/2", "a/255", "runs/8", "1/", "/2", "1//2", "8", "sqlite:///1/2"])
def test_what_is_no_fraction_stays_a_text(written: str) -> None:
    assert meant(threat={"eps": written}).threat.eps == written


def test_interpolations_follow_and_stay_interpolations() -> None:
    cfg = meant(threat={"eps": "1/4"}, attack={"eps": "${threat.eps}"}, evaluation={"eps": ["${threat.eps}"]})
    assert (cfg.attack.eps, list(cfg.evaluation.eps)) == (0.25, [0.25])
    assert OmegaConf.is_interpolation(cfg.attack, "eps")


@pytest.mark.parametrize(("written", "radii"), [(0.1, [0.1]), ("8/255", [8 / 255]), (["1/4", 0.5], [0.25, 0.5])])
def test_one_radius_is_a_list_of_one(written: Any, radii: list[float]) -> None:
    assert list(meant(evaluation={"eps": written}).evaluation.eps) == radii


def test_the_folder_of_the_data_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", "secret")
    assert meant(data={"root": "data/../pictures"}).data.root == str(tmp_path / "pictures")
    assert meant(data={"root": "~/x"}).data.root == str(Path("~/x").expanduser())
    assert meant(data={"root": None}).data.root is None
    written = OmegaConf.to_container(meant(data={"root": "${oc.env:DATA}"}), resolve=False)
    assert written["data"] == {"root": "${oc.env:DATA}"}  # type: ignore[index,call-overload]


def test_fractions_are_understood_by_every_command_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    own = "# @package _global_\nregularizer:\n  gamma: 1/5\nthreat:\n  eps: 1/4\nevaluation:\n  eps: 1/8\n"
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(own)
    settings = [each for each in NO_STAGES if not each.startswith("evaluation.eps=")]
    run = tmp_path / "run"
    main_in_process(
        main, f"--config-dir={tmp_path}/conf", "experiment=own", *settings, "analysis=null", "evaluation.masking=null",
        "evaluation.attacks.pgd.steps=1", "attack.alpha=1/16", f"hydra.run.dir={run}",
    )  # fmt: skip
    config = OmegaConf.load(run / "config.yaml")
    assert (config.callbacks.atlr.attack.eps, config.callbacks.atlr.attack.alpha) == (0.25, 0.0625)
    assert config.callbacks.atlr.regularizer.gamma == 0.2
    assert read_json(run / "summary.json")["eps"] == [0.0, 0.125, 0.25]

    checkpoint = f"ckpt_path={run}/checkpoints/best.ckpt"
    few = ("evaluation.attacks.pgd.steps=1", "evaluation.masking=null")
    main_in_process(evaluate_main, checkpoint, "eps=[1/8,1/2]", *few, f"hydra.run.dir={tmp_path}/e")
    assert read_json(tmp_path / "e" / "evaluation.json")["eps"] == [0.0, 0.125, 0.25, 0.5]
    main_in_process(evaluate_main, checkpoint, "evaluation.eps=1/2", *few, f"hydra.run.dir={tmp_path}/e1")
    assert read_json(tmp_path / "e1" / "evaluation.json")["rg_eps"] == [0.0, 0.5]
    main_in_process(analyze_main, checkpoint, "eps=1/2", "analysis.attacks.pgd.steps=1", f"hydra.run.dir={tmp_path}/a")
    assert OmegaConf.load(tmp_path / "a" / "config.yaml").threat.eps == 0.5


def test_a_run_is_resumed_with_its_fractions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(tmp_path, "analysis=null", "evaluation=null", "threat.eps=1/4")
    assert OmegaConf.load(tmp_path / "config.yaml").threat.eps == 0.25
    assert "Nothing is left to do" in train_tiny(tmp_path, "analysis=null", "evaluation=null", "threat.eps=0.25")
