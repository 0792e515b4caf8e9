"""Reading logits out of what a model returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lsa_lightning.utils.batch import describe
from lsa_lightning.utils.isolation import preserved_random_state

OutputFn: TypeAlias = Callable[[Any], Tensor]
"""``output -> logits``: reads the logits out of what a model returns."""


_RESHAPING = {"Alias", "AsStrided", "Clamp", "ClampMax", "ClampMin", "Clone", "Expand", "Permute", "ReshapeAlias"} | {
    *("Select", "Slice", "Squeeze", "T", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View")
}
"""Operations, as autograd names them, that leave probabilities probabilities."""


_TO_PROBABILITIES = {"Hardsigmoid", "Sigmoid", "Softmax"}


class LogitsOf(nn.Module):
    """A model as a function of its input alone that returns logits, and nothing else.

    Args:
        model: an ``nn.Module`` or a function, called with the input alone. One that wants keywords, such as a
            ``forward(**inputs)``, is called by a function of yours.
        output_fn: reads the logits out of what it returns; None: :func:`read_logits`.

    Example:
        >>> model = LogitsOf(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid()), output_fn=torch.logit)
        >>> model(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, model: Callable[..., Any], output_fn: OutputFn | None = None) -> None:
        super().__init__()
        self.model = model
        self.output_fn = output_fn

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        output = self.model(x)
        return logits_of_rows(output if self.output_fn is None else self.output_fn(output), len(x))


class FirstCall(nn.Module):
    """``model``, whose first call is kept.

    Args:
        model: the model; called with the input alone.

    Attributes:
        input: what it was called with first, or None.
        output: what that call returned, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.input: Tensor | None = None
        self.output: Any = None

    def forward(self, x: Tensor) -> Any:
        """What ``model`` returns."""
        if self.input is not None:
            return self.model(x)
        self.input = x.detach().clone()  # an attack may go on in place
        self.output = self.model(x)
        return self.output


def read_logits(output: Any) -> Tensor:
    """The logits in what a model returned: itself if it is a tensor, else its ``.logits`` or ``["logits"]``.

    Args:
        output: a tensor, an object with an attribute ``logits``, such as those of Hugging Face's models, or a mapping.

    Returns:
        The tensor.

    Raises:
        ValueError: if there is no tensor of that name; it names what came, and ``output_fn``.

    Example:
        >>> read_logits({"loss": torch.tensor(0.3), "logits": torch.zeros(2, 5)}).shape
        torch.Size([2, 5])
    """
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        first = next(iter(output), None) if isinstance(output, Mapping) else 0
        msg = (
            f"expected the model to return logits as a tensor, or under the name logits, got {describe(output)}; pass "
            f"output_fn=... to read logits out of it, such as output_fn=lambda output: output[{first!r}]"
        )
        raise ValueError(msg)
    return logits


def logits_of_rows(output: Any, samples: int) -> Tensor:
    """:func:`read_logits` with a row per sample, also of a model that ends in ``squeeze()`` and is given one sample.

    Example:
        >>> logits_of_rows(torch.zeros(1, 1).squeeze(), 1).shape
        torch.Size([1])
    """
    logits = read_logits(output)
    squeezed = samples == 1 and (logits.ndim == 0 or (logits.ndim == 1 and len(logits) > 1))
    return logits.unsqueeze(0) if squeezed else logits


def check_no_probabilities(model: Callable[[Tensor], Tensor], x: Tensor, logits: Tensor) -> None:
    """Raise a ValueError if ``logits``, which ``model`` gave for ``x``, are probabilities.

    They are recognised by the Sigmoid or Softmax that they come out of, or by rows that are never negative and all sum
    to 1. Where they have no graph and all lie in [0, 1], another pass tells what they come out of.
    """
    values = logits.detach()
    if not bool(((values >= 0) & (values <= 1)).all()):
        return
    operation = _last_operation(logits if logits.grad_fn is not None else _with_graph(model, x))
    if operation not in _TO_PROBABILITIES:
        operation = None
        if not _rows_sum_to_1(values):
            return
    source = "rows that sum to 1" if operation is None else f"the output of a {operation}"
    msg = (
        f"expected logits, got probabilities, {source}: return what goes into the Sigmoid or Softmax, for a loss such "
        "as binary_cross_entropy_with_logits or cross_entropy; or pass output_fn=torch.logit for a Sigmoid, "
        "output_fn=torch.log for a Softmax"
    )
    raise ValueError(msg)


def _with_graph(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad(), preserved_random_state(x.device):
        return model(x.clone().requires_grad_().clone())  # some models normalise what they are given in place


def _last_operation(output: Tensor) -> str | None:
    """The operation that ``output`` comes out of, without those that only reshape; None if it has no graph."""
    node = output.grad_fn
    while node is not None:
        name = re.sub(r"Backward\d*$", "", node.name())
        if name not in _RESHAPING:
            return name
        node = node.next_functions[0][0]
    return None


def _rows_sum_to_1(logits: Tensor) -> bool:
    """Whether all rows do, within rounding, and some entry lies between 0 and 1; a single row may do so by chance."""
    if logits.ndim != 2 or logits.shape[1] == 1 or len(logits) == 1:
        return False
    rows = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rounding = torch.finfo(logits.dtype).eps / 2 + 1e-5
    inside = (rows >= 0).all() & ((rows.sum(dim=1) - 1).abs() <= rounding).all()
    return bool(inside & ((rows > 0) & (rows < 1)).any())
