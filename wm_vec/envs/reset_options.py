"""Which envs the options of a vector environment's ``reset`` name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

MASK_OPTIONS = ("reset_mask", "env_idx")
"""Options of ``reset`` that say which envs."""


def reset_mask(options: Mapping[str, Any] | None, num_envs: int) -> Tensor | None:
    """``(B,)`` bool, the envs that are to be reset; None for all.

    Args:
        options: ``reset_mask``, bool ``(B,)``, or ``env_idx``, numbers of envs or bool ``(B,)``: NumPy, torch or lists.
        num_envs: B.

    Raises:
        ValueError: Both of them, something else, or an env that there is not.
    """
    named = [key for key in MASK_OPTIONS if key in (options or {})]
    if not options or not named:
        return None
    if len(named) > 1:
        raise ValueError("reset: give options['reset_mask'] or options['env_idx'], not both.")
    key, given = named[0], options[named[0]]
    try:
        envs = torch.empty(1) if isinstance(given, TensorDictBase) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # nothing that a tensor can be made of
        envs = torch.empty(1)
    if envs.dtype is torch.bool and tuple(envs.shape) == (num_envs,):
        return envs
    wanted = f"bool of shape ({num_envs},)"
    if key == "env_idx":
        wanted = f"whole numbers that lie in [0, {num_envs}), or {wanted}"
        whole = not (envs.is_floating_point() or envs.is_complex() or envs.dtype is torch.bool)
        if envs.dim() < 2 and (whole or envs.shape == (0,)):  # an empty list has a floating dtype
            index = envs.to("cpu", torch.int64).reshape(-1)
            if bool(((index >= 0) & (index < num_envs)).all()):
                return torch.zeros(num_envs, dtype=torch.bool).index_fill_(0, index, True)
    raise ValueError(f"reset: options[{key!r}] must be {wanted}, got {given!r}.")
