"""What ``compile=true`` compiles: graphs, graph breaks and recompilations of a fit and an evaluation.

    python -m benchmarks.compiled_graphs [--backend eager]

PreActResNet-18 in channels_last on random images, two epochs of three batches whose last one is smaller, with
validation under PGD, trained by AT and by AT-LR; then an evaluation under PGD, which packs the samples that still
stand. Counts do not depend on the backend: ``eager`` traces without generating code, so that no compiler is needed. A
recompilation is listed with the guard that failed; a break with its reason. Steps with a penalty are counted by whether
both of their passes ran compiled; the first one with a layer that was not compared before runs as it was written.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from benchmarks.pairs import save
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader, TensorDataset

from lsa_lightning import ATLR, AdversarialTraining, RobustClassifier, RobustnessEvaluation, RobustValidation
from lsa_lightning.attacks import PGD
from lsa_lightning.jobs.acceleration import accelerate
from lsa_lightning.models import PreActResNet18
from lsa_lightning.steps.both_passes import BothPasses
from lsa_lightning.steps.request import Passes, StepRequest

BATCH, SAMPLES = 8, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="eager")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(SAMPLES, 3, 32, 32), torch.randint(10, (SAMPLES,)))
    loader = DataLoader(data, batch_size=BATCH)
    attack = PGD(8 / 255, steps=2)
    results: dict[str, Any] = {"backend": args.backend}
    for name, method in (("AT", AdversarialTraining(attack)), ("AT-LR", ATLR(attack))):
        model = RobustClassifier(PreActResNet18())
        accelerate(model, compiled={"backend": args.backend}, channels_last=True)
        callbacks = [method, RobustValidation({"pgd": attack})]
        results[f"fit by {name}"] = counted(lambda c=callbacks, m=model: fit(m, c, loader))  # type: ignore[misc]
        evaluation = RobustnessEvaluation({"pgd": PGD(8 / 255, steps=10, best="success")}, [8 / 255], progress=False)
        results[f"evaluation after {name}"] = counted(lambda m=model, e=evaluation: e.run(m, loader))  # type: ignore[misc]
    for phase, found in results.items():
        if phase != "backend":
            print(f"{phase}: {found['graphs']} graphs, breaks {found['breaks'] or 'none'}; recompiled for:")
            print("".join(f"    {reason}\n" for reason in found["recompilations"]), end="")
            if found["steps with a penalty"]:
                print(f"    steps with a penalty: {found['steps with a penalty']}")
    save("compiled_graphs", results)


def fit(model: pl.LightningModule, callbacks: list[pl.Callback], loader: DataLoader[Any]) -> None:
    """Two epochs."""
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=2,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader, loader)


def counted(run: Callable[[], object]) -> dict[str, Any]:
    """Graphs, reasons of breaks, and what no graph so far fitted when another one was compiled."""
    reasons = Reasons()
    counters.clear()
    log = logging.getLogger("torch._dynamo.guards.__recompiles")
    torch._logging.set_logs(recompiles=True)  # type: ignore[attr-defined]
    log.handlers, log.propagate = [reasons], False
    try:
        with steps_with_penalty() as steps:
            run()
    finally:
        torch._logging.set_logs()  # type: ignore[attr-defined]
    breaks = {reason.splitlines()[0]: count for reason, count in counters["graph_break"].items()}
    graphs = counters["stats"]["unique_graphs"]
    return {"graphs": graphs, "breaks": breaks, "recompilations": reasons.seen, "steps with a penalty": dict(+steps)}


@contextmanager
def steps_with_penalty() -> Iterator[Counter[str]]:
    """Counts those that run inside, by whether they run compiled."""
    counts: Counter[str] = Counter()
    written, compiled = BothPasses.run, BothPasses.run_compiled

    def run(both: BothPasses, asked: StepRequest, *args: Any, **options: Any) -> Passes:
        counts["uncompiled"] += bool(asked.layers)
        return written(both, asked, *args, **options)

    def run_compiled(both: BothPasses, asked: StepRequest, *args: Any) -> Passes:
        counts["compiled"] += 1
        return compiled(both, asked, *args)

    with patch.multiple(BothPasses, run=run, run_compiled=run_compiled):
        yield counts


class Reasons(logging.Handler):
    """Keeps the guards that failed at each recompilation, each once and without the parameter's name.

    Attributes:
        seen: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a message says."""
        guards = re.findall(r"- \d+/\d+: (.+)", record.getMessage())
        kinds = [re.sub(r"tensor '.{20,}?' |\..*$|  #.*$", "", guard).strip()[:70] for guard in guards]
        self.seen.append("; ".join(dict.fromkeys(kinds)))


if __name__ == "__main__":
    main()
