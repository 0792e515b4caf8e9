"""Every YAML of conf/ is composed, instantiated and run; natural overrides reach the objects."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tests.helpers.fake_data import write_every_data_set
from tests.helpers.hydra_run import (
    TINY,
    TINY_IMAGES,
    composed_job,
    main_in_process,
    read_json,
    tiny_without,
    train_tiny,
)
from tests.helpers.pictures import write_pictures

from lsa_lightning import ATLR, AdversarialTraining, measures
from lsa_lightning.attacks import FGSM, PGD, AdaptiveAttack, LayerAttack, LayerLoss, ThreatModel
from lsa_lightning.cli.analyze import main as analyze_main
from lsa_lightning.cli.evaluate import main as evaluate_main
from lsa_lightning.jobs.train import train
from lsa_lightning.objectives import TRADES
from lsa_lightning.utils.paths import CONF_DIR

pytestmark = pytest.mark.filterwarnings("ignore:Experiment logs directory")

OPTIONS = sorted((str(path.parent.relative_to(CONF_DIR)), path.stem) for path in CONF_DIR.glob("*/**/*.yaml"))
"""Every option of every group: (group, name)."""

OFFLINE = ("logger.wandb.offline=true",)
NARROW_RESNET = (
    "model.backbone._target_=lsa_lightning.models.preact_resnet.PreActResNet",
    "+model.backbone.stem=8",
    "+model.backbone.widths=[8,8,8,8]",
    "+model.backbone.blocks=2",
)
"""bfloat16 takes a CPU without instructions for it ten times as long."""

EXTRA: dict[str, tuple[str, ...]] = {
    "logger/wandb": OFFLINE,
    "logger/many": OFFLINE,
    "attack/ensemble": ("attack.steps=2", "attack.n_queries=5"),
    "attack/autoattack": ("attack.steps=2", "attack.n_queries=5", "attack.n_targets=2"),
    "model/wide_resnet_28_10": ("model.backbone.depth=10", "model.backbone.width=1"),
    "experiment/mnist_at_apgd_lr": ("attack.steps=2",),
    "experiment/cifar10_at_apgd_lr": ("attack.steps=2", "+model.backbone.widths=[8,8,8,8,8]"),
    "experiment/cifar10_fast_lr": ("compile={backend:eager}", *NARROW_RESNET),
}
"""What an option needs besides the tiny settings."""


DATA_OF = {
    "data": {
        name: name for name in ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn", "image_folder")
    },
    "model": {
        "cnn": "mnist",
        "vgg19": "cifar10",
        "preact_resnet18": "cifar10",
        "wide_resnet_28_10": "cifar10",
        "torchvision": "cifar10",
    },
    "attack": {"blur": "mnist"},
    "experiment": {"mnist_at_apgd_lr": "mnist", "cifar10_at_apgd_lr": "cifar10", "cifar10_fast_lr": "cifar10"},
}
"""The image data set that an option needs; the others are run on moons."""

JUDGED = ("analysis", "evaluation", "experiment", "method", "data", "callbacks", "debug", "hydra/job_logging", "logger")
"""Groups whose options masking checks go with; those of the others only train."""

UNCHECKED = {"cifar10": "UncheckedCIFAR10", "cifar100": "UncheckedCIFAR100", "svhn": "UncheckedSVHN"}


def tiny_settings(group: str, name: str, folder: Path) -> list[str]:
    """Overrides that make a job with this option last about a second."""
    data = DATA_OF.get(group, {}).get(name)
    if group == "debug" and name != "quick":
        return tiny_without("analysis", "evaluation")
    if data is None:
        return list(TINY) if group in JUDGED else [*tiny_without("evaluation.masking"), "evaluation.masking=null"]
    if data == "image_folder":
        images = [setting for setting in TINY_IMAGES if not setting.startswith("data.val_size=")]
        root = write_pictures(folder / "pictures")
        return [*images, "model=cnn", "data.image_shape=[3,32,32]", f"data.root={root}"]
    write_every_data_set(folder / "files")
    settings = [*TINY_IMAGES, f"data.root={folder / 'files'}"]
    if data in UNCHECKED:
        settings.append(f"data.dataset_cls.path=tests.helpers.fake_data.{UNCHECKED[data]}")
    settings += [f"data={data}"] if group == "model" else []
    settings += [f"data={data}", "model=cnn"] if group == "attack" else []
    settings += ["model=cnn"] if group == "data" else []
    return settings


PACKAGES = {"logger/mlflow": "mlflow"}
"""What an option needs besides the extra [dev]; without it, the option is composed but not run."""


def run_training(group: str, name: str, folder: Path) -> None:
    settings = tiny_without(group) if name == "none" else tiny_settings(group, name, folder)
    overrides = [f"{group}={name}", *settings, *EXTRA.get(f"{group}/{name}", ())]
    with composed_job("train", overrides, folder) as cfg:
        OmegaConf.to_container(cfg, resolve=True)
        if package := PACKAGES.get(f"{group}/{name}"):
            pytest.importorskip(package, reason=f"{group}={name} composes, and is run where {package} is installed")
        summary = train(cfg)
        expected = _instances_named_by(cfg.get(group))
    assert summary is not None
    assert summary.epochs == 1
    assert (folder / "metrics.csv").is_file() == ((group, name) != ("logger", "none"))
    if group in ("attack", "objective", "regularizer"):
        assert summary.trained[group].startswith(expected)
    elif group == "measure":
        assert summary.analysis is not None
        assert summary.analysis.measure == name
        assert expected in summary.trained["regularizer"]
    elif group in ("model", "data"):
        assert expected
        assert summary.trained[group]
    elif group in ("analysis", "evaluation"):
        assert (getattr(summary, group) is None) == (name == "none")


def compose_training(group: str, name: str, folder: Path) -> None:
    """For what makes sweeps of jobs; tests/cli/test_sweeps.py runs them."""
    with composed_job("train", [f"{group}={name}"], folder) as cfg:
        OmegaConf.to_container(cfg, resolve=True)


def compose_table(group: str, name: str, folder: Path) -> None:
    """For the paper's tables; tests/test_paper_tables.py runs them."""
    compose_training("experiment", f"{group.removeprefix('experiment/')}/{name}", folder)


