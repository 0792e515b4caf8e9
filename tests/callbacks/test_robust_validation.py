from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.modules import DictForeignModule, as_dicts, images, loader, one_batch, trainer
from tests.helpers.training import foreign

from lsa_lightning import RobustValidation
from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.evaluation import evaluate_robustness

ATTACKS = {"fgsm": FGSM(0.1), "pgd": PGD(0.1, steps=3, seed=0)}


def validated(callback: RobustValidation, **kwargs: Any) -> dict[str, float]:
    module = foreign()
    run = trainer([callback])
    run.validate(module, loader(seed=1, **kwargs), verbose=False)
    return {key: float(value) for key, value in run.callback_metrics.items()}


def test_accuracies_and_rg_equal_the_evaluation() -> None:
    metrics = validated(RobustValidation(ATTACKS, rg_attack="fgsm", rg_eps=[0.05, 0.1]))
    table = evaluate_robustness(foreign(), loader(seed=1), attacks={"fgsm": FGSM(0.1)}, eps=[0.05, 0.1])
    assert 100 * metrics["val/acc_clean"] == pytest.approx(table.accuracy["fgsm"][0], abs=1e-4)
    assert 100 * metrics["val/acc_fgsm"] == pytest.approx(table.accuracy["fgsm"][2], abs=1e-4)
    assert metrics["val/rg_score"] == pytest.approx(table.rg_score["fgsm"], abs=1e-3)
    assert 0 <= metrics["val/acc_pgd"] <= 1


def test_accuracies_do_not_depend_on_the_batch_size() -> None:
    callback = RobustValidation({"fgsm": FGSM(0.1)})
    assert validated(callback, batch_size=7) == pytest.approx(validated(callback, batch_size=48), abs=1e-6)


def test_every_n_epochs_and_limit_batches() -> None:
    counted: list[int] = []

    class Spy(FGSM):
        def __call__(self, model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            counted.append(len(x))
            return super().__call__(model, x, y)

    run = trainer([RobustValidation({"spy": Spy(0.1)}, every_n_epochs=2, limit_batches=1)], max_epochs=4)
    run.fit(foreign(), loader(16), loader(seed=1))
    assert counted == [16, 16, 16]  # in epochs 0, 1 and 3


def test_sanity_checks_and_training_are_left_alone() -> None:
    module, plain = foreign(dropout=0.5), foreign(dropout=0.5)
    for target, callbacks in ((module, [RobustValidation(ATTACKS)]), (plain, [])):
        torch.manual_seed(1)
        trainer(callbacks, max_epochs=2, num_sanity_val_steps=1).fit(target, loader(), loader(seed=1))
    for name, value in module.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_dict_batches_and_normalised_inputs() -> None:
    run = trainer([RobustValidation(ATTACKS, backbone="net", input_space=(0.0, 1.0))])
    run.validate(foreign(DictForeignModule), loader(collate=as_dicts), verbose=False)
    assert "val/acc_pgd" in run.callback_metrics


def test_the_key_can_be_monitored() -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    stop = EarlyStopping("val/acc_fgsm", mode="max", patience=0, strict=True)
    run = trainer([RobustValidation({"fgsm": FGSM(0.1)}), stop], max_epochs=20)
    run.fit(foreign(lr=0.0), loader(), one_batch(images(8)))
    assert stop.stopped_epoch > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rg_attack": "cw", "rg_eps": [0.1]}, r"expected rg_attack among \['fgsm', 'pgd'\].*got 'cw'"),
        ({"rg_attack": "fgsm"}, r"every rg_eps > 0, got 'fgsm' and \[\]"),
        ({"rg_attack": "fgsm", "rg_eps": [0.0, 0.1]}, r"every rg_eps > 0, got 'fgsm' and \[0.0, 0.1\]"),
        ({"every_n_epochs": 0}, "expected every_n_epochs >= 1"),
        ({"limit_batches": 0}, "limit_batches >= 1 or None, got 1 and 0"),
    ],
)
def test_arguments_outside_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustValidation(ATTACKS, **arguments)


def test_attacks_must_have_names() -> None:
    with pytest.raises(ValueError, match=r"expected attacks by name, such as \{'pgd': PGD\(eps=8/255\)\}, got FGSM"):
        RobustValidation(FGSM(0.1))  # type: ignore[arg-type]
