"""Real environments that can be put into a given state, to compare the effects of actions there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np


class SettableEnv(NamedTuple):
    """An environment whose ``unwrapped.state`` follows from an observation, which it names."""

    names: tuple[str, ...]
    state_of: Callable[[np.ndarray], np.ndarray]


SETTABLE = {
    "CartPole-v1": SettableEnv(("cart position", "cart velocity", "pole angle", "pole velocity"), lambda seen: seen),
    "Pendulum-v1": SettableEnv(
        ("cos angle", "sin angle", "angular velocity"),
        lambda seen: np.array([np.arctan2(seen[1], seen[0]), seen[2]]),
    ),
}


def real_next(
    env_id: str, env_kwargs: Mapping[str, Any], observations: np.ndarray, actions: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What the real environment does from given states under given actions.

    Args:
        env_id: One of `SETTABLE`.
        env_kwargs: Keyword arguments of the environment.
        observations: ``(n, D)``, of the states.
        actions: Each is taken in every state.

    Returns:
        Per action the next observations ``(n, D)`` float64.
    """
    state_of = SETTABLE[env_id].state_of
    env: Any = gym.make(env_id, **env_kwargs).unwrapped
    try:
        env.reset(seed=0)
        following = []
        for action in actions:
            taken = int(action) if action.ndim == 0 else action
            rows = []
            for observation in observations.astype(np.float64):
                env.state = state_of(observation)
                env.steps_beyond_terminated = (
                    None  # CartPole warns of steps after the end; each of these is a first one
                )
                rows.append(env.step(taken)[0])
            following.append(np.stack(rows).astype(np.float64))
        return following
    finally:
        env.close()
