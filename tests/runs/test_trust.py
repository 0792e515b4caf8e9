"""A run folder runs no code: what its configuration may name, and what happens to everything else."""

from __future__ import annotations

import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from tests.helpers.hydra_run import composed_job, train_tiny
from tests.helpers.malicious import CALLS, ELSEWHERE, PACKAGE, RUN_BY_HYDRA, Trap, put
from tests.helpers.pictures import write_pictures

from lsa_lightning.runs.checkpoint import USED, load_run
from lsa_lightning.runs.folder import resolved_but_for_environment
from lsa_lightning.runs.kinds import JOB, KINDS
from lsa_lightning.runs.trust import Trust
from lsa_lightning.utils.paths import CONF_DIR


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lsa-train."""
    folder = tmp_path_factory.mktemp("train") / "run"
    train_tiny(folder, "analysis=null", "evaluation=null")
    return folder


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    monkeypatch.syspath_prepend(tmp_path)
    trap = Trap(tmp_path)
    trap.reset()
    return trap


@pytest.fixture(scope="module")
def written(run: Path) -> dict[str, Any]:
    """What its config.yaml holds."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return config


def rewrite(run: Path, written: dict[str, Any], place: str, value: Any) -> str:
    """Put ``value`` into the run's config.yaml; the checkpoint of the run."""
    used = {key: each for key, each in ELSEWHERE.items() if f"${{{key}}}" in str(value)}
    config = {**deepcopy(written), **used}
    put(config, place, value)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return f"{run}/checkpoints/last.ckpt"


@pytest.mark.parametrize("name", CALLS)
def test_a_malicious_run_folder_runs_nothing(run: Path, written: dict[str, Any], trap: Trap, name: str) -> None:
    place, node = CALLS[name]
    checkpoint = rewrite(run, written, place, node(trap))
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"config.yaml: .*: expected .*, got .*if you trust .*trust=") as error:
        load_run(checkpoint)
    assert not trap.is_sprung
    assert PACKAGE not in sys.modules
    assert {module.partition(".")[0] for module in set(sys.modules) - before} <= {"timm", "torchvision"}
    where = str(error.value).partition("config.yaml: ")[2].partition(":")[0]
    assert where.startswith(place) or where in ELSEWHERE


def test_without_the_check_they_run(trap: Trap) -> None:
    ran = set()
    for name in RUN_BY_HYDRA:
        place, node = CALLS[name]
        config: dict[str, Any] = {}
        put(config, place, node(trap))
        with suppress(Exception):
            instantiate(OmegaConf.create(config), _convert_="all")
        ran |= {name} if trap.is_sprung else set()
        trap.reset()
    assert len(ran) >= len(RUN_BY_HYDRA) / 2  # newer releases of Hydra may block some more


def test_whatever_a_job_makes_is_checked(trap: Trap) -> None:
    """In a folder that lsa-train goes on in, everything is made."""
    node = {"_target_": f"{PACKAGE}.build"}
    places = [
        *JOB,
        "callbacks.atlr",
        "callbacks.atlr.attack",
        "callbacks.atlr.objective",
        "callbacks.atlr.regularizer.measure",
        "callbacks.robust_validation.attacks.pgd",
        "callbacks.checkpoint.monitor",
        "logger.csv",
        "logger.csv.save_dir",
        "trainer.plugins",
        "trainer.strategy",
        "analysis.attacks.salt",
        "analysis.measure",
        "evaluation.masking",
        "evaluation.attacks.pgd.loss_fn",
    ]
    config = saved(trap.folder)
    for place in places:
        tree = deepcopy(config)
        put(tree, place, node)
        with pytest.raises(ValueError, match=rf"^{place}: expected .*trust=\[{PACKAGE}\]"):
            Trust().check(OmegaConf.create(tree), JOB)
    assert PACKAGE not in sys.modules


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_names_classes_and_kinds_that_exist(name: str) -> None:
    kind = KINDS[name]
    assert {*kind.arguments.values(), *filter(None, [kind.rest])} <= set(KINDS)
    for bases in kind.bases.values():
        assert all(isinstance(get_class(base), type) for base in bases)


def test_the_key_of_a_logger_is_sent_nowhere_else() -> None:
    logger = {"_target_": "lightning.pytorch.loggers.WandbLogger", "settings": {"base_url": "http://somewhere"}}
    with pytest.raises(ValueError, match=r"logger.wandb.settings: expected nothing that leads out of"):
        Trust().check(OmegaConf.create({"logger": {"wandb": logger}}), JOB)


def saved(folder: Path, *overrides: str) -> dict[str, Any]:
    """What lsa-train saves as config.yaml."""
    with composed_job("train", overrides, folder) as cfg:
        config: dict[str, Any] = resolved_but_for_environment(cfg)
        return config


OPTIONS = {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in CONF_DIR.iterdir()}
LISTED = ("attack", "callbacks", "logger", "measure", "objective", "optimizer", "regularizer", "scheduler", "trainer")
IMAGES = [name for name in OPTIONS["data"] if name != "moon"]
EXPERIMENTS = [[f"experiment={name}"] for name in OPTIONS["experiment"]]
METHODS = [[f"method={name}", "data=moon", "callbacks=at_lr"] for name in OPTIONS["method"]]
MIXED = [
    ["data=moon", *(f"{group}={OPTIONS[group][index % len(OPTIONS[group])]}" for group in LISTED)]
    for index in range(max(len(OPTIONS[group]) for group in LISTED))
]
ON_IMAGES = [
    [f"model={name}", f"data={IMAGES[index % len(IMAGES)]}"]
    for index, name in enumerate(name for name in OPTIONS["model"] if name != "mlp")
]
OTHER_IMAGES = [["model=cnn", f"data={name}"] for name in IMAGES[len(ON_IMAGES) :]]


