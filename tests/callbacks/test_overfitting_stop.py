from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from tests.helpers.modules import ForeignModule, loader, trainer
from tests.helpers.training import foreign
from tests.helpers.two_processes import InOrder, two_processes, without_batch_norm
from torch import Tensor, nn

from lsa_lightning import AdversarialTraining
from lsa_lightning.attacks import FFGSM, PGD, Attack
from lsa_lightning.attacks.balls import Ball
from lsa_lightning.callbacks import CatastrophicOverfittingStop
from lsa_lightning.functional import predicted_labels


class Collapsing(pl.Callback):
    """Ruins the model at the end of the last batch of one epoch, before the callback under test looks at it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ForeignModule, *_: Any) -> None:
        if trainer.is_last_batch:
            if trainer.current_epoch == self.epoch:
                with torch.no_grad():
                    for parameter in pl_module.net.fc2.parameters():
                        parameter.copy_(parameter.roll(1, 0))  # each class is taken for its neighbour
            self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


class Recorded(Attack):
    """No perturbation; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(0.1, bounds=None)
        self.inputs: list[Tensor] = []

    def perturb(self, model: Any, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        self.inputs.append(x)
        return x


def run(
    stop: CatastrophicOverfittingStop, collapse_in: int = 3, **options: Any
) -> tuple[ForeignModule, Collapsing, pl.Trainer]:
    torch.manual_seed(0)
    module, collapse = ForeignModule(lr=0.02), Collapsing(collapse_in)
    training = AdversarialTraining(FFGSM(0.05, seed=0))
    trained = trainer([training, collapse, stop, *options.pop("callbacks", [])], **{"max_epochs": 8, **options})
    trained.fit(module, loader(), loader(seed=1))
    return module, collapse, trained


def test_a_collapse_stops_the_run_and_brings_the_last_epochs_weights_back() -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3)
    module, collapse, trained = run(stop)
    assert stop.stopped_epoch == 3
    assert len(collapse.states) == 4
    for name, value in module.state_dict().items():
        assert torch.equal(value, collapse.states[2][name]), name
    x, y = next(iter(loader()))
    attacked = PGD(0.05, steps=5, seed=0)(module, x, y)
    assert float((predicted_labels(module.eval()(attacked)) == y).float().mean()) > 0.6
    assert trained.callback_metrics["train/acc_first_batch"] < 0.4


def test_a_healthy_run_goes_on_and_changes_nothing() -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3)
    module, _, _ = run(stop, collapse_in=99, max_epochs=3)
    torch.manual_seed(0)
    plain = ForeignModule(lr=0.02)
    trainer([AdversarialTraining(FFGSM(0.05, seed=0))], max_epochs=3).fit(plain, loader(), loader(seed=1))
    assert stop.stopped_epoch is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_the_weights_are_back_before_validation_and_checkpoints(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_last=True)
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3)
    _, collapse, _ = run(stop, callbacks=[checkpoint], enable_checkpointing=True)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 3
    for name, value in saved["state_dict"].items():
        assert torch.equal(value, collapse.states[2][name]), name


def test_the_epochs_first_batch_is_measured() -> None:
    attack = Recorded()
    run(CatastrophicOverfittingStop(attack), collapse_in=99, max_epochs=2)
    first = next(iter(loader()))[0]
    assert [torch.equal(x, first) for x in attack.inputs] == [True, True]


