from __future__ import annotations

import torch
from tests.helpers.no_float64 import NoFloat64

from lsa_lightning.utils.precision import widest_float

CPU = torch.device("cpu")


def test_float64_where_the_device_has_it_else_float32() -> None:
    assert widest_float(CPU) is torch.float64
    with NoFloat64():
        assert widest_float(CPU) is torch.float32
    assert widest_float(CPU) is torch.float64