@pytest.mark.parametrize("overrides", [*EXPERIMENTS, *METHODS, *MIXED, *ON_IMAGES, *OTHER_IMAGES], ids=" ".join)
def test_all_that_conf_composes_is_allowed(tmp_path: Path, overrides: list[str]) -> None:
    own = [f"data.root={write_pictures(tmp_path / 'pictures')}"] if "data=image_folder" in overrides else []
    Trust().check(OmegaConf.create(saved(tmp_path, *overrides, *own)), {**JOB, **USED})


@pytest.mark.parametrize(
    "backbone",
    [
        {"_target_": "torchvision.models.densenet121", "weights": "IMAGENET1K_V1"},
        {"_target_": "torchvision.models.resnet18", "weights": "ResNet18_Weights.DEFAULT"},
        {"_target_": "torchvision.models.VisionTransformer", "image_size": 32},
        {"_target_": "torchvision.models.alexnet"},
        {"_target_": "timm.models.resnet10t", "pretrained": True},
        {"_target_": "timm.create_model", "model_name": "resnet18.a1_in1k", "num_classes": 3},
        {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
        {"_target_": "lsa_lightning.models.MLP", "activation": {"_target_": "torch.nn.ReLU", "_partial_": True}},
        {
            "_target_": "lsa_lightning.models.MLP",
            "activation": {"_target_": "hydra.utils.get_class", "path": "torch.nn.ReLU"},
        },
    ],
)
def test_backbones_that_are_allowed(backbone: dict[str, Any]) -> None:
    Trust().check(
        OmegaConf.create({"model": {"_target_": "lsa_lightning.RobustClassifier", "backbone": backbone}}), JOB
    )


def model_of(backbone: dict[str, Any], **arguments: Any) -> DictConfig:
    model = {"_target_": "lsa_lightning.RobustClassifier", "backbone": backbone, **arguments}
    return OmegaConf.create({"model": model})


def test_a_package_that_is_trusted_may_name_its_own(trap: Trap) -> None:
    trust = Trust.of([PACKAGE])
    for name in ("Net", "build"):
        config = model_of(
            {"_target_": f"{PACKAGE}.{name}"}, optimizer={"_target_": f"{PACKAGE}.Net", "_partial_": True}
        )
        trust.check(config, JOB)
        assert type(instantiate(config.model).backbone).__name__ == "Net"


@pytest.mark.parametrize("name", ["os.system", "nn.Linear", "os"])
def test_but_not_what_it_has_imported(trap: Trap, name: str) -> None:
    with pytest.raises(ValueError, match=rf"expected .* that {PACKAGE} defines, got '{PACKAGE}\..* of "):
        Trust.of([PACKAGE]).check(model_of({"_target_": f"{PACKAGE}.{name}"}), JOB)


def test_a_package_that_is_trusted_opens_nothing_else(trap: Trap) -> None:
    with pytest.raises(ValueError, match=r"model.normalize: .*got 'os.system'; .* trust=\[os\] or trust=all"):
        Trust.of([PACKAGE]).check(
            model_of({"_target_": f"{PACKAGE}.Net"}, normalize={"_target_": "os.system", "command": trap.command}), JOB
        )


@pytest.mark.parametrize(
    ("target", "reason"),
    [("torch.nn.NoSuchLayer", "which cannot be found"), ("lsa_lightning.nothing.Net", "which cannot be found")],
)
def test_what_is_not_there_is_said_to_be_so(target: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"model.backbone: expected an nn.Module, .*{target}, {reason}"):
        Trust().check(model_of({"_target_": target}), JOB)


def test_with_everything_trusted_nothing_is_checked(trap: Trap) -> None:
    Trust.of("all").check(model_of({"_target_": "os.system"}), JOB)


def test_the_environment_is_read_where_its_resolver_is_trusted() -> None:
    config = OmegaConf.create(
        {"data": {"_target_": "lsa_lightning.MNISTDataModule", "root": "${oc.env:HOME}/${a}"}, "a": 1}
    )
    with pytest.raises(ValueError, match=r"data.root: expected a plain value, .* trust=\[oc.env\] or trust=all"):
        Trust().check(config, JOB)
    Trust.of(["oc.env"]).check(config, JOB)


def test_the_environment_elsewhere_is_left_alone() -> None:
    config = model_of({"_target_": "lsa_lightning.models.MLP"})
    config.secret = "${oc.env:NO_SUCH_VARIABLE}"
    Trust().check(config, JOB)


@pytest.mark.parametrize("value", [None, [], OmegaConf.create([])])
def test_nothing_is_trusted_where_nothing_is_said(value: Any) -> None:
    assert Trust.of(value) == Trust()


@pytest.mark.parametrize("value", ["package", 3, [""], [1]])
def test_trust_is_a_list_of_names_or_all(value: Any) -> None:
    with pytest.raises(ValueError, match=r"trust: expected trust"):
        Trust.of(value)


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ValueError, match=r"backbone: expected missing to be installed, for missing.Net: pip install"):
        Trust.of(["missing"]).check(model_of({"_target_": "missing.Net"}), JOB)
