"""The tables of docs/reproduction.md and their figure docs/figures/search.svg, from the rows of docs/results.

``python -m scripts.docs_results`` writes what stands between the marks of the page, and the figure. With ``--table2
RUNS`` or ``--table3 RUNS`` the runs of that table are first added to docs/results/table2.csv or table3.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsa_lightning.functional.scores import t_interval
from lsa_lightning.plotting.style import COLORS, MARKERS, legend_above, mark_zero, new_figure, tidy

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/final.csv"
FORMS = ROOT / "docs/results/forms.csv"
PAGE, README = ROOT / "docs/reproduction.md", ROOT / "README.md"
FIGURE = ROOT / "docs/figures/search.svg"
PAPER2 = {
    "Normal": 466.17,
    "AT-FGSM": 486.28,
    "AT-FGSM-LR-L0": 476.11,
    "AT-FGSM-LR-L1": 478.84,
    "AT-FGSM-LR-L2": 498.52,
    "AT-PGD": 460.46,
    "AT-PGD-LR-L0": 464.89,
    "AT-PGD-LR-L1": 459.07,
    "AT-PGD-LR-L2": 473.36,
    "AT-FAST": 479.13,
    "AT-FAST-LR-L0": 464.51,
    "AT-FAST-LR-L1": 465.42,
    "AT-FAST-LR-L2": 493.75,
    "AT-TRADES": 477.51,
    "AT-TRADES-LR-L0": 461.79,
    "AT-TRADES-LR-L1": 464.09,
    "AT-TRADES-LR-L2": 505.83,
}
"""R&G under FGSM in Table 2 of arXiv 2202.02626."""
PAPER3 = {"Normal": 257.2, "AT-APGD": 497.99, "AT-APGD-LR-L0": 541.73}
"""The same of its Table 3."""


class PaperTable(NamedTuple):
    """A table of the paper that was run: its rows here, the paper's figures, and the attack that judges."""

    path: Path
    paper: dict[str, float]
    judge: str


TABLES = {
    "table2": PaperTable(ROOT / "docs/results/table2.csv", PAPER2, "exact"),
    "table3": PaperTable(ROOT / "docs/results/table3.csv", PAPER3, "ensemble"),
}

UNTUNED = ("lr_plain", "lr_ramped", "lr_centered", "lr_centered 0.3", "lr_centered_mvl")
ARMS = ("base", *UNTUNED, "tuned", "lr", "kl_u", "lr_u")
WITHOUT_CHOICE = tuple((arm, "base") for arm in UNTUNED)
COMPARED = (
    ("lr", "base"),
    ("lr", "tuned"),
    ("lr_u", "base"),
    ("kl_u", "base"),
    ("lr_u", "kl_u"),
    ("lr_u", "tuned"),
    ("kl_u", "tuned"),
)
DRAWN = {
    ("lr_plain", "base"): "the paper's penalty minus plain adversarial training",
    ("lr", "tuned"): "the tuned penalty minus tuned adversarial training",
    ("kl_u", "tuned"): "a penalty on outputs of inputs without labels,\nminus tuned adversarial training",
}

DATA = ("moon", "digits", "mnist", "cifar")

Scores = dict[str, dict[str, dict[str, float]]]
"""Score by setting, arm and seed."""


class Difference(NamedTuple):
    """A paired difference: its mean, and the half widths of its 95 % and its corrected interval."""

    mean: float
    half: float
    corrected: float

    def __str__(self) -> str:
        sign = "**" if abs(self.mean) > self.corrected else ""
        return f"{sign}{self.mean:+.1f}{sign} ± {self.half:.1f} ({self.corrected:.1f})"


def read(path: Path = RESULTS) -> Scores:
    """The score of each run: R&G on Moon, what withstands all attacks elsewhere.

    Settings of which fewer than three seeds were run, the protocol's least, are left out.
    """
    scores: Scores = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] in ("R&G", "all attacks"):
                scores.setdefault(row["setting"], {}).setdefault(row["arm"], {})[row["seed"]] = float(row["value"])
    several = {setting: arms for setting, arms in scores.items() if max(map(len, arms.values())) >= 3}
    return dict(sorted(several.items(), key=lambda item: _place(item[0])))


def _place(setting: str) -> tuple[int, int]:
    """Data set by data set, the smallest first."""
    name, _, size = setting.partition("-")
    return DATA.index(name), int(size)


def difference(scores: Scores, setting: str, one: str, other: str) -> Difference | None:
    """One arm minus the other in a setting, over the seeds of both; None if either was not run."""
    ours, theirs = (scores[setting].get(arm, {}) for arm in (one, other))
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(values) < 2:
        return None
    halves = [t_interval(values, level)[1] - fmean(values) for level in (0.95, 1 - 0.05 / len(scores))]
    return Difference(fmean(values), *halves)


