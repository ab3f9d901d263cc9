"""Gymnasium's spaces as TorchRL's specs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)

from wm_vec.adapters.spaces import torch_dtype
from wm_vec.core.trees import Tree

OBSERVATION = "observation"


def observation_specs(space: gym.Space, num_envs: int, device: torch.device) -> Composite:
    """The observations of B envs: under ``"observation"``, or under the keys of a Dict space.

    Args:
        space: One env's observations; Dict spaces may nest.
        num_envs: B.
        device: Where they live.

    Raises:
        ValueError: A space that TorchRL has no spec for.
    """
    if isinstance(space, spaces.Dict):
        parts = {key: _nested(part, num_envs, device) for key, part in space.spaces.items()}
        return Composite(parts, shape=(num_envs,), device=device)
    return Composite({OBSERVATION: _leaf(space, num_envs, device)}, shape=(num_envs,), device=device)


def observation_entries(observation: Tree) -> dict[str, Any]:
    """An observation as the entries of a TensorDict, as `observation_specs` names them."""
    return {OBSERVATION: observation} if isinstance(observation, Tensor) else dict(observation)


def unchecked(entries: dict[str, Any], batch_size: torch.Size, device: torch.device | None) -> TensorDict:
    """A TensorDict of entries that are known to fit, nested dicts among them; not looked at."""
    own = {
        key: unchecked(value, batch_size, device) if isinstance(value, dict) else value
        for key, value in entries.items()
    }
    return TensorDict._new_unsafe(own, batch_size=batch_size, device=device)


def action_spec(space: gym.Space, num_envs: int, device: torch.device, one_hot: bool) -> TensorSpec:
    """The actions of B envs.

    Args:
        space: One env's actions.
        num_envs: B.
        device: Where they live.
        one_hot: Discrete actions as one-hot vectors in place of class indices.

    Raises:
        ValueError: Class indices that do not start at 0, or a space that TorchRL has no spec for.
    """
    if isinstance(space, spaces.Discrete):
        _require_zero(space, np.asarray(space.start))
        if one_hot:
            return OneHot(int(space.n), shape=(num_envs, int(space.n)), device=device, dtype=torch.bool)
        return Categorical(int(space.n), shape=(num_envs,), device=device, dtype=torch.int64)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        _require_zero(space, np.asarray(space.start))
        sizes = [int(n) for n in space.nvec]
        if one_hot:
            return MultiOneHot(sizes, shape=(num_envs, sum(sizes)), device=device, dtype=torch.bool)
        return MultiCategorical(sizes, shape=(num_envs, len(sizes)), device=device, dtype=torch.int64)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Binary(int(space.shape[0]), shape=(num_envs, int(space.shape[0])), device=device, dtype=torch.int64)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _box(space, num_envs, device)
    raise ValueError(f"TorchRLEnv: there is no spec for actions of {space}.")


def class_indices(action: Tensor, space: gym.Space) -> Tensor:
    """One-hot actions ``(B, n)`` as class indices ``(B,)``, or ``(B, k)`` of a MultiDiscrete space."""
    if isinstance(space, spaces.MultiDiscrete):
        parts = action.split([int(n) for n in space.nvec], -1)
        return torch.stack([part.to(torch.int8).argmax(-1) for part in parts], -1)
    return action.to(torch.int8).argmax(-1)


def as_specified(action: Tensor, spec: TensorSpec) -> Tensor:
    """Actions that a world made in its own precision, in the spec's: rounding may have put them beyond its bounds."""
    action = action.to(spec.dtype)
    return action.clamp(spec.space.low, spec.space.high) if isinstance(spec, Bounded) else action


def _nested(space: gym.Space, num_envs: int, device: torch.device) -> TensorSpec:
    if isinstance(space, spaces.Dict):
        return observation_specs(space, num_envs, device)
    return _leaf(space, num_envs, device)


def _leaf(space: gym.Space, num_envs: int, device: torch.device) -> TensorSpec:
    if isinstance(space, spaces.Box):
        return _box(space, num_envs, device)
    if isinstance(space, spaces.Discrete) and int(space.start) == 0:
        return Categorical(int(space.n), shape=(num_envs,), device=device, dtype=torch_dtype(space))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return Unbounded((num_envs, *(space.shape or ())), device=device, dtype=torch_dtype(space))
    raise ValueError(f"TorchRLEnv: there is no spec for observations of {space}; take a Dict instead of a Tuple.")


def _box(space: spaces.Box, num_envs: int, device: torch.device) -> TensorSpec:
    shape, dtype = (num_envs, *space.shape), torch_dtype(space)
    # Bounded specs read their bounds, which the meta device has none of.
    if device.type == "meta" or (np.isinf(space.low).all() and np.isinf(space.high).all()):
        return Unbounded(shape, device=device, dtype=dtype)
    low, high = (torch.as_tensor(bound, dtype=dtype, device=device).expand(shape) for bound in (space.low, space.high))
    return Bounded(low, high, shape=shape, device=device, dtype=dtype)


def _require_zero(space: gym.Space, start: np.ndarray) -> None:
    if start.any():
        raise ValueError(f"TorchRLEnv: TorchRL counts classes from 0, the action space is {space}.")
