from __future__ import annotations

import pytest
import torch
from torch import nn

from lsa_lightning.attacks import APGD, FFGSM, PGD, TPGD, Attack, Square
from lsa_lightning.models import CNN, MLP, PreActResNet18
from lsa_lightning.stacked.draws import draws_of
from lsa_lightning.stacked.measure import in_parts
from lsa_lightning.stacked.network import load, split, stack
from lsa_lightning.utils.batch import part_of_batch

MODELS, SAMPLES = 3, 7


def copies(make: type[nn.Module]) -> list[nn.Module]:
    torch.manual_seed(0)
    return [make() for _ in range(MODELS)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("make", "shape"), [(MLP, (2,)), (CNN, (1, 28, 28)), (PreActResNet18, (3, 8, 8))], ids=["linear", "conv", "norm"]
)
def test_outputs_gradients_and_buffers_are_those_of_the_single_models(
    make: type[nn.Module], shape: tuple[int, ...]
) -> None:
    models = copies(make)
    net = stack(models)
    x = torch.randn(MODELS, SAMPLES, *shape)
    outputs = split(net(x.flatten(0, 1)), MODELS)
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    for index, model in enumerate(models):
        expected = model(x[index])
        expected.square().sum().backward()
        torch.testing.assert_close(outputs[index], expected, rtol=1e-5, atol=1e-5)
        for (name, own), single in zip(net.named_parameters(), model.parameters(), strict=True):
            assert own.grad is not None
            torch.testing.assert_close(own.grad[index], single.grad, rtol=1e-5, atol=1e-5, msg=name)
        state = {name: tensor[index] for name, tensor in net.state_dict().items()}
        torch.testing.assert_close(state, dict(model.state_dict()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs", [2, 8, 100])
@pytest.mark.parametrize("outputs", [1, 2, 8, 100])
@pytest.mark.parametrize("samples", [1, 8, 32, 500])
def test_linear_layers_round_as_single_ones(samples: int, inputs: int, outputs: int) -> None:
    models = [nn.Sequential(nn.Linear(inputs, outputs)) for _ in range(MODELS)]
    net, x, gradient = stack(models), torch.randn(MODELS, samples, inputs), torch.randn(MODELS, samples, outputs)
    rows = x.flatten(0, 1).requires_grad_()
    net(rows).backward(gradient.flatten(0, 1))
    assert rows.grad is not None
    for index, model in enumerate(models):
        alone = x[index].clone().requires_grad_()
        expected = model(alone)
        expected.backward(gradient[index])
        pairs = [(split(net(rows), MODELS)[index], expected), (split(rows.grad, MODELS)[index], alone.grad)]
        pairs += [
            (own.grad[index], single.grad) for own, single in zip(net.parameters(), model.parameters(), strict=True)
        ]
        assert all(torch.equal(own, single) for own, single in pairs)


def test_part_of_a_batch_goes_to_the_models_of_its_rows() -> None:
    net = stack(copies(MLP))
    x, rows = torch.randn(MODELS * SAMPLES, 2), torch.tensor([0, 3, SAMPLES, 3 * SAMPLES - 1])
    with part_of_batch(rows, len(x)):
        found = net(x[rows])
    torch.testing.assert_close(found, net(x)[rows])


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.3, bounds=None),
        PGD(0.3, bounds=None, norm="L2", best="success"),
        TPGD(0.3, bounds=None),
        FFGSM(0.3, bounds=None),
        APGD(0.3, 5, bounds=None, best="success"),
        Square(0.3, 9, bounds=None),
    ],
    ids=repr,
)
def test_attack_of_all_is_the_attack_of_each(attack: Attack) -> None:
    models = copies(MLP)
    net, x, y = stack(models), torch.randn(MODELS, SAMPLES, 2), torch.randint(2, (MODELS, SAMPLES))
    with draws_of(range(MODELS), MODELS):
        found = split(attack.with_eps(attack.eps)(net, x.flatten(0, 1), y.flatten()), MODELS)
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        expected = attack.with_eps(attack.eps)(model, x[seed], y[seed])
        torch.testing.assert_close(found[seed], expected, rtol=1e-5, atol=1e-6)


def test_parts_of_a_batch_draw_what_the_whole_batch_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    net, attack = stack(copies(MLP)), PGD(0.3, bounds=None)
    x, y = torch.randn(MODELS * SAMPLES, 2), torch.randint(2, (MODELS * SAMPLES,))
    with draws_of(range(MODELS), MODELS):
        whole = [attack(net, x, y), attack(net, x, y)]
    attack.restart()
    monkeypatch.setattr("lsa_lightning.stacked.measure._ROWS", 2 * MODELS)
    with draws_of(range(MODELS), MODELS):
        parts = [in_parts(lambda rows, labels: [attack(net, rows, labels)], x, y, MODELS)[0] for _ in whole]
    torch.testing.assert_close(parts, whole)


def test_load_gives_a_model_its_weights_back() -> None:
    models = copies(MLP)
    into = MLP()
    load(stack(models), 1, into=into)
    torch.testing.assert_close(dict(into.state_dict()), dict(models[1].state_dict()), rtol=0, atol=0)


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight


class _Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "dropout 1"),
        (_Shared(), "shared or lazy ones in two"),
        (_Beside(), "modules without submodules, got some in the model"),
    ],
)
def test_what_cannot_be_stacked_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stack([model, model])
