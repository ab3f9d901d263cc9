"""What a rollout showed, as named NumPy arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode


def array(value: Any) -> np.ndarray:
    """A copy in host memory."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.array(value)


class Log:
    """Values by name, one after another; each name is stacked over its own steps in the end."""

    def __init__(self) -> None:
        self._values: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, **values: Any) -> None:
        """Note one value for each name; parts of observations get names with a dot."""
        for name, value in values.items():
            if isinstance(value, Mapping):
                self.add(**{f"{name}.{key}": part for key, part in value.items()})
            elif isinstance(value, tuple):
                self.add(**{f"{name}.{i}": part for i, part in enumerate(value)})
            else:
                self._values[name].append(array(value))

    def step(self, prefix: str, observation: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Note what a step returned."""
        shown = {"observation": observation, "reward": reward, "terminated": terminated, "truncated": truncated}
        self.add(**{prefix + name: value for name, value in shown.items()})

    def changed(self, name: str, observation: Any, before: Any) -> None:
        """Note an observation where it differs from the one shown before, zeros elsewhere; zeros take no room."""
        if isinstance(observation, Mapping):
            for key in observation:
                self.changed(f"{name}.{key}", observation[key], before[key])
            return
        after, shown = array(observation), array(before)
        self.add(**{name: np.where(after == shown, np.zeros_like(after), after)})

    def marked(self, name: str, observation: Any, mask: Any) -> None:
        """Note an observation in the envs of `mask` ``(B,)``, zeros elsewhere."""
        if isinstance(observation, Mapping):
            for key in observation:
                self.marked(f"{name}.{key}", observation[key], mask)
            return
        values, mask = array(observation), array(mask)
        self.add(**{name: np.where(mask.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros_like(values))})

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> ``(T, ...)``."""
        return {name: np.stack(values) for name, values in self._values.items()}


def roll_vector(log: Log, env: Any, actions: Any, prefix: str = "") -> None:
    """Take the actions ``(T, B, ...)`` in a started vector env; under DISABLED reset by mask what ended."""
    mode = env.metadata["autoreset_mode"]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(torch.as_tensor(action))
        log.step(prefix, observation, reward, terminated, truncated)
        if mode is AutoresetMode.SAME_STEP:
            log.add(**{prefix + "ended": info["_final_obs"]})
            log.marked(prefix + "final_obs", info["final_obs"], info["_final_obs"])
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and bool(ended.any()):
            again, _ = env.reset(options={"reset_mask": ended})
            log.changed(prefix + "restarted", again, observation)


def roll_scalar(log: Log, env: Any, actions: Any, prefix: str = "") -> None:
    """Take the actions ``(T, ...)`` in a started scalar env, from episode to episode."""
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        log.step(prefix, observation, np.float64(reward), terminated, truncated)
        if terminated or truncated:
            log.add(**{prefix + "restarted": env.reset()[0]})


def roll_torchrl(log: Log, env: Any, td: Any, actions: Any, prefix: str = "") -> Any:
    """Take the actions ``(T, *N, ...)`` from `td`, resetting what is done; returns the TensorDict to go on from."""
    for action in actions:
        ended, td = env.step_and_maybe_reset(td.set("action", torch.as_tensor(action)))
        after = ended["next"]
        log.step(prefix, after["observation"], after["reward"], after["terminated"], after["truncated"])
        log.add(**{prefix + "done": after["done"]})
        log.changed(prefix + "restarted", td["observation"], after["observation"])
    return td


def note_rollout(log: Log, rollout: Any, prefix: str = "") -> None:
    """Note a rollout ``(B, T)`` in TorchRL's layout."""
    after = rollout["next"]
    log.step(prefix, after["observation"], after["reward"], after["terminated"], after["truncated"])
    log.add(**{prefix + "action": rollout["action"], prefix + "done": after["done"]})
    log.add(**{prefix + "from": rollout["observation"]})
