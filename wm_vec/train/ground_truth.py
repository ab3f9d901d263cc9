"""Real environments that can be put into a given state, to compare the effects of actions there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np


class GroundTruth(NamedTuple):
    """The names of an environment's observed dimensions, and its ``unwrapped.state`` from an observation."""

    names: tuple[str, ...]
    state_of: Callable[[np.ndarray], np.ndarray]


GROUND_TRUTH = {
    "CartPole-v1": GroundTruth(("cart position", "cart velocity", "pole angle", "pole velocity"), lambda seen: seen),
    "Pendulum-v1": GroundTruth(
        ("cos angle", "sin angle", "angular velocity"), lambda seen: np.array([np.arctan2(seen[1], seen[0]), seen[2]])
    ),
}


def true_next_observations(
    env_id: str, env_kwargs: Mapping[str, Any], observations: np.ndarray, actions: Sequence[np.ndarray]
) -> np.ndarray:
    """What the real environment does from given states under given actions.

    Args:
        env_id: One of `GROUND_TRUTH`.
        env_kwargs: Keyword arguments of the environment.
        observations: ``(n, D)``, of the states.
        actions: The A actions that are taken in every state.

    Returns:
        ``(A, n, D)`` float64, the next observations.
    """
    env: Any = gym.make(env_id, **env_kwargs).unwrapped
    states = [GROUND_TRUTH[env_id].state_of(observation) for observation in observations.astype(np.float64)]

    def step(state: np.ndarray, action: np.ndarray) -> np.ndarray:
        env.state = state
        env.steps_beyond_terminated = None  # CartPole warns of steps after an end; each of these is a first one
        return env.step(int(action) if action.ndim == 0 else action)[0]

    try:
        env.reset(seed=0)
        return np.array([[step(state, action) for state in states] for action in actions], np.float64)
    finally:
        env.close()
