"""Sweeps and searches: one folder each, job folders named by what is swept, and each launcher of conf/cluster."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from tests.helpers.fake_data import write_mnist
from tests.helpers.hydra_run import TINY, main_in_process, read_json

from lsa_lightning.cli.overrides import PLUGINS, check_plugins, with_swept_names
from lsa_lightning.cli.train import main
from lsa_lightning.runs.folder import LONGEST_NAME, job_folder, output_dir
from lsa_lightning.utils.paths import CONF_DIR

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

BRIEF = [*(setting for setting in TINY if not setting.startswith(("evaluation", "analysis")))]
BRIEF += ["analysis=null", "evaluation=null"]
CLUSTERS = sorted(path.stem for path in (CONF_DIR / "cluster").glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    """The configuration of a sweep's launcher, Hydra's own included."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def launcher_of(*overrides: str) -> Any:
    return Plugins.instance()._instantiate(composed(*overrides).hydra.launcher)


def jobs_in(sweep: Path) -> dict[str, Any]:
    """The summaries of a sweep's jobs by folder."""
    return {path.parent.name: read_json(path) for path in sweep.glob("*/summary.json")}


def test_whatever_is_swept_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs: dict[Path, tuple[str, int]] = {}
    with patch("lsa_lightning.cli.train.train", lambda cfg: jobs.update({output_dir(): (cfg.name, cfg.seed)})):
        main_in_process(main, "-m", "experiment=moon_at,moon_at_lr", "seed=0,1", "trainer.max_epochs=3")
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    methods = ("moon_at", "moon_at_lr")
    assert jobs == {sweep / f"experiment-{name}+seed-{seed}": (name, seed) for name in methods for seed in (0, 1)}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=0"], "seed-0"),
        (["seed=0", "experiment=moon_at"], "experiment-moon_at+seed-0"),
        (["+regularizer.gamma=1e-3"], "gamma-1e-3"),
        (["attack.eps=0.1", "threat.eps=0.2"], "attack.eps-0.1+threat.eps-0.2"),
        (["callbacks.atlr.eta=-0.5"], "eta--0.5"),
        ([], "job"),
    ],
)
def test_a_job_is_named_by_its_overrides(overrides: list[str], name: str) -> None:
    assert job_folder(overrides) == name


NASTY = ["[backbone.act3]", "[backbone,act3]", "{a:1,b:{c:2}}", "{a:1,b:{c:3}}", "'a b'", '"a b"', "../../up", "é", ""]


def test_names_are_safe_bounded_and_never_shared() -> None:
    values = [*NASTY, "x" * 300, "x" * 301, "null"]
    names = [job_folder([f"callbacks.atlr.mvl={value}", "seed=0"]) for value in values]
    assert len(set(names)) == len(values)
    for name in names:
        assert len(name) <= LONGEST_NAME
        assert "/" not in name
        override = OverridesParser.create().parse_override(f"ckpt_path=runs/sweeps/{name}/checkpoints/last.ckpt")
        assert override.value() == f"runs/sweeps/{name}/checkpoints/last.ckpt"  # no quotes are needed


def test_the_order_of_overrides_does_not_matter() -> None:
    assert job_folder(["b=1", "a=2"]) == job_folder(["a=2", "b=1"]) == "a-2+b-1"


def test_what_all_jobs_share_is_not_in_their_names() -> None:
    typed = ["-m", "seed=0,1", "trainer.max_epochs=3", "~callbacks.progress_bar", "not an override="]
    left_out = 'hydra.job.config.override_dirname.exclude_keys=["trainer.max_epochs","callbacks.progress_bar"]'
    assert with_swept_names(typed) == [*typed[:2], left_out, *typed[2:]]
    assert with_swept_names(["--cfg", "job"]) == ["--cfg", "job"]


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("experiment", ["moon_at", "cifar10_at_apgd_lr"])
def test_every_cluster_composes_with_any_experiment(cluster: str, experiment: str) -> None:
    cfg = composed(f"cluster={cluster}", f"experiment={experiment}", "hydra.sweep.dir=sweep")
    launcher = Plugins.instance()._instantiate(cfg.hydra.launcher)
    assert (
        type(launcher).__name__
        == {
            "joblib": "JoblibLauncher",
            "local": "BasicLauncher",
            "slurm": "SlurmLauncher",
            "submitit_local": "LocalLauncher",
        }[cluster]
    )
    del cfg.hydra
    assert "processes" in OmegaConf.to_container(cfg, resolve=True).get("cluster", {"processes": 1})  # type: ignore[union-attr]


