"""Keywords by their former names, which the first users' code and stored configurations still have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lsa_lightning import ATLR, RobustValidation
from lsa_lightning.attacks import APGD, FGSM, Ensemble
from lsa_lightning.masking import MaskingChecks
from lsa_lightning.regularizers import LinearRamp

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {
    "LinearRamp": (LinearRamp, {}, "epochs", "warmup_epochs"),
    "RobustValidation": (RobustValidation, {"attacks": {"fgsm": FGSM()}}, "max_batches", "limit_batches"),
    "ATLR": (ATLR, {"attack": FGSM()}, "analysis_batches", "analysis_limit_batches"),
    "APGD restarts": (APGD, {}, "restarts", "n_restarts"),
    "APGD targets": (APGD, {"loss": "dlr"}, "targets", "n_targets"),
    "MaskingChecks samples": (MaskingChecks, {"eps": 0.1}, "samples", "n_samples"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_old_keyword_sets_the_new_attribute_and_warns(case: str) -> None:
    make, options, old, new = CASES[case]
    with pytest.warns(FutureWarning, match=f"^{old} is now called {new}$"):
        made = make(**options, **{old: 3})
    assert getattr(made, new) == 3


def test_counts_that_are_handed_on() -> None:
    with pytest.warns(FutureWarning, match="targets is now called n_targets"):
        assert Ensemble(targets=3).attacks["apgd_t"].n_targets == 3  # type: ignore[call-arg, attr-defined]
    with pytest.warns(FutureWarning, match="queries is now called n_queries"):
        assert MaskingChecks(0.1, queries=3).black_box["square"].n_queries == 3  # type: ignore[call-arg, attr-defined]
