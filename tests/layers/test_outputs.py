"""What a network returns, as a layer of the analysis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lsa_lightning import LayerSustainabilityAnalysis, RelativeError
from lsa_lightning.attacks import FGSM
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.layers.resolve import resolve_layers
from lsa_lightning.measures import ComparisonMeasure, RelativeSquaredError

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, outputs))


class InDict(nn.Module):
    """Returns its logits among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"classes": self.net(x), "x": x}


def names(model: nn.Module, spec: Any) -> list[str]:
    return [layer.name for layer in resolve_layers(model, spec, X)]


def test_names_of_outputs_and_of_all_learnable_layers_stand_in_a_list() -> None:
    assert names(net(), ["logits", "learnable"]) == ["1", "3", "logits"]
    assert names(net(), ["probabilities", "2", "logits"]) == ["2", "logits", "probabilities"]
    assert names(net(), "logits") == ["logits"]
    assert [layer.learnable for layer in resolve_layers(net(), ["learnable"], X)] == ["0", "2"]


def test_types_and_names_may_be_mixed() -> None:
    assert names(net(), [nn.Linear, "1", "logits"]) == ["0", "1", "2", "4", "logits"]


def test_a_submodule_of_that_name_comes_first() -> None:
    model = nn.Sequential()
    for name, module in (("learnable", nn.Linear(2, 4)), ("act", nn.ReLU()), ("logits", nn.Linear(4, 3))):
        model.add_module(name, module)
    with LayerProbe(model, names(model, ["logits", "learnable"])) as probe:
        output = model(X)
    assert probe.representations.keys() == {"learnable", "logits"}
    torch.testing.assert_close(probe.representations["learnable"], model.get_submodule("learnable")(X))
    torch.testing.assert_close(probe.representations["logits"], output)


@pytest.mark.parametrize("measure", [RelativeError(), RelativeSquaredError()], ids=repr)
def test_the_analysis_compares_them_like_layers(measure: ComparisonMeasure) -> None:
    model, layers = net(), ["1", "logits", "probabilities"]
    report = LayerSustainabilityAnalysis(model, layers=layers, measure=measure).run([(X, Y)], FGSM(0.1))
    x_adv = FGSM(0.1)(model, X, Y)
    expected = [measure(view(X), view(x_adv)).mean() for view in (model[:2], model, lambda x: model(x).softmax(1))]
    assert report.layers == layers
    torch.testing.assert_close(report.mean.float(), torch.stack(expected).detach())


def test_the_probabilities_of_one_logit_are_both_classes() -> None:
    with LayerProbe(net(1), ["probabilities"]) as probe:
        z = net(1)(X)
        assert probe.model(X).shape == z.shape
    torch.testing.assert_close(probe.representations["probabilities"], torch.cat([1 - z.sigmoid(), z.sigmoid()], 1))


def test_an_output_fn_reads_the_logits() -> None:
    model = InDict()
    analysis = LayerSustainabilityAnalysis(model, layers=["net.1", "logits"], output_fn=lambda out: out["classes"])
    report = analysis.run([(X, Y)], lambda model, x, y: x + 0.1)
    expected = RelativeError()(model.net(X), model.net(X + 0.1)).mean()
    torch.testing.assert_close(report.mean[1].float(), expected.detach())


def test_what_is_neither_is_unknown() -> None:
    with pytest.raises(ValueError, match=r"unknown \['logit'\]; these exist: 0, 1, 2, 3, 4; or logits, probabilities"):
        resolve_layers(net(), ["logit"], X)