def test_slurm_gets_what_cluster_says() -> None:
    options = {"partition": "gpu", "account": "lab", "gpus": 2, "cpus": 8, "mem": 64, "time": 90, "parallel": 4}
    given = [f"cluster.{key}={value}" for key, value in options.items()]
    given += ["cluster.setup=[module load cuda]", "cluster.requeue=false", "cluster.sbatch={mail-type: END}"]
    params = launcher_of("cluster=slurm", "trainer.devices=2", "hydra.sweep.dir=sweep", *given).params
    expected = {
        "partition": "gpu",
        "account": "lab",
        "gpus_per_node": 2,
        "tasks_per_node": 2,
        "nodes": 1,
        "cpus_per_task": 8,
        "mem_gb": 64,
        "timeout_min": 90,
        "array_parallelism": 4,
        "max_num_timeout": 20,
        "setup": ["module load cuda"],
        "additional_parameters": {"no-requeue": True, "mail-type": "END"},
        "signal_delay_s": 120,
        "submitit_folder": "sweep/.submitit/%j",
    }
    assert {key: params[key] for key in expected} == expected


@pytest.mark.parametrize("cluster", ["slurm", "submitit_local"])
def test_submitit_starts_a_process_for_each_device(cluster: str) -> None:
    launcher = launcher_of(f"cluster={cluster}", "trainer.devices=[0,1,2]", "hydra.sweep.dir=sweep")
    assert launcher.params["tasks_per_node"] == 3


def test_joblib_is_refused_with_several_devices_before_anything_is_launched(tmp_path: Path) -> None:
    command = ["-m", "cluster=joblib", "trainer.devices=2", "trainer.strategy=ddp", "seed=0,1"]
    with pytest.raises(InterpolationResolutionError, match=r"expected trainer\.devices=1 with cluster=joblib"):
        main_in_process(main, *command, f"hydra.sweep.dir={tmp_path}/sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("choice", PLUGINS)
def test_a_missing_extra_is_one_line(
    choice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in PLUGINS.values():
        monkeypatch.setitem(sys.modules, module, None)
    message = f'lsa-train: {choice} needs more packages: pip install "lsa-lightning[cluster]"'
    with pytest.raises(SystemExit, match="needs more packages") as ended:
        main_in_process(main, "-m", choice, "seed=0,1")
    assert ended.value.code == message
    check_plugins(["cluster=local", "seed=0,1"])


def test_every_choice_that_needs_a_package_is_known() -> None:
    groups = {f"cluster={name}" for name in CLUSTERS if name != "local"}
    assert set(PLUGINS) == groups | {"hparams_search=optuna"}


def test_joblib_runs_jobs_side_by_side(tmp_path: Path) -> None:
    command = ["-m", "cluster=joblib", "experiment=moon_at,moon_at_lr", "hydra.launcher.verbose=0"]
    main_in_process(main, *command, *BRIEF, f"hydra.sweep.dir={tmp_path}/sweep")
    assert {folder: summary["name"] for folder, summary in jobs_in(tmp_path / "sweep").items()} == {
        "experiment-moon_at": "moon_at",
        "experiment-moon_at_lr": "moon_at_lr",
    }


def test_a_job_of_joblib_may_have_worker_processes(tmp_path: Path) -> None:
    """In joblib's own processes PyTorch cannot start any as long as joblib's way of starting them is the usual one."""
    write_mnist(tmp_path)
    data = ("data=mnist", f"data.root={tmp_path}", "data.num_workers=1", "data.val_size=8", "data.batch_size=8")
    brief = ("callbacks=normal", "trainer.max_epochs=1", "analysis=null", "evaluation=null")
    command = ["-m", "cluster=joblib", *data, *brief, "seed=0,1", "hydra.launcher.verbose=0"]
    main_in_process(main, *command, f"hydra.sweep.dir={tmp_path}/sweep")
    assert set(jobs_in(tmp_path / "sweep")) == {"seed-0", "seed-1"}


def profile(run: Path) -> dict[str, list[float]]:
    """The relative errors of the layers, epoch by epoch."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [key for key in rows[0] if key.startswith("lsa/relative_error/")]
    return {key: [float(row[key]) for row in rows if row[key]] for key in keys}


def test_two_tasks_of_submitit_train_as_one_process(tmp_path: Path) -> None:
    """All data in one batch, half of it in each task; FGSM draws nothing, so nothing else differs."""
    common = [*BRIEF, "experiment=moon_at_lr", "attack=fgsm", "trainer.max_epochs=3"]
    main_in_process(main, *common, "data.batch_size=64", f"hydra.run.dir={tmp_path}/one")
    two = ["cluster=submitit_local", "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=32"]
    main_in_process(main, "-m", *common, *two, "seed=0", f"hydra.sweep.dir={tmp_path}/two")
    (sums,) = jobs_in(tmp_path / "two").values()
    expected = profile(tmp_path / "one")
    assert sums["epochs"] == 3
    assert len(expected) == 3
    for key, values in profile(tmp_path / "two" / "job").items():
        assert len(values) == 4  # before training, and after each epoch
        assert values == pytest.approx(expected[key], abs=1e-6)
