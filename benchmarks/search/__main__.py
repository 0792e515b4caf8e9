"""The search of docs/protocol.md: where does AT-LR beat the best tuned opponent?

    python -m benchmarks.search tune moon-60 [--arms lr tuned] [--trials 20]   choose on validation
    python -m benchmarks.search forms moon-60                                   the untuned forms, on validation
    python -m benchmarks.search final moon-60 [--trials 20]                     report once on test, of the first trials
    python -m benchmarks.search final moon-60 --arms lr --seeds 0 1             a few runs again, for comparison

Every run is a row of tuning.csv, forms.csv or final.csv in docs/results; rows that are there are not run again, unless
seeds are given, whose results are printed only. Networks that were not judged to the end are kept in runs/search, and
the same command goes on with them.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from benchmarks.search.arms import ARMS, FORM_SEEDS, FORMS, TUNED, fixed, trials
from benchmarks.search.judging import judged
from benchmarks.search.settings import SETTINGS
from benchmarks.search.training import Data, Setting, Trial, train
from torch import nn

from lsa_lightning.stacked.network import stack
from lsa_lightning.utils.files import replacing

RESULTS = Path(__file__).parents[2] / "docs/results"
TUNING = ("setting", "arm", "trial", "hyperparameters", "seed", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "forms", "final"))
    parser.add_argument("settings", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of MNIST and CIFAR-10")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", help="of the final runs; printed, not written")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--kept", type=Path, default=Path("runs/search"), help="of networks until they are judged")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.settings:
        setting = SETTINGS[name](args.data)
        if args.what == "forms":
            forms(setting, args.results)
            continue
        for arm in args.arms:
            if args.what == "final":
                final(setting, arm, args.trials, args.results, args.kept, args.seeds)
            elif arm in TUNED:
                tune(setting, arm, args.trials, args.results)


def forms(setting: Setting, results: Path) -> None:
    """Try the untuned forms."""
    table = Table(results / "forms.csv", TUNING)
    for form in FORMS:
        attempt(setting, form, 0, fixed(form, setting), FORM_SEEDS, table)


def tune(setting: Setting, arm: str, number: int, results: Path) -> None:
    """Try the trials of an arm."""
    table = Table(results / "tuning.csv", TUNING)
    for index, trial in enumerate(trials(arm, setting, number)):
        attempt(setting, arm, index, trial, setting.first, table)
    for index, mean in best(table.of(setting.name, arm), setting.first)[: setting.kept]:
        print(f"{setting.name} {arm}: trial {index}, {mean:.2f}", flush=True)
        attempt(setting, arm, index, trials(arm, setting, index + 1)[index], setting.more, table)


def attempt(setting: Setting, arm: str, index: int, trial: Trial, seeds: Iterable[int], table: Table) -> None:
    """Train a trial with some seeds, unless it has been."""
    seeds = list(seeds)
    done = {(row["trial"], row["seed"]) for row in table.of(setting.name, arm)}
    if {(str(index), str(seed)) for seed in seeds} <= done:
        return
    scores = train(setting, trial, seeds, setting.data(seeds)).scores.tolist()
    print(f"{setting.name} {arm} {index}: {statistics.fmean(scores):.2f}", flush=True)
    rows = zip(seeds, scores, strict=True)
    table.add([setting.name, arm, index, plain(trial), seed, f"{value:.3f}"] for seed, value in rows)


def final(setting: Setting, arm: str, number: int, results: Path, kept: Path, seeds: list[int] | None) -> None:
    """Train and judge what was chosen, on fresh seeds."""
    table = Table(results / "final.csv", ("setting", "arm", "hyperparameters", "seed", "metric", "value"))
    done = {row["seed"] for row in table.of(setting.name, arm)} if seeds is None else set()
    wanted, trial = seeds or list(setting.seeds), chosen(setting, arm, number, results)
    for part in [wanted[k : k + setting.together] for k in range(0, len(wanted), setting.together)]:
        left = [index for index, seed in enumerate(part) if str(seed) not in done]
        if not left:
            continue
        data = setting.data(part)
        file = kept / f"{setting.name} {arm} {'-'.join(map(str, part))}.pt"
        net = trained(setting, trial, part, data, file)
        for index in left:
            values = judged(setting, net, data.test, index)
            shown = ", ".join(f"{metric} {value:.1f}" for metric, value in values.items())
            print(f"{setting.name} {arm} seed {part[index]}: {shown}", flush=True)
            if seeds is None:  # at once: judging may take minutes a seed
                head = [setting.name, arm, plain(trial), part[index]]
                table.add([*head, metric, f"{value:.3f}"] for metric, value in values.items())
        file.unlink()


def trained(setting: Setting, trial: Trial, seeds: list[int], data: Data, file: Path) -> nn.Module:
    """The networks of these seeds: from ``file``, if a run that was stopped left them, else trained and put there."""
    found = torch.load(file, setting.device, weights_only=True) if file.exists() else {}
    if found.get("trial") == plain(trial):
        net = stack([setting.network() for _ in seeds]).to(setting.device)
        net.load_state_dict(found["weights"])
        return net.eval()
    net = train(setting, trial, seeds, data).net
    with replacing(file) as new:
        torch.save({"trial": plain(trial), "weights": net.state_dict()}, new)
    return net


def chosen(setting: Setting, arm: str, number: int, results: Path) -> Trial:
    """Of the first trials, that of the largest mean score over all tuning seeds."""
    if arm not in TUNED:
        return fixed(arm, setting)
    table = Table(results / "tuning.csv", ())
    rows = [row for row in table.of(setting.name, arm) if int(row["trial"]) < number]
    index, _ = best(rows, [*setting.first, *setting.more])[0]
    return trials(arm, setting, index + 1)[index]


def best(rows: list[dict[str, str]], seeds: Iterable[int]) -> list[tuple[int, float]]:
    """Trials that were tried on all of the seeds, with their mean score, the best first."""
    wanted, scores = [str(seed) for seed in seeds], dict[int, dict[str, float]]()
    for row in rows:
        scores.setdefault(int(row["trial"]), {})[row["seed"]] = float(row["score"])
    means = [
        (index, statistics.fmean(own[seed] for seed in wanted))
        for index, own in scores.items()
        if own.keys() >= set(wanted)
    ]
    return sorted(means, key=lambda each: -each[1])


def plain(trial: Trial) -> str:
    """What of a trial is not the default, as JSON."""
    defaults = {field.name: field.default for field in fields(Trial)}
    return json.dumps({name: value for name, value in asdict(trial).items() if value != defaults[name]})


class Table:
    """A CSV file that rows are added to."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns

    def of(self, setting: str, arm: str) -> list[dict[str, str]]:
        """The rows of an arm."""
        return [row for row in self.rows() if (row["setting"], row["arm"]) == (setting, arm)]

    def rows(self) -> Iterator[dict[str, str]]:
        """All rows."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                yield from csv.DictReader(file)

    def add(self, rows: Iterable[list[Any]]) -> None:
        """Write rows at the end."""
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([self.columns] if new else [])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
