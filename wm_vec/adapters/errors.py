"""What goes wrong between a user's model and the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torch import Tensor

ENV_BY_ENV = "the scalar WorldModelEnv, which calls the model directly; many of those go into gym.vector.SyncVectorEnv"
"""What takes the models that batches cannot, for errors."""
NO_LOOP = """batching='loop': leave `batching` out of WorldModelEnv, which then calls any model directly; many are
    gym.vector.SyncVectorEnv([lambda: WorldModelEnv(model, observation_space, action_space) for _ in range(n)])
and for TorchRL it is
    torchrl.envs.GymWrapper(WorldModelEnv(model, observation_space, action_space))"""
"""What to use instead of ``batching="loop"``."""


class AdapterError(TypeError, ValueError):
    """A model, a callable or what it returned does not fit what the adapter takes."""


def describe(value: Any) -> str:
    """What something is, in a few words: its type, shape and dtype."""
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"array{value.shape} {value.dtype}"
    if isinstance(value, TensorDictBase):
        return f"TensorDict{tuple(value.batch_size)} of {sorted(map(str, value.keys()))}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        kind = "a tuple" if isinstance(value, tuple) else "a list"
        return f"{kind} of {len(value)} ({', '.join(describe(part) for part in value)})"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return type(value).__name__
