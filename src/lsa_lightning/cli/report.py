"""``lsa-report``: one table and one self-contained HTML file about a run of ``lsa-train``, or about a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsa_lightning import __version__
from lsa_lightning.comparison.results import print_left_out, print_results
from lsa_lightning.pages.report import write_report
from lsa_lightning.runs.read import in_one_line


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with exit status 2."""

    def error(self, message: str) -> Any:
        """End the program."""
        self.exit(2, f"{self.prog}: error: {message}; {self.prog} --help says more\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = _Parser(
        prog="lsa-report",
        description="Write one self-contained HTML file about a run; about several, also print and write one table "
        "(comparison.csv, paired.csv): means and 95 % intervals over seeds, and what the regularizer changes.",
        epilog="Exit status: 0 if a report was written, also if some jobs have not finished; 2 for errors.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="run folder of lsa-train, or a folder that holds such folders at any depth (a sweep)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the .html file; default: report.html in RUN, or in the current folder for several RUNs",
    )
    parser.add_argument("--version", action="version", version=f"lsa-lightning {__version__}")
    options = parser.parse_args(arguments)
    try:
        report = write_report(options.runs, options.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"lsa-report: error: {in_one_line(error)}\n")
    if report.results is not None:
        print_results(report.results)
    print_left_out(report.jobs.left_out, report.unread, options.runs[0])
    beside = "" if report.results is None else ", comparison.csv, paired.csv"
    print(f"Report: {report.file} ({report.file.stat().st_size / 1e6:.2f} MB){beside}")


if __name__ == "__main__":
    main()
