"""Settings of torch that the caller makes for other code, and that must not change what a world does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` outside of the caller's autocast, which is for the caller's networks: tensors keep their own dtypes."""

    @wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return fn(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return fn(*args, **kwargs)

    return run


@contextmanager
def float32_by_default() -> Iterator[None]:
    """New tensors inside are float32, so that the same seed gives the same weights; for short stretches alone.

    The default is one for all threads.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
