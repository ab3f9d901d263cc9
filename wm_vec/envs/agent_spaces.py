"""The spaces of several agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from wm_vec.adapters.spaces import check_spaces
from wm_vec.core import Engine
from wm_vec.plain import check_type

Spaces = dict[str, gym.Space]


def spaces_by_agent(engine: Any, observation_spaces: Any, action_spaces: Any, where: str) -> tuple[Spaces, Spaces]:
    """Observation and action spaces by agent, in the order of the engine's perspectives; `where` is who asks.

    Raises:
        TypeError: No engine.
        ValueError: Not a space for each agent.
        AdapterError: Something else than spaces.
    """
    check_type(engine, Engine, f"{where}: engine", "WorldModel.to_multi_vector_env and its like make one.")
    names = [p.name for p in engine.perspectives]
    for role, spaces in (("observation_spaces", observation_spaces), ("action_spaces", action_spaces)):
        if not isinstance(spaces, Mapping) or {*spaces.keys()} != {*names}:
            raise ValueError(f"{where}: {role} must have a space for each of {names}, got {spaces!r}.")
    for name in names:
        check_spaces(observation_spaces[name], action_spaces[name], where)
    return {name: observation_spaces[name] for name in names}, {name: action_spaces[name] for name in names}
