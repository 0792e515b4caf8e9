"""The figures of the documentation, drawn from three small trainings and from benchmarks/results.

``python -m scripts.docs_figures [--runs FOLDER]`` trains on two moons with ``lsa-train`` (some minutes on a CPU; runs
that FOLDER already holds are taken as they are) and writes docs/figures, but for architecture.svg, drawn by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsa_lightning import MoonDataModule, RobustClassifier, ThreatModel
from lsa_lightning.attacks import PGD
from lsa_lightning.functional import predicted_labels
from lsa_lightning.models import MLP
from lsa_lightning.plotting import plot_rg_scores
from lsa_lightning.plotting.style import COLORS, line_styles, new_figure

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs/figures"
RUNS = {"moon_normal": "clean training", "moon_at": "AT", "moon_at_lr": "AT-LR"}
EPS = 0.3


def trained(folder: Path) -> dict[str, Path]:
    """The run folder of each experiment, trained where it is missing."""
    for name in RUNS:
        if not (folder / name / "summary.json").exists():
            command = [sys.executable, "-m", "lsa_lightning.cli.train", f"experiment={name}", "trainer.accelerator=cpu"]
            subprocess.run([*command, f"hydra.run.dir={folder / name}"], check=True)
    return {name: folder / name for name in RUNS}


def product(runs: Mapping[str, Path]) -> Figure:
    """What the library does: attack, measure each layer, train; one panel each."""
    figure = new_figure(width=10.0, height=3.6)
    attacked, measured, accuracy = figure.subplots(1, 3)
    draw_attack(attacked, runs["moon_normal"])
    summaries = {RUNS[name]: read(folder / "summary.json") for name, folder in runs.items()}
    for (name, summary), style in zip(summaries.items(), line_styles(), strict=False):
        layers = summary["profiles"]["pgd"]
        measured.plot(range(len(layers)), list(layers.values()), label=name, **style)
        accuracy.plot(summary["eps"], summary["accuracy"]["pgd"], label=name, **style)
    measured.set_xticks(range(len(layers)), [f"layer {number}" for number in range(len(layers))])
    measured.set(title=f"2. Measure: layers under PGD, eps {EPS}", ylabel="relative error (mean over test points)")
    accuracy.axvline(EPS, color="0.4", linestyle=":", label="eps in training")
    accuracy.set(title="3. Train: accuracy under PGD", xlabel="eps (Linf)", ylabel="test accuracy (%)", ylim=(0, 101))
    measured.set_ylim(bottom=0)
    for axes in (measured, accuracy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        axes.legend(loc="lower left", fontsize="small")
    return figure


def draw_attack(axes: Axes, run: Path) -> None:
    """The classes of a network in the plane, and the points that PGD moves into the wrong one."""
    model, data = RobustClassifier(MLP()).eval(), MoonDataModule()
    model.load_state_dict(torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"])
    data.setup("test")
    x, y = data.splits[2].tensors
    x, y = x[:120], y[:120]
    x_adv = PGD(EPS, steps=20, bounds=None, seed=0)(model, x, y)
    side = torch.linspace(-2.8, 2.8, 200)
    with torch.no_grad():
        regions = predicted_labels(model(torch.cartesian_prod(side, side))).view(200, 200).T
        fooled = (predicted_labels(model(x)) == y) & (predicted_labels(model(x_adv)) != y)
    axes.contourf(side, side, regions.float(), levels=[-0.5, 0.5, 1.5], colors=list(COLORS[:2]), alpha=0.2)
    for label, marker in ((0, "o"), (1, "s")):
        of_class = x[y == label]
        axes.scatter(of_class[:, 0], of_class[:, 1], s=14, color=COLORS[label], marker=marker, label=f"class {label}")
    moved = (x_adv - x)[fooled]
    axes.quiver(*x[fooled].T, *moved.T, angles="xy", scale_units="xy", scale=1, width=0.005)
    title = f"1. Attack: {int(fooled.sum())} of {len(x)} points cross"
    axes.set(title=title, xlabel="x1", ylabel="x2", xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
    axes.legend(loc="upper right", fontsize="small")


def balls() -> Figure:
    """Random perturbations of a point, brought into the ball of each norm and into the bounds."""
    figure = new_figure(width=8.0, height=4.4)
    point = torch.tensor([[0.3, 0.8]])
    noise = 0.2 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    for axes, norm in zip(figure.subplots(1, 2), ("Linf", "L2"), strict=True):
        clean = point.expand(4000, 2)
        inside = ThreatModel(norm, eps=0.25, bounds=(0.0, 1.0)).ball(clean).project(clean + noise)
        axes.scatter(inside[:, 0], inside[:, 1], s=2, color=COLORS[0], label="allowed inputs, sampled")
        axes.scatter(point[:, 0], point[:, 1], s=80, color=COLORS[1], marker="*", label="clean input")
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, linestyle="--", label="bounds"))
        axes.set(title=f"norm {norm}, eps 0.25", xlim=(-0.1, 1.1), ylim=(-0.1, 1.1), aspect="equal")
        axes.set(xlabel="x1", ylabel="x2")
    axes.legend(loc="lower right", fontsize="small")
    return figure


def masking() -> Figure:
    """The accuracies of a training that comes to mask its gradients, epoch by epoch."""
    results = read(ROOT / "benchmarks/results/catastrophic_overfitting.json")
    epochs, samples = results["no stop"]["epochs"], results["settings"]["test_size"]
    figure = new_figure(width=6.5, height=3.8)
    axes = figure.add_subplot()
    labels = {"clean": "no attack", "fgsm": "FGSM", "pgd": "PGD, 20 steps"}
    for (key, label), style in zip(labels.items(), line_styles(), strict=False):
        axes.plot(range(len(epochs)), [epoch[key] for epoch in epochs], label=label, **style)
    axes.set(xlabel="epoch", ylabel=f"accuracy (%) on {samples} digits", ylim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    axes.legend()
    return figure


def rg_scores() -> Figure:
    """R&G of each method on two moons over five seeds."""
    table = read(ROOT / "benchmarks/results/moon_table.json")
    scores, errors = (
        {
            method: {attack: row[attack][f"rg_score_{what}"] for attack in ("fgsm", "pgd")}
            for method, row in table.items()
        }
        for what in ("mean", "std")
    )
    return plot_rg_scores(scores, errors=errors, bars="standard deviation over 5 seeds")


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Train what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the three runs; default: one that is deleted afterwards")
    args = parser.parse_args()
    mpl.rcParams["svg.hashsalt"] = "lsa-lightning"
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        runs = trained(args.runs or Path(temporary))
        product(runs).savefig(FIGURES / "product.png", dpi=140)
        balls().savefig(FIGURES / "balls.png", dpi=100)
        masking().savefig(FIGURES / "masking.svg", metadata={"Date": None})
        rg_scores().savefig(FIGURES / "rg_scores.svg", metadata={"Date": None})
        shutil.copy(runs["moon_normal"] / "figures/layer_profile.svg", FIGURES)
        shutil.copy(runs["moon_at_lr"] / "figures/mvl_history.svg", FIGURES)


if __name__ == "__main__":
    main()
