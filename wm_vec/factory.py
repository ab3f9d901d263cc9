"""The factory at the top: environments of models, of saved worlds, and ordinary ones, by one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from wm_vec.envs.factory import make_world_model_env
from wm_vec.envs.registration import BUNDLED
from wm_vec.world_model import WorldModel

BACKENDS = {"world-model": ("world-model", "world_model", "model", "wm"), "gym": ("gym", "gymnasium")}
"""Backend -> the names it goes by."""


def make_env(model_or_id: Any, backend: str = "world-model", *, num_envs: int | None = None, **options: Any) -> Any:
    """An environment, scalar or vectorised.

    Args:
        model_or_id: For ``"world-model"`` any model (then with ``observation_space`` and ``action_space``), a
            `WorldModel`, the name of a bundled world or the path of a saved one. For ``"gym"`` a registered id.
        backend: ``"world-model"``, also as ``"world_model"``, ``"model"``, ``"wm"``; or ``"gym"``.
        num_envs: None for one env; a number for the vector environment.
        **options: Arguments of `make_world_model_env`, of `WorldModel.to_env` and `WorldModel.to_vector_env`, or of
            ``gym.make`` and ``gym.make_vec``.

    Raises:
        ValueError: An unknown backend, or a name that is no world.
        TypeError: Spaces are missing, or an id is no string.
    """
    kind = next((kind for kind, names in BACKENDS.items() if backend in names), None)
    if kind is None:
        known = ", ".join(repr(name) for names in BACKENDS.values() for name in names)
        raise ValueError(f"make_env: unknown backend {backend!r}; known are {known}.")
    if kind == "gym":
        if not isinstance(model_or_id, str):
            raise TypeError(f"make_env: backend='gym' takes a registered id, got {type(model_or_id).__name__}.")
        return gym.make(model_or_id, **options) if num_envs is None else gym.make_vec(model_or_id, num_envs, **options)
    world = _load(model_or_id) if isinstance(model_or_id, (str, Path)) else model_or_id
    if isinstance(world, WorldModel):
        if num_envs is not None:
            return world.to_vector_env(num_envs, **options)
        horizon = None if world.signature is None else world.signature.max_episode_steps
        return world.to_env(**{"max_episode_steps": horizon, **options})
    missing = [name for name in ("observation_space", "action_space") if name not in options]
    if missing:
        raise TypeError(f"make_env: a {type(world).__name__} as a world model needs {' and '.join(missing)} too.")
    return make_world_model_env(world, num_envs=num_envs, **options)


def _load(name: str | Path) -> WorldModel:
    """A bundled world by its name, or a saved one by its path."""
    bundled = str(name).removeprefix("wm_vec/")
    if bundled in BUNDLED:
        return WorldModel.bundled(bundled)
    if Path(name).is_file():
        return WorldModel.load(name)
    raise ValueError(
        f"make_env: {str(name)!r} is neither a bundled world ({', '.join(BUNDLED)}) nor a file. Ordinary environments "
        "take backend='gym'."
    )
