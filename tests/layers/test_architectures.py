"""LSA of architectures that this library knows nothing of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from tests.helpers.modules import one_batch, trainer
from tests.helpers.snapshots import assert_untouched, snapshot
from torch import Tensor, nn

from lsa_lightning import ATLR, LayerSustainabilityAnalysis
from lsa_lightning.attacks import FGSM
from lsa_lightning.layers.probe import LayerProbe
from lsa_lightning.models import Normalize, RobustClassifier

SWIN = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
TIMM_SWIN = {**SWIN, "img_size": 32, "patch_size": 2, "window_size": 4}
VIT = {"img_size": 32, "patch_size": 8, "depth": 2}

ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "alexnet": (tv.alexnet, 64),
    "resnet18": (tv.resnet18, 32),
    "mobilenet_v2": (tv.mobilenet_v2, 32),
    "mobilenet_v3_small": (tv.mobilenet_v3_small, 32),
    "shufflenet_v2": (tv.shufflenet_v2_x0_5, 32),
    "squeezenet1_1": (tv.squeezenet1_1, 32),
    "mnasnet0_5": (tv.mnasnet0_5, 32),
    "regnet_y": (tv.regnet_y_400mf, 32),
    "googlenet": (partial(tv.googlenet, init_weights=False), 32),
    "densenet": (partial(tv.DenseNet, growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8), 32),
    "vit": (partial(tv.VisionTransformer, 32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64), 32),
    "swin": (partial(tv.SwinTransformer, patch_size=[2, 2], window_size=[4, 4], **SWIN), 32),
    **{
        f"timm_{name}": (partial(timm.create_model, name, **kwargs), 64 if "mobilevit" in name else 32)
        for name, kwargs in {
            "resnet10t": {},
            "vit_tiny_patch16_224": VIT,
            "deit_tiny_patch16_224": VIT,
            "swin_tiny_patch4_window7_224": TIMM_SWIN,
            "swinv2_tiny_window8_256": TIMM_SWIN,
            "mobilevit_xxs": {},
            "convnext_atto": {},
            "efficientnet_lite0": {},
            "ghostnet_050": {},
            "regnetx_002": {},
            "mobilenetv3_small_050": {},
            "xcit_nano_12_p16_224": {"img_size": 32, "depth": 2},
        }.items()
    },
}


def calls(model: nn.Module, x: Tensor) -> Counter[str]:
    """How often each module runs in one forward pass."""
    counter: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: counter.update([name]))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return counter


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_are_named_and_finite_and_the_network_is_left_as_it_was(name: str) -> None:
    make, size = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = make(num_classes=10)
    for parameter in model.parameters():
        if not parameter.any():  # a classifier that begins with zeros has no gradient
            nn.init.normal_(parameter, std=0.02)
    x, y = batch(size)
    before = snapshot(model)
    report = LayerSustainabilityAnalysis(model).run([(x, y)], FGSM(8 / 255))
    assert_untouched(before, snapshot(model))
    assert len(set(report.layers)) == len(report.layers) >= 5
    assert report.mean.isfinite().all()
    assert report.mean.max() > 0
    times = calls(model.eval(), x)
    for layer in report.layers:
        module, _, call = layer.partition("#")
        assert 0 <= int(call or 0) < times[module]
        assert bool(call) == (times[module] > 1)


def windowed(name: str = "timm_swin_tiny_patch4_window7_224") -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name][0](num_classes=10)


def test_a_layer_inside_windows_has_one_representation_per_sample() -> None:
    model, (x, y) = windowed().eval(), batch(32)
    layer = "layers.0.blocks.0.attn.qkv"
    report = LayerSustainabilityAnalysis(model).run([(x, y)], shifted)
    assert layer in report.layers
    alone = [LayerSustainabilityAnalysis(model).run([(x[i : i + 1], y[i : i + 1])], shifted) for i in range(3)]
    errors = torch.stack([single.mean for single in alone])
    torch.testing.assert_close(report.mean, errors.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(report.std, errors.std(0, correction=0), rtol=1e-3, atol=1e-6)


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.1 * x.flip(3)).clamp(0, 1)


def test_a_layer_that_sees_no_sample_is_left_out_and_refused_by_name() -> None:
    model, (x, y) = windowed("timm_swinv2_tiny_window8_256"), batch(32)
    position = "layers.0.blocks.0.attn.cpb_mlp.0"
    assert position not in LayerSustainabilityAnalysis(model).run([(x, y)], shifted).learnable
    with pytest.raises(ValueError, match=rf"not the batch, 3, sample by sample: {position} \(1, 7, 7, 512\)"):
        LayerSustainabilityAnalysis(model, layers=[position]).run([(x, y)], shifted)


def test_the_probe_keeps_rows_as_they_are_unless_asked() -> None:
    model, (x, _) = windowed().eval(), batch(32)
    layer = "layers.0.blocks.0.attn.qkv"
    shapes: list[Any] = []
    for samples in (None, 3):
        with LayerProbe(model, [layer], samples=samples, stop_early=True) as probe:
            model(x)
        shapes.append(tuple(probe.representations[layer].shape))
    assert shapes == [(48, 16, 48), (3, 16, 16, 48)]


def test_at_lr_penalizes_a_layer_inside_windows() -> None:
    module = RobustClassifier(windowed(), normalize=Normalize([0.5] * 3, [0.25] * 3))
    callback = ATLR(FGSM(8 / 255), mvl=["backbone.layers.0.blocks.1.attn.qkv"], analysis_every_n_epochs=0)
    fitted = trainer([callback])
    fitted.fit(module, one_batch(batch(32)))
    assert float(fitted.callback_metrics["train/loss_lr"]) > 0
