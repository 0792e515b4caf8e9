"""What the end of a job tells."""

from __future__ import annotations

from lsa_lightning.attacks import FGSM, PGD
from lsa_lightning.callbacks import RobustValidation
from lsa_lightning.jobs.ending import validated_at


def test_the_radius_of_validation_is_in_words() -> None:
    assert validated_at([RobustValidation({"a": FGSM(0.1), "b": PGD(0.1)})]) == "eps 0.1 (Linf)"
    assert validated_at([RobustValidation({"a": FGSM(0.1), "b": FGSM(0.2)})]) == ""
    assert validated_at([]) == ""
