"""The ways to run a model without methods: one env called directly, one env or some batched or mapped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-100.0, 100.0, (2,), np.float32)
PICTURE = Box(0, 255, (3, 8, 8), np.uint8)
BOTH = Dict(place=PLANE, kind=Discrete(3))
PAIR = Tuple((PLANE, Discrete(3)))
PUSH = Box(-1.0, 1.0, (2,), np.float32)
NUM_ENVS = 3
WAYS = [("scalar", None), *((shape, batching) for shape in ("scalar", "vector") for batching in ("batched", "vmap"))]
ways = pytest.mark.parametrize(("shape", "batching"), WAYS)
batches = pytest.mark.parametrize(("shape", "batching"), [way for way in WAYS if way[1] == "batched"])


def make(shape, batching, space=PLANE, **options):
    """An env of a model without methods, and an action."""
    options.setdefault("initial_state", torch.zeros(2))
    if "reset_fn" not in options:
        options.setdefault("initial_observation", zeros(space))
    if shape == "scalar":
        return WorldModelEnv(None, space, PUSH, batching=batching, **options), np.zeros(2, np.float32)
    env = WorldModelVectorEnv.from_callables(
        None, space, PUSH, num_envs=NUM_ENVS, batching=batching, bank_size=4, **options
    )
    return env, torch.zeros(NUM_ENVS, 2)


def zeros(space):
    """An observation of nothing but zeros."""
    if isinstance(space, Dict):
        return {key: zeros(part) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(zeros(part) for part in space.spaces)
    return torch.as_tensor(np.zeros(space.shape or (), space.dtype))


def refused(shape, batching, transition, space=PLANE, **options):
    """The message of the refusal, which names the adapter and the callable."""
    env, action = make(shape, batching, space, transition_fn=transition, **options)
    env.reset(seed=0)
    with pytest.raises(AdapterError) as caught:
        env.step(action)
    message = str(caught.value)
    assert message.startswith(named(batching, "transition_fn"))
    return message


def named(batching, callable_name):
    """How messages begin."""
    adapter = "WorldModelEnv" if batching is None else f"CallableDynamics(batching={batching!r})"
    return f"{adapter}, {callable_name}"


def lead(shape, batching):
    """The axes that the model's tensors have in front, as messages write them."""
    return {"batched": [1] if shape == "scalar" else [NUM_ENVS]}.get(batching, [])
