"""The one table of a sweep: every method over its seeds, and what the regularizer changes; as rows, CSV and print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lsa_lightning.comparison.groups import Flags, Group, cautions, group_by_seed, share_samples
from lsa_lightning.comparison.metrics import CLEAN, Metric, Spread, headline, measured, training_eps
from lsa_lightning.comparison.pairs import Pair, pair_with_bases
from lsa_lightning.runs.console import console
from lsa_lightning.runs.folder import save_table
from lsa_lightning.runs.read import LeftOut, Run

if TYPE_CHECKING:
    import pandas as pd

MEANING = "n: seeds. 95 % intervals of the mean: Student's t over the seeds, or over the pairs of one seed each."
BASE = "Minus base: AT-LR minus the same training without the regularizer, the mean over pairs of one seed."


_FEW = 3  # pairs

ROOM = "Room: the share of what lies between the base and the ceiling that it closes, with its interval over the pairs."

CEILING = (
    "Ceiling: what no classifier exceeds on these samples. Its R&G is not the sum of its accuracies but at most that, "
    "since one classifier must serve all eps at once."
)


@dataclass(frozen=True)
class Row:
    """A method under one metric.

    Attributes:
        label: the method.
        spread: the metric over its seeds.
        difference: that of the pairs with its base; None without a base or a pair.
        room: the share, in percent, of the room between the base and the ceiling that the difference closes; None
            without a ceiling, several pairs or room.
        flags: what the masking checks say of the method's runs; None for the ceiling, which is none.
    """

    label: str
    spread: Spread
    difference: Spread | None
    room: Spread | None = None
    flags: Flags | None = None


@dataclass(frozen=True)
class Headline:
    """What the regularizer changes in one metric.

    Attributes:
        methods: the methods, one minus the other.
        metric: the metric.
        spread: the differences over the pairs.
    """

    methods: str
    metric: str
    spread: Spread

    def __str__(self) -> str:
        ends, verdict = "no interval from one pair", "which cannot tell"
        if self.spread.interval is not None:
            low, high = self.spread.interval
            ends = f"95 % interval {low:+.2f} to {high:+.2f}"
            verdict = "no detectable difference" if low <= 0 <= high else "a detectable difference"
            if low != 0 and math.isclose(low, high, abs_tol=1e-9):
                verdict = "all pairs alike, from which nothing can be told about others"
        change = f"{self.spread.mean:+.2f} points ({ends}, n {self.spread.n})"
        return f"{self.methods}, {self.metric}: {change}, {verdict}"


@dataclass(frozen=True, eq=False)
class Results:
    """Groups of runs, compared.

    Attributes:
        groups: runs that differ only by seed.
        pairs: the groups with the regularizer, each with its base.
    """

    groups: list[Group]
    pairs: list[Pair]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Results:
        """Group and pair runs; at least one."""
        groups = group_by_seed(runs)
        return cls(groups, pair_with_bases(groups))

    @property
    def runs(self) -> list[Run]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    @property
    def sections(self) -> dict[str, list[Row]]:
        """By the title of each main metric, the methods that were measured so."""
        metrics = headline(self.runs)
        titles = Counter(metric.title for metric in metrics)
        return {
            f"{metric.title} ({metric.circumstances})" if titles[metric.title] > 1 else metric.title: self._rows(metric)
            for metric in metrics
        }

    @property
    def has_pairs(self) -> bool:
        """Whether there is any pair of a run and its base."""
        return any(pair.seeds for pair in self.pairs)

    @property
    def has_room(self) -> bool:
        """Whether there is a pair whose base has room below a ceiling."""
        return any(row.room is not None for rows in self.sections.values() for row in rows)

    @property
    def has_ceiling(self) -> bool:
        """Whether a ceiling stands in the table."""
        return any(rows[-1].flags is None for rows in self.sections.values())

    @property
    def notes(self) -> list[str]:
        """What the table's columns and rows are, one sentence or two each."""
        kinds = ((MEANING, True), (BASE, self.has_pairs), (ROOM, self.has_room), (CEILING, self.has_ceiling))
        return [note for note, applies in kinds if applies]

    @property
    def masking(self) -> str:
        """What the masking checks say of all runs, in one sentence."""
        total = Flags(*map(sum, zip(*(group.flags for group in self.groups), strict=True)))
        return f"Masking flags were raised in {total.raised} of {total.checked} runs checked, of {total.runs} in all."

    @property
    def headlines(self) -> list[Headline]:
        """The worst case at the radius of training, and clean accuracy, with the regularizer minus without it.

        Of at most three pairs: of more, the figure says it at a glance.
        """
        pairs = [pair for pair in self.pairs if pair.seeds]
        return [
            Headline(f"{pair.group.label} minus {pair.base_label}", metric.title, spread)
            for pair in (pairs if len(pairs) <= _FEW else [])
            for metric in (*pair.worst_case, CLEAN)
            if (spread := pair.difference(metric)) is not None
        ]

    @property
    def cautions(self) -> list[str]:
        """What must be known before these runs are compared, one sentence each."""
        return cautions(self.groups)

    @property
    def bases(self) -> list[str]:
        """What the groups with the regularizer are compared with, one sentence for all of the same base and seeds."""
        labels: dict[str, list[str]] = {}
        for pair in self.pairs:
            labels.setdefault(_base_in_words(pair), []).append(pair.group.label)
        return [f"Base of {'; '.join(those)}: {base}." for base, those in labels.items()]

    def save(self, folder: Path) -> None:
        """Write ``comparison.csv`` and ``paired.csv``: one row per group and metric, accuracies at every radius."""
        save_table(self.comparison_frame(), folder / "comparison.csv")
        save_table(self.paired_frame(), folder / "paired.csv")

    def comparison_frame(self) -> pd.DataFrame:
        """Each metric of each group over its seeds."""
        rows = [
            {"group": group.label, **_described(metric, group), **_figures(spread), **_beside(metric, group)}
            for group in self.groups
            for metric in measured(group.runs[0])
            if (spread := group.spread(metric)) is not None
        ]
        return _frame(rows, ["group"], ["ceiling", "flagged", "checked"])

    def paired_frame(self) -> pd.DataFrame:
        """Each metric of each group with the regularizer minus that of its base, over the pairs."""
        rows = [
            {
                "group": pair.group.label,
                "base": pair.base.label,
                **_described(metric, pair.group),
                **_figures(spread),
                "room_closed": None if (room := room_closed(pair, metric)) is None else room.mean,
                "flagged": pair.group.flags.raised,
                "checked": pair.group.flags.checked,
            }
            for pair in self.pairs
            if pair.base is not None
            for metric in measured(pair.group.runs[0])
            if (spread := pair.difference(metric)) is not None
        ]
        return _frame(rows, ["group", "base"], ["room_closed", "flagged", "checked"])

    def _rows(self, metric: Metric) -> list[Row]:
        pairs = {pair.group: pair for pair in self.pairs}
        rows = []
        for group in self.groups:
            if (spread := group.spread(metric)) is not None:
                pair = pairs.get(group)
                changed = (None, None) if pair is None else (pair.difference(metric), room_closed(pair, metric))
                rows.append(Row(group.label, spread, *changed, group.flags))
        ceilings = {group: ceiling for group in self.groups if (ceiling := group.ceiling(metric)) is not None}
        seeds = {seeds for group in ceilings for seeds in group.ceilings(metric)}
        of_all = [ceiling for group, ceiling in ceilings.items() if group.ceilings(metric).keys() == seeds]
        if of_all and share_samples(ceilings, metric):
            rows.append(Row("ceiling", of_all[0], None))
        else:
            rows += [Row(f"ceiling of {group.label}", ceiling, None) for group, ceiling in ceilings.items()]
        return rows


