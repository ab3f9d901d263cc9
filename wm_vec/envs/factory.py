"""One call from a model to an environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from wm_vec.envs.scalar import WorldModelEnv
from wm_vec.envs.vector import WorldModelVectorEnv


def make_world_model_env(
    world_model: Any,
    observation_space: gym.Space,
    action_space: gym.Space,
    *,
    num_envs: int | None = None,
    **options: Any,
) -> WorldModelEnv | WorldModelVectorEnv:
    """An environment of anybody's model.

    Args:
        world_model: Any object, mostly a torch model.
        observation_space: One env's observations.
        action_space: One env's actions.
        num_envs: None for the scalar `WorldModelEnv`; a number for `WorldModelVectorEnv.from_callables`.
        **options: The other arguments of what is made.
    """
    if num_envs is None:
        return WorldModelEnv(world_model, observation_space, action_space, **options)
    return WorldModelVectorEnv.from_callables(
        world_model, observation_space, action_space, num_envs=num_envs, **options
    )
