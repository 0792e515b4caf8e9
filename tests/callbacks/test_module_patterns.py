"""Ways in which people write LightningModules: each works exactly, or is refused in words before the first update."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from tests.helpers.modules import ModularConvNet, as_dicts, loader, trainer
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from lsa_lightning import ATLR, LayerwiseRegularizer, RobustValidation
from lsa_lightning.attacks import FGSM, Attack

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.ao moves to a package of its own
    from torch.ao.quantization import FakeQuantize, HistogramObserver, MinMaxObserver

MEAN, STD = 0.4, 0.3


def normalised(x: Tensor) -> Tensor:
    return (x - MEAN) / STD


class Plain(pl.LightningModule):
    """Logs its own loss and accuracy; draws dropout masks and moves BatchNorm's statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.net = self.build()

    def build(self) -> nn.Module:
        return ModularConvNet(dropout=0.3)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.scored("train", self(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.scored("val", self(x), y)

    def scored(self, stage: str, logits: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log_dict(
            {f"{stage}_own_loss": loss, f"{stage}_own": accuracy}, on_step=False, on_epoch=True, batch_size=len(y)
        )
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD((p for p in self.parameters() if p.requires_grad), lr=0.1, momentum=0.9)


class NormalisesInStep(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((normalised(batch[0]), batch[1]), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return super().validation_step((normalised(batch[0]), batch[1]), batch_idx)


class NormalisesInPlaceInStep(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].sub_(MEAN).div_(STD)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        batch[0].sub_(MEAN).div_(STD)
        return super().validation_step(batch, batch_idx)


class NormalisesInPlaceInForward(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.net(x.sub_(MEAN).div_(STD))


class NormalisesOnTheDevice(Plain):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return normalised(batch[0]), batch[1]


class Augments(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        flipped = torch.rand(len(x), 1, 1, 1) < 0.5
        return super().training_step((torch.where(flipped, x.flip(3), x), y), batch_idx)


class Mixes(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self(0.7 * x + 0.3 * x.roll(1, 0))
        return 0.7 * F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(logits, y.roll(1))


class JoinsViews(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(torch.cat([x, x.flip(3)])), y.repeat(2))


class DictBatches(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step((batch["image"], batch["label"]), batch_idx), "extra": batch_idx}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return super().validation_step((batch["image"], batch["label"]), batch_idx)


class TakesTheBatch(Plain):
    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return self.net(batch["image"])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("train", self(batch), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("val", self(batch), batch["label"])


class Keywords(Plain):
    def forward(self, *, pixel_values: Tensor, scale: float = 1.0) -> Any:  # type: ignore[override]
        return scale * self.net(pixel_values)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("train", self(pixel_values=batch[0], scale=2.0), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("val", self(pixel_values=batch[0], scale=2.0), batch[1])


class ReturnsModelOutput(Plain):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.net(x), hidden_states=None)

    def scored(self, stage: str, logits: Any, y: Tensor) -> Tensor:
        return super().scored(stage, logits.logits, y)


class ReturnsTuple(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.net(x), x.mean()

    def scored(self, stage: str, logits: Any, y: Tensor) -> Tensor:
        return super().scored(stage, logits[0], y)


class ReturnsProbabilities(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.net(x).softmax(1)

    def scored(self, stage: str, logits: Tensor, y: Tensor) -> Tensor:
        return super().scored(stage, logits.log(), y)


class HeadOutside(Plain):
    """The attacked module gives features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def scored(self, stage: str, logits: Tensor, y: Tensor) -> Tensor:
        return super().scored(stage, self.head(logits).roll(1, 1), y)


class CallsItsParts(HeadOutside):
    """Its forward is what the step computes, but the step does not call it."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.net(x)).roll(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("train", self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scored("val", self.net(batch[0]), batch[1])


class WithTeacher(Plain):
    """Distils from a frozen copy that sees the same batch."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = ModularConvNet().requires_grad_(False).eval()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, _ = batch
        return super().training_step(batch, batch_idx) + F.mse_loss(self(x), self.teacher(x))


class LogsBeforeTheModel(NormalisesInStep):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train_seen", batch[1].float().sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_seen", batch[1].float().sum(), on_step=False, on_epoch=True, reduce_fx="sum")
        return super().validation_step(batch, batch_idx)


class SkipsBatches(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


class AuxiliaryHead(Plain):
    """In train mode, the module itself returns a second output, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Any:
        return (self.net(x), self.auxiliary(x.flatten(1))) if self.training else self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits, auxiliary = self(x)
        return self.scored("train", logits, y) + 0.3 * F.cross_entropy(auxiliary, y)


class Blocks(nn.Module):
    """Residual blocks between a first and a last layer."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(n))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = h + self.through(block, h)
        return self.head(h)

    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return block(h)


class DroppedPaths(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.drop = StochasticDepth(0.3, "row")

    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return self.drop(block(h))


class LayerDrop(Blocks):
    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return torch.zeros_like(h) if self.training and float(torch.rand(())) < 0.3 else block(h)


class EarlyExit(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        for block in self.blocks:
            h = h + block(h)
            if not self.training and float(h.detach().norm()) > 0:
                return self.head(h)
        return self.head(h)


class Reentrant(Blocks):
    reentrant = True

    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return checkpoint(block, h, use_reentrant=self.reentrant)


class NonReentrant(Reentrant):
    reentrant = False


class Experts(Blocks):
    """Each sample goes to one of the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.stem(x.flatten(1)))
        chosen = (1000 * h.detach().sum(1)).long() % len(self.blocks)
        out = torch.zeros_like(h)
        for index, block in enumerate(self.blocks):
            rows = (chosen == index).nonzero().flatten()
            out = out.index_add(0, rows, block(h[rows]))
        return self.head(h + out)


class Shared(Blocks):
    """One block that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 3)


class Quantised(Blocks):
    """Observers and fake quantisation, which write their ranges in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeQuantize(MinMaxObserver)
        self.histogram = HistogramObserver()

    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return self.fake(block(self.histogram(h)))


class SpectralNorms(Blocks):
    """Each pass in train mode moves the estimates that the next one uses."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            spectral_norm(block[0])


class RandomInEval(Blocks):
    """Monte Carlo dropout."""

    def through(self, block: nn.Module, h: Tensor) -> Tensor:
        return F.dropout(block(h), 0.5, training=True)


def around(net: Callable[[], nn.Module]) -> type[Plain]:
    """A module whose net is ``net()``."""
    return type(net.__name__, (Plain,), {"build": lambda self: net()})


class CompiledNet(Plain):
    def build(self) -> nn.Module:
        net = super().build()
        net.compile(backend="eager")
        return net


class WrappedByCompile(Plain):
    def build(self) -> nn.Module:
        return torch.compile(super().build(), backend="eager")  # type: ignore[return-value]


class FrozenBackbone(Plain):
    """Keeps a part in eval mode, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net.conv1.requires_grad_(False)
        self.net.bn1.requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.net.bn1.eval()


class OwnKey(Plain):
    """Logs a key of ours."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/acc_clean", 0.5)
        return super().validation_step(batch, batch_idx)


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class SoftLabels(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x, F.one_hot(y, 3) * 0.8 + 0.2 / 3) if self.trainer.training else (x, y)


class SeveralLoaders(Plain):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().validation_step(batch, batch_idx)


@dataclass(frozen=True)
class Pattern:
    """A line of the table.

    Attributes:
        make: builds the module.
        refused: words of the error; empty: it works.
        options: what ATLR and RobustValidation are told of it.
        run: options of the Trainer.
        before: callbacks in front of ours.
        after: callbacks behind ours.
        collate: how batches are made.
        layers: the layers of the penalty.
        loaders: number of validation dataloaders.
    """

    make: Callable[[], Any]
    refused: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], list[pl.Callback]] = list
    after: Callable[[], list[pl.Callback]] = list
    collate: Callable[..., Any] | None = None
    layers: tuple[str, ...] = ("net.relu1", "net.act")
    loaders: int = 1


def ema() -> list[pl.Callback]:
    return [EMAWeightAveraging(decay=0.5)]


def swa() -> list[pl.Callback]:
    return [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)]


IN_PIXELS = {"input_space": (MEAN, STD)}
STACK = ("net.blocks.0.1", "net.blocks.1.1")

PATTERNS: dict[str, Pattern] = {
    "plain": Pattern(Plain),
    "normalise in step": Pattern(NormalisesInStep, options=IN_PIXELS),
    "normalise in step, not told": Pattern(NormalisesInStep, r"expected inputs inside bounds=.*input_space=\(mean"),
    "normalise in place in step": Pattern(NormalisesInPlaceInStep, options=IN_PIXELS),
    "normalise in place in forward": Pattern(NormalisesInPlaceInForward),
    "normalise on the device": Pattern(NormalisesOnTheDevice, options=IN_PIXELS),
    "augment in step": Pattern(Augments),
    "mixup in step": Pattern(Mixes, "labels of its own .*mixup"),
    "joined views": Pattern(JoinsViews, "training_step never gives JoinsViews.* the 16 samples of the batch"),
    "dict batch": Pattern(DictBatches, collate=as_dicts),
    "forward takes the batch": Pattern(TakesTheBatch, collate=as_dicts),
    "keyword forward": Pattern(Keywords),
    "ModelOutput": Pattern(ReturnsModelOutput),
    "tuple output": Pattern(ReturnsTuple, options={"output_fn": lambda output: output[0]}),
    "tuple output, not told": Pattern(ReturnsTuple, "expected the model to return logits .*output_fn"),
    "probabilities": Pattern(ReturnsProbabilities, "expected logits, got probabilities.*output_fn"),
    "features, head outside": Pattern(HeadOutside, r"are no logits \(features\?\).*backbone"),
    "step calls the parts": Pattern(CallsItsParts),
    "teacher": Pattern(WithTeacher),
    "logs before the model": Pattern(LogsBeforeTheModel, options=IN_PIXELS),
    "skipped batches": Pattern(SkipsBatches),
    "auxiliary head in train mode": Pattern(AuxiliaryHead),
    "stochastic depth": Pattern(around(DroppedPaths), layers=STACK),
    "LayerDrop": Pattern(around(LayerDrop), layers=STACK),
    "early exit": Pattern(around(EarlyExit), layers=STACK[:1]),
    "reentrant checkpoint": Pattern(around(Reentrant), layers=STACK),
    "non-reentrant checkpoint": Pattern(around(NonReentrant), layers=STACK),
    "experts": Pattern(around(Experts), layers=("net.act",)),
    "rows of experts": Pattern(around(Experts), r"one representation per sample.*net\.blocks", layers=STACK),
    "shared modules": Pattern(around(Shared), layers=("net.blocks.0.1",)),
    "compiled submodule": Pattern(CompiledNet),
    "wrapped by compile": Pattern(WrappedByCompile, layers=("net._orig_mod.relu1", "net._orig_mod.act")),
    "quantisation observers": Pattern(around(Quantised), layers=STACK),
    "spectral norm": Pattern(around(SpectralNorms), layers=STACK),
    "random in eval": Pattern(around(RandomInEval), layers=STACK),
    "several loaders": Pattern(SeveralLoaders, loaders=2),
    "EMA before": Pattern(Plain, before=ema),
    "EMA after": Pattern(Plain, after=ema),
    "SWA before": Pattern(Plain, before=swa),
    "SWA after": Pattern(Plain, after=swa),
    "frozen backbone": Pattern(FrozenBackbone),
    "accumulation and clipping": Pattern(Plain, run={"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
    "bf16-mixed": Pattern(Plain, run={"precision": "bf16-mixed"}),
    "key of ours": Pattern(OwnKey, "expected nobody else to log 'val/acc_clean'"),
    "manual optimization": Pattern(Manual, "expected automatic_optimization=True"),
    "soft labels": Pattern(SoftLabels, "label"),
}
WORKING = {name: pattern for name, pattern in PATTERNS.items() if not pattern.refused}
REFUSED = {name: pattern for name, pattern in PATTERNS.items() if pattern.refused}


def made(pattern: Pattern) -> Any:
    torch.manual_seed(0)
    return pattern.make()


def ours(pattern: Pattern, eps: float, gamma: float, attack: Attack | None = None) -> list[pl.Callback]:
    attack = FGSM(eps) if attack is None else attack
    regularizer = LayerwiseRegularizer(gamma=gamma)
    return [
        ATLR(attack, regularizer=regularizer, mvl=list(pattern.layers), **pattern.options),
        RobustValidation({"fgsm": attack}, **pattern.options),
    ]


def fitted(pattern: Pattern, module: Any, callbacks: list[pl.Callback]) -> dict[str, float]:
    """Trains ``module`` for two epochs; what was logged."""
    torch.manual_seed(1)
    options = {"max_epochs": 2, "num_sanity_val_steps": 1, **pattern.run}
    run = trainer([*pattern.before(), *callbacks, *pattern.after()], **options)
    validation = [loader(seed=seed, collate=pattern.collate) for seed in range(1, 1 + pattern.loaders)]
    run.fit(module, loader(collate=pattern.collate), validation if pattern.loaders > 1 else validation[0])
    return {"next random number": float(torch.rand(())), **{k: float(v) for k, v in run.callback_metrics.items()}}


@pytest.mark.parametrize("name", WORKING)
def test_without_an_effect_it_is_the_plain_run_bit_for_bit(name: str) -> None:
    pattern = PATTERNS[name]
    plain, trained = made(pattern), made(pattern)
    expected = fitted(pattern, plain, [])
    logged = fitted(pattern, trained, ours(pattern, eps=0.0, gamma=0.0))
    state = trained.state_dict()
    assert [key for key, value in plain.state_dict().items() if not torch.equal(state[key], value)] == []
    assert {key: logged[key] for key in expected} == expected


@pytest.mark.parametrize("name", WORKING)
def test_at_eps_0_the_penalty_is_0(name: str) -> None:
    pattern = PATTERNS[name]
    assert fitted(pattern, made(pattern), ours(pattern, eps=0.0, gamma=1.0))["train/loss_lr"] == 0


@pytest.mark.parametrize("name", WORKING)
def test_under_attack_the_penalty_counts_and_the_clean_accuracy_is_the_modules_own(name: str) -> None:
    pattern = PATTERNS[name]
    logged = fitted(pattern, made(pattern), ours(pattern, eps=0.1, gamma=1.0))
    assert 0 < logged["train/loss_lr"] < float("inf")
    suffixes = [""] if pattern.loaders == 1 else [f"/dataloader_idx_{index}" for index in range(pattern.loaders)]
    for suffix in suffixes:
        assert logged["val/acc_clean" + suffix] == pytest.approx(logged["val_own" + suffix], abs=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_before_the_first_update(name: str) -> None:
    pattern = PATTERNS[name]
    module, before = made(pattern), made(pattern)
    with pytest.raises((MisconfigurationException, ValueError), match=pattern.refused):
        fitted(pattern, module, ours(pattern, eps=0.1, gamma=1.0))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before.parameters(), strict=True))


STEPS = ("forward", "training_step", "configure_optimizers")


def test_the_other_package_of_lightning_is_refused() -> None:
    other = pytest.importorskip("pytorch_lightning")
    module = type("Module", (other.LightningModule,), dict.fromkeys(STEPS, lambda *_: None))()
    callbacks = ours(PATTERNS["plain"], eps=0.1, gamma=1.0)
    with pytest.raises(MisconfigurationException, match="instead of `import pytorch_lightning as pl`"):
        other.Trainer(accelerator="cpu", logger=False, callbacks=callbacks).fit(module, loader())