def print_results(results: Results) -> None:
    """The main metrics, each with its methods below one another, in 100 columns or fewer.

    In fewer columns than that without the standard deviation and the number of pairs, which the files have.
    """
    for each in results.headlines:
        console.print(Text(str(each), style="bold"), width=min(console.width, 100))
    columns = _columns(results, brief=console.width < 100)
    head, *heads = columns
    sections = {t: [[cell(row) for cell in columns.values()] for row in rows] for t, rows in results.sections.items()}
    names, *widths = [max(map(len, column)) for column in zip(columns, *chain(*sections.values()), strict=True)]
    left = min(console.width, 100) - sum(width + 2 for width in widths) - 3  # with what stands between the columns
    for title, rows in sections.items():
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(title, style="bold"), title_justify="left")
        table.add_column(head, width=min(names, max(left, 8)), overflow="fold")
        for other, width in zip(heads, widths, strict=True):
            table.add_column(other, min_width=width, justify="right", no_wrap=True)
        for name, *cells in rows:
            table.add_row(Text(name), *cells)
        console.print(table)
    for line in (*results.notes, results.masking, *results.cautions, *results.bases):
        console.print(Text(line), width=min(console.width, 100))


def _columns(results: Results, *, brief: bool) -> dict[str, Callable[[Row], str]]:
    """What a row has in each column that the results have something for, by the head."""
    pairs, flags = results.has_pairs, any(group.flags.checked for group in results.groups)
    columns: list[tuple[str, bool, Callable[[Row], str]]] = [
        ("in % (R&G: their sum)", True, lambda row: row.label),
        ("n", True, lambda row: str(row.spread.n)),
        ("mean ± 95 %", True, lambda row: in_words(row.spread)),
        ("std", not brief, lambda row: "" if row.spread.std is None else f"{row.spread.std:.2f}"),
        ("minus base ± 95 %", pairs, lambda row: "" if row.difference is None else in_words(row.difference, sign="+")),
        ("pairs", pairs and not brief, lambda row: "" if row.difference is None else str(row.difference.n)),
        ("room", results.has_room, room_in_words),
        ("flags", flags, lambda row: "" if row.flags is None or not row.flags.checked else str(row.flags)),
    ]
    return {head: cell for head, there, cell in columns if there}


