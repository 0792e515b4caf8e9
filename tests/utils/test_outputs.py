from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning.attacks import FGSM, PGD, Ensemble, GaussianNoise, Square
from lsa_lightning.evaluation import RobustnessEvaluation, correct, evaluate_ensemble
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.utils.outputs import LogitsOf, check_no_probabilities, read_logits

Z = torch.tensor([[0.2, 0.7, 0.3], [0.9, 0.1, 0.4]])


class Named(NamedTuple):
    logits: Tensor
    aux: Tensor


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """Like that of Hugging Face, whose first entry is the loss."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("output", [Z, {"loss": Z[0], "logits": Z}, ModelOutput(loss=Z[0], logits=Z), Named(Z, Z[0])])
def test_logits_are_read_without_a_copy(output: Any) -> None:
    assert read_logits(output) is Z


@pytest.mark.parametrize(
    ("output", "got"),
    [
        ((Z, Z), r"a tuple of \['Tensor', 'Tensor'\]"),
        ({"out": Z}, r"a dict with keys \['out'\]"),
        (ModelOutput(last_hidden_state=Z), r"a ModelOutput with keys \['last_hidden_state'\]"),
        (None, "a NoneType"),
        ({"logits": [1, 2]}, r"a dict with keys \['logits'\]"),
    ],
)
def test_other_outputs_are_named(output: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"expected the model to return logits .*, got {got}; pass output_fn="):
        read_logits(output)


def net(*last: nn.Module, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *last)


PROBABILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda z: z.softmax(1),
    "squeezed": lambda z: torch.sigmoid(z[:, :1]).squeeze(1),
    "clamped": lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6),
    "in half": lambda z: z.half().softmax(1),
    "cast": lambda z: torch.sigmoid(z).double(),
    "class 1": lambda z: z[:, :2].softmax(1)[:, 1],
    "both classes": lambda z: torch.stack([1 - z[:, 0].sigmoid(), z[:, 0].sigmoid()], dim=1),
    "by hand": lambda z: z.exp() / z.exp().sum(dim=1, keepdim=True),
}
HONEST: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda z: z,
    "log-probabilities": lambda z: z.log_softmax(1),
    "between 0 and 1": lambda z: 0.5 + 0.01 * z[:, 0],
    "never negative": torch.relu,
    "bounded": torch.tanh,
    "gated": lambda z: z * torch.sigmoid(z),
    "one-hot": lambda z: nn.functional.one_hot(z.argmax(1), 3).float() + 0 * z,
    "constant": lambda z: 0 * z,
}


class Through(nn.Module):
    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net()
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x))


X, Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("gradients", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_probabilities_are_refused(name: str, gradients: Callable[[], Any]) -> None:
    model = Through(PROBABILITIES[name])
    with gradients():
        for attack in (FGSM(0.1), Square(0.1, 2)):
            with pytest.raises(ValueError, match=r"expected logits, got probabilities, .*output_fn=torch\.logit"):
                attack(model, X, Y)
        with pytest.raises(ValueError, match="expected logits, got probabilities"):
            correct(model, X, Y)


@pytest.mark.parametrize("name", HONEST)
def test_other_outputs_between_0_and_1_are_no_probabilities(name: str) -> None:
    model = Through(HONEST[name])
    check_no_probabilities(model, X, model(X))
    FGSM(0.1)(model, X, Y)
    assert correct(model, X, Y).shape == (6,)


def test_a_single_row_may_sum_to_1_by_chance() -> None:
    logits = torch.tensor([[0.5391, 0.4648]], dtype=torch.bfloat16)
    model = nn.Linear(2, 2).bfloat16()
    check_no_probabilities(model, torch.zeros(1, 2, dtype=torch.bfloat16), logits + 0 * model.bias)
    with pytest.raises(ValueError, match="rows that sum to 1"):
        check_no_probabilities(model, torch.zeros(2, 2, dtype=torch.bfloat16), torch.cat([logits, logits]))


EVALUATIONS: dict[str, Callable[..., Any]] = {
    "robustness": lambda model, fn: RobustnessEvaluation({"n": GaussianNoise()}, [0.1], output_fn=fn).run(
        model, [(X, Y)]
    ),
    "ensemble": lambda model, fn: evaluate_ensemble(model, [(X, Y)], Ensemble(0.1, steps=2, n_queries=2), output_fn=fn),
    "masking": lambda model, fn: str(MaskingChecks(0.1, steps=1, n_queries=1, output_fn=fn).run(model, [(X, Y)])),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_read_logits_and_refuse_what_is_none(name: str) -> None:
    plain, run = net(), EVALUATIONS[name]
    expected = run(plain, None)
    assert run(LogitsOf(plain, lambda z: {"logits": z}["logits"]), None) == expected
    assert run(Through(lambda z: (z, z)), lambda output: output[0]) == expected  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"got a tuple .*output_fn"):
        run(Through(lambda z: (z, z)), None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="got probabilities"):
        run(Through(torch.sigmoid), None)


def test_the_inverse_of_a_sigmoid_is_an_output_fn() -> None:
    attack = PGD(0.1, steps=3, random_start=False)
    logits = net(outputs=1)
    sigmoid = LogitsOf(nn.Sequential(*logits, nn.Sigmoid()), torch.logit)
    torch.testing.assert_close(attack(sigmoid, X, Y), attack(logits, X, Y))


def test_the_way_out_names_a_key_that_the_output_has() -> None:
    with pytest.raises(ValueError, match=r"output_fn=lambda output: output\['digit'\]"):
        read_logits({"digit": torch.zeros(2, 10), "odd": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match=r"output_fn=lambda output: output\[0\]"):
        read_logits((torch.zeros(2, 10), torch.zeros(2, 1)))
