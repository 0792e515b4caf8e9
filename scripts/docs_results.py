"""The tables of docs/reproduction.md and their figure, from the rows of docs/results.

``python -m scripts.docs_results`` writes what stands between the marks of the page, and docs/figures/search.svg.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure

from lsa_lightning.functional.scores import t_interval
from lsa_lightning.plotting.style import COLORS, MARKERS, new_axes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results/final.csv"
PAGE = ROOT / "docs/reproduction.md"
FIGURE = ROOT / "docs/figures/search.svg"
BEGIN, END = "<!-- from docs/results: python -m scripts.docs_results -->", "<!-- end -->"

ARMS = ("base", "lr_plain", "tuned", "lr", "kl_u", "lr_u")
COMPARED = (
    ("lr_plain", "base"),
    ("lr", "base"),
    ("lr", "tuned"),
    ("lr_u", "base"),
    ("lr_u", "kl_u"),
    ("lr_u", "tuned"),
)
DRAWN = (("lr", "tuned"), ("lr_u", "kl_u"), ("lr_u", "tuned"))

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
    """The score of each run: R&G on Moon, what withstands all attacks elsewhere."""
    scores: Scores = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] in ("R&G", "all attacks"):
                scores.setdefault(row["setting"], {}).setdefault(row["arm"], {})[row["seed"]] = float(row["value"])
    return scores


def difference(scores: Scores, setting: str, one: str, other: str) -> Difference | None:
    """One arm minus the other in a setting, over the seeds of both; None if either was not run."""
    ours, theirs = (scores[setting].get(arm, {}) for arm in (one, other))
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(values) < 2:
        return None
    halves = [t_interval(values, level)[1] - fmean(values) for level in (0.95, 1 - 0.05 / len(scores))]
    return Difference(fmean(values), *halves)


def tables(scores: Scores) -> str:
    """Both tables, as Markdown."""
    means = [["setting", "seeds", *ARMS]]
    for setting, arms in scores.items():
        cells = [_mean([*arms[arm].values()]) if arm in arms else "" for arm in ARMS]
        means.append([setting, str(max(map(len, arms.values()))), *cells])
    paired = [["setting", *(f"{one} - {other}" for one, other in COMPARED)]]
    for setting in scores:
        found = [difference(scores, setting, *pair) for pair in COMPARED]
        paired.append([setting, *("" if each is None else str(each) for each in found)])
    return "\n\n".join(map(_table, (means, paired)))


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.1f} ± {t_interval(values)[1] - fmean(values):.1f}"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def drawn(scores: Scores) -> Figure:
    """The paired differences that decide, with their corrected intervals."""
    figure, axes = new_axes(height=1.2 + 0.55 * len(scores), grid="x")
    for number, (one, other) in enumerate(DRAWN):
        for place, each in _rows(scores, one, other):
            at = place + 0.22 * (number - 1)
            label = f"{one} - {other}" if place == 0 else None
            look = {"fmt": MARKERS[number], "color": COLORS[number], "capsize": 3}
            axes.errorbar(each.mean, at, xerr=each.corrected, label=label, **look)  # type: ignore[arg-type]
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel("paired difference in points (Moon: of R&G, 600 in all; else: accuracy),\ncorrected interval")
    figure.legend(loc="outside upper left", ncols=len(DRAWN), fontsize="small")
    return figure


def _rows(scores: Scores, one: str, other: str) -> Iterator[tuple[int, Difference]]:
    for place, setting in enumerate(scores):
        if (found := difference(scores, setting, one, other)) is not None:
            yield place, found


def page(text: str, scores: Scores) -> str:
    """``text`` with the tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(scores)}\n\n{END}{after}"


def main() -> None:
    """Write the page and the figure."""
    scores = read()
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), scores), encoding="utf-8")
    drawn(scores).savefig(FIGURE)
    print(tables(scores))


if __name__ == "__main__":
    main()