def tables(scores: Scores) -> str:
    """The means, and the differences of untuned and of tuned arms, as Markdown."""
    means = [["setting", "seeds", *ARMS]]
    for setting, arms in scores.items():
        cells = [_mean([*arms[arm].values()]) if arm in arms else "" for arm in ARMS]
        means.append([setting, str(max(map(len, arms.values()))), *cells])
    untuned, tuned = (_differences(scores, pairs) for pairs in (WITHOUT_CHOICE, COMPARED))
    untuned[0].append("standard error of the base")
    for row in untuned[1:]:
        base = [*scores[row[0]].get("base", {}).values()]
        row.append(f"{_error(base):.1f}" if len(base) > 1 else "")
    return "\n\n".join(map(_table, (means, untuned, tuned)))


def _differences(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """A row per setting in which any pair was run, a column per pair of arms."""
    rows = [["setting", *(f"{one} - {other}" for one, other in pairs)]]
    for setting in scores:
        found = [difference(scores, setting, *pair) for pair in pairs]
        if any(found):
            rows.append([setting, *("" if each is None else str(each) for each in found)])
    return rows


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.1f} ± {_half(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _error(values: list[float]) -> float:
    """The standard error of a mean."""
    return stdev(values) / math.sqrt(len(values))


def _half(values: list[float]) -> float:
    """Half the width of the 95 % interval of a mean."""
    return t_interval(values)[1] - fmean(values)


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def drawn(scores: Scores) -> Figure:
    """The differences that decide, with their corrected intervals; Moon's above the others, in another unit."""
    figure = new_figure(height=3.7)
    kinds = ("R&G, 600 in all", "robust accuracy in %")
    both = [{name: own for name, own in scores.items() if name.startswith("moon") == moon} for moon in (True, False)]
    heights = [len(part) for part in both]
    panels = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    for axes, part, kind in zip(panels, both, kinds, strict=True):
        _draw(axes, scores, list(part))
        axes.set_xlabel(f"difference in {kind}; right of 0: better")
    for number, words in enumerate(DRAWN.values()):
        panels[0].plot([], [], label=words, linestyle="none", marker=MARKERS[number], color=COLORS[number])
    title = f"bars: 95 % intervals of the mean, corrected for {len(scores)} settings;\nhollow: the interval holds 0"
    legend_above(figure, columns=1, title=title)
    return figure


def _draw(axes: Axes, scores: Scores, settings: list[str]) -> None:
    tidy(axes, "x")
    farthest = 0.0
    for number, pair in enumerate(DRAWN):
        look: dict[str, Any] = {"marker": MARKERS[number], "color": COLORS[number], "linestyle": "none"}
        for place, setting in enumerate(settings):
            height, found = place + 0.24 * (number - 1), difference(scores, setting, *pair)
            if found is None:
                axes.text(0, height, " not run", color=COLORS[number], fontsize="x-small", va="center")
                continue
            face = COLORS[number] if abs(found.mean) > found.corrected else "white"
            axes.errorbar(found.mean, height, xerr=found.corrected, capsize=3, markerfacecolor=face, **look)
            farthest = max(farthest, abs(found.mean) + found.corrected)
    mark_zero(axes, "x")
    axes.set_xlim(-1.05 * farthest, 1.05 * farthest)
    axes.set_yticks(range(len(settings)), settings)
    axes.set_ylim(len(settings) - 0.5, -0.5)


def paper_table(table: PaperTable) -> str:
    """R&G of each row by attack, its difference to its base, and the paper's, as Markdown."""
    found = _cells(table.path, "rg")
    attacks = list(next(iter(found.values())))
    rows = [["row", "paper (FGSM)", *attacks, f"{table.judge}, minus base"]]
    for name in _ordered(table.paper, found):
        own, base = found[name], found.get(name.partition("-LR")[0], {}) if "-LR" in name else {}
        cells = [_mean([*own[attack].values()]) for attack in attacks]
        paper = f"{table.paper[name]:.1f}" if name in table.paper else ""
        rows.append([name, paper, *cells, _minus(own[table.judge], base[table.judge]) if base else ""])
    return _table(rows)


def accuracies(table: PaperTable) -> str:
    """Accuracy of each row at each radius, under the attack that judges, as Markdown."""
    with table.path.open(newline="") as file:
        radii = next(csv.reader(file))[4:]
    found = {radius: _cells(table.path, radius) for radius in radii}
    rows = [
        [name, *(_mean([*found[radius][name][table.judge].values()]) for radius in radii)]
        for name in _ordered(table.paper, found[radii[0]])
    ]
    return _table([["row", *(f"eps {radius}" for radius in radii)], *rows])


def _cells(path: Path, column: str) -> dict[str, dict[str, dict[str, float]]]:
    """A column by row of the table, attack and seed."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["row"], {}).setdefault(row["attack"], {})[row["seed"]] = float(row[column])
    return found


def _ordered(paper: dict[str, float], found: dict[str, Any]) -> list[str]:
    """The rows that were run: first those of the paper."""
    return [*(name for name in paper if name in found), *(name for name in found if name not in paper)]


def _minus(own: dict[str, float], base: dict[str, float]) -> str:
    values = [own[seed] - value for seed, value in base.items() if seed in own]
    return f"{fmean(values):+.1f} ± {_half(values):.1f}"


def forms(path: Path = FORMS) -> str:
    """Validation scores of the untuned forms minus their base's, and the base's standard error, as Markdown."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["arm"], {}).setdefault(row["setting"], {})[row["seed"]] = float(row["score"])
    base = found.pop("base")
    rows = [["form", *base]]
    for form, own in found.items():
        pairs = [[own[setting][seed] - value for seed, value in base[setting].items()] for setting in base]
        rows.append([form, *(f"{fmean(values):+.1f} ± {_half(values):.1f}" for values in pairs)])
    errors = (f"{_error([*own.values()]):.1f}" for own in base.values())
    return _table([*rows, ["standard error of the base", *errors]])


def gains(scores: Scores) -> str:
    """What the method gains, where, and where not, in two sentences."""
    said = {
        (setting, pair): str(difference(scores, setting, *pair)).replace("**", "").partition(" (")[0]
        for setting in scores
        for pair in (*WITHOUT_CHOICE, *COMPARED)
    }
    penalty, tuned, outputs = ("lr_plain", "base"), ("lr", "tuned"), ("kl_u", "tuned")

    def on_moons(pair: tuple[str, str]) -> str:
        few, more, most = (said[setting, pair] for setting in ("moon-30", "moon-60", "moon-120"))
        return f"{few}, {more} and {most}"

    words = (
        "**What it gains.** With few labels, and inputs without labels beside them, the penalty on the outputs "
        f"(`method=unlabelled`) beats adversarial training that is tuned alike: by {on_moons(outputs)} points of R&G "
        "(six accuracies, of 600) with 30, 60 and 120 points of two moons, and in robust accuracy by "
        f"{said['digits-100', outputs]} points with 100 small digits and {said['mnist-500', outputs]} with 500 of "
        f"MNIST, but {said['digits-200', outputs]} with 200 small digits and {said['cifar-2000', outputs]} with 2,000 "
        "images of CIFAR-10 (three seeds). Without such inputs it does what weight decay and early stopping do: on the "
        f"moons the paper's penalty gains {on_moons(penalty)} over a plain base, with everything tuned "
        f"{on_moons(tuned)}, and with plenty of data (the paper's Table 2, ten seeds, judged exactly) nothing: "
        "[all figures, and how they were found](docs/reproduction.md)."
    )
    return textwrap.fill(words, 140, break_on_hyphens=False)


def collect(runs: Path, path: Path) -> None:
    """Write a row per run and attack: R&G, and the accuracy at each radius, in percent.

    Rows of other runs stay, so that a table may be run in parts.
    """
    summaries = [json.loads(file.read_text()) for file in sorted(runs.rglob("summary.json"))]
    if not summaries:
        msg = f"expected finished runs under {runs}, found no summary.json"
        raise FileNotFoundError(msg)
    header = ["row", "seed", "attack", "rg", *map(str, summaries[0]["eps"])]
    found: dict[tuple[str, int], list[list[Any]]] = {}
    if path.exists():
        with path.open(newline="") as file:
            before, *rows = csv.reader(file)
        if before != header:
            msg = f"expected runs with the columns of {path}, {before}, got {header}"
            raise ValueError(msg)
        for row in rows:
            found.setdefault((row[0], int(row[1])), []).append(row)
    for summary in summaries:
        name, seed, accuracy = summary["name"], summary["seed"], summary["accuracy"]
        found[name, seed] = [[name, seed, attack, rg, *accuracy[attack]] for attack, rg in summary["rg_score"].items()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for run in sorted(found):
            writer.writerows(found[run])


def sections() -> dict[str, str]:
    """What stands between the marks, by their name."""
    table3 = TABLES["table3"]
    return {
        "table 2": paper_table(TABLES["table2"]),
        "table 3": f"{paper_table(table3)}\n\n{accuracies(table3)}",
        "search": tables(read()),
        "forms": forms(),
    }


def page(text: str, sections: dict[str, str]) -> str:
    """``text`` with each section between its marks."""
    for name, section in sections.items():
        begin, end = f"<!-- {name}, by scripts.docs_results -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{section}\n\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in TABLES:
        parser.add_argument(f"--{name}", type=Path, metavar="RUNS")
    for name, runs in vars(parser.parse_args()).items():
        if runs is not None:
            collect(runs, TABLES[name].path)
    written = sections()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), written), encoding="utf-8")
    README.write_text(page(README.read_text(encoding="utf-8"), {"gains": gains(read())}), encoding="utf-8")
    with mpl.rc_context({"svg.hashsalt": "search"}):  # the same file each time
        drawn(read()).savefig(FIGURE, metadata={"Date": None})
    print("\n\n".join(written.values()))


if __name__ == "__main__":
    main()
