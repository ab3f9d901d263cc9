"""Bundled worlds as Gymnasium ids.

``import wm_vec`` registers them, and so does an id with the module in front: ``wm_vec:wm_vec/CartPole-v1``. Nothing
heavy is imported before one is made.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

BUNDLED = {"CartPole-v1": 500, "Pendulum-v1": 200, "FrozenLake-v1": 100, "Acrobot-v1": 500}
"""Environment -> horizon; each has a checkpoint in ``wm_vec/worlds``."""


def register_worlds() -> None:
    """Register ``wm_vec/<env>`` for every bundled world, once."""
    for env_id, horizon in BUNDLED.items():
        if f"wm_vec/{env_id}" in registry:
            continue
        register(
            id=f"wm_vec/{env_id}",
            entry_point="wm_vec.envs.registration:make_scalar",
            vector_entry_point="wm_vec.envs.registration:make_vector",
            max_episode_steps=horizon,
            kwargs={"world": env_id},
        )


def make_scalar(world: str, device: Any = None, dtype: Any = None, **settings: Any) -> Any:
    """Entry point of ``gym.make``: the bundled world's scalar view. Its horizon is left to Gymnasium's TimeLimit."""
    from wm_vec.world_model import WorldModel

    return WorldModel.bundled(world, device=device, dtype=dtype).to_env(**settings)


def make_vector(world: str, device: Any = None, dtype: Any = None, **settings: Any) -> Any:
    """Entry point of ``gym.make_vec``: the bundled world's vector environment."""
    from wm_vec.world_model import WorldModel

    return WorldModel.bundled(world, device=device, dtype=dtype).to_vector_env(**settings)
