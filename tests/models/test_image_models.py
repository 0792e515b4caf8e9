"""Models B, C, D and PreActResNet-18: sizes, parameter counts, layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import vgg19_bn

from lsa_lightning.layers.resolve import resolve_layers
from lsa_lightning.models import CNN, MLP, VGG19, PreActResNet18, WideResNet

IMAGE = torch.zeros(1, 3, 32, 32)
DIGIT = torch.zeros(1, 1, 28, 28)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "x", "layers"),
    [
        (MLP(), torch.zeros(1, 2), 3),
        (CNN(), DIGIT, 4),
        (VGG19(), IMAGE, 16),
        (WideResNet(), IMAGE, 28),
        (PreActResNet18(), IMAGE, 20),
    ],
    ids=["A", "B", "C", "D", "PreActResNet-18"],
)
def test_layers_of_the_papers_figures_are_read_after_their_activation(model: nn.Module, x: Any, layers: int) -> None:
    found = resolve_layers(model, None, x)
    assert len({layer.name for layer in found}) == len(found) == layers
    for layer in found:
        # A shortcut has no activation of its own: the sum that it goes into is read for the block's last convolution.
        expected = nn.Conv2d if layer.learnable.endswith("shortcut") else nn.ReLU | nn.ELU
        assert isinstance(model.get_submodule(layer.name), expected)


def test_parameters_of_model_b() -> None:
    convolutions = (25 + 1) * 16 + (16 * 25 + 1) * 32 + (32 * 25 + 1) * 64
    assert parameters(CNN()) == convolutions + (576 + 1) * 100 + (100 + 1) * 10 == 123_222


def test_parameters_of_model_c() -> None:
    assert parameters(VGG19()) == parameters(vgg19_bn().features) + (512 + 1) * 10 == 20_040_522


def wide_resnet_parameters(depth: int, width: int) -> int:
    total, before = 3 * 9 * 16, 16
    for channels in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * channels + 2 * channels + 9 * channels**2
            total += before * channels if before != channels else 0
            before = channels
    return total + 2 * before + (before + 1) * 10


@pytest.mark.parametrize(("depth", "width"), [(10, 2), (16, 4)])
def test_parameters_of_wide_resnets(depth: int, width: int) -> None:
    assert parameters(WideResNet(depth, width)) == wide_resnet_parameters(depth, width)


def test_parameters_of_model_d() -> None:
    assert parameters(WideResNet()) == wide_resnet_parameters(28, 10) == 36_479_194


def test_parameters_of_preact_resnet18() -> None:
    total, before = 3 * 9 * 64, 64
    for channels in (64, 128, 256, 512):
        total += 2 * before + 9 * before * channels + 2 * channels + 9 * channels**2
        total += before * channels if before != channels else 0
        total += 2 * (2 * channels + 9 * channels**2)
        before = channels
    assert parameters(PreActResNet18()) == total + 2 * 512 + 513 * 10 == 11_172_170


def test_each_stage_of_vgg19_is_as_wide_as_it_is_told() -> None:
    model = VGG19(widths=[4, 8, 16, 32, 33])
    widths = [module.out_channels for module in model if isinstance(module, nn.Conv2d)]
    assert widths == [4] * 2 + [8] * 2 + [16] * 4 + [32] * 4 + [33] * 4
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "shape", "classes"),
    [
        (CNN(3, image_size=32, num_classes=100), (2, 3, 32, 32), 100),
        (VGG19(1, 7), (2, 1, 64, 64), 7),
        (WideResNet(10, 1, dropout=0.3, in_channels=1, num_classes=5), (2, 1, 28, 28), 5),
        (PreActResNet18(num_classes=3), (2, 3, 64, 64), 3),
    ],
)
def test_other_channels_sizes_and_classes(model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    assert model.eval()(torch.rand(shape)).shape == (2, classes)


def test_dropout_drops_in_training_only() -> None:
    model = WideResNet(10, 1, dropout=0.5)
    x = torch.rand(2, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CNN(image_size=19), "CNN: expected image_size to be an integer >= 20, got 19"),
        (lambda: CNN(in_channels=0), "expected in_channels to be an integer >= 1, got 0"),
        (lambda: VGG19(num_classes=0), "VGG19: expected num_classes to be an integer >= 1, got 0"),
        (lambda: VGG19(widths=[4, 8]), r"VGG19: expected widths to be 5 numbers, one for each stage, got \[4, 8\]"),
        (lambda: WideResNet(depth=20), r"expected depth to be 6 n \+ 4 .* got 20"),
        (lambda: WideResNet(depth=4), "expected depth to be an integer >= 10, got 4"),
        (lambda: WideResNet(10, width=0), "expected width to be an integer >= 1, got 0"),
        (lambda: WideResNet(10, dropout=1.0), r"expected dropout to be a finite number in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_outside_their_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
