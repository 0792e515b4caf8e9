"""Images per second of adversarial training on a GPU, against a plain float32 loop with torchattacks.

    python -m benchmarks.gpu_throughput [--batch 512] [--pairs 10] [--steps 10] [--float32] [--cuda-graphs]

ResNet-18 on images of CIFAR-10's size, PGD with 10 steps. The loop is written by hand, as torchattacks' users write it,
in float32 and in torch's default, which computes convolutions in TF32; ours is the Trainer with AdversarialTraining
in bf16 with channels_last and compiled. Also the weights of a float16 run with a GradScaler beside those of
a loop that is written out. Prints and writes results/gpu_throughput.json; needs a GPU, else it says so.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812
from benchmarks.pairs import Ratio, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lsa_lightning import AdversarialTraining, RobustClassifier
from lsa_lightning.attacks import PGD
from lsa_lightning.functional import classification_loss
from lsa_lightning.jobs.acceleration import accelerate
from lsa_lightning.models import PreActResNet18

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10
QUICK: dict[str, Any] = {"precision": "bf16-mixed", "channels_last": True, "compiled": True}
Compared = tuple[str, dict[str, Any], str]
"""Name and settings of ours, and the precision of the loop beside it."""

COMPARED: list[Compared] = [
    ("bf16, channels_last, compiled", QUICK, "float32"),
    ("bf16, channels_last, compiled", QUICK, "TF32"),
]
FLOAT32: Compared = ("float32", {}, "float32")
CUDA_GRAPHS: Compared = (
    "bf16, channels_last, CUDA graphs",
    {**QUICK, "compiled": {"mode": "reduce-overhead"}},
    "TF32",
)


class OneBatch(Dataset[tuple[Tensor, Tensor]]):
    """The same batch on the GPU, ``n`` times."""

    def __init__(self, x: Tensor, y: Tensor, n: int) -> None:
        self.batch, self.n = (x, y), n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batch


class Clock(pl.Callback):
    """Seconds of the steps after the first ``skipped``."""

    def __init__(self, skipped: int) -> None:
        self.skipped, self.started, self.seconds = skipped, 0.0, 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start, before the first step that counts."""
        if batch_idx == self.skipped:
            torch.cuda.synchronize()
            self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def one_epoch(*callbacks: pl.Callback, precision: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        accelerator="gpu",
        devices=1,
        precision=precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        benchmark=True,
    )


def ours(x: Tensor, y: Tensor, steps: int, precision: str = "32-true", **options: Any) -> Callable[[], float]:
    """A function that trains and returns the seconds of a step."""
    module = RobustClassifier(PreActResNet18(), optimizer=sgd).cuda()
    accelerate(module, **options)

    def run() -> float:
        clock = Clock(skipped=3)
        attack = PGD(EPS, ALPHA, steps=STEPS, seed=0)
        trainer = one_epoch(AdversarialTraining(attack), clock, precision=precision)
        trainer.fit(module, DataLoader(OneBatch(x, y, steps + 3), batch_size=None))
        module.cuda()
        return clock.seconds / steps

    return run


def theirs(x: Tensor, y: Tensor, steps: int, *, tf32: bool) -> Callable[[], float]:
    """The same by hand with torchattacks."""
    import torchattacks

    model = PreActResNet18().cuda()
    attack, optimizer = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS), sgd(model.parameters())

    def run() -> float:
        torch.backends.cudnn.allow_tf32 = tf32
        started = 0.0
        for step in range(steps + 3):
            if step == 3:
                torch.cuda.synchronize()
                started = time.perf_counter()
            x_adv = attack(x, y)
            model.train()
            loss = F.cross_entropy(model(x_adv), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.cuda.synchronize()
        torch.backends.cudnn.allow_tf32 = True  # torch's default
        return (time.perf_counter() - started) / steps

    return run


def fp16_differences(x: Tensor, y: Tensor, steps: int = 8) -> dict[str, float]:
    """Largest difference of the weights after float16 runs with a GradScaler, with deterministic algorithms.

    Returns:
        Between the Trainer's and those of a loop that is written out; and between two runs of that loop.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    try:
        return _fp16_differences(x, y, steps)
    finally:
        torch.use_deterministic_algorithms(False)


def _fp16_differences(x: Tensor, y: Tensor, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))
    module = RobustClassifier(layers, optimizer=sgd)
    by_hand = [loop_in_fp16(copy.deepcopy(module).cuda(), x, y, steps) for _ in range(2)]
    trainer = one_epoch(AdversarialTraining(PGD(EPS, ALPHA, steps=STEPS, seed=0)), precision="16-mixed")
    trainer.fit(module, DataLoader(OneBatch(x, y, steps), batch_size=None))
    return {
        "trainer and loop": largest_difference(module.cuda(), by_hand[0]),
        "two loops": largest_difference(*by_hand),
    }


def loop_in_fp16(module: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """Adversarial training by hand."""
    scaler, optimizer = torch.amp.GradScaler("cuda"), sgd(module.parameters())
    attack = PGD(EPS, ALPHA, steps=STEPS, seed=0)
    for _ in range(steps):
        with torch.autocast("cuda", torch.float16):
            module.eval()
            x_adv = attack(module, x, y)
            module.train()
            loss = classification_loss(module(x_adv), y)  # the module's own: F.cross_entropy rounds otherwise
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    return module


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--float32", action="store_true", help="ours in float32 too")
    parser.add_argument("--cuda-graphs", action="store_true", help="ours in CUDA graphs too, compile's reduce-overhead")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no GPU")
        return
    x = torch.rand(options.batch, 3, 32, 32, device="cuda")
    y = torch.randint(10, (options.batch,), device="cuda")
    results: dict[str, Any] = {"batch": options.batch, "fp16_largest_differences_of_weights": fp16_differences(x, y)}
    print("float16 with GradScaler, largest difference of weights:", results["fp16_largest_differences_of_weights"])
    runs: dict[str, Callable[[], float]] = {}
    for name, setting, precision in COMPARED + [FLOAT32] * options.float32 + [CUDA_GRAPHS] * options.cuda_graphs:
        if name not in runs:
            runs[name] = ours(x, y, options.steps, **setting)
        run, loop = runs[name], theirs(x, y, options.steps, tf32=precision == "TF32")
        run(), loop()
        pairs = [(run(), loop()) for _ in range(options.pairs)]
        ratio = Ratio.of([options.batch / mine for mine, _ in pairs], [options.batch / their for _, their in pairs])
        results[f"{name}, over a loop in {precision}"] = ratio
        rate = f"{ratio.ours:.0f} images/s, {ratio} times the loop's {ratio.theirs:.0f}"
        print(f"{name}: {rate} in {precision}", flush=True)
    save("gpu_throughput", results)


if __name__ == "__main__":
    main()