def print_left_out(jobs: Sequence[LeftOut], unread: Sequence[str], top: Path) -> None:
    """The jobs that do not count with their state, and files that were missed, if there are any.

    Args:
        jobs: the jobs.
        unread: what was said about files of jobs that count.
        top: folder that the jobs are named from.
    """
    if jobs:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head in ("left out", "state", "since, or why"):
            table.add_column(head, overflow="fold")
        for job in jobs:
            folder = job.folder.relative_to(top) if job.folder.is_relative_to(top) else job.folder
            table.add_row(Text(str(folder)), job.state, Text(job.detail))
        console.print(table)
    for message in unread:
        console.print(Text(f"- unreadable, left out of its job: {message}"))


def in_words(spread: Spread, sign: str = "") -> str:
    """The mean with half of its interval."""
    return f"{spread.mean:{sign}.2f}" + ("" if spread.half is None else f" ± {spread.half:.2f}")


def room_in_words(row: Row) -> str:
    """The share of the room that a row closes; empty without one."""
    return "" if row.room is None or row.room.half is None else f"{row.room.mean:+.0f} ± {row.room.half:.0f} %"


def room_closed(pair: Pair, metric: Metric) -> Spread | None:
    """The share, in percent, of the room between the base and the ceiling that the difference of a pair closes.

    None without a ceiling or several pairs, whose share alone has an interval, or where the base is at the ceiling.
    """
    ceilings, difference = pair.group.ceilings(metric), pair.difference(metric)
    if not ceilings or difference is None or difference.interval is None or pair.base is None:
        return None
    ours, theirs = pair.group.values(metric), pair.base.values(metric)
    room = fmean(ceilings[seeds] - value for seeds, value in theirs.items() if seeds in ours)
    return difference.times(100 / room) if room > 0 else None


def _base_in_words(pair: Pair) -> str:
    if pair.base is None:
        return "none, since no run here is the same but for the regularizer"
    if not pair.seeds:
        return f"{pair.base.label}, with no seed in common"
    return f"{pair.base.label}, in pairs of seeds {', '.join(map(str, pair.seeds))}"


def _described(metric: Metric, group: Group) -> dict[str, Any]:
    """The columns of a metric."""
    radii = " ".join(f"{eps:g}" for eps in metric.eps)
    return {
        "metric": metric.name,
        "attack": metric.attack,
        "eps": None if metric.is_score else metric.eps[0],
        "summed_eps": radii if metric.is_score else "",
        "norm": metric.norm,
        "training": not metric.is_score and metric.eps[0] == training_eps(group.runs[0]),
    }


def _figures(spread: Spread) -> dict[str, Any]:
    """The columns of a spread; those that a single seed does not have are empty."""
    low, high = (None, None) if spread.interval is None else spread.interval
    return {"n": spread.n, "mean": spread.mean, "std": spread.std, "ci_low": low, "ci_high": high}


def _beside(metric: Metric, group: Group) -> dict[str, Any]:
    """The columns of what a metric must be read beside: its ceiling, and the flags of the runs."""
    ceiling = group.ceiling(metric)
    flags = {"flagged": group.flags.raised, "checked": group.flags.checked}
    return {"ceiling": None if ceiling is None else ceiling.mean, **flags}


def _frame(rows: Sequence[dict[str, Any]], first: Sequence[str], last: Sequence[str]) -> pd.DataFrame:
    """A table with all columns, also without a row."""
    import pandas as pd

    columns = ("metric", "attack", "eps", "summed_eps", "norm", "training", "n", "mean", "std", "ci_low", "ci_high")
    return pd.DataFrame(rows, columns=[*first, *columns, *last])
