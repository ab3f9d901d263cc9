"""The scalar view: one imagined environment as a Gymnasium `Env`, NumPy in and out."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete
from tensordict import TensorDictBase

from wm_vec.core import AutoresetMode, Engine
from wm_vec.envs.info import ScalarInfo
from wm_vec.render.frames import value_frame
from wm_vec.render.text import value_table


class WorldModelEnv(gym.Env):
    """One env of the engine, with the numbers that row 0 of the vector environment gives at the same seed.

    ``info`` holds ``step``, ``diverged`` where the world broke down, and, made when read, ``obs_dict`` and
    ``predictions`` (field path -> array) and ``model_state``.

    Args:
        engine: An engine of one env without autoreset.
        observation_space: Its observations.
        action_space: Its actions.
        render_mode: ``"rgb_array"``, ``"human"`` (prints a table of the observed values at every step) or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 30}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        render_mode: str | None = None,
    ) -> None:
        if engine.num_envs != 1 or engine.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "WorldModelEnv needs an engine of one env with autoreset_mode='disabled', "
                f"got num_envs={engine.num_envs}, {engine.autoreset_mode}."
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}.")
        self.engine = engine
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = render_mode
        self._perspective = engine.perspectives[0]
        self._class_actions = _tensor_per_class(action_space, engine.device)
        self._observes_class = isinstance(observation_space, Discrete)
        self._observation_dtype = torch.from_numpy(np.zeros(0, observation_space.dtype)).dtype
        self._action_shape = action_space.shape or ()
        self._whole: torch.Tensor | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: the first one of `seed`, or the next one of the seed in use."""
        super().reset(seed=seed)
        observation = self._hand_out(self.engine.reset(seed))
        return observation, self._info(0, self.engine.predictions(), self.engine.model_state())

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Args:
            action: An element of the action space; numbers out of bounds are clipped.

        Raises:
            ValueError: An action of another shape, or with values that are no actions.
        """
        result = self.engine.step(self._take_in(action))
        observation = self._hand_out(result.observation)
        info = self._info(result.episode_length.item(), result.predictions, result.model_state)
        terminated, truncated = bool(result.terminated.item()), bool(result.truncated.item())
        if terminated and result.diverged.item():
            info["diverged"] = True
        if result.info:
            info.update({key: _only_row(value) for key, value in result.info.items()})
        if self.render_mode == "human":
            self.render()
        return observation, float(result.reward.item()), terminated, truncated, info

    def render(self) -> Any:
        """The observed values: a frame ``(H, W, 3)`` uint8, or a table on standard output."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode.")
            return None
        if self._whole is None:
            raise RuntimeError("render: call reset() first; there is nothing to show yet.")
        named = self._named(self._whole)
        if self.render_mode == "rgb_array":
            return value_frame(named)
        print(value_table(named))
        return None

    def _take_in(self, action: Any) -> torch.Tensor:
        if self._class_actions is not None:
            try:
                return self._class_actions[operator.index(action)]
            except (KeyError, TypeError):
                raise ValueError(
                    f"step: the action must be one whole number of {self.action_space}, got {action!r}."
                ) from None
        array = np.asarray(action)
        if array.shape != self._action_shape or array.dtype.kind not in "fiu":
            raise ValueError(
                f"step: the action must be numbers of shape {self._action_shape}, "
                f"got shape {array.shape}, {array.dtype}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"step: the action must be finite, got {action!r}.")
        batch = torch.from_numpy(np.array(array, dtype=np.float64, ndmin=array.ndim + 1)).to(self.engine.dtype)
        return batch.to(self.engine.device)

    def _hand_out(self, observation: torch.Tensor) -> Any:
        if self._observes_class:
            return np.int64(observation.item())
        if observation.dtype is not self._observation_dtype:
            observation = observation.to(self._observation_dtype)
        return _only_row(observation)

    def _info(self, step: Any, whole: torch.Tensor, state: TensorDictBase) -> ScalarInfo:
        self._whole = whole
        lazy: dict[str, Callable[[], Any]] = {
            "obs_dict": lambda: self._named(whole),
            "predictions": lambda: self._everything(whole),
            "model_state": lambda: state[0].clone(),
        }
        return ScalarInfo({"step": step}, lazy)

    def _named(self, whole: torch.Tensor) -> dict[str, np.ndarray]:
        """The observed values of `whole` ``(1, ...)`` by field, as copies."""
        named = self._perspective.named(self._perspective.observe(whole))
        return {path: _only_row(values) for path, values in named.items()}

    def _everything(self, whole: torch.Tensor) -> dict[str, np.ndarray]:
        """All values of `whole` ``(1, ...)`` by field, as copies."""
        row = _only_row(whole).copy()
        return {path: row[..., where] for path, where in self._perspective.all_fields.items()}


def _only_row(batch: torch.Tensor) -> np.ndarray:
    """Row 0 of a ``(1, ...)`` tensor on the host; shares memory with it where it is there already."""
    host = batch if batch.device.type == "cpu" else batch.cpu()
    return (host.float() if host.dtype is torch.bfloat16 else host).numpy()[0]


def _tensor_per_class(space: gym.Space, device: torch.device) -> dict[int, torch.Tensor] | None:
    """One ``(1,)`` tensor for each action of a Discrete space, made once; None for other spaces."""
    if not isinstance(space, Discrete):
        return None
    first, count = int(space.start), int(space.n)
    return {first + i: torch.tensor([first + i], dtype=torch.int64, device=device) for i in range(count)}
