"""A Hydra sweeper that searches with Optuna and goes on with a search that was stopped.

Hydra's own plugin, hydra-optuna-sweeper 1.3, wants Optuna 2, whose SQLite storage fails with SQLAlchemy 2, and counts
its trials anew each time.

Hydra imports this module in every app of an environment, so that lsa_lightning, and with it PyTorch, is imported when a
sweep begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

RESULTS_FILE = "optimization_results.yaml"


class OptunaSearch(Sweeper):
    """Asks Optuna what to try next, launches it as jobs, and tells Optuna the metric that they return.

    The study lives in ``storage``. Started again with the same one, the search goes on: trials that a killed search
    left behind come first, with the values that they had, so that their jobs find their own folders again. What is
    searched may change then, and how many trials; what all trials share, and the direction, may not.

    Args:
        sampler: makes Optuna's sampler from its ``seed``.
        seed: of the sampler; a search that goes on adds the trials that there are.
        direction: maximize or minimize.
        storage: URL of the study's database.
        study_name: its name in there.
        n_trials: trials that the study shall have in the end, those of earlier starts included.
        n_jobs: trials that the launcher gets at a time.
        params: what is searched, as overrides; those of the command line come after them.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        sampler: Callable[..., optuna.samplers.BaseSampler],
        seed: int,
        direction: Literal["maximize", "minimize"],
        storage: str,
        study_name: str,
        n_trials: int,
        n_jobs: int,
        params: dict[str, str],
    ) -> None:
        from lsa_lightning.utils.checks import choice, integer, text

        self.sampler = sampler
        self.seed = integer(self, "seed", seed, low=0)
        choice(self, "direction", direction, ("maximize", "minimize"))
        self.direction = direction
        self.storage = text(self, "storage", storage)
        self.study_name = text(self, "study_name", study_name)
        self.n_trials = integer(self, "n_trials", n_trials, low=1)
        self.n_jobs = integer(self, "n_jobs", n_jobs, low=1)
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Launch trials until the study has ``n_trials`` finished ones; then write :data:`RESULTS_FILE`.

        Raises:
            ValueError: if nothing is searched, a job returns no number, or the study is that of another search.
        """
        from lsa_lightning.utils.files import write_text

        folder = Path(self._config.hydra.sweep.dir)
        write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self._config))
        space, fixed = split_overrides([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        study = self._study()
        check_same_search(study, {"direction": self.direction, **shared_by_trials(fixed)}, space)
        retry_unfinished(study)
        while left := max(0, self.n_trials - len(_finished(study))):
            trials = [study.ask(space) for _ in range(min(left, self.n_jobs))]
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            tell(study, trials, self._launcher.launch(jobs, initial_job_idx=trials[0].number))
        best = study.best_trial
        results = {"name": "optuna", "trial": best.number, "best_params": best.params, "best_value": best.value}
        write_text(folder / RESULTS_FILE, OmegaConf.to_yaml(OmegaConf.create(results)))

    def _study(self) -> optuna.Study:
        """The study as it stands in the storage, which is made if it is not there."""
        import optuna

        study = optuna.create_study(
            storage=self.storage, study_name=self.study_name, direction=self.direction, load_if_exists=True
        )
        study.sampler = self.sampler(seed=self.seed + len(study.trials))
        return study


def shared_by_trials(fixed: Sequence[str]) -> dict[str, str]:
    """The overrides of all trials, value by key, without those that change no result; the metric counts."""
    from lsa_lightning.runs.harmless import HARMLESS, is_in

    free = ("name", *(entry for entry in HARMLESS if entry != "optimized_metric"))
    parsed = OverridesParser.create().parse_overrides(list(fixed))
    found = {each.get_key_element().lstrip("+~"): str(each.value()) for each in parsed}
    return {key: value for key, value in found.items() if not is_in(key, free)}


def check_same_search(study: optuna.Study, search: dict[str, str], space: Iterable[str]) -> None:
    """Note what the trials share, and what is searched; what is or was searched is not shared.

    Raises:
        ValueError: if the finished trials shared something else.
    """
    before = study.user_attrs.get("search", search) if _finished(study) else search
    searched = {*space, *study.user_attrs.get("searched", [])}
    other = [key for key in {**before, **search} if before.get(key) != search.get(key) and key not in searched]
    if other:
        words = "; ".join(f"{key}: {before.get(key, 'not given')}, now {search.get(key, 'not given')}" for key in other)
        msg = (
            f"expected the study {study.study_name}, which holds {len(_finished(study))} finished trials, to go on as "
            f"it began, got another search: {words}. Give another hydra.sweep.dir"
        )
        raise ValueError(msg)
    study.set_user_attr("search", search)
    study.set_user_attr("searched", sorted(searched))


def split_overrides(overrides: list[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched, as Optuna's distributions by key, and the other overrides. Of one key, the last counts.

    Raises:
        ValueError: if nothing is searched.
    """
    parsed = {override.get_key_element(): override for override in OverridesParser.create().parse_overrides(overrides)}
    space = {key: distribution_of(each) for key, each in parsed.items() if each.is_sweep_override()}
    fixed = [str(each.input_line) for each in parsed.values() if not each.is_sweep_override()]
    if not space:
        msg = f"expected something to search, as in regularizer.gamma=interval(0.01,1), got only {', '.join(fixed)}"
        raise ValueError(msg)
    return space, fixed


def distribution_of(override: Override) -> BaseDistribution:
    """The distribution of ``a,b``, ``choice(a,b)``, ``interval(0,1)``, ``tag(log,interval(0.1,1))`` or ``range(0,5)``.

    Choices stay texts, as they are written in overrides.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None:
        log = "log" in sweep.tags
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(sweep.start, sweep.end, log=log)
    if isinstance(sweep, RangeSweep) and all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step)):
        values = range(int(sweep.start or 0), int(sweep.stop or 0), int(sweep.step))  # all but the stop, as in sweeps
        return IntDistribution(values[0], values[-1], step=values.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def retry_unfinished(study: optuna.Study) -> None:
    """Queue what was running when a former search was killed; told first, so that it is never queued twice."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def tell(study: optuna.Study, trials: Sequence[optuna.Trial], jobs: Sequence[JobReturn]) -> None:
    """Tell the study what the jobs returned.

    Raises:
        ValueError: if one returned no number. Whatever a failed job raised is raised after the others have been told.
    """
    from optuna.trial import TrialState

    failures: list[Exception] = []
    for trial, job in zip(trials, jobs, strict=True):
        try:
            study.tell(trial, _metric(job))
        except Exception as error:  # noqa: BLE001  # raised below
            study.tell(trial, state=TrialState.FAIL)
            failures.append(error)
    if failures:
        raise failures[0]


def _metric(job: JobReturn) -> float:
    value = job.return_value
    if not isinstance(value, int | float) or math.isnan(value):
        msg = f"expected a job to return the metric that optimized_metric names, got {value!r}; see conf/train.yaml"
        raise ValueError(msg)
    return float(value)


def _finished(study: optuna.Study) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


# The arguments stand in conf/hparams_search/optuna.yaml.
NODE = {"_target_": "hydra_plugins.lsa_lightning_search.OptunaSearch"}
ConfigStore.instance().store(group="hydra/sweeper", name="lsa_optuna", node=NODE, provider="lsa-lightning")
