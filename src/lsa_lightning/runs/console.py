"""What the entry points print."""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import product

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.layers.report import digits, in_words
from lsa_lightning.masking import MaskingFlag
from lsa_lightning.runs.stages import Analysis
from lsa_lightning.utils.describe import eps_in_words

console = Console()
log = logging.getLogger(__name__)

_LOG_WIDTH = 120


class ConsoleHandler(logging.Handler):
    """Prints the lines of the log that the console does not show already, with their time where it is no terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line; above the bar, if there is one."""
        if getattr(record, "shown", False):
            return
        plain = sys.stdout.isatty() and record.levelno == logging.INFO
        sys.stdout.write(f"{record.getMessage() if plain else self.format(record)}\n")
        sys.stdout.flush()  # else a file on a cluster stays empty for long


class NoTips(logging.Filter):
    """Keeps Lightning's advertisements out of the log, and that the table of the model's parts is ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line says something else."""
        return not record.getMessage().startswith(("💡 Tip", "Trainer already configured with model summary callbacks"))


def show(*contents: str | Text | Table) -> None:
    """Print texts, whose lines stay whole, and tables, and write the same to the log, without colours."""
    text = io.StringIO()
    for target in (console, Console(file=text, width=_LOG_WIDTH)):
        for content in contents:
            target.print(content, soft_wrap=not isinstance(content, Table))
    log.info(text.getvalue().rstrip(), extra={"shown": True})


def print_analysis(analysis: Analysis) -> None:
    """Mean of the measure, layers by attacks; the MVL is marked."""
    reports, first = analysis.reports, analysis.report
    measure = in_words(first.measure).capitalize()
    table = Table(padding=(0, 0, 0, 1))
    table.add_column("#", justify="right")
    table.add_column("layer", overflow="fold")
    for name in reports:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MVL", justify="center", no_wrap=True)
    for i, layer in enumerate(first.layers):
        means = [digits(float(report.mean[i]), 3) for report in reports.values()]
        table.add_row(str(i), layer, *means, "*" if layer in analysis.mvl else "")
    table.add_section()
    table.add_row("", "mu", *[digits(float(report.mu), 3) for report in reports.values()], "")
    table.add_row("", "sigma", *[digits(float(report.sigma), 3) for report in reports.values()], "")
    if analysis.threshold is not None:
        at = [digits(analysis.threshold, 3) if name == analysis.mvl_from else "" for name in reports]
        table.add_row("", "threshold", *at, "")
    _print_table(f"{measure} per layer (mean over {first.samples} samples)", table)
    show(f"MVL of the trained network under {analysis.mvl_from}: {_first_of(analysis.mvl)}")


def _first_of(names: Sequence[str], most: int = 8) -> str:
    """Names in a line: all, or the first few and how many there are."""
    if len(names) <= most:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:most])}, ... ({len(names)} layers)"


def print_accuracies(tables: dict[str, RobustnessTable], flagged: Collection[str] = (), steps: str = "") -> None:
    """Accuracy in percent above its 95 % interval, attacks and checkpoints by eps, with R&G.

    Args:
        tables: by the checkpoint's short name (one without name for a single checkpoint), all of the same attacks and
            radii.
        flagged: the short names of those that the masking checks flagged; their rows under attacks are marked.
        steps: how many the attacks take, in words.
    """
    first = next(iter(tables.values()))
    samples = " and ".join(str(n) for n in sorted({table.samples for table in tables.values()}))
    norm = "" if first.norm is None else f", {first.norm}"
    parts = _that_fit(partial(_accuracy_table, tables, flagged), len(first.eps))
    _print_table(f"Accuracy in %, 95 % intervals ({samples} samples{norm})", *parts)
    notes = [f"Steps: {steps}."] if steps else []
    notes += [*_notes(tables.values()), *(["!: raised masking flags; may be too high."] if flagged else [])]
    for line in notes:
        show(line)


