"""The pictures of the pages: figures of a run, read from its folder, and those that compare runs, drawn here."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from lsa_lightning.evaluation import RobustnessTable
from lsa_lightning.plotting import plot_difference_curves, plot_differences, plot_mean_accuracy, plot_rg_scores
from lsa_lightning.runs.comparison import Group, measured_on
from lsa_lightning.runs.folder import save_svg
from lsa_lightning.runs.metrics import CLEAN, Metric, Spread, headline, measured, training_eps
from lsa_lightning.runs.pairs import Pair
from lsa_lightning.runs.read import Run, in_one_line
from lsa_lightning.runs.results import Results
from lsa_lightning.runs.stages import unit_in_words

T = TypeVar("T")

_LARGE_SVG = 400_000  # bytes; where dense drawings make the vector file larger than this, the PNG takes its place

_ENDS = {".svg": (b"<?xml", b"</svg>"), ".png": (b"\x89PNG", b"IEND\xaeB`\x82")}
"""What a whole file begins and ends with."""

_MOST_LINES = 10  # in one figure; more hide one another

_WIDE = ("adversarial_images", "largest_errors")

_CAPTIONS = {
    "training": (
        "Training",
        "Loss of the training batches, and accuracy on the validation set, clean and under attack, after each epoch. "
        "The dotted line marks the epoch whose weights were kept and are measured below.",
    ),
    "accuracy": (
        "Accuracy over eps",
        "Accuracy on the test set as the radius eps of the attack grows, one line per attack. The lower its line, the "
        "stronger the attack. The numbers are in the table Accuracy.",
    ),
    "layer_profile": (
        "Layers",
        "How far each attack moves each layer's representation, by the comparison measure: mean and, as bars that end "
        "at 0, standard deviation over the test samples. The shaded layers, whose mean is above the dashed threshold, "
        "are the Most Vulnerable Layers (MVL) of the weights that were kept. The numbers are in the table Layers.",
    ),
    "mvl_history": (
        "Layers over the epochs",
        "How far each layer's measure lies from the mean mu of the layers after each analysed epoch of training, on "
        "validation data: white is mu, orange above, blue below. Layers more than eta sigma above are chosen, and "
        "black bars mark them.",
    ),
    "class_accuracy": (
        "Accuracy of each class",
        "Clean and under the attack, with 95 % Wilson intervals. The numbers are in the table Classes.",
    ),
    "confusion": (
        "What each class is taken for under attack",
        "A row shows the samples of a class, by the class that the model predicts under the attack, in percent; the "
        "diagonal is the accuracy of the class.",
    ),
    "decision_boundary": (
        "Decision boundary",
        "Predicted probability of class 1 over the plane, the decision boundary as a line, test points, and with a "
        "thin line where the attack moved those that were right and are wrong now.",
    ),
    "adversarial_images": (
        "Clean and adversarial images",
        "Test images, their adversarial partners, and the difference between the two.",
    ),
    "largest_errors": (
        "Images whose layers move farthest",
        "Of the test images that were looked at, those for which the attack moves the layers farthest, by the measure "
        "above each image, mean over the layers.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        title: what it is, also its alternative text.
        caption: what it shows.
        source: data URI.
        wide: whether a phone shows it at its full size, to be scrolled.
    """

    title: str
    caption: str
    source: str
    wide: bool = False


def pictures_of_run(folder: Path) -> tuple[dict[str, Picture], list[str]]:
    """The figures in a run folder by name, those with a caption first, and what kept others from being shown."""
    pictures: dict[str, Picture] = {}
    unread: list[str] = []
    for name, files in _figure_files(folder).items():
        try:
            pictures[name] = _file_picture(name, files)
        except (ValueError, OSError) as error:
            unread.append(in_one_line(error))
    return pictures, unread


def pictures_of_results(results: Results, attacks: Sequence[str]) -> list[Picture]:
    """What the regularizer changes; R&G and accuracy over eps of each method, one figure per test set."""
    pictures = _difference_pictures(results)
    paired = {group for pair in results.pairs if pair.seeds for group in (pair.group, pair.base)}  # drawn above
    parts: dict[tuple[str | None, int | None], list[Group]] = {}
    for group in results.groups:
        if group.runs[0].summary.evaluation is not None:
            parts.setdefault(measured_on(group.runs[0]), []).append(group)
    for (data, samples), groups in parts.items():
        where = "" if len(parts) == 1 else f", {samples} samples of {str(data).rpartition('.')[2]}"
        pictures += _pictures_of_groups(groups, attacks, where, with_curves=not paired.issuperset(groups))
    return pictures


