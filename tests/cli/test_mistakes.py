"""What newcomers mistype, and the one line that each mistake gets: it says what to type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from tests.helpers.hydra_run import main_as_shown, train_tiny
from tests.helpers.pictures import write_pictures
from torch import nn

from lsa_lightning import (
    ATLR,
    AdversarialTraining,
    LayerSustainabilityAnalysis,
    LayerwiseRegularizer,
    MoonDataModule,
    RobustClassifier,
    RobustnessEvaluation,
    RobustValidation,
)
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.cli import analyze, evaluate, train
from lsa_lightning.cli.report import main as report_main
from lsa_lightning.models import MLP, Normalize

TRAIN: list[tuple[str, str]] = [
    # Names
    ("objective=trade", "expected objective to be one of at, mart, trades, got trade; did you mean objective=trades?"),
    ("experiment=moon_at_rl", "got moon_at_rl; did you mean experiment=moon_at_lr"),
    ("measure=relative_eror", "did you mean measure=relative_error"),
    ("model=resnet18", "did you mean model=preact_resnet18?"),
    ("modle=cnn", "there is no option modle here; did you mean model?"),
    ("data.nois=0.1", "there is no option data.nois here; did you mean data.noise?"),
    ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
    ("gamma=0.3", "there is no option gamma here; did you mean regularizer.gamma?"),
    ("eps=0.1", "there is no option eps here; did you mean threat.eps"),
    ("threat.eval_eps=0.1", "did you mean evaluation.eps"),
    ("epochs=3", "did you mean trainer.max_epochs"),
    ("lr=0.1", "did you mean optimizer.lr?"),
    ("experiement=moon_at_lr", "there is no option experiement here; did you mean experiment?"),
    ("~attck", "there is no option attck here; did you mean attack?"),
    # Grammar
    ("threat.eps", "expected KEY=VALUE, without spaces, got threat.eps"),
    ("threat.eps = 0.1", "expected KEY=VALUE, without spaces, got threat.eps"),
    ("--seed=1", "expected options without dashes, seed=1, got --seed=1"),
    ("--experiment moon_at", "expected options without dashes, experiment=VALUE, got --experiment"),
    ("evaluation.eps=0.1,0.2", "expected one value or a list, 'evaluation.eps=[0.1,0.2]', got evaluation.eps=0.1,0.2"),
    (
        "evaluation.eps=[0.1",
        "expected KEY=VALUE, a list as 'KEY=[A,B]' in quotes of the shell, got evaluation.eps=[0.1",
    ),
    ("+experiment=moon_at", "expected experiment=moon_at without +"),
    ("+seed=1", "expected seed=VALUE without +"),
    ("-m seed=0,1 resume=RUN", "expected resume=RUN for one run"),
    # Options that something else is needed for
    (
        "experiment=moon_normal regularizer.gamma=0.5",
        "regularizer.gamma=0.5 would do nothing: nothing that was chosen ",
    ),
    (
        "callbacks=normal attack=fgsm",
        "attack=fgsm would do nothing: nothing that was chosen reads attack; callbacks=at",
    ),
    (
        "callbacks.atlr.mvl=[backbone.act3] callbacks.atlr.eta=1",
        "eta=1 would do nothing: callbacks.atlr.mvl says which",
    ),
    ("callbacks.atlr.mvl=[backbone.act3] callbacks.atlr.top_k=1", "top_k=1 would do nothing: callbacks.atlr.mvl says"),
    ("callbacks.atlr.top_k=1 callbacks.atlr.eta=1", "eta=1 would do nothing: callbacks.atlr.top_k=1 takes the place"),
    (
        "method=centered callbacks.atlr.eta=1",
        "callbacks.atlr.eta=1 would do nothing: callbacks.atlr.mvl says which layers",
    ),
    ("+experimet=moon_at", "would do nothing: nothing reads experimet; did you mean experiment?"),
    ("callbacks=normal callbacks.atlr.eta=1", "there is no option callbacks.atlr.eta here; callbacks=at_lr has it"),
    ("attack=fgsm attack.steps=3", "there is no option attack.steps here; attack=adaptive has it; attack=apgd has it"),
    ("cluster.time=60", "there is no option cluster.time here; cluster=slurm has it"),
    (
        "model=cnn",
        "data.image_shape[0], which is not in this configuration; choose data=cifar10 or image_folder or mnist",
    ),
    ("data=image_folder", "expected data.root=VALUE, got none"),
    # Values
    ("seed=abc", "expected seed to be an integer >= 0, got 'abc'"),
    ("num_threads=0", "lsa-train: expected num_threads to be an integer >= 1 or None, got 0"),
    ("num_threads=two seeds=[0,1]", "lsa-train: expected num_threads to be an integer >= 1 or None, got 'two'"),
    ("seeds=5", "expected seeds to be a list of at least one value, got 5"),
    ("threat.eps=-0.1", "lsa-train: threat.eps: ThreatModel: expected eps to be a finite number >= 0, got -0.1"),
    ("attack.steps=0", "lsa-train: attack.steps: PGD: expected steps to be an integer >= 1, got 0"),
    ("regularizer.gamma=x", "lsa-train: regularizer.gamma: LayerwiseRegularizer: expected gamma to be"),
    ("threat.eps=8/0", "expected eps to be a number, got 8/0"),
    ("threat.norm=l2", "expected norm to be one of ['Linf', 'L2'], got 'l2'"),
    ("evaluation.eps=[]", "eps to be a list of at least one value, got []"),
    ("trainer.max_epochs=two", "expected trainer.max_epochs to be an integer or null, got 'two'"),
    (
        "trainer.enable_progress_bar=no_bar",
        "expected trainer.enable_progress_bar to be true or false or null, got 'no_bar'",
    ),
    ("trainer.limit_test_batches=0", "limit_test_batches to leave at least one batch, got 0; analysis=null"),
    ("analysis.layers=[fc9]", "analysis.layers: expected names of submodules, got unknown ['fc9']; these exist:"),
    ("attack=fgsm +attack.steps=3", "FGSM got an unexpected keyword argument 'steps'"),
    (
        "attack._target_=lsa_lightning.attacks.PDG",
        "expected _target_ to name a class or a function, got lsa_lightning.att",
    ),
    # What is not there
    (
        "ckpt_path=nowhere.ckpt",
        "expected ckpt_path to be a checkpoint file, such as RUN/checkpoints/best.ckpt, got nowhere",
    ),
    ("resume=nowhere", "expected resume=RUN with one run folder of lsa-train"),
    ("data=image_folder data.root=nowhere", "expected data.root to hold a folder for each of at least two classes"),
    ("data=mnist data.root=empty data.download=false", "MNIST is not complete under"),
    (
        "model.backbone._target_=my_model.Net",
        "my_model to be found, for my_model.Net; it is in this folder, so begin wit",
    ),
    ("hydra.run.dir=a_file/run", "a_file/run: Not a directory; hydra.run.dir=FOLDER chooses a run folder"),
]

ANALYZE = [
    ("", "expected ckpt_path=RUN/checkpoints/best.ckpt, got none"),
    (
        "ckpt_path=empty",
        "expected ckpt_path to be a checkpoint file, such as RUN/checkpoints/best.ckpt, got empty, which is a folder",
    ),
    ("ckpt_path=alone.ckpt", "expected the run's config.yaml beside alone.ckpt"),
    ("ckpt_path=RUN/checkpoints/best.ckpt eps=[0.1,0.1]", "expected eps to be one radius or several different ones"),
    ("ckpt_path=RUN/checkpoints/best.ckpt attack=pgd", "there is no option attack here"),
    ("ckpt_path=RUN/checkpoints/best.ckpt split=train", "expected split to be 'val' or 'test', got 'train'"),
]

EVALUATE = [
    ("ckpt=RUN/checkpoints/best.ckpt", "there is no option ckpt here; did you mean ckpt_path?"),
    (
        "ckpt_path=[RUN/checkpoints/best.ckpt,RUN/checkpoints/best.ckpt]",
        "to be one checkpoint or several different ones",
    ),
    ("attacks.pgd.steps=5", "there is no option attacks.pgd.steps here; did you mean evaluation.attacks.pgd.steps"),
    (
        "ckpt_path=RUN/checkpoints/best.ckpt eps=0.1 evaluation.eps=0.2",
        "expected eps=0.1 or evaluation.eps=[0.2], got both",
    ),
]

MEASURE = [
    (
        "trainer.limit_test_batches=1",
        "no option trainer.limit_test_batches here; did you mean limit_batches or limit_sa",
    ),
    ("++trainer.limit_test_batches=1", "no option trainer.limit_test_batches here; did you mean limit_batches or lim"),
    ("trainer.max_epochs=3", "there is no option trainer.max_epochs here; lsa-train has it"),
    ("trainer=default", "there is no option trainer here; lsa-train has it"),
    ("+limit=3", "there is no option limit here"),
    (
        "ckpt_path=RUN/checkpoints/best.ckpt num_threads=1.5",
        "to be an integer >= 1 or None, got 1.5",
    ),
    ("ckpt_path=RUN/checkpoints/best.ckpt limit_samples=0", "expected limit_samples to be an integer >= 1, got 0"),
]
"""Of both commands that measure."""

EVALUATE += [*MEASURE, ("attack=pgd", "here; did you mean +attack@evaluation.attacks.NAME=NAME?")]
ANALYZE += [*MEASURE, ("attack=pgd", "here; did you mean +attack@analysis.attacks.NAME=NAME?")]

REPORT = [
    ("", "the following arguments are required: RUN; lsa-report --help says more"),
    ("nowhere", "expected a run folder of lsa-train, found nothing at nowhere"),
    ("empty", "expected"),
    ("RUN --output page.pdf", "expected output to be a file named *.html, got page.pdf"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the mistakes are about."""
    folder = tmp_path_factory.mktemp("mistakes")
    train_tiny(folder / "RUN", "analysis=null", "evaluation=null")
    (folder / "a_file").touch()
    (folder / "alone.ckpt").touch()
    (folder / "empty").mkdir()
    (folder / "my_model.py").touch()
    write_pictures(folder / "pictures")
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    before = {path for path in place.rglob("*") if path.suffix == ".ckpt"}
    yield place
    assert {path for path in place.rglob("*") if path.suffix == ".ckpt"} == before  # nothing was trained


