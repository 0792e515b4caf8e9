"""Time of a training step of this tree over that of another one, for a VGG-like network, in interleaved pairs.

    python benchmarks/step_time.py --against PATH [--pairs 10]

PATH is a checkout of another commit, such as one that ``git worktree add PATH COMMIT`` makes. Prints the median ratio
of the CPU time of a step, with its quartiles, for adversarial training and for AT-LR on all layers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

CHILD = """
import json, time, warnings
import lightning.pytorch as pl, torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lsa_lightning import ATLR, AdversarialTraining
from lsa_lightning.attacks import PGD

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
WARMUP, STEPS = 3, 10


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (32, 32, "pool", 64, 64, "pool", 128, 128, "pool"):
            if width == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Clock(pl.Callback):
    def __init__(self):
        self.times = []

    def on_train_batch_start(self, *args):
        self.start = time.process_time()

    def on_train_batch_end(self, *args):
        self.times.append(time.process_time() - self.start)


attack = PGD(eps=8 / 255, steps=5, seed=0)
layers = [f"net.{i}" for i in (2, 5, 9, 12, 16, 19)]
result = {}
for name, callback in {
    "AT": AdversarialTraining(attack),
    "AT-LR": ATLR(attack, mvl=layers, analysis_every_n_epochs=0),
}.items():
    pl.seed_everything(0, verbose=False)
    data = TensorDataset(torch.rand(16 * (WARMUP + STEPS), 3, 32, 32), torch.randint(10, (16 * (WARMUP + STEPS),)))
    clock = Clock()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[clock, callback], enable_model_summary=False, **options
    )
    trainer.fit(Net(), DataLoader(data, batch_size=16))
    result[name] = sorted(clock.times[WARMUP:])[STEPS // 2]
print(json.dumps(result))
"""


def seconds(tree: Path) -> dict[str, float]:
    """Median CPU seconds of a step, in a process of its own that imports the package of ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True, capture_output=True, text=True)
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    for pair in range(options.pairs):
        trees = [ROOT, options.against] if pair % 2 == 0 else [options.against, ROOT]
        times = {tree: seconds(tree) for tree in trees}
        for name, mine in times[ROOT].items():
            ratios.setdefault(name, []).append(mine / times[options.against][name])
    for name, values in ratios.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name}: {median:.3f} times (quartiles {low:.3f} to {high:.3f}, {len(values)} pairs)")


if __name__ == "__main__":
    main()
