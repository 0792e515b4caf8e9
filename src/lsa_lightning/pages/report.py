"""One self-contained HTML file about a run, or about several with the table that compares them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf

from lsa_lightning import __version__
from lsa_lightning.comparison.groups import config_differences
from lsa_lightning.comparison.metrics import training_eps
from lsa_lightning.comparison.results import Results, room_in_words
from lsa_lightning.layers.report import attack_in_words, in_words
from lsa_lightning.masking.flags import CLEARLY, CRITERIA
from lsa_lightning.pages.comparison_pictures import common, known_norms, pictures_of_results
from lsa_lightning.pages.headline import WorstCase, masking_in_words
from lsa_lightning.pages.pictures import pictures_of_run
from lsa_lightning.runs.folder import CONFIG_FILE
from lsa_lightning.runs.read import Jobs, Run, find_jobs
from lsa_lightning.utils.files import write_text


class Report(NamedTuple):
    """A page that was written.

    Attributes:
        file: the page.
        jobs: the jobs that it is about, and those that it leaves out.
        results: what is compared; None for the page of a single run.
        unread: files that could not be read, of jobs that count, each with the reason.
    """

    file: Path
    jobs: Jobs
    results: Results | None
    unread: list[str]


def write_report(paths: Sequence[Path], output: Path | None = None) -> Report:
    """Write the page of one run, or of several with ``comparison.csv`` and ``paired.csv`` beside it.

    Args:
        paths: run folders, or folders that hold run folders at any depth, such as that of a sweep; at least one.
        output: an ``.html`` file, whose folder is made where it is missing; None: ``report.html`` in the only folder
            named, or in the current folder for several.

    Returns:
        The file, and what it is about.

    Raises:
        ValueError: if there is no finished run, if a run is named twice or if ``output`` is no ``.html`` file.
        OSError: if a file could not be written.
    """
    if output is not None and (output.suffix != ".html" or output.is_dir()):
        msg = f"expected output to be a file named *.html, got {output}"
        raise ValueError(msg)
    jobs = find_jobs(paths)
    if output is None:
        output = (paths[0] if len(paths) == 1 else Path()) / "report.html"
    unread = [message for run in jobs.runs for message in run.unread]
    if len(jobs.runs) == 1 and not jobs.left_out:
        return Report(output, jobs, None, [*unread, *write_run_page(jobs.runs[0], output)])
    results = Results.of(jobs.runs)
    write_text(output, _comparison_page(results, jobs, unread))
    results.save(output.parent)
    return Report(output, jobs, results, unread)


def write_run_page(run: Run, output: Path) -> list[str]:
    """Write the page of one run; what kept figures from being shown."""
    pictures, unread = pictures_of_run(run.folder)
    history = run.summary.history
    layers = next(iter(run.reports.values())).layers if run.reports else []
    analysed = dict.fromkeys([*layers, *(layer for entry in history for layer in entry.mvl)])  # ATLR may read others
    page = _render(
        "run.html.jinja",
        run=run,
        unread=[*run.unread, *unread],
        pictures=pictures,
        history=history,
        worst_case=WorstCase.of(run),
        monitored=_monitored(run),
        clearly=CLEARLY,
        criteria=CRITERIA,
        layers=layers,
        in_mvl={layer: sum(layer in entry.mvl for entry in history) for layer in analysed},
        config=(run.folder / CONFIG_FILE).read_text(encoding="utf-8"),
    )
    write_text(output, page)
    return unread


def _comparison_page(results: Results, jobs: Jobs, unread: Sequence[str]) -> str:
    runs, groups = jobs.runs, results.groups
    tables = [run.summary.evaluation for run in runs if run.summary.evaluation is not None]
    attacks = list(dict.fromkeys(attack for table in tables for attack in table.accuracy))
    errors = {run.folder: _profile(run) for run in runs}
    return _render(
        "comparison.html.jinja",
        runs=runs,
        left_out=jobs.left_out,
        now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        unread=unread,
        results=results,
        meaning=" ".join(results.notes),
        groups=groups,
        labels={run.folder: group.label for group in groups for run in group.runs},
        attacks=attacks,
        eps=sorted({eps for table in tables for eps in table.eps}),
        rg_eps=list(common({(*(table.rg_eps or table.eps),) for table in tables}) or ()),
        norms=known_norms(results),
        training_eps=common({training_eps(run) for run in runs} - {None}),
        layers=list(dict.fromkeys(layer for profile in errors.values() for layer in profile)),
        errors=errors,
        measures=sorted({in_words(run.summary.analysis.measure) for run in runs if run.summary.analysis is not None}),
        pictures=pictures_of_results(results, attacks),
        differences=config_differences([group.runs[0] for group in groups]),
    )


def _monitored(run: Run) -> str | None:
    """What the checkpoint that was kept is the best by, as far as the configuration tells."""
    callbacks = run.config.get("callbacks")
    nodes = callbacks.values() if isinstance(callbacks, dict) else ()
    return next((node["monitor"] for node in nodes if isinstance(node, dict) and _keeps_the_best(node)), None)


def _keeps_the_best(node: dict[str, Any]) -> bool:
    return str(node.get("_target_")).endswith("ModelCheckpoint") and node.get("monitor") is not None


def _profile(run: Run) -> dict[str, float]:
    """Mean of the measure by layer under the attack that the MVL is chosen by."""
    analysis = run.summary.analysis
    return {} if analysis is None else analysis.profiles[analysis.mvl_from]


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("lsa_lightning.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["attack"] = attack_in_words
    environment.filters["checks"] = masking_in_words
    environment.filters["in_words"] = in_words
    environment.filters["room"] = room_in_words
    environment.filters["yaml"] = lambda node: OmegaConf.to_yaml(OmegaConf.create(node)).strip()
    return environment.get_template(template).render(version=__version__, **values)
