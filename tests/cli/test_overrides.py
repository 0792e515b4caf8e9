"""What may be typed beyond Hydra's grammar."""

from __future__ import annotations

import pytest

from lsa_lightning.cli.overrides import with_null_groups


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("analysis=null", "analysis=none"),
        ("evaluation=null", "evaluation=none"),
        ("logger=null", "logger=none"),
        ("analysis=default,null", "analysis=default,none"),
        ("analysis=nullable", "analysis=nullable"),
        ("model=null", "model=null"),
        ("ckpt_path=null", "ckpt_path=null"),
        ("evaluation.masking=null", "evaluation.masking=null"),
        ("+experiment=moon_at", "+experiment=moon_at"),
        ("~analysis", "~analysis"),
        ("-m", "-m"),
        ("analysis", "analysis"),
    ],
)
def test_null_leaves_a_group_out_that_can_be_left_out(typed: str, meant: str) -> None:
    assert with_null_groups([typed]) == [meant]