def test_a_resumed_run_still_knows_the_last_good_weights(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    _, before, _ = run(
        CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3),
        callbacks=[checkpoint],
        enable_checkpointing=True,
        max_epochs=3,
    )
    stop, collapse = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3), Collapsing(3)
    module = ForeignModule(lr=0.02)
    training = AdversarialTraining(FFGSM(0.05, seed=0))
    trainer([training, collapse, stop], max_epochs=6).fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert stop.stopped_epoch == 3
    for name, value in module.state_dict().items():
        assert torch.equal(value, before.states[-1][name]), name


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("averages_first", [False, True])
def test_averages_are_those_of_before_the_collapse_too(resumed: bool, averages_first: bool, tmp_path: Path) -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.3)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    averages = EMAWeightAveraging(decay=0.5)
    torch.manual_seed(0)
    healthy, module = ForeignModule(lr=0.02), ForeignModule(lr=0.02)
    module.load_state_dict(healthy.state_dict())
    begun = trainer([AdversarialTraining(FFGSM(0.05, seed=0)), EMAWeightAveraging(decay=0.5)], max_epochs=3)
    begun.fit(healthy, loader(), loader(seed=1))
    watched = [averages, stop] if averages_first else [stop, averages]
    training = [AdversarialTraining(FFGSM(0.05, seed=0)), Collapsing(3)]
    if resumed:
        first = trainer([*training, *watched, checkpoint], max_epochs=3, enable_checkpointing=True)
        first.fit(module, loader(), loader(seed=1))
    path = tmp_path / "last.ckpt" if resumed else None
    trainer([*training, *watched], max_epochs=8).fit(module, loader(), loader(seed=1), ckpt_path=path)
    assert stop.stopped_epoch == 3
    for name, value in healthy.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0.05, atol=0.01)


def test_the_accepted_drop_is_the_users() -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=1.0)
    run(stop, max_epochs=4)
    assert stop.stopped_epoch is None


@pytest.mark.parametrize("drop", [-0.1, 1.1, float("nan")])
def test_bad_drop_is_named(drop: float) -> None:
    with pytest.raises(ValueError, match=r"expected drop to be a finite number in \[0, 1\], got"):
        CatastrophicOverfittingStop(PGD(), drop=drop)


class Collector(pl.Callback):
    """Writes, from each process, when it stopped and with which weights."""

    def __init__(self, folder: Path, stop: CatastrophicOverfittingStop) -> None:
        self.folder = folder
        self.stop = stop

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {"epoch": self.stop.stopped_epoch, "accuracy": self.stop.accuracy, "weights": pl_module.state_dict()}
        torch.save(values, self.folder / f"{trainer.global_rank}.pt")


def test_two_processes_come_to_one_verdict(tmp_path: Path) -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.2)
    training = AdversarialTraining(FFGSM(0.05, seed=0))
    callbacks = [training, Collapsing(5), stop, Collector(tmp_path, stop)]
    two_processes(callbacks, max_epochs=8).fit(without_batch_norm(0.02), InOrder(8))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["epoch"] == second["epoch"] is not None
    assert first["accuracy"] == second["accuracy"]
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())


class NormalisesInStep(ForeignModule):
    """Changes x in place, and only then gives it to the model."""

    def training_step(self, batch: Any) -> Any:
        self.log("steps", 1.0, reduce_fx="sum", on_step=False, on_epoch=True)
        batch[0].sub_(0.5).div_(0.25)
        return super().training_step(batch)


@pytest.mark.parametrize("trained_by", [[AdversarialTraining(FFGSM(0.05, bounds=None))], []], ids=["AT", "alone"])
def test_what_the_step_gives_the_model_is_measured(trained_by: list[pl.Callback]) -> None:
    attack = Recorded()
    trained = trainer([*trained_by, CatastrophicOverfittingStop(attack)], max_epochs=2)
    trained.fit(NormalisesInStep(lr=0.02), loader(), loader(seed=1))
    assert trained.callback_metrics["steps"] == trained.num_training_batches
    expected = (next(iter(loader()))[0] - 0.5) / 0.25
    assert [torch.equal(x, expected) for x in attack.inputs] == [True, True]


class Partial(ForeignModule):
    """Checkpoints leave a frozen part out."""

    def __init__(self) -> None:
        super().__init__(lr=0.02)
        self.encoder = nn.Identity()
        self.encoder.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.strict_loading = False

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.encoder.scale * x)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("encoder")}


def test_a_module_whose_state_is_partial_goes_back_too() -> None:
    stop = CatastrophicOverfittingStop(PGD(0.05, steps=5, seed=0), drop=0.2)
    trainer([AdversarialTraining(FFGSM(0.05, seed=0)), Collapsing(5), stop], max_epochs=8).fit(
        foreign(Partial), loader(), loader(seed=1)
    )
    assert stop.stopped_epoch == 5