def _pictures_of_groups(
    groups: Sequence[Group], attacks: Sequence[str], where: str, with_curves: bool
) -> list[Picture]:
    """R&G and accuracy over eps of groups that were measured on the same samples, with 95 % intervals."""
    scores: dict[str, dict[str, Spread]] = {}
    for group in groups:
        row = {attack: score for attack in attacks if (score := group.rg_score(attack)) is not None}
        if row:
            scores[_drawable(group.label)] = row
    if not scores:
        return []
    over_seeds = any(score.half is not None for row in scores.values() for score in row.values())
    note = " Mean over the seeds, with its 95 % interval by Student's t." if over_seeds else ""
    runs = [run for group in groups for run in group.runs]
    most = _common({table.rg_max for table in _tables(runs)})
    figure = plot_rg_scores(
        {label: {attack: score.mean for attack, score in row.items()} for label, row in scores.items()},
        errors=_halves(scores) if over_seeds else None,
        bars="95 % interval" if over_seeds else None,
        most=most,
        ceiling=_common({table.ceiling.rg_score if table.ceiling else None for table in _tables(runs)}),
    )
    pictures = [_drawn(f"R&G of each method{where}", f"Sum of the accuracies over eps.{note}", figure)]
    for attack in attacks if with_curves else ():
        curves = {_drawable(g.label): _curve(g, attack, over_seeds) for g in groups if g.rg_score(attack)}
        best = sorted(curves, key=lambda label: scores[label][attack].mean, reverse=True)[:_MOST_LINES]
        only = f" Only the {_MOST_LINES} methods of highest R&G are drawn." if len(curves) > _MOST_LINES else ""
        if best:
            drawn = {label: curve for label, curve in curves.items() if label in best}
            samples = _common({table.samples for table in _tables(runs)})
            bars = "mean and 95 % interval over seeds" if over_seeds else f"95 % interval, {samples} samples"
            figure = plot_mean_accuracy(drawn, bars=bars, **_circumstances(runs))
            title = f"Accuracy over eps under {attack}{where}"
            pictures.append(_drawn(title, f"Accuracy on the test set.{note}{only}", figure))
    return pictures


def _halves(scores: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, float]]:
    """Half widths of the intervals."""
    return {label: {attack: score.half_or_nan for attack, score in row.items()} for label, row in scores.items()}


def _circumstances(runs: Sequence[Run]) -> dict[str, Any]:
    """What the axes and marks of curves say, as far as it is the same for all runs."""
    return {
        "training_eps": _common({training_eps(run) for run in runs}),
        "norm": _common({table.norm for table in _tables(runs)}),
        "unit": _common({_unit(run) for run in runs}),
    }


def _tables(runs: Iterable[Run]) -> list[RobustnessTable]:
    return [run.summary.evaluation for run in runs if run.summary.evaluation is not None]


def _curve(group: Group, attack: str, over_seeds: bool) -> dict[float, tuple[float, tuple[float, float] | None]]:
    """Accuracy by eps, with the interval over the seeds, or else that of the only run's test samples."""
    table = group.runs[0].summary.evaluation
    if over_seeds or table is None:
        return {eps: (spread.mean, spread.interval) for eps, spread in group.accuracy(attack).items()}
    return dict(zip(table.eps, zip(table.accuracy[attack], table.intervals[attack], strict=True), strict=True))


def _unit(run: Run) -> str | None:
    """What radii are measured in, as far as the threat model tells."""
    threat = run.config.get("threat")
    return unit_in_words(threat["bounds"]) if isinstance(threat, dict) and "bounds" in threat else None


def known_norms(results: Results) -> set[str]:
    """The different norms; tables of before 0.1.0 do not tell theirs."""
    return {table.norm for table in _tables(results.runs) if table.norm is not None}


def _difference_pictures(results: Results) -> list[Picture]:
    """Forest plots of the paired differences, accuracies and R&G apart, since their scales are; and over eps."""
    found = []
    for what, unit, is_score in (("accuracy", "percentage points", False), ("R&G", "sum of percentage points", True)):
        metrics = [metric for metric in headline(results.runs) if metric.is_score == is_score]
        spreads = {_pair_label(pair): _differences(pair, metrics) for pair in results.pairs}
        rows = {label: {m.title: (s.mean, s.half) for m, s in row.items()} for label, row in spreads.items() if row}
        if rows:
            note, bars = _said_of([spread for row in spreads.values() for spread in row.values()])
            caption = f"Difference in {what} of each AT-LR to the same training without the regularizer: {note}"
            figure = plot_differences(rows, xlabel=f"{unit}: {bars}")
            found.append(_drawn(f"Paired differences in {what}", caption, figure))
    return found + _differences_over_eps([pair for pair in results.pairs if pair.seeds])


