"""Gives the library odd arguments, tensors, models and Hydra overrides, and tells how it takes them.

    python scripts/fuzz.py [--cases 5000] [--seed 0] [--verbose]

Each case ends in one of these ways:

- ok: it works, and the documentation allows what was given.
- refused: a ValueError or MisconfigurationException that says what was expected.
- foreign: any other error, which came from somewhere below.
- silent: it works, though the documentation excludes what was given.
- state: modes, parameters, gradients, buffers, hooks, the caller's tensors or the global random state have changed.

Prints how often, with the cases that are none of the first two, and exits with 1 if one is silent or changed the state,
or if more than 1 % are foreign. What the documentation allows is written down in the tables of ``fuzz_tables.py``.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fuzz_tables import (
    CONSTRUCTORS,
    INPUTS,
    LABELS,
    MODELS,
    ODD,
    OPTION_VALUES,
    OPTIONS,
    USERS,
    UsersOwnError,
)
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lsa_lightning.jobs.job import Job, check_job
from lsa_lightning.utils.paths import CONF_DIR

OUTCOMES = ("ok", "refused", "foreign", "silent", "state")


@dataclass
class Case:
    """Something to try.

    Attributes:
        title: what it is, in words.
        run: does it.
        allowed: whether the documentation allows what is given.
        watched: what it must leave as it was.
    """

    title: str
    run: Callable[[], Any]
    allowed: bool
    watched: list[nn.Module | Tensor] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="also print the cases that end well")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    counts = {family: Counter[str]() for family, _, _ in FAMILIES}
    shown = OUTCOMES if args.verbose else OUTCOMES[2:]
    with warnings.catch_warnings(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        warnings.simplefilter("ignore")
        for family, case in drawn(args.cases, args.seed):
            outcome, words = outcome_of(case)
            counts[family][outcome] += 1
            if outcome in shown:
                print(f"{outcome}: {family}: {case.title}: {words}")
    return report(counts)


def drawn(cases: int, seed: int) -> Iterator[tuple[str, Case]]:
    """The cases of all families in their shares; each depends on the seed and its number alone."""
    for family, share, draw in FAMILIES:
        for number in range(round(share * cases)):
            yield family, draw(random.Random(f"{seed}/{family}/{number}"))


def report(counts: dict[str, Counter[str]]) -> int:
    """Print the table; 1 if it is not as it should be."""
    counts = {**counts, "all": sum(counts.values(), Counter())}
    print(f"{'':14}{'cases':>8}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    for family, row in counts.items():
        print(f"{family:14}{row.total():>8}" + "".join(f"{row[outcome]:>10}" for outcome in OUTCOMES))
    total = counts["all"]
    return int(total["silent"] > 0 or total["state"] > 0 or total["foreign"] > 0.01 * total.total())


def outcome_of(case: Case) -> tuple[str, str]:
    """How a case ended, and what was said."""
    before = _state(case.watched)
    outcome, words = ("ok" if case.allowed else "silent"), "accepted"
    try:
        case.run()
    except UsersOwnError:  # the model's own error comes out as it is
        outcome = "ok"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is counted here
        outcome, words = ("refused" if is_own(error) else "foreign"), f"{type(error).__name__}: {str(error)[:300]}"
    after = _state(case.watched)
    if after != before:
        return "state", f"{[name for name in before if before[name] != after[name]]} after {words}"
    return outcome, words


def is_own(error: BaseException | None) -> bool:
    """Whether it, or what Hydra made it of, is an error of the library, or Hydra's own about a key."""
    if isinstance(error, ConfigCompositionException):  # it names the override
        return True
    if isinstance(error, HydraException) and error.__cause__ is not None:
        return is_own(error.__cause__) or "unexpected keyword" in str(error)
    return isinstance(error, ValueError | MisconfigurationException) and "expected" in str(error)


