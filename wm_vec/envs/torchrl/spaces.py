"""TorchRL's specs as Gymnasium's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
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
from torchrl.envs import EnvBase, GymWrapper, TransformedEnv

OBSERVATION, ACTION = "observation", "action"


def spaces_of(env: EnvBase) -> tuple[gym.Space, gym.Space]:
    """One env's observation and action spaces.

    Args:
        env: Batched or not; its entries besides ``"observation"`` and ``"action"`` are left aside.

    Raises:
        ValueError: One of the two is missing, or a spec without a space.
    """
    found = {}
    for role, composite in ((OBSERVATION, env.observation_spec_unbatched), (ACTION, env.full_action_spec_unbatched)):
        if composite.get(role, None) is None:
            keys = list(composite.keys(True, True))
            hint = (
                " CatTensors joins several to one, RenameTransform gives it that name." if role == OBSERVATION else ""
            )
            raise ValueError(f"The environment has no {role!r} entry; it has {sorted(map(str, keys))}.{hint}")
        found[role] = space_of(composite[role], role)
    return found[OBSERVATION], found[ACTION]


def space_of(spec: TensorSpec, role: str) -> gym.Space:
    """A spec of one env's tensors as a space that a canvas takes; one-hot vectors are classes, entries parts of a Dict.

    Raises:
        ValueError: A spec of another kind.
    """
    if isinstance(spec, Composite) and role == OBSERVATION:
        return spaces.Dict([(key, space_of(part, role)) for key, part in spec.items()])
    if type(spec) in (Categorical, OneHot):  # others are made of these, with several parts
        several = spec.shape[:-1] if type(spec) is OneHot else spec.shape
        n = int(spec.space.n)
        return spaces.Discrete(n) if several.numel() == 1 else spaces.MultiDiscrete(np.full(several, n))
    if isinstance(spec, (MultiCategorical, MultiOneHot)) and len(spec.shape) == 1:
        counts = spec.nvec.tolist() if isinstance(spec, MultiCategorical) else [box.n for box in spec.space.boxes]
        return spaces.MultiDiscrete(counts)
    if type(spec) is Binary and len(spec.shape) == 1:
        return spaces.MultiBinary(spec.shape[0])
    if isinstance(spec, (Bounded, Unbounded)):
        dtype = torch.empty(0, dtype=spec.dtype).numpy().dtype
        if isinstance(spec, Bounded):
            low, high = _bound(spec.space.low, spec), _bound(spec.space.high, spec)
            return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
        if spec.dtype.is_floating_point:
            return spaces.Box(-np.inf, np.inf, tuple(spec.shape), dtype.type)
    raise ValueError(
        f"The {role} spec is a {type(spec).__name__} of {spec.dtype}, shape {tuple(spec.shape)}; a world takes "
        "bounded and unbounded numbers and classes, also several in one tensor."
    )


def gymnasium_spec(env: EnvBase) -> Any:
    """The registration of the Gymnasium environment inside; None where there is none, or where there are several."""
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return getattr(env._env, "spec", None) if isinstance(env, GymWrapper) else None


def _bound(bound: Tensor, spec: TensorSpec) -> np.ndarray:
    return bound.expand(spec.shape).cpu().numpy()
