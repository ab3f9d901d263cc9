"""Worlds as Gymnasium ids: ``wm_vec/<env>`` for bundled ones, ``wm_vec/World-v0`` for the one in a file.

``import wm_vec`` registers them, and so does an id with the module in front: ``wm_vec:wm_vec/CartPole-v1``. Nothing
heavy is imported before one is made.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

BUNDLED = {"CartPole-v1": 500, "Pendulum-v1": 200, "FrozenLake-v1": 100, "Acrobot-v1": 500}
"""Environment -> horizon; each has a checkpoint in ``wm_vec/worlds``."""
ANY = "wm_vec/World-v0"
"""The world in a file, ``path=``; its episodes last as long as in its environment, or until a shorter limit."""


def register_worlds() -> None:
    """Register `ANY`, and ``wm_vec/<env>`` for every bundled world, once."""
    worlds = {f"wm_vec/{env_id}": (horizon, {"world": env_id}) for env_id, horizon in BUNDLED.items()}
    for name, (horizon, kwargs) in {ANY: (None, {}), **worlds}.items():
        if name in registry:
            continue
        register(
            id=name,
            entry_point="wm_vec.envs.registration:make_scalar",
            vector_entry_point="wm_vec.envs.registration:make_vector",
            max_episode_steps=horizon,
            kwargs=kwargs,
        )


def make_scalar(
    world: str | None = None, path: Any = None, device: Any = None, dtype: Any = None, **settings: Any
) -> Any:
    """Entry point of ``gym.make``: a world's scalar view. The horizon of bundled ones is left to Gymnasium's TimeLimit.

    Args:
        world: A bundled world.
        path: Or the file of one.
        device: Where the network lives.
        dtype: Its dtype.
        **settings: Those of `WorldModel.to_env`.

    Raises:
        TypeError: Neither world nor path.
    """
    loaded = _load(world, path, device, dtype)
    if world is None and loaded.signature is not None:
        settings["max_episode_steps"] = loaded.signature.max_episode_steps
    return loaded.to_env(**settings)


def make_vector(
    world: str | None = None, path: Any = None, device: Any = None, dtype: Any = None, **settings: Any
) -> Any:
    """Entry point of ``gym.make_vec``: a world's vector environment, arguments likewise."""
    return _load(world, path, device, dtype).to_vector_env(**settings)


def _load(world: str | None, path: Any, device: Any, dtype: Any) -> Any:
    from wm_vec.world_model import WorldModel

    if world is not None:
        return WorldModel.bundled(world, device=device, dtype=dtype)
    if path is None:
        raise TypeError(f"{ANY} needs the file of a world: path='my_world.safetensors'")
    return WorldModel.load(path, device=device, dtype=dtype)