def _state(watched: list[nn.Module | Tensor]) -> dict[str, Any]:
    """Everything that a call must leave as it was."""
    state: dict[str, Any] = {"python": hash(random.getstate()), "torch": _digest(torch.get_rng_state())}
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    state["numpy"] = zlib.crc32(numpy_state[1].tobytes()), numpy_state[2]
    for i, item in enumerate(watched):
        if isinstance(item, Tensor):
            state[f"tensor {i}"] = _digest(item), item.requires_grad, item.grad is None
        else:
            state |= _module_state(item)
    return state


def _module_state(module: nn.Module) -> dict[str, Any]:
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    return {
        "modes": [part.training for part in module.modules()],
        "parameters": {name: (_digest(p), p.requires_grad) for name, p in parameters.items()},
        "gradients": {name: None if p.grad is None else _digest(p.grad) for name, p in parameters.items()},
        "buffers": {name: (id(buffer), _digest(buffer)) for name, buffer in buffers.items()},
        "hooks": [len(group) for part in module.modules() for group in (part._forward_hooks, part._forward_pre_hooks)],
    }


def _digest(tensor: Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().contiguous().flatten()
    return tuple(tensor.shape), tensor.dtype, zlib.crc32(plain.view(torch.uint8).numpy().tobytes())


def constructor(rng: random.Random) -> Case:
    """One or two odd arguments of a constructor or function."""
    name = rng.choice(list(CONSTRUCTORS))
    make, given, documented = CONSTRUCTORS[name]
    arguments = rng.sample(list(documented), k=min(rng.choice([1, 1, 1, 2]), len(documented)))
    odd = {argument: rng.choice(list(ODD)) for argument in arguments}
    values = {argument: ODD[value] for argument, value in odd.items()}
    return Case(
        f"{name}({', '.join(f'{argument}={value}' for argument, value in odd.items())})",
        lambda: make(**{**given(), **values}),
        allowed=all(value in documented[argument] for argument, value in odd.items()),
    )


def tensors(rng: random.Random) -> Case:
    """Odd inputs or labels for an attack, an evaluation, an analysis, checks or a measure."""
    user, x, y = rng.choice(list(USERS)), rng.choice(list(INPUTS)), rng.choice(list(LABELS))
    if rng.random() < 0.6:  # else most cases have two faults
        x, y = rng.choice([(x, "plain"), ("plain", y)])
    return _use(user, "plain", x, y, seed=rng.randrange(2**31))


def models(rng: random.Random) -> Case:
    """An odd model for the same."""
    return _use(rng.choice(list(USERS)), rng.choice(list(MODELS)), "plain", "plain", seed=rng.randrange(2**31))


def _use(user: str, model: str, x: str, y: str, seed: int) -> Case:
    run, good_inputs, good_labels, good_models = USERS[user]
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = INPUTS[x](generator), LABELS[y](generator)
    with _same_random_state(seed):
        module = MODELS[model]()
    return Case(
        f"{user} with {model} model, {x} inputs, {y} labels",
        lambda: run(module, inputs, labels),
        allowed=x in good_inputs and y in good_labels and model in good_models,
        watched=[item for item in (module, inputs, labels) if isinstance(item, nn.Module | Tensor)],
    )


@contextmanager
def _same_random_state(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def overrides(rng: random.Random) -> Case:
    """An odd value of an option of ``lsa-train``: composed, made into objects and checked as before training."""
    option = rng.choice(list(OPTIONS))
    value = rng.choice(list(OPTION_VALUES))
    extra, documented = OPTIONS[option]

    def run() -> None:
        cfg = compose("train", ["logger=none", "paths.output_dir=unused", *extra, f"{option}={OPTION_VALUES[value]}"])
        with _same_random_state(0):
            job = Job.of(cfg)
            check_job(cfg, job)

    return Case(f"{option}={value}", run, allowed=value in documented)


FAMILIES: list[tuple[str, float, Callable[[random.Random], Case]]] = [
    ("constructors", 0.60, constructor),
    ("tensors", 0.20, tensors),
    ("models", 0.15, models),
    ("overrides", 0.05, overrides),
]
"""Name, share of the cases, and how one is drawn."""


if __name__ == "__main__":
    sys.exit(main())