def _differences_over_eps(pairs: Sequence[Pair]) -> list[Picture]:
    """The paired differences under the attack that each base stands worst, at all radii."""
    drawn = {pair: pair.worst_case[0].attack for pair in pairs[:_MOST_LINES] if pair.worst_case}
    spreads = {pair: _differences(pair, _at_all_eps(pair, attack)) for pair, attack in drawn.items()}
    if not spreads:
        return []
    curves = {
        f"{_pair_label(pair)}\nunder {drawn[pair]}": {m.eps[0]: (s.mean, s.interval) for m, s in row.items()}
        for pair, row in spreads.items()
    }
    note, bars = _said_of([spread for row in spreads.values() for spread in row.values()])
    runs = [run for pair in drawn for run in pair.group.runs]
    figure = plot_difference_curves(curves, bars=bars, **_circumstances(runs))
    caption = f"Accuracy of each AT-LR minus that of the same training without the regularizer, at each eps: {note}"
    return [_drawn("Paired differences over eps", caption, figure)]


def _at_all_eps(pair: Pair, attack: str) -> list[Metric]:
    return [m for m in measured(pair.group.runs[0]) if m == CLEAN or (m.attack == attack and not m.is_score)]


def _differences(pair: Pair, metrics: Iterable[Metric]) -> dict[Metric, Spread]:
    return {metric: spread for metric in metrics if (spread := pair.difference(metric)) is not None}


def _pair_label(pair: Pair) -> str:
    return _drawable(f"{pair.group.label} minus {pair.base_label}")


def _said_of(differences: Sequence[Spread]) -> tuple[str, str]:
    """What the caption and the axis say of differences, of which single ones have no interval."""
    several = [spread.n for spread in differences if spread.interval is not None]
    single = "a single pair, which has no interval"
    if not several:
        return f"{single}.", "1 pair, no interval"
    number = f"{several[0]} pairs" if len(set(several)) == 1 else "pairs"
    note = (
        "mean over the pairs of one seed, with its 95 % interval by Student's t. An interval that crosses the dotted "
        "line is compatible with no difference."
    )
    hollow = f" A point without an interval is {single}." if len(several) < len(differences) else ""
    return note + hollow, f"mean and 95 % interval, {number}"


def _common(values: set[T]) -> T | None:
    """The only value, if there is one alone."""
    return next(iter(values)) if len(values) == 1 else None


def _drawable(label: str) -> str:
    """``label`` in lines of 22 characters, with nothing that matplotlib takes for mathematics or for a hidden label."""
    text = textwrap.fill(label, 22).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _figure_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each figure, those with a caption first."""
    files: dict[str, list[Path]] = {}
    for path in sorted((folder / "figures").glob("*")):
        if path.suffix in (".svg", ".png") and not path.is_symlink():  # which might show a file of the reader's own
            files.setdefault(path.stem, []).append(path)
    known = [name for name in _CAPTIONS if name in files]
    return {name: files[name] for name in [*known, *(name for name in files if name not in known)]}


def _file_picture(name: str, files: list[Path]) -> Picture:
    """The vector file, or the other one where it is large or broken."""
    readable: dict[str, bytes] = {}
    for path in files:
        content = path.read_bytes()
        start, end = _ENDS[path.suffix]
        if content.startswith(start) and content.rstrip().endswith(end):
            readable[path.suffix] = content
    if not readable:
        msg = f"expected {' or '.join(map(str, files))} to be a whole picture"
        raise ValueError(msg)
    is_small = len(readable.get(".svg", b"")) <= _LARGE_SVG
    suffix = ".svg" if ".svg" in readable and (is_small or ".png" not in readable) else ".png"
    title, caption = _CAPTIONS.get(name, (name, f"figures/{name}{suffix}"))
    return Picture(title, caption, _data_uri(readable[suffix], suffix), name in _WIDE)


def _drawn(title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    save_svg(figure, buffer, title)
    return Picture(title, caption, _data_uri(buffer.getvalue(), ".svg"))


def _data_uri(content: bytes, suffix: str) -> str:
    kind = {".svg": "svg+xml", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
