"""Everything about a network that must not change."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn


def snapshot(net: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "modes": [module.training for module in net.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "rng": (torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()),
    }


def assert_untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    torch.testing.assert_close(after.pop("state"), before.pop("state"), rtol=0, atol=0)
    torch.testing.assert_close(after.pop("grads"), before.pop("grads"), rtol=0, atol=0)
    np.testing.assert_equal(after, before)
