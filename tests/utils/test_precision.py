from __future__ import annotations

import pytest
import torch
from tests.helpers.no_float64 import NoFloat64

from lsa_lightning.utils.precision import has_bfloat16, widest_float

CPU = torch.device("cpu")


def test_float64_where_the_device_has_it_else_float32() -> None:
    assert widest_float(CPU) is torch.float64
    with NoFloat64():
        assert widest_float(CPU) is torch.float32
    assert widest_float(CPU) is torch.float64


@pytest.mark.parametrize("supported", [False, True])
def test_a_cpu_has_bfloat16_where_it_has_instructions_for_it(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert has_bfloat16(CPU) is supported
    assert has_bfloat16(torch.device("cuda"))
