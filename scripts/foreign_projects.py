"""Runs modules of other projects, unmodified, with ATLR and RobustValidation: right, or an error in words.

    python scripts/foreign_projects.py [--venv FOLDER] [--source solo-learn=CHECKOUT] [--out FILE.json]

Installs the projects from the package index into a virtual environment of its own, which sees the packages of the
current interpreter through a .pth file, so that torch is not installed twice. ``--source`` puts a checkout in the place
of a release. Each project trains for an epoch on random images on the CPU, once at eps 0, where the penalty must be 0,
and once under attack, where ``val/acc_clean`` must be the accuracy that the module itself logs. Prints one line per
project, writes them with all versions to a JSON file, and exits with 1 if something is silently wrong or an error came
from elsewhere than lsa_lightning.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
import sysconfig
import tempfile
import traceback
import venv
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lsa_lightning import ATLR, RobustValidation
from lsa_lightning.attacks import FGSM

CLASSES = 6
OUT = Path(__file__).parents[1] / "benchmarks" / "results" / "foreign_projects.json"
PACKAGES = ["timm", "transformers", "torchgeo", "lightly", "solo-learn"]
ROOT = Path(__file__).parents[1]


class Classifier(pl.LightningModule):
    """The usual LightningModule around somebody's model; its outputs are tensors or have ``logits``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Whatever the model returns."""
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        output = self(x)
        return F.cross_entropy(getattr(output, "logits", output), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the accuracy ``own``."""
        x, y = batch
        output = self(x)
        self.log("own", (getattr(output, "logits", output).argmax(1) == y).float().mean(), batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


@dataclass(frozen=True)
class Project:
    """A module of another project.

    Attributes:
        package: what is installed for it.
        make: builds the module.
        own: key under which it logs its accuracy.
        percent: whether that is in percent.
        size: pixels of a side of its images.
        keys: those of a dict batch; None: batches are pairs.
        trainer: the package whose Trainer runs it.
    """

    package: str
    make: Callable[[], Any]
    own: str = "own"
    percent: bool = False
    size: int = 32
    keys: tuple[str, str] | None = None
    trainer: str = "lightning.pytorch"


def timm_model(name: str, **options: Any) -> Callable[[], Any]:
    """Builds a model of timm."""

    def make() -> Any:
        import timm

        return Classifier(timm.create_model(name, num_classes=CLASSES, **options))

    return make


def hugging_face() -> Any:
    """A ViT that returns a ModelOutput."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, **sizes)
    return Classifier(ViTForImageClassification(config))


def torchgeo() -> Any:
    """Dict batches."""
    from torchgeo.trainers import ClassificationTask

    return ClassificationTask(model="resnet10t", num_classes=CLASSES)


def lightly(name: str, on_lightning: bool = False) -> Callable[[], Any]:
    """Its benchmarks' classifiers, as they are, or with lightning.pytorch in the place of its twin, their import."""

    def make() -> Any:
        import timm

        if on_lightning:
            sys.modules["pytorch_lightning"] = pl
        from lightly.utils import benchmarking

        backbone = timm.create_model("resnet10t", num_classes=0)
        options = {"batch_size_per_device": 8, "feature_dim": 512, "num_classes": CLASSES}
        return getattr(benchmarking, name)(backbone, **options)

    return make


def solo_learn(finetune: bool) -> Callable[[], Any]:
    """LinearModel, of the versions that take a config."""

    def make() -> Any:
        import timm
        from omegaconf import OmegaConf
        from solo.methods.linear import LinearModel

        optimizer = {"name": "sgd", "batch_size": 8, "lr": 0.01, "weight_decay": 0, "kwargs": {}}
        config = {
            "data": {"num_classes": CLASSES},
            "max_epochs": 1,
            "finetune": finetune,
            "optimizer": optimizer,
            "scheduler": {"name": "none"},
        }
        return LinearModel(timm.create_model("resnet10t", num_classes=0), OmegaConf.create(config))

    return make


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
PROJECTS = {
    "timm resnet10t": Project("timm", timm_model("resnet10t")),
    "timm convnext_atto": Project("timm", timm_model("convnext_atto")),
    "timm mobilenetv3_small_050": Project("timm", timm_model("mobilenetv3_small_050")),
    "timm vit_tiny": Project("timm", timm_model("vit_tiny_patch16_224", drop_path_rate=0.1, **VIT)),
    "Hugging Face ViTForImageClassification": Project("transformers", hugging_face),
    "torchgeo ClassificationTask": Project("torchgeo", torchgeo, "val_OverallAccuracy", keys=("image", "label")),
    "lightly FinetuneClassifier": Project(
        "lightly", lightly("FinetuneClassifier"), "val_top1", trainer="pytorch_lightning"
    ),
    "lightly FinetuneClassifier on lightning.pytorch": Project(
        "lightly", lightly("FinetuneClassifier", on_lightning=True), "val_top1"
    ),
    "lightly LinearClassifier on lightning.pytorch": Project(
        "lightly", lightly("LinearClassifier", on_lightning=True), "val_top1"
    ),
    "solo-learn LinearModel": Project("solo-learn", solo_learn(False), "val_acc1", percent=True),
    "solo-learn LinearModel, finetuned": Project("solo-learn", solo_learn(True), "val_acc1", percent=True),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a project.

    Attributes:
        verdict: ``trained``, ``named error``, ``not installed``, ``SILENTLY WRONG`` or ``FOREIGN ERROR``.
        text: what was trained, or the message.
        versions: of what it ran with.
    """

    verdict: str
    text: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_wrong(self) -> bool:
        """Whether this must not be."""
        return self.verdict.isupper()


def batches(project: Project, samples: int, seed: int) -> DataLoader[Any]:
    """Batches of 8 random images."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 3, project.size, project.size, generator=generator)
    rows: Any = list(zip(x, torch.randint(CLASSES, (samples,), generator=generator), strict=True))
    if project.keys is not None:
        rows = [dict(zip(project.keys, row, strict=True)) for row in rows]
    return DataLoader(rows, batch_size=8)


def trained(project: Project, eps: float) -> tuple[ATLR, dict[str, float]]:
    """An epoch of AT-LR; the callback, and what was logged."""
    torch.manual_seed(0)
    module, attack = project.make(), FGSM(eps)
    callback = ATLR(attack, top_k=2, analysis_limit_batches=1)
    run = import_module(project.trainer).Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback, RobustValidation({"fgsm": attack})],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(module, batches(project, 16, seed=1), batches(project, 48, seed=2))
    return callback, {key: float(value) for key, value in run.callback_metrics.items()}


def outcome(project: Project) -> Outcome:
    """Train it twice, and judge."""
    versions = {name: version(name) for name in ("torch", "lightning")}
    try:
        versions[project.package] = version(project.package)
    except PackageNotFoundError:
        versions[project.package] = "a checkout"
    try:
        at_zero = trained(project, 0.0)[1]["train/loss_lr"]
        callback, logged = trained(project, 4 / 255)
    except Exception as error:  # noqa: BLE001
        return judged_error(error, versions)
    own, measured = logged[project.own] / (100 if project.percent else 1), logged["val/acc_clean"]
    text = (
        f"trained with mvl {callback.mvl}, penalty {logged['train/loss_lr']:.4f} ({at_zero:g} at eps 0), "
        f"val/acc_clean {measured:.4f} = own {own:.4f}, val/acc_fgsm {logged['val/acc_fgsm']:.4f}"
    )
    right = at_zero == 0 and 0 < logged["train/loss_lr"] < math.inf and abs(own - measured) < 1e-5
    return Outcome("trained" if right else "SILENTLY WRONG", text, versions)


def judged_error(error: Exception, versions: dict[str, str]) -> Outcome:
    """A package that is not there, an error of ours in words, or anything else."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        return Outcome("not installed", text, versions)
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    # The same exception of pytorch_lightning's own fabric is another class.
    ours = "lsa_lightning" in raised_in.parts and type(error).__name__ in ("ValueError", "MisconfigurationException")
    return Outcome("named error" if ours else "FOREIGN ERROR", text, versions)


def installed(folder: Path, sources: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """The interpreter of the environment in ``folder``, and why packages could not be installed."""
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    paths = [sysconfig.get_paths()["purelib"], str(ROOT / "src"), *sources.values()]
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    packages = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (Path(packages) / "base.pth").write_text("\n".join(paths) + "\n")
    failures = {}
    for package in PACKAGES:
        if package not in sources:
            pip = [str(python), "-m", "pip", "install", "--quiet", package]
            done = subprocess.run(pip, check=False, capture_output=True, text=True)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            failures.update({package: " ".join(errors)} if done.returncode else {})
    return python, failures


def in_environment(python: Path, name: str) -> Outcome:
    """The outcome of a project in an interpreter of its own."""
    command = [str(python), __file__, "--run", name]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Outcome(**json.loads(lines[-1])) if lines else Outcome("FOREIGN ERROR", done.stderr.strip()[-500:])


def main() -> None:
    """Install, run all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--source", action="append", default=[], metavar="PACKAGE=CHECKOUT")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--run", choices=PROJECTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        print(json.dumps(vars(outcome(PROJECTS[args.run]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        python, failures = installed(args.venv or Path(temporary), dict(pair.split("=", 1) for pair in args.source))
        outcomes = {}
        for name, project in PROJECTS.items():
            failure = failures.get(project.package)
            outcomes[name] = Outcome("not installed", failure) if failure else in_environment(python, name)
            print(f"{name}: {outcomes[name].verdict}: {outcomes[name].text}", flush=True)
    args.out.write_text(json.dumps({name: vars(o) for name, o in outcomes.items()}, indent=2) + "\n")
    sys.exit(any(o.is_wrong for o in outcomes.values()))


if __name__ == "__main__":
    main()