def line_of(command: ModuleType, typed: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command ends with; sys.exit prints its message."""
    own = [] if "hydra.run.dir=" in typed or typed.startswith("-m") else ["hydra.run.dir=out"]
    with pytest.raises(SystemExit) as end:
        main_as_shown(command.main, *typed.split(), *own)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    if isinstance(end.value.code, str):  # Python prints it
        return end.value.code
    assert end.value.code == 1
    return printed.removesuffix("\n")


@pytest.mark.parametrize(
    ("command", "name", "typed", "message"),
    [
        *((train, "lsa-train", *each) for each in TRAIN),
        *((analyze, "lsa-analyze", *each) for each in ANALYZE),
        *((evaluate, "lsa-evaluate", *each) for each in EVALUATE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("inside")
def test_a_mistake_gets_one_line(
    command: ModuleType, name: str, typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(command, typed, capsys)
    assert message in line
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert "raised while resolving" not in line


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(("typed", "message"), REPORT)
def test_a_mistake_of_a_report_gets_one_line(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        report_main(typed.split())
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert line.startswith("lsa-report: error: ")
    assert message in line
    assert line.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.usefixtures("inside")
def test_a_gpu_that_is_not_there_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "trainer: No supported gpu backend found!" in line_of(train, "trainer=gpu", capsys)


def fit(*callbacks: Any) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(RobustClassifier(MLP(hidden=(8,))), MoonDataModule(train_size=32, val_size=8, test_size=8))


PYTHON: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: ATLR(PGD),
        "ATLR: expected attack to be an Attack, such as PGD(eps=8/255), got <class 'lsa_lightning.attacks.pgd.PGD'>",
    ),
    (
        lambda: AdversarialTraining("pgd"),
        "AdversarialTraining: expected attack to be an Attack, such as PGD(eps=8/255), got 'pgd'",
    ),  # type: ignore[arg-type]
    (lambda: ATLR(PGD(), regularizer=0.1), "ATLR: expected regularizer to be a LayerwiseRegularizer or None, got 0.1"),  # type: ignore[arg-type]
    (lambda: ATLR(PGD(), top_k=0), "ATLR: expected top_k to be an integer >= 1 or None, got 0"),
    (lambda: LayerwiseRegularizer(gamma="0.1"), "LayerwiseRegularizer: expected gamma to be"),  # type: ignore[arg-type]
    (lambda: RobustValidation(PGD()), "RobustValidation: expected attacks to be a mapping of at least one name"),  # type: ignore[arg-type]
    (lambda: PGD(eps="8/255"), "expected eps to be a finite number >= 0, got '8/255'"),  # type: ignore[arg-type]
    (lambda: PGD(steps=1.5), "PGD: expected steps to be an integer >= 1, got 1.5"),  # type: ignore[arg-type]
    (
        lambda: RobustnessEvaluation({"fgsm": FGSM()}, eps=0.1),
        "expected eps to be a list of at least one value, got 0.1",
    ),  # type: ignore[arg-type]
    (lambda: Normalize(0.5, 0.5), "Normalize: expected mean to be a list of at least one value, got 0.5"),  # type: ignore[arg-type]
    (lambda: RobustClassifier(MLP), "RobustClassifier: expected backbone to be"),  # type: ignore[arg-type]
    (
        lambda: LayerSustainabilityAnalysis(MLP()).run(torch.zeros(4, 2), FGSM()),
        "expected dataloader to be an iterable of batches, got tensor",
    ),
    (lambda: FGSM()(nn.Linear(2, 2), torch.zeros(4, 2), torch.full((4,), 5)), "expected labels"),
    (lambda: fit(ATLR(PGD(bounds=None), mvl=["act3"])), "these exist: normalize, backbone, backbone.fc1"),
    (lambda: fit(ATLR(PGD())), "bounds"),
]


@pytest.mark.parametrize(("mistake", "message"), PYTHON, ids=[message[:40] for _, message in PYTHON])
def test_a_mistake_in_python_gets_one_line(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, MisconfigurationException)) as error:
        mistake()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_these_are_forty_and_more() -> None:
    assert len(TRAIN) + len(ANALYZE) + len(EVALUATE) + len(REPORT) + len(PYTHON) >= 40
