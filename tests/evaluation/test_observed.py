"""Single samples before and after an attack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, GaussianNoise
from lsa_lightning.evaluation.observed import FEW, LayerErrors, Observed, observe
from lsa_lightning.measures import RelativeError
from lsa_lightning.runs.stages import AnalysisStage, EvaluationStage, unit_in_words

X = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(dim=1) > 3).long()
BATCHES = list(zip(X.split(8), Y.split(8), strict=True))
ATTACK = FGSM(0.2)


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def errors(net: nn.Sequential, x: Tensor, x_adv: Tensor) -> Tensor:
    """Relative error of each sample, mean over the two activations, written out."""
    found = []
    for end in (2, 4):
        clean, moved = net[:end](x), net[:end](x_adv)
        found.append((moved - clean).norm(dim=1) / clean.norm(dim=1))
    return torch.stack(found, dim=1).mean(dim=1).detach()


def look(samples: int = 30, keep: int = 5, layers: bool = True) -> tuple[Observed, nn.Sequential]:
    net = model()
    errors_of = LayerErrors(net, None, RelativeError()) if layers else None
    return observe(net, BATCHES, "fgsm", ATTACK, samples=samples, keep=keep, errors_of=errors_of), net


@pytest.mark.parametrize("samples", [30, 20, 8, 3])
def test_the_first_samples_are_counted_across_batches(samples: int) -> None:
    observed, net = look(samples)
    x, y = X[:samples], Y[:samples]
    for confusion, inputs in ((observed.classes.clean, x), (observed.classes.adversarial, ATTACK(net, x, y))):
        predicted = net(inputs).argmax(dim=1)
        expected = [[int(((y == i) & (predicted == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert confusion == expected
    assert observed.classes.attacked == "fgsm, eps 0.2 (Linf)"


@pytest.mark.parametrize("keep", [5, 8, 12, 100])
def test_inputs_of_the_first_are_kept_with_all_that_belongs_to_them(keep: int) -> None:
    observed, net = look(keep=keep)
    kept = min(keep, 30)
    first = observed.first
    assert first.place.tolist() == list(range(kept))
    torch.testing.assert_close(first.x, X[:kept])
    torch.testing.assert_close(first.x_adv, ATTACK(net, X, Y)[:kept])
    assert first.adversarial.tolist() == net(first.x_adv).argmax(dim=1).tolist()
    torch.testing.assert_close(first.error, errors(net, first.x, first.x_adv))


def test_those_whose_layers_move_farthest_are_kept_in_order() -> None:
    observed, net = look()
    assert observed.farthest is not None
    expected = errors(net, X, ATTACK(net, X, Y)).argsort(descending=True)[:FEW]
    assert observed.farthest.place.tolist() == expected.tolist()
    torch.testing.assert_close(observed.farthest.x, X[expected])
    assert observed.measure == "relative_error"


def test_without_layers_nothing_is_said_of_them() -> None:
    observed, _ = look(layers=False)
    assert observed.farthest is None
    assert observed.first.error.isnan().all()


def test_random_numbers_depend_on_the_batch_alone() -> None:
    noise, net = GaussianNoise(0.3, seed=1), model()
    noise(net, X, Y)  # its generator is somewhere else now
    found = [observe(net, BATCHES, "gaussian", attack, samples=20) for attack in (noise, GaussianNoise(0.3, seed=1))]
    torch.testing.assert_close(found[0].first.x_adv, found[1].first.x_adv)


def test_an_empty_dataloader_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a dataloader with at least one batch, got an empty one"):
        observe(model(), [], "fgsm", ATTACK, samples=1)


@pytest.mark.parametrize("layers", [True, False])
def test_examples_are_saved_by_name_with_what_attacked(tmp_path: Path, layers: bool) -> None:
    observed, _ = look(layers=layers)
    observed.save_examples(tmp_path / "examples.safetensors", 4)
    with safe_open(tmp_path / "examples.safetensors", "pt") as file:
        assert file.metadata() == {"attack": repr(ATTACK)}
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    assert parts.keys() == {"place", "x", "x_adv", "y", "clean", "adversarial", *(["error"] if layers else [])}
    for name, part in parts.items():
        assert torch.equal(part, getattr(observed.first, name)[:4])


def test_the_stage_looks_at_the_radius_of_training_within_its_limits() -> None:
    stage = EvaluationStage({"fgsm": ATTACK}, [0.2], training_eps=0.05, limit_batches=2, draw="fgsm", look_at=12)
    observed = stage.observe(model(), BATCHES, AnalysisStage({"fgsm": ATTACK}, mvl_from="fgsm"))
    assert observed is not None
    assert observed.attack.eps == 0.05
    assert sum(observed.classes.samples) == 12
    fewer = EvaluationStage({"fgsm": ATTACK}, [0.2], limit_batches=1, draw="fgsm").observe(model(), BATCHES, None)
    assert fewer is not None
    assert sum(fewer.classes.samples) == 8


def test_the_stage_checks_what_it_saves() -> None:
    with pytest.raises(ValueError, match=r"expected draw.* the name of an attack, whose examples are saved"):
        EvaluationStage({"fgsm": ATTACK}, [0.2], save_examples=1)
    with pytest.raises(ValueError, match=r"expected save_examples.*, got 11"):
        EvaluationStage({"fgsm": ATTACK}, [0.2], draw="fgsm", look_at=10, save_examples=11)


def test_the_unit_of_radii() -> None:
    assert EvaluationStage({"fgsm": ATTACK}, [0.2]).unit == "inputs in [0, 1]"
    assert EvaluationStage({"a": ATTACK, "b": FGSM(0.1, bounds=None)}, [0.2]).unit == unit_in_words(None)