def _accuracy_table(
    tables: dict[str, RobustnessTable], flagged: Collection[str], columns: range, *, narrow: bool
) -> Table:
    """Some columns of the accuracies; with the last one R&G. Narrow ones have their intervals in two lines."""
    first = next(iter(tables.values()))
    scored = columns[-1] == len(first.eps) - 1
    dash, space = ("-\n", "\n") if narrow else ("-", " ")
    shown = Table(box=SIMPLE_HEAD, padding=0)
    shown.add_column("attack", overflow="fold")
    for eps in [first.eps[i] for i in columns]:
        head = "clean" if eps == 0 else f"eps{space}{eps_in_words(eps)}"
        shown.add_column(f"{head}\ntraining" if eps == first.training_eps else head, justify="right", no_wrap=True)
    if scored:
        shown.add_column(f"R&G\nof {first.rg_max:g}", justify="right", no_wrap=True)
    for name in first.accuracy:
        for label, table in tables.items():
            known = [(table.accuracy[name][i], *table.intervals[name][i]) for i in columns]
            cells = [f"{accuracy:.2f}\n{_end(low)}{dash}{_end(high)}" for accuracy, low, high in known]
            mark = " !" if label in flagged and name not in table.at_most else ""
            score = [f"{table.rg_score[name]:.2f}"] if scored else []
            shown.add_row(f"{name} {label}".rstrip() + mark, *cells, *score)
        shown.add_section()
    for label, table in tables.items():
        if table.ceiling is not None:
            most = [f"{table.ceiling.accuracy[i]:.2f}" for i in columns]
            score = [f"{table.ceiling.rg_score:.2f}"] if scored else []
            shown.add_row(f"ceiling {label}".rstrip(), *most, *score)
    return shown


def _that_fit(table_of: Callable[..., Table], columns: int) -> list[Table]:
    """As few tables as have room, of about as many columns each; of one column, where there is room for none."""
    room, whole = min(console.width, _LOG_WIDTH), console.options.update(max_width=10_000)
    least = Measurement.get(console, whole, table_of(range(columns), narrow=True)).minimum // (room + 1) + 1
    for number, narrow in product(range(min(least, columns), columns + 1), (False, True)):
        each = math.ceil(columns / number)
        parts = [range(columns)[start : start + each] for start in range(0, columns, each)]
        tables = [table_of(part, narrow=narrow) for part in parts]
        if all(Measurement.get(console, whole, table).minimum <= room for table in tables):
            break
    return tables


def _notes(tables: Collection[RobustnessTable]) -> Iterator[str]:
    """What the rows that come from no attack mean."""
    gaps = [
        high - low
        for table in tables
        for name, row in table.at_most.items()
        for low, high in zip(table.accuracy[name], row, strict=True)
    ]
    if gaps:
        yield f"exact: right in the whole ball, without an attack; too low by at most {max(gaps):.2f} points."
    parts = {table.ceiling.part for table in tables if table.ceiling is not None}
    if parts:
        sizes = " or ".join(f"{part:,}" for part in sorted(parts))
        yield f"ceiling: what no classifier exceeds on these samples, from {sizes} of them at a time."


def print_masking(flags: dict[str, MaskingFlag]) -> None:
    """How many masking checks raised no flag, and what the others saw."""
    if not flags:
        return
    raised = {name: flag for name, flag in flags.items() if flag.raised}
    left_out = {name: flag for name, flag in flags.items() if flag.raised is None}
    show(f"Masking checks: {len(raised)} raised of {len(flags) - len(left_out)}")
    for name, flag in {**raised, **left_out}.items():
        show(f"  {name}: {flag.seen}")


def _print_table(title: str, *tables: Table) -> None:
    """Tables under one title, which a title of a table's own would wrap to the width of the columns."""
    show(Text(title, style="italic"), *tables)


def _end(percent: float) -> str:
    """One digit after the point, but for 100, so that an interval has at most nine characters."""
    return f"{percent:.1f}" if percent < 99.95 else "100"
