"""The figures of the documentation, drawn from three small trainings and from benchmarks/results.

``python -m scripts.docs_figures [--runs FOLDER]`` trains on two moons with ``lsa-train`` (some minutes on a CPU; runs
that FOLDER already holds are taken as they are) and writes docs/figures, but for architecture.svg, drawn by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsa_lightning import MoonDataModule, RobustClassifier, ThreatModel
from lsa_lightning.attacks import PGD
from lsa_lightning.comparison.metrics import Spread
from lsa_lightning.functional import predicted_labels
from lsa_lightning.layers import plot_history, plot_reports
from lsa_lightning.models import MLP
from lsa_lightning.plotting import plot_rg_scores
from lsa_lightning.plotting.style import (
    CLASSES,
    COLORS,
    legend_above,
    line_styles,
    mark_radius,
    new_axes,
    new_figure,
    tidy,
)
from lsa_lightning.runs.folder import save_svg
from lsa_lightning.runs.read import read_run

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
    """What the library does: attack, measure each layer, train; one panel each, below one another for phones."""
    figure = new_figure(height=9.4)
    attacked, measured, accuracy = figure.subplots(3, 1, height_ratios=[1.5, 1, 1])
    draw_attack(attacked, runs["moon_normal"])
    summaries = {RUNS[name]: read(folder / "summary.json") for name, folder in runs.items()}
    for i, ((name, summary), style) in enumerate(zip(summaries.items(), line_styles(), strict=False)):
        layers = summary["profiles"]["pgd"]
        measured.plot(list(layers), list(layers.values()), label=name, **style)
        beside = [eps + 0.012 * (i - 1) for eps in summary["eps"]]  # else AT and AT-LR hide one another
        accuracy.plot(beside, summary["accuracy"]["pgd"], label=name, **style)
    measured.set(title=f"2. Measure: how far PGD (eps {EPS}) moves layers", ylabel="relative error, mean")
    measured.set_ylim(bottom=0)
    mark_radius(accuracy, EPS, label="eps in training")
    accuracy.set(title="3. Train: accuracy under PGD", xlabel="eps (Linf)", ylabel="test accuracy (%)", ylim=(35, 101))
    for axes in (measured, accuracy):
        tidy(axes)
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
    axes.contourf(side, side, regions.float(), levels=[-0.5, 0.5, 1.5], colors=["#EAF3FA", "#E3BB97"])
    axes.contour(side, side, regions.float(), levels=[0.5], colors="black", linewidths=1)
    for label, marker in ((0, "o"), (1, "s")):
        of_class = x[y == label]
        look: dict[str, Any] = {
            "edgecolors": "black",
            "linewidths": 0.6,
            "facecolors": CLASSES[label],
            "marker": marker,
        }
        axes.scatter(of_class[:, 0], of_class[:, 1], s=16, label=f"class {label}", **look)
    moved = (x_adv - x)[fooled]
    axes.quiver(*x[fooled].T, *moved.T, angles="xy", scale_units="xy", scale=1, width=0.005)
    crossing = f"{int(fooled.sum())} of {len(x)} points cross (arrows)"
    title = f"1. Attack: PGD (Linf, eps {EPS}) on an MLP of\nclean training: {crossing}"
    axes.set(title=title, xlabel="x1", ylabel="x2", xlim=(-2.8, 2.8), ylim=(-2.3, 2.8))
    axes.legend(loc="upper right", fontsize="small")


def balls() -> Figure:
    """Random perturbations of a point, brought into the ball of each norm and into the bounds."""
    figure = new_figure(height=3.6)
    point = torch.tensor([[0.3, 0.8]])
    noise = 0.2 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    for axes, norm in zip(figure.subplots(1, 2, sharey=True), ("Linf", "L2"), strict=True):
        clean = point.expand(4000, 2)
        inside = ThreatModel(norm, eps=0.25, bounds=(0.0, 1.0)).ball(clean).project(clean + noise)
        axes.scatter(inside[:, 0], inside[:, 1], s=2, color=COLORS[0], label="allowed inputs, sampled")
        star: dict[str, Any] = {"facecolors": "white", "edgecolors": "black", "marker": "*", "zorder": 3}
        axes.scatter(point[:, 0], point[:, 1], s=180, label="clean input", **star)
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, linestyle="--", label="bounds"))
        axes.annotate("cut at the bound", (0.45, 1.0), (0.35, 1.1), arrowprops={"arrowstyle": "->"})
        axes.set(title=f"{norm}, eps 0.25", xlim=(-0.1, 1.1), ylim=(-0.1, 1.2), aspect="equal", xlabel="x1")
    figure.axes[0].set_ylabel("x2")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", handletextpad=0.3)
    return figure


def masking() -> Figure:
    """The accuracies of a training that comes to mask its gradients, epoch by epoch."""
    results = read(ROOT / "benchmarks/results/catastrophic_overfitting.json")
    epochs, settings = results["no stop"]["epochs"], results["settings"]
    figure, axes = new_axes(height=3.5)
    labels = {"clean": "no attack", "fgsm": "FGSM", "pgd": "PGD, 20 steps"}
    for (key, label), style in zip(labels.items(), line_styles(), strict=False):
        axes.plot(range(len(epochs)), [epoch[key] for epoch in epochs], label=label, **style)
    axes.set(xlabel="epoch", ylabel=f"accuracy (%) on {settings['test_size']} digits", ylim=(0, 101))
    axes.set_title(f"MNIST: training in one step, eps {settings['eps']} (Linf)", fontsize="medium")
    legend_above(figure, columns=3)
    return figure


def rg_scores() -> Figure:
    """R&G of each method on two moons over five seeds."""
    table = read(ROOT / "benchmarks/results/moon_table.json")
    spreads = {
        method: {attack: Spread.of(row[attack]["rg_score_each"]) for attack in ("fgsm", "pgd")}
        for method, row in table.items()
    }
    scores = {method: {attack: spread.mean for attack, spread in row.items()} for method, row in spreads.items()}
    errors = {method: {attack: spread.half_or_nan for attack, spread in row.items()} for method, row in spreads.items()}
    figure = plot_rg_scores(scores, errors=errors, bars="95 % interval over 5 seeds", most=600)
    return titled(figure, "two moons, 2,000 points")


def layer_profile(folder: Path) -> Figure:
    """The layers of a run under each attack."""
    run = read_run(folder)
    analysis = run.summary.analysis
    assert analysis is not None
    assert analysis.threshold is not None
    line = f"threshold mu + eta sigma, {analysis.mvl_from}", analysis.threshold
    return titled(plot_reports(run.reports, analysis.mvl, line), f"{run.name}, trained on clean data")


def mvl_history(folder: Path) -> Figure:
    """The layers over the epochs of a run."""
    run = read_run(folder)
    return titled(plot_history(run.summary.history), run.name)


def titled(figure: Figure, title: str) -> Figure:
    """``figure`` with a title above its first axes."""
    figure.axes[0].set_title(title, fontsize="medium")
    return figure


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Train what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the three runs; default: one that is deleted afterwards")
    args = parser.parse_args()
    FIGURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        runs = trained(args.runs or Path(temporary))
        product(runs).savefig(FIGURES / "product.png", dpi=140)
        balls().savefig(FIGURES / "balls.png", dpi=100)
        vectors = {
            "masking": masking(),
            "rg_scores": rg_scores(),
            "layer_profile": layer_profile(runs["moon_normal"]),
            "mvl_history": mvl_history(runs["moon_at_lr"]),
        }
        for name, figure in vectors.items():
            save_svg(figure, FIGURES / f"{name}.svg", name)


if __name__ == "__main__":
    main()
