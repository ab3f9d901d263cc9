"""One byte tensor that holds all outputs of a kernel, so that a step allocates, and a copy copies, once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED_ENVS = 16


class Segment(NamedTuple):
    """One output: its name, dtype, and the shape of one env's."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...] = ()


class Arena:
    """Where the outputs of B envs lie: int64 first, then float32, then bool, each as ``(B, *shape)``.

    A column of any of the three parts has room for `stride` envs: B rounded up to 16, which keeps all of them aligned.

    Args:
        segments: The outputs; of one dtype in the order in which the kernel finds them.
    """

    DTYPES = (torch.int64, torch.float32, torch.bool)

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = sorted(segments, key=lambda segment: self.DTYPES.index(segment.dtype))
        self._columns = {
            dtype: sum(math.prod(s.shape) for s in self.segments if s.dtype is dtype) for dtype in self.DTYPES
        }

    def stride(self, num_envs: int) -> int:
        """Envs that a column has room for."""
        return -(-num_envs // ALIGNED_ENVS) * ALIGNED_ENVS

    def size(self, num_envs: int) -> int:
        """Bytes for B envs."""
        return self.stride(num_envs) * sum(n * dtype.itemsize for dtype, n in self._columns.items())

    def parts(self, buffer: Tensor, num_envs: int) -> list[Tensor]:
        """The int64, float32 and bool part of a buffer ``(size,)`` uint8, each one-dimensional."""
        sizes = [self.stride(num_envs) * n * dtype.itemsize for dtype, n in self._columns.items()]
        return [part.view(dtype) for part, dtype in zip(buffer.split(sizes), self._columns, strict=True)]

    def views(self, buffer: Tensor, num_envs: int) -> dict[str, Tensor]:
        """The outputs ``(B, *shape)`` by name, views of the buffer."""
        stride, parts = self.stride(num_envs), dict(zip(self._columns, self.parts(buffer, num_envs), strict=True))
        start, views = dict.fromkeys(self.DTYPES, 0), {}
        for name, dtype, shape in self.segments:
            length, begin = math.prod(shape), start[dtype]
            views[name] = parts[dtype][begin : begin + num_envs * length].view(num_envs, *shape)
            start[dtype] += stride * length
        return views
