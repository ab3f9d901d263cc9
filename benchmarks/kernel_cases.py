"""The kernels with the arguments of real launches, for reading their machine code without a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch
from triton.runtime.jit import JITFunction

import wm_kernels.canvas_step.kernel
import wm_kernels.finish_step.kernel
import wm_kernels.fused_step.kernel  # noqa: F401  made here, before `launches` says that they are interpreted
from wm_kernels.philox_normal.op import philox_normal_triton, philox_words_triton
from wm_vec import WorldModel
from wm_vec.canvas.signature import EnvSignature

Case = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""Name, kernel, arguments and keyword arguments."""


def kernel_cases(arch: str) -> Iterator[Case]:
    """Every kernel over worlds that differ in what it is compiled for.

    Args:
        arch: The architecture whose tiles are used, as `wm_kernels.canvas_step.tiles.architecture` gives it.
    """
    bf16, fp32 = torch.bfloat16, torch.float32
    cartpole, lake = WorldModel.bundled("CartPole-v1"), WorldModel.bundled("FrozenLake-v1")
    tiny, small, widest = _world(8, 64), _world(64, 128), _world(128, 64)
    for name, world, dtype in (
        ("CartPole", cartpole, bf16),
        ("CartPole", cartpole, fp32),
        ("FrozenLake", lake, bf16),
        ("8 x 64", tiny, bf16),
        ("64 x 128", small, bf16),
        ("128 x 64", widest, bf16),
    ):
        yield from _step(name, world, dtype, arch)
    yield from _step("CartPole, a reward function", cartpole, bf16, arch, reward_fn=lambda obs, act, info: 1.0)
    counters = (torch.zeros(2, dtype=torch.int64),) * 3
    with launches(arch) as found:
        philox_words_triton(*counters, 1, 0)
        philox_normal_triton(*counters, 8, 0)
    for numbers, (kernel, args, kwargs) in zip(("words", "normals"), found, strict=True):
        yield f"{kernel.__name__}, {numbers}", kernel, args, kwargs


@contextmanager
def launches(arch: str) -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Kernels that are launched on host memory inside are not run; they and their arguments come into a list.

    A process of ``TRITON_INTERPRET=1`` has no kernels that compile.
    """
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append((kernel, args, kwargs))

    with (
        patch.object(JITFunction, "run", run),
        patch("wm_kernels.canvas_step.op.architecture", lambda device: arch),
        patch.dict(os.environ, TRITON_INTERPRET="1"),  # now that the kernels are made, host memory will do
    ):
        yield found


def _world(num_positions: int, d_model: int) -> WorldModel:
    """An untrained world of one action, a reward and an end."""
    signature = EnvSignature(gym.spaces.Box(-1, 1, (num_positions - 3,), np.float32), gym.spaces.Box(-1, 1, (1,)))
    world = WorldModel.from_signature(signature, d_model=d_model)
    world.bank = torch.zeros(1, num_positions)
    return world


def _step(name: str, world: WorldModel, dtype: torch.dtype, arch: str, **settings: Any) -> Iterator[Case]:
    """What one step launches."""
    with launches(arch):
        envs = world.to_vector_env(2, backend="triton", dtype=dtype, **settings)
        envs.reset(seed=0)
    with launches(arch) as found:
        envs.step(torch.as_tensor(envs.action_space.sample()))
    precision = "bfloat16" if dtype is torch.bfloat16 else "float32"
    for kernel, args, kwargs in found:
        yield f"{kernel.__name__}, {name}, {precision}", kernel, args, kwargs