def _instances_named_by(node: Any) -> str:
    """The class that a group of one object names."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, DictConfig) else ""


WAYS: dict[str, Callable[[str, str, Path], None]] = (
    dict.fromkeys(
        (
            "analysis",
            "attack",
            "callbacks",
            "data",
            "debug",
            "evaluation",
            "experiment",
            "hydra/job_logging",
            "logger",
            "measure",
            "method",
            "model",
            "objective",
            "optimizer",
            "paths",
            "regularizer",
            "scheduler",
            "trainer",
        ),
        run_training,
    )
    | dict.fromkeys(("cluster", "hparams_search"), compose_training)
    | {"experiment/paper": compose_table}
)
"""How the options of each group are run."""


def _case(group: str, name: str) -> Any:
    on_images = name in DATA_OF.get(group, {})
    return pytest.param(group, name, id=f"{group}/{name}", marks=[pytest.mark.slow] if on_images else [])


@pytest.fixture
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Nothing, W&B's caches included, is written outside of the temporary folder; figures nowhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb_home"))


@pytest.mark.usefixtures("_isolated")
@pytest.mark.parametrize(("group", "name"), [_case(*option) for option in OPTIONS])
def test_every_option_of_every_group_runs(group: str, name: str, tmp_path: Path) -> None:
    assert group in WAYS, f"expected a way of running the options of conf/{group} in WAYS"
    WAYS[group](group, name, tmp_path / "run")


def test_every_way_of_running_belongs_to_a_group() -> None:
    assert set(WAYS) == {group for group, _ in OPTIONS}


def test_every_top_level_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.stem for path in CONF_DIR.glob("*.yaml")} == {"train", "analyze", "evaluate"}
    train_tiny(tmp_path / "train")
    checkpoint = f"ckpt_path={tmp_path}/train/checkpoints/last.ckpt"
    main_in_process(analyze_main, checkpoint, f"hydra.run.dir={tmp_path}/analyze")
    main_in_process(evaluate_main, checkpoint, f"hydra.run.dir={tmp_path}/evaluate")
    assert (tmp_path / "analyze" / "profile.csv").is_file()
    assert (tmp_path / "evaluate" / "evaluation.csv").is_file()


def test_a_new_file_would_be_picked_up() -> None:
    assert ("attack", "pgd") in OPTIONS
    assert len(OPTIONS) == len({*OPTIONS}) == len(list(CONF_DIR.rglob("*.yaml"))) - len(list(CONF_DIR.glob("*.yaml")))


def callback_of(tmp_path: Path, *overrides: str, key: str = "atlr") -> Any:
    with composed_job("train", overrides, tmp_path) as cfg:
        return instantiate(cfg.callbacks[key], _convert_="all")


@pytest.mark.parametrize(("method", "ramped"), [([], True), (["method=paper"], False)])
def test_the_default_is_the_papers_form_but_for_a_ramp(tmp_path: Path, method: list[str], ramped: bool) -> None:
    callback = callback_of(tmp_path, *method)
    assert isinstance(callback.regularizer.measure, measures.RelativeError)
    assert callback.regularizer.gamma == 0.1
    factors = [callback.regularizer.weights(["a"], share=share)["a"] for share in (0.0, 0.3, 0.5)]
    assert factors == pytest.approx([0.0, 0.05, 0.1] if ramped else [0.1, 0.1, 0.1])
    assert (callback.mvl, callback.selector, callback.alarm, callback.gated, callback.unlabelled) == (
        *(None, None, None),
        False,
        None,
    )


def test_a_method_overrules_the_experiment_and_typed_values_overrule_the_method(tmp_path: Path) -> None:
    constant = callback_of(tmp_path, "experiment=mnist_at_apgd_lr", "method=paper").regularizer
    assert (constant.gamma, constant.schedule) == (0.01, None)
    callback = callback_of(tmp_path, "experiment=mnist_at_apgd_lr", "method=centered")
    assert (callback.regularizer.gamma, callback.mvl) == (0.3, ["learnable", "logits"])
    assert isinstance(callback.regularizer.measure, measures.RelativeSquaredError)
    assert callback.regularizer.schedule(0.3) == pytest.approx(0.5)
    typed = (
        "method=centered",
        "measure=cosine_distance",
        "regularizer.gamma=0.2",
        "callbacks.atlr.mvl=[backbone.act2]",
    )
    callback = callback_of(tmp_path, *typed)
    assert (callback.regularizer.gamma, callback.mvl) == (0.2, ["backbone.act2"])
    assert isinstance(callback.regularizer.measure, measures.CosineDistance)


def test_plain_adversarial_training_has_the_methods_alarm(tmp_path: Path) -> None:
    callback = callback_of(tmp_path, "experiment=moon_at", "method=gated", key="adversarial_training")
    assert callback.alarm.deviations == 2.0


def test_natural_overrides_reach_the_callback(tmp_path: Path) -> None:
    callback = callback_of(
        tmp_path, "attack=fgsm", "objective=trades", "regularizer.gamma=0.3", "callbacks.atlr.mvl=[backbone.act3]"
    )
    assert type(callback) is ATLR
    assert type(callback.attack) is FGSM
    assert isinstance(callback.objective, TRADES)
    assert callback.objective.beta == 6.0
    assert callback.regularizer.gamma == 0.3
    assert callback.mvl == ["backbone.act3"]
    assert callback.fixed


def test_any_attack_can_join_an_analysis_or_an_evaluation(tmp_path: Path) -> None:
    overrides = ["+attack@analysis.attacks.layer=layer", "analysis.attacks.layer.layers=backbone.act1"]
    overrides += ["+attack@evaluation.attacks.adaptive=adaptive", "evaluation.attacks.adaptive.best=success"]
    with composed_job("train", [*overrides, "measure=cosine_distance", "threat.eps=0.4"], tmp_path) as cfg:
        layer = instantiate(cfg.analysis, _convert_="all").attacks["layer"]
        adaptive = instantiate(cfg.evaluation, _convert_="all").evaluation.attacks["adaptive"]
    assert type(layer) is LayerAttack
    assert type(adaptive) is AdaptiveAttack
    assert layer.eps == 0.4
    assert isinstance(layer.loss_fn, LayerLoss)
    assert isinstance(layer.loss_fn.regularizer.measure, measures.CosineDistance)
    assert layer.loss_fn.layers == ["backbone.act1"]


def test_the_same_overrides_train(tmp_path: Path) -> None:
    overrides = ("attack=fgsm", "objective=trades", "regularizer.gamma=0.3", "callbacks.atlr.mvl=[backbone.act3]")
    train_tiny(tmp_path, *overrides)
    summary = read_json(tmp_path / "summary.json")
    assert summary["trained"]["objective"] == "TRADES(beta=6)"
    assert summary["mvl_history"][-1]["mvl"] == ["backbone.act3"]


def test_gamma_can_be_a_mapping(tmp_path: Path) -> None:
    callback = callback_of(tmp_path, "regularizer.gamma={backbone.act1:0.2,backbone.act3:1}")
    assert callback.regularizer.gamma == {"backbone.act1": 0.2, "backbone.act3": 1.0}


def test_attacks_take_eps_and_bounds_from_the_data_set(tmp_path: Path) -> None:
    attack = callback_of(tmp_path, "threat.eps=0.4", "threat.bounds=[-3,3]").attack
    assert (attack.eps, attack.bounds, attack.alpha) == (0.4, (-3.0, 3.0), pytest.approx(0.1))


def objects_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every node, however deep, that makes an object."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from objects_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects_in(value)


@pytest.mark.parametrize(
    "choice", ["/".join(option) for option in OPTIONS if option[0] in ("experiment", "attack", "callbacks")]
)
def test_the_threat_model_is_the_one_switch(tmp_path: Path, choice: str) -> None:
    overrides = [choice.replace("/", "="), "threat.norm=L2", "threat.eps=0.5", "threat.bounds=[-3,3]"]
    with composed_job("train", overrides, tmp_path) as cfg:
        config = OmegaConf.to_container(cfg, resolve=True)
    threats = [
        {key: node[key] for key in ("norm", "eps", "bounds") if key in node}
        for node in objects_in(config)
        if ("norm" in node or "eps" in node or "bounds" in node) and not node["_target_"].endswith("EvaluationStage")
    ]
    # The optimizer's eps is another thing; what attacks in it has all three, what measures at every eps the others.
    expected = {"norm": "L2", "eps": 0.5, "bounds": [-3, 3]}
    assert threats.count(expected) > 10
    assert all({key: expected[key] for key in threat} == threat for threat in threats)
    assert all(set(threat) in (set(expected), {"norm", "bounds"}, {"norm"}) for threat in threats)


@pytest.mark.parametrize("data", [name for group, name in OPTIONS if group == "data"])
def test_the_threat_is_a_threat_model_and_the_training_radius_is_among_the_columns(tmp_path: Path, data: str) -> None:
    with composed_job("train", [f"data={data}"], tmp_path) as cfg:
        threat = ThreatModel(**OmegaConf.to_container(cfg.threat))
        assert set(cfg.threat) == {"norm", "eps", "bounds"}
        assert min(cfg.evaluation.eps) <= threat.eps <= max(cfg.evaluation.eps)


@pytest.mark.parametrize(
    ("overrides", "backbone"),
    [
        ((), "MLP"),
        (("data=mnist",), "CNN"),
        (("data=kmnist",), "CNN"),
        (("data=cifar10",), "PreActResNet18"),
        (("data=svhn",), "PreActResNet18"),
        (("data=mnist", "model=mlp"), "MLP"),
        (("experiment=cifar10_at_apgd_lr",), "VGG19"),
        (("experiment=moon_at", "data=fashion_mnist"), "MLP"),
    ],
)
def test_data_bring_a_model_that_fits_unless_another_one_is_chosen(
    tmp_path: Path, overrides: tuple[str, ...], backbone: str
) -> None:
    with composed_job("train", overrides, tmp_path) as cfg:
        assert cfg.model.backbone._target_.endswith(backbone)
        shape = cfg.data.get("image_shape", [2])
        model = instantiate(cfg.model, _convert_="all").eval()
        assert len(model(torch.zeros(2, *shape))[0]) == cfg.data.get("num_classes", 1)


def test_the_training_attack_alone_can_have_another_eps(tmp_path: Path) -> None:
    with composed_job("train", ["attack.eps=0.2"], tmp_path) as cfg:
        training = instantiate(cfg.callbacks.atlr, _convert_="all").attack
        analysed = instantiate(cfg.analysis.attacks.pgd, _convert_="all")
    assert (training.eps, analysed.eps) == (0.2, 0.3)


def test_validation_has_the_evaluations_attacks_but_does_not_follow_it(tmp_path: Path) -> None:
    with composed_job("train", [], tmp_path) as cfg:
        assert cfg.callbacks.robust_validation.attacks == cfg.evaluation.attacks
    with composed_job("train", ["evaluation.attacks.pgd.steps=7", "~evaluation.attacks.fgsm"], tmp_path) as cfg:
        validation = instantiate(cfg.callbacks.robust_validation, _convert_="all")
    assert list(validation.attacks) == ["fgsm", "pgd"]
    assert isinstance(validation.attacks["pgd"], PGD)
    assert (validation.attacks["pgd"].steps, validation.attacks["pgd"].best) == (20, "success")
    assert [attack.eps for attack in validation.rg_attacks] == [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("relative_error", measures.RelativeError),
        ("centered_relative_error", measures.CenteredRelativeError),
        ("cosine_distance", measures.CosineDistance),
        ("kl_divergence", measures.KLDivergence),
        ("relative_squared_error", measures.RelativeSquaredError),
    ],
)
def test_one_group_chooses_the_measure_of_training_and_analysis(tmp_path: Path, name: str, measure: type) -> None:
    with composed_job("train", [f"measure={name}", "regularizer.gamma=2"], tmp_path) as cfg:
        regularizer = instantiate(cfg.callbacks.atlr, _convert_="all").regularizer
        analysis = instantiate(cfg.analysis, _convert_="all")
    assert type(regularizer.measure) is type(analysis.measure) is measure
    assert regularizer.gamma == 2.0


@pytest.mark.parametrize(
    ("overrides", "eps"),
    [
        (("attack.eps=0.2",), 0.2),
        (("threat.eps=0.4",), 0.4),
        (("callbacks=at_fast", "attack=fgsm"), 0.3),
        (("callbacks=normal",), None),
        (("experiment=moon_normal",), None),
    ],
)
def test_the_radius_of_training_is_that_of_its_attack(
    tmp_path: Path, overrides: tuple[str, ...], eps: float | None
) -> None:
    with composed_job("train", overrides, tmp_path) as cfg:
        assert cfg.evaluation.training_eps == eps


@pytest.mark.parametrize(
    ("experiment", "key", "kind"),
    [("moon_at", "adversarial_training", AdversarialTraining), ("moon_at_lr", "atlr", ATLR)],
)
def test_experiments_choose_the_method(tmp_path: Path, experiment: str, key: str, kind: type) -> None:
    assert type(callback_of(tmp_path, f"experiment={experiment}", key=key)) is kind


def test_normal_training_has_no_attack(tmp_path: Path) -> None:
    with composed_job("train", ["experiment=moon_normal"], tmp_path) as cfg:
        others = {"checkpoint", "last_checkpoint", "learning_rate", "model_table", "progress_bar"}
        assert set(cfg.callbacks) == {"robust_validation", *others}
        assert cfg.callbacks.checkpoint.monitor == "val/acc_clean"


def test_every_composed_value_resolves(tmp_path: Path) -> None:
    with composed_job("train", [], tmp_path) as cfg:
        assert not OmegaConf.missing_keys(cfg)
        assert OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


ALIASES = {"centred": "centered", "moon_unlabelled": "unlabelled"}


@pytest.mark.parametrize("name", sorted({path.stem for path in (CONF_DIR / "method").glob("*.yaml")} - set(ALIASES)))
def test_every_method_is_described(name: str) -> None:
    page = (CONF_DIR.parent / "docs" / "concepts" / "at_lr.md").read_text()
    assert f"| `{name}` |" in page
    assert f"method={name}" in (CONF_DIR / "train.yaml").read_text() or name == "default"


@pytest.mark.parametrize("names", ALIASES.items())
def test_another_name_of_a_method_means_the_same(tmp_path: Path, names: tuple[str, str]) -> None:
    found = []
    for name in names:
        with composed_job("train", [f"method={name}"], tmp_path / name) as cfg:
            found.append((OmegaConf.to_container(cfg.regularizer), OmegaConf.to_container(cfg.method)))
    assert found[0] == found[1]


def test_images_without_labels_are_those_that_training_leaves(tmp_path: Path) -> None:
    write_every_data_set(tmp_path / "files")
    overrides = ("data=mnist", "method=unlabelled", f"data.root={tmp_path / 'files'}", "data.val_size=4")
    callback = callback_of(tmp_path, *overrides, "data.train_size=3", "data.num_workers=0")
    source = callback.unlabelled.source
    drawn = source.draw(torch.zeros(1))
    expected = next(iter(source.loader.unlabelled_dataloader()))[0]
    assert source.loader.train_size == 3
    assert torch.equal(drawn, expected)
    assert torch.equal(pickle.loads(pickle.dumps(source)).draw(torch.zeros(1)).sum(), source.draw(torch.zeros(1)).sum())
    assert (callback.mvl, callback.unlabelled.only) == (["logits"], True)
