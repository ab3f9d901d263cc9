"""The scalar env: one imagined environment as a Gymnasium `Env`, NumPy in and out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import torch

from wm_vec.adapters import AdapterError, CallableDynamics
from wm_vec.adapters.calls import ModelCalls
from wm_vec.adapters.errors import NO_LOOP
from wm_vec.adapters.spaces import check_spaces
from wm_vec.core import AutoresetMode, Engine, EngineConfig
from wm_vec.envs.direct import DirectModel
from wm_vec.envs.fork_warning import warn_if_forked
from wm_vec.envs.numpy_io import render_call
from wm_vec.envs.view import EngineView
from wm_vec.render.frames import FramePainter
from wm_vec.render.history import History
from wm_vec.render.table import ValueTable

OF_MANY = ("num_envs", "autoreset_mode", "exact_rows", "validate", "encode", "bank")
"""Arguments of the vector environment that one env has no use for."""


class WorldModelEnv(gym.Env):
    """Any world model as one Gymnasium environment, NumPy in and out.

    Without `batching` the model is called directly: its state may be any Python object, actions are not clipped, and
    what it returns is not checked, NaN included. docs/adapters.md lists what callables may return. Observations are new
    arrays; `state` and the entries of ``info`` are the model's own, not copies. ``info`` of a reset is what the model
    reported, of a step that, ``model_state`` and ``elapsed_steps``.

    With `batching`, and by `from_engine`, it is the view of an engine of one env: its numbers are those of env 0 of the
    vector environment over the same world at the same seed. ``info`` then holds what the world reported,
    ``elapsed_steps`` (also as ``step``), ``diverged`` where the world broke down, and, made when read, ``model_state``,
    ``obs_dict`` and ``predictions`` (name -> array).

    Args:
        world_model: Any object, mostly a torch model; by its own methods where no callables are given.
        observation_space: One env's observations.
        action_space: One env's actions.
        initial_observation: What episodes start with where nothing resets.
        initial_state: The model's state at the start of episodes where nothing resets; copied at every reset. Without
            it, `initial_observation` and any reset, episodes start with a sample of the observation space.
        reset_fn: ``(model, seed, options)`` or fewer, called at every reset: with the seed of a seeded reset, and a
            number drawn from `np_random` otherwise.
        transition_fn: ``(model, state, action)`` or ``(state, action)``; None for a method of the model.
        reward_fn: ``(model, state, observation, action)`` or fewer, after the step; where a transition has no reward.
        terminal_fn: Likewise, where a transition does not say whether it ended the episode.
        render_fn: ``(model, state, observation)`` or fewer -> a frame ``(H, W, 3)`` uint8.
        action_transform_fn: ``(model, action)`` or ``(action)`` -> the action as the model takes it. It gets NumPy, and
            what it returns reaches the model as it is; with `batching` it gets tensors.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        render_mode: ``"rgb_array"``, ``"human"`` (prints a table of the observed values at every reset and step) or
            None.
        device: Where tensors live; None for where the model is.
        torch_actions: Give the model actions as tensors; False for NumPy.
        seed: Of the first reset, and of the action space; None takes entropy from the operating system.
        batching: None calls the model directly; ``"batched"`` gives it states and actions with a leading axis of size
            1, ``"vmap"`` one env's tensors under `torch.func.vmap`.
        bank_size: With `batching`: draw starts from a bank of so many resets, as the vector environment does, instead
            of resetting the model at every episode.
        rng: ``"global"`` for a model that draws from the global generators of torch, NumPy or Python.
        **unknown: Refused.

    Raises:
        AdapterError: Model, callables and spaces do not fit together.
        TypeError: An argument that one env has no use for.

    Attributes:
        engine: The engine that this is a view of; None where the model is called directly.
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
        batching: Literal["batched", "vmap"] | None = None,
        bank_size: int | None = None,
        rng: Literal["counter", "global"] = "counter",
        **unknown: Any,
    ) -> None:
        warn_if_forked()
        _refuse(unknown, batching, bank_size)
        callables: dict[str, Any] = {
            "reset_fn": reset_fn,
            "transition_fn": transition_fn,
            "reward_fn": reward_fn,
            "terminal_fn": terminal_fn,
            "action_transform_fn": action_transform_fn,
        }
        start: dict[str, Any] = {"initial_observation": initial_observation, "initial_state": initial_state}
        options: dict[str, Any] = {"device": device, "torch_actions": torch_actions, "rng": rng}
        run: DirectModel | EngineView
        if batching is None:
            check_spaces(observation_space, action_space, "WorldModelEnv")
            resets = initial_observation is None and initial_state is None
            calls = ModelCalls(world_model, **callables, resets=resets, adapter="WorldModelEnv")
            options.update(max_episode_steps=max_episode_steps, keeps_frames=render_mode is not None)
            run = DirectModel(calls, observation_space, action_space, **start, **options)
        else:
            options.update(batching=batching, starts_fresh=bank_size is None)
            dynamics = CallableDynamics(world_model, observation_space, action_space, **callables, **start, **options)
            engine = Engine(
                dynamics,
                1,
                [dynamics.perspective],
                EngineConfig(max_episode_steps, AutoresetMode.DISABLED, bank_size=bank_size or 1),
            )
            run = EngineView(engine, observation_space, action_space)
        if seed is not None:
            # The caller's space may serve other envs too, each with a seed of its own.
            action_space = copy.deepcopy(action_space)
            action_space.seed(seed)
        self._attach(run, observation_space, action_space, render_mode, seed, world_model, render_fn)

    @classmethod
    def from_engine(
        cls, engine: Engine, observation_space: gym.Space, action_space: gym.Space, render_mode: str | None = None
    ) -> WorldModelEnv:
        """The view of an engine of one env without autoreset.

        Args:
            engine: It, of whatever dynamics.
            observation_space: Its observations.
            action_space: Its actions.
            render_mode: ``"rgb_array"``, ``"human"`` or None.
        """
        env = cls.__new__(cls)
        run = EngineView(engine, observation_space, action_space)
        env._attach(run, observation_space, action_space, render_mode)
        return env

    def _attach(
        self,
        run: DirectModel | EngineView,
        observation_space: gym.Space,
        action_space: gym.Space,
        render_mode: str | None,
        seed: int | None = None,
        world_model: Any = None,
        render_fn: Callable[..., Any] | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}.")
        self._run, self._first_seed = run, seed
        self.engine = run.engine if isinstance(run, EngineView) else None
        self.world_model = world_model
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = render_mode
        self._render_call = None if render_fn is None else render_call(render_fn)
        self._painter: FramePainter | None = None
        self._history = History() if render_mode == "rgb_array" and run.has_series else None
        self._table = ValueTable(run.units)
        self._episode = self._elapsed = 0

    @property
    def state(self) -> Any:
        """The model's state, in its own structure; None before the first reset."""
        return self._run.state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: the first one of `seed`, or the next one of the seed in use.

        Args:
            seed: None goes on with the seed in use.
            options: Handed to the model's reset.
        """
        warn_if_forked()
        seed, self._first_seed = self._first_seed if seed is None else seed, None
        super().reset(seed=seed)
        result = self._run.reset(seed, options, self.np_random)
        self._episode, self._elapsed = self._episode + 1, 0
        self._show(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Args:
            action: An element of the action space.

        Raises:
            RuntimeError: Before the first reset.
            ValueError: An action of another shape, or with values that are no actions.
        """
        result = self._run.step(action)
        self._elapsed += 1
        self._show(result[0])
        return result

    def _show(self, observation: Any) -> None:
        if self._history is not None:
            self._history.add(self._episode, self._elapsed, observation.ravel())
        if self.render_mode == "human":
            self.render()

    def render(self) -> Any:
        """The last observation: a frame ``(H, W, 3)`` uint8, or a table on standard output."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode.")
            return None
        observation = self._run.seen()
        if observation is None:
            raise RuntimeError("render: call reset() first; there is nothing to show yet.")
        if self.render_mode == "human":
            self._table.show(self._elapsed, self._run.named())
            return None
        if self._render_call is not None:
            return self._render_call(self.world_model, self.state, observation)
        if self._painter is None:
            self._painter = self._run.painter()
        return self._painter(observation, self._history)

    def close(self) -> None:
        """Close the model, if it can be closed."""
        self._table.close()
        close = getattr(self.world_model, "close", None)
        if callable(close):
            close()


def _refuse(unknown: dict[str, Any], batching: Any, bank_size: int | None) -> None:
    """Refuse what one env has no use for.

    Raises:
        AdapterError: ``batching="loop"``.
        TypeError: An argument that there is not, or that needs another.
    """
    if batching == "loop":
        raise AdapterError(f"WorldModelEnv: {NO_LOOP}")
    if batching is None and bank_size is not None:
        raise TypeError(
            "WorldModelEnv: bank_size needs batching='batched' or 'vmap'. Leave it out: a model that is called "
            "directly is reset at every episode."
        )
    for name in unknown:
        if name not in OF_MANY:
            raise TypeError(f"WorldModelEnv got an unexpected keyword argument {name!r}.")
        raise TypeError(
            f"WorldModelEnv: {name} is for many envs, and this is one. Leave it out, or give it to "
            "WorldModelVectorEnv.from_callables(model, observation_space, action_space, num_envs=...)."
        )
