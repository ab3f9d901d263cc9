"""The scalar view: one imagined environment as a Gymnasium `Env`, NumPy in and out."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete

from wm_vec.adapters import CallableDynamics
from wm_vec.core import AutoresetMode, Engine
from wm_vec.core.actions import MAX_TABLE
from wm_vec.core.trees import Tree, map_tree
from wm_vec.envs.fork_warning import warn_if_forked
from wm_vec.envs.info import ScalarInfo
from wm_vec.envs.numpy_io import element_of, only_env, only_row, painter_of, render_call
from wm_vec.render.frames import FramePainter
from wm_vec.render.text import value_table


class WorldModelEnv(gym.Env):
    """Any world model as one Gymnasium environment, NumPy in and out.

    It is an engine of one env, so its numbers are those of row 0 of the vector environment over the same world at the
    same seed; `from_engine` makes it of an engine that exists. A model of any other kind is called as
    `CallableDynamics` says: by its own methods or by the callables given here; docs/adapters.md lists what these may
    return.

    ``info`` holds what the model reported, ``elapsed_steps`` (also as ``step``), ``diverged`` where the world broke
    down, and, made when read, ``model_state``, ``obs_dict`` and ``predictions`` (name -> array).

    Args:
        world_model: Any object, mostly a torch model.
        observation_space: One env's observations.
        action_space: One env's actions; numbers out of its bounds are clipped.
        initial_observation: What episodes start with where nothing resets.
        initial_state: The model's state at the start of episodes where nothing resets.
        reset_fn: ``(model, seed, options)`` or fewer, called at every reset: with the env's own seed in its first
            episode, and numbers that follow from it in later ones.
        transition_fn: ``(model, state, action)`` or ``(state, action)``; None for a method of the model.
        reward_fn: ``(model, state, observation, action)`` or fewer, after the step; where a transition has no reward.
        terminal_fn: Likewise, where a transition does not say whether it ended the episode.
        render_fn: ``(model, state, observation)`` or fewer -> a frame ``(H, W, 3)`` uint8.
        action_transform_fn: ``(model, action)`` or ``(action)`` -> the action as the model takes it.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        render_mode: ``"rgb_array"``, ``"human"`` (prints a table of the observed values at every step) or None.
        device: Where tensors live; None for where the model is.
        torch_actions: Give the model actions as tensors; False for NumPy.
        seed: Of the first reset, and of the action space; None takes entropy from the operating system.
        batching: How the model takes states and actions: ``"loop"`` as one env's own, of any kind; ``"batched"`` with
            a leading axis of size 1; ``"vmap"`` as one env's tensors.
        bank_size: Draw starts from a bank of so many resets, as the vector environment does, instead of resetting the
            model at every episode.
        rng: ``"global"`` for a model that draws from torch's global generator.

    Raises:
        AdapterError: Model, callables and spaces do not fit together.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 32}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        world_model: Any,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        initial_observation: Any = None,
        initial_state: Any = None,
        reset_fn: Callable[..., Any] | None = None,
        transition_fn: Callable[..., Any] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminal_fn: Callable[..., Any] | None = None,
        render_fn: Callable[..., Any] | None = None,
        action_transform_fn: Callable[..., Any] | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        device: torch.device | str | None = None,
        torch_actions: bool = True,
        seed: int | None = None,
        batching: Literal["batched", "vmap", "loop"] = "loop",
        bank_size: int | None = None,
        rng: Literal["counter", "global"] = "counter",
    ) -> None:
        warn_if_forked()
        dynamics = CallableDynamics(
            world_model,
            observation_space,
            action_space,
            batching=batching,
            initial_observation=initial_observation,
            initial_state=initial_state,
            reset_fn=reset_fn,
            transition_fn=transition_fn,
            reward_fn=reward_fn,
            terminal_fn=terminal_fn,
            action_transform_fn=action_transform_fn,
            device=device,
            torch_actions=torch_actions,
            rng=rng,
            starts_fresh=bank_size is None,
        )
        engine = Engine(
            dynamics,
            1,
            [dynamics.perspective],
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.DISABLED,
            bank_size=bank_size or 1,
            seed=seed,
        )
        if seed is not None:
            # The caller's space may serve other envs too, each with a seed of its own.
            action_space = copy.deepcopy(action_space)
            action_space.seed(seed)
        self._attach(engine, observation_space, action_space, render_mode, world_model, render_fn)

    @classmethod
    def from_engine(
        cls,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        render_mode: str | None = None,
    ) -> WorldModelEnv:
        """The scalar view of an engine of one env without autoreset.

        Args:
            engine: It, of whatever dynamics.
            observation_space: Its observations.
            action_space: Its actions.
            render_mode: ``"rgb_array"``, ``"human"`` or None.
        """
        env = cls.__new__(cls)
        env._attach(engine, observation_space, action_space, render_mode)
        return env

    def _attach(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        render_mode: str | None,
        world_model: Any = None,
        render_fn: Callable[..., Any] | None = None,
    ) -> None:
        if engine.num_envs != 1 or engine.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "WorldModelEnv needs an engine of one env with autoreset_mode='disabled', "
                f"got num_envs={engine.num_envs}, {engine.autoreset_mode}."
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}.")
        self.engine = engine
        self.world_model = world_model
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = render_mode
        self._perspective = engine.perspectives[0]
        self._class_actions = _tensor_per_class(action_space, engine.device)
        self._action_shape = action_space.shape or ()
        self._whole_numbers = self._perspective.action.kind == "discrete"
        self._render_call = None if render_fn is None else render_call(render_fn)
        self._painter: FramePainter | None = None
        self._whole: Tree = None
        self._row: Any = None

    @property
    def state(self) -> Any:
        """The model's state after the last step, in its own structure; None before the first reset."""
        return None if self._whole is None else self.engine.present_row(self._row)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: the first one of `seed`, or the next one of the seed in use.

        Args:
            seed: None goes on with the seed in use.
            options: Handed to the model's reset.
        """
        warn_if_forked()
        super().reset(seed=seed)
        observation = self._hand_out(self.engine.reset(seed, options=options))
        info = self._info(0, self.engine.predictions(), self.engine.row())
        started = self.engine.start_info
        # Env by env, a model reports one env's info as it is.
        alone = getattr(self.engine.dynamics, "steps_rows", False)
        info.update(started if alone else {key: only_env(value) for key, value in started.items()})
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Args:
            action: An element of the action space; numbers out of bounds are clipped.

        Raises:
            ValueError: An action of another shape, or with values that are no actions.
        """
        result = self.engine.step_row(self._take_in(action))
        info = self._info(result.episode_length, result.predictions, result.row)
        if result.diverged:
            info["diverged"] = True
        if result.info:
            info.update({key: only_env(value) for key, value in result.info.items()})
        if self.render_mode == "human":
            self.render()
        return self._hand_out(result.observation), result.reward, result.terminated, result.truncated, info

    def render(self) -> Any:
        """The last observation: a frame ``(H, W, 3)`` uint8, or a table on standard output."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode.")
            return None
        if self._whole is None:
            raise RuntimeError("render: call reset() first; there is nothing to show yet.")
        if self.render_mode == "human":
            print(value_table(self._named(self._whole)))
            return None
        observation = self._hand_out(self._perspective.observe(self._whole))
        if self._render_call is not None:
            return self._render_call(self.world_model, self.state, observation)
        if self._painter is None:
            self._painter = painter_of(self._perspective, self.observation_space)
        return self._painter(observation)

    def close(self) -> None:
        """Close the model, if it can be closed."""
        close = getattr(self.world_model, "close", None)
        if callable(close):
            close()

    def _take_in(self, action: Any) -> torch.Tensor:
        if self._class_actions is not None:
            try:
                return self._class_actions[operator.index(action)]
            except (KeyError, TypeError):
                raise ValueError(
                    f"step: the action must be one whole number of {self.action_space}, got {action!r}."
                ) from None
        array = np.asarray(action)
        kinds = "iu" if self._whole_numbers else "fiu"
        if array.shape != self._action_shape or array.dtype.kind not in kinds:
            raise ValueError(
                f"step: the action must be {'whole ' if self._whole_numbers else ''}numbers of shape "
                f"{self._action_shape}, got shape {array.shape}, {array.dtype}."
            )
        if self._whole_numbers:
            if array not in self.action_space:
                raise ValueError(f"step: the action must be one of {self.action_space}, got {action!r}.")
            return torch.from_numpy(np.array(array, dtype=np.int64, ndmin=array.ndim + 1)).to(self.engine.device)
        # A few Python numbers are looked at and clipped faster than an array of them.
        values = array.ravel().tolist()
        if not all(map(math.isfinite, values)):
            raise ValueError(f"step: the action must be finite, got {action!r}.")
        spec = self._perspective.action
        clipped = [min(max(v, low), high) for v, low, high in zip(values, spec.low, spec.high, strict=True)]
        batch = torch.tensor([clipped], dtype=self.engine.dtype, device=self.engine.device)
        return batch if array.ndim == 1 else batch.view(1, *array.shape)

    def _hand_out(self, observation: Tree) -> Any:
        return element_of(observation, self.observation_space)

    def _info(self, step: int, whole: Tree, row: Any) -> ScalarInfo:
        self._whole, self._row = whole, row
        lazy: dict[str, Callable[[], Any]] = {
            "obs_dict": lambda: self._named(whole),
            "predictions": lambda: self._everything(whole),
            "model_state": lambda: self.engine.present_row(row),
        }
        return ScalarInfo({"step": step, "elapsed_steps": step}, lazy)

    def _named(self, whole: Tree) -> dict[str, np.ndarray]:
        """The observed values of `whole` ``(1, ...)`` by field, as copies."""
        named = self._perspective.named(self._perspective.observe(whole))
        return {path: only_row(values) for path, values in named.items()}

    def _everything(self, whole: Tree) -> dict[str, np.ndarray]:
        """All values of `whole` ``(1, ...)`` by field, as copies."""
        named = self._perspective.everything(map_tree(torch.Tensor.clone, whole))
        return {path: only_row(values) for path, values in named.items()}


def _tensor_per_class(space: gym.Space, device: torch.device) -> dict[int, torch.Tensor] | None:
    """One ``(1,)`` tensor for each action of a Discrete space, made once; None for other spaces, and for huge ones."""
    if not isinstance(space, Discrete) or space.n > MAX_TABLE:
        return None
    first, count = int(space.start), int(space.n)
    return {first + i: torch.tensor([first + i], dtype=torch.int64, device=device) for i in range(count)}
