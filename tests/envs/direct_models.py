"""Envs that call a Python model directly, and small models for them."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from wm_vec.envs import WorldModelEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
ZEROS = np.zeros(2, np.float32)
ACTION = np.array([0.25, 0.5], np.float32)


class Counter:
    """A state that is a Python object: where it began, and a list of what was done to it."""

    def __init__(self, began: int) -> None:
        self.began, self.done = began, []

    def seen(self) -> np.ndarray:
        return np.array([self.began, len(self.done)], np.float32)


def count(state, action):
    """The same object comes back, changed."""
    state.done.append(action)
    return state, state.seen(), float(len(state.done))


def started(transition, observation_space=PLANE, action_space=PUSH, seed=0, model=None, **options):
    """An env after its first reset."""
    if not {"reset_fn", "initial_state"} & set(options):
        options.setdefault("initial_observation", ZEROS)
    env = WorldModelEnv(model, observation_space, action_space, transition_fn=transition, **options)
    env.reset(seed=seed)
    return env


def spy(observation=ZEROS):
    """A transition that keeps its states and actions, and the lists that it keeps them in."""
    states, actions = [], []

    def transition(state, action):
        states.append(state)
        actions.append(action)
        return state, observation, 0.0

    return transition, states, actions
