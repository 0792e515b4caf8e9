"""The one place that wraps methods of a LightningModule, such as ``training_step``, on the instance, and unwraps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

Wrapper = Callable[..., Any]
"""Called as ``wrapper(inner, *args, **kwargs)``, where ``inner`` is the method that was there before."""


class MethodPatch:
    """Lets ``wrapper`` run in place of a method of ``module``, from :meth:`apply` until :meth:`remove`.

    Several patches stack, and may be removed in any order: one that is buried under a younger patch only becomes
    transparent, and goes for good as soon as it lies on top. A copy or pickle of the module, made meanwhile, has the
    method that it would have without the patch, bound to the copy.

    Args:
        module: the instance to patch; its class is not touched.
        name: name of the method.
        wrapper: see :data:`Wrapper`.
    """

    def __init__(self, module: pl.LightningModule, name: str, wrapper: Wrapper) -> None:
        self.inner = getattr(module, name)
        self.module = module
        self.name = name
        self.wrapper = wrapper
        self.below = vars(module).get(name)
        self.active = True
        functools.update_wrapper(self, self.inner, updated=())
        # Lightning unwraps a single level to read the signature, and training_step(self, batch) is a legal one.
        self.__wrapped__ = inspect.unwrap(self.inner)

    def apply(self) -> None:
        """Put the patch on."""
        setattr(self.module, self.name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapper, or once removed the method below."""
        return self.wrapper(self.inner, *args, **kwargs) if self.active else self.inner(*args, **kwargs)

    def remove(self) -> None:
        """Take the patch off; doing so again does nothing."""
        self.active = False
        while isinstance(top := vars(self.module).get(self.name), MethodPatch) and not top.active:
            delattr(self.module, self.name)
            if top.below is not None:
                setattr(self.module, self.name, top.below)

    def __reduce__(self) -> tuple[Any, ...]:
        # While the module is copied or read, it has none of its attributes yet: this is its class's method.
        return (getattr, (self.module, self.name)) if self.below is None else (_same, (self.below,))


def patch_method(module: pl.LightningModule, name: str, wrapper: Wrapper) -> Callable[[], None]:
    """Let ``wrapper`` run in place of a method until the returned function is called, see :class:`MethodPatch`."""
    patch = MethodPatch(module, name, wrapper)
    patch.apply()
    return patch.remove


def patch_training_step(module: pl.LightningModule, wrapper: Wrapper) -> Callable[[], None]:
    """:func:`patch_method` of ``training_step``."""
    return patch_method(module, "training_step", wrapper)


def nothing() -> None:
    """What takes back a patch where there is none."""


def unpatched(method: Callable[..., Any]) -> Callable[..., Any]:
    """The user's own method below all patches."""
    while isinstance(method, MethodPatch):
        method = method.inner
    return method


def _same(value: Any) -> Any:
    return value
