"""``lsa-report``: one self-contained HTML file about a run of ``lsa-train``, or about several side by side."""

from __future__ import annotations

import argparse
import base64
import io
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lsa_lightning import __version__
from lsa_lightning.layers.report import in_words
from lsa_lightning.plotting import plot_mean_accuracy, plot_rg_scores
from lsa_lightning.runs.comparison import Group, Spread, config_differences, group_by_seed
from lsa_lightning.runs.folder import CONFIG_FILE, save_svg
from lsa_lightning.runs.read import Run, find_runs
from lsa_lightning.utils.files import write_text

T = TypeVar("T")

_LARGE_SVG = 400_000  # bytes; where dense drawings make the vector file larger than this, the PNG takes its place


_MOST_LINES = 10  # in one figure; more hide one another


_CAPTIONS = {
    "accuracy": (
        "Accuracy over eps",
        "Accuracy on the test set as the radius eps of the attack grows, one line per attack. The lower its line, the "
        "stronger the attack. The numbers are in the table Accuracy.",
    ),
    "layer_profile": (
        "Layers",
        "How far each attack moves each layer's representation, by the comparison measure, mean over the test samples. "
        "The shaded layers are the Most Vulnerable Layers (MVL). The numbers are in the table Layers.",
    ),
    "mvl_history": (
        "Layers over the epochs",
        "The measure of each layer after each analysed epoch of training, with the layers in the MVL marked.",
    ),
    "decision_boundary": (
        "Decision boundary",
        "Predicted probability of class 1 over the plane, the decision boundary as a line, test points, and where the "
        "attack moved them.",
    ),
    "adversarial_images": (
        "Clean and adversarial images",
        "Test images, their adversarial partners, and the difference between the two.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it.

    Attributes:
        title: what it is, also its alternative text.
        caption: what it shows.
        source: data URI.
    """

    title: str
    caption: str
    source: str


def write_report(paths: Sequence[Path], output: Path | None = None) -> tuple[Path, list[Path]]:
    """Write the report of one run, or a comparison of several.

    Args:
        paths: run folders, or folders of run folders such as that of a sweep; at least one.
        output: an ``.html`` file, whose folder is made where it is missing; None: ``report.html`` in the only folder
            named, or in the current folder for several.

    Returns:
        The file, and the folders of unfinished jobs in sweeps, which the page names too.

    Raises:
        ValueError: if there is no finished run, if a run is named twice or if ``output`` is no ``.html`` file.
    """
    if output is not None and (output.suffix != ".html" or output.is_dir()):
        msg = f"expected output to be a file named *.html, got {output}"
        raise ValueError(msg)
    runs, unfinished = find_runs(paths)
    if output is None:
        output = (paths[0] if len(paths) == 1 else Path()) / "report.html"
    page = _run_page(runs[0], unfinished) if len(runs) == 1 else _comparison_page(runs, unfinished)
    write_text(output, page)
    return output, unfinished


def _run_page(run: Run, unfinished: list[Path]) -> str:
    pictures = {name: _file_picture(name, files) for name, files in _figure_files(run.folder).items()}
    history = run.summary.history
    layers = next(iter(run.reports.values())).layers if run.reports else []
    analysed = dict.fromkeys([*layers, *(layer for entry in history for layer in entry.mvl)])  # ATLR may read others
    return _render(
        "run.html.jinja",
        run=run,
        unfinished=unfinished,
        pictures=pictures,
        history=history,
        layers=layers,
        in_mvl={layer: sum(layer in entry.mvl for entry in history) for layer in analysed},
        config=(run.folder / CONFIG_FILE).read_text(encoding="utf-8"),
    )


def _comparison_page(runs: list[Run], unfinished: list[Path]) -> str:
    groups = group_by_seed(runs)
    tables = [run.summary.evaluation for run in runs if run.summary.evaluation is not None]
    attacks = list(dict.fromkeys(attack for table in tables for attack in table.accuracy))
    errors = {run.folder: _profile(run) for run in runs}
    return _render(
        "comparison.html.jinja",
        runs=runs,
        unfinished=unfinished,
        groups=groups,
        labels={run.folder: group.label for group in groups for run in group.runs},
        attacks=attacks,
        eps=sorted({eps for table in tables for eps in table.eps}),
        radii={tuple(table.rg_eps or table.eps) for table in tables},
        norms=_known(table.norm for table in tables),
        layers=list(dict.fromkeys(layer for profile in errors.values() for layer in profile)),
        errors=errors,
        measures=sorted({in_words(run.summary.analysis.measure) for run in runs if run.summary.analysis is not None}),
        pictures=_comparison_pictures(groups, attacks),
        differences=config_differences([group.runs[0] for group in groups]),
    )


def _profile(run: Run) -> dict[str, float]:
    """Mean of the measure by layer under the attack that the MVL is chosen by."""
    analysis = run.summary.analysis
    return {} if analysis is None else analysis.profiles[analysis.mvl_from]


def _comparison_pictures(groups: list[Group], attacks: list[str]) -> list[Picture]:
    scores: dict[str, dict[str, Spread]] = {}
    for group in groups:
        row = {attack: score for attack in attacks if (score := group.rg_score(attack)) is not None}
        if row:
            scores[_drawable(group.label)] = row
    over_seeds = any(len(group.runs) > 1 for group in groups)
    bars = ", mean and standard deviation over the seeds" if over_seeds else ""
    means, stds = ({label: {a: s[i] or 0.0 for a, s in row.items()} for label, row in scores.items()} for i in (0, 1))
    if not scores:
        return []
    figure = plot_rg_scores(means, errors=stds if over_seeds else None)
    pictures = [_drawn("R&G of each method", f"Sum of the accuracies over eps{bars}.", figure)]
    tables = [run.summary.evaluation for group in groups for run in group.runs if run.summary.evaluation is not None]
    norm = _common(_known(table.norm for table in tables))
    training_eps = _common({table.training_eps for table in tables})
    for attack in attacks:
        rows = {_drawable(group.label): group.accuracy(attack) for group in groups if group.rg_score(attack)}
        best = sorted(rows, key=lambda label: means[label][attack], reverse=True)[:_MOST_LINES]
        note = f" Only the {_MOST_LINES} methods of highest R&G are drawn." if len(rows) > _MOST_LINES else ""
        curves = {label: row for label, row in rows.items() if label in best}
        figure = plot_mean_accuracy(curves, training_eps=training_eps, norm=norm)
        pictures.append(_drawn(f"Accuracy over eps under {attack}", f"Accuracy on the test set{bars}.{note}", figure))
    return pictures


def _known(norms: Iterable[str | None]) -> set[str]:
    """The different norms; tables of before 0.1.0 do not tell theirs."""
    return {norm for norm in norms if norm is not None}


def _common(values: set[T]) -> T | None:
    """The only value, if there is one alone."""
    return next(iter(values)) if len(values) == 1 else None


def _drawable(label: str) -> str:
    """``label`` in lines of 30 characters, with nothing that matplotlib takes for mathematics or for a hidden label."""
    text = textwrap.fill(label, 30).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _figure_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each figure, those with a caption first."""
    files: dict[str, list[Path]] = {}
    for path in sorted((folder / "figures").glob("*")):
        if path.suffix in (".svg", ".png"):
            files.setdefault(path.stem, []).append(path)
    known = [name for name in _CAPTIONS if name in files]
    return {name: files[name] for name in [*known, *(name for name in files if name not in known)]}


def _file_picture(name: str, files: list[Path]) -> Picture:
    by_type = {path.suffix: path for path in files}
    path = by_type.get(".svg", files[0])
    if path.stat().st_size > _LARGE_SVG:
        path = by_type.get(".png", path)
    title, caption = _CAPTIONS.get(name, (name, f"figures/{path.name}"))
    return Picture(title, caption, _data_uri(path.read_bytes(), path.suffix))


def _drawn(title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    save_svg(figure, buffer, title)
    return Picture(title, caption, _data_uri(buffer.getvalue(), ".svg"))


def _data_uri(content: bytes, suffix: str) -> str:
    kind = {".svg": "svg+xml", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("lsa_lightning.cli"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["in_words"] = in_words
    environment.filters["yaml"] = lambda node: OmegaConf.to_yaml(OmegaConf.create(node)).strip()
    return environment.get_template(template).render(version=__version__, **values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="lsa-report", description="Write one self-contained HTML file about a run, or about several."
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="run folder of lsa-train, or folder of such folders (a sweep)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the .html file; default: report.html in RUN, or in the current folder for several RUNs",
    )
    options = parser.parse_args(arguments)
    try:
        output, unfinished = write_report(options.runs, options.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"lsa-report: error: {error}\n")
    for job in unfinished:
        print(f"lsa-report: left out, because it has no summary.json: {job}", file=sys.stderr)
    print(f"Report: {output} ({output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
