"""One env of any Python model: reset and transition are called as they are, without an engine."""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch

from wm_vec.adapters.callables import OWN_SEED_LIMIT, SEED_LIMIT
from wm_vec.adapters.calls import ModelCalls, UserCall, device_of, warn_of_training_mode
from wm_vec.adapters.errors import AdapterError
from wm_vec.adapters.forms import ResetParts, StepParts, read_reset, tuple_read
from wm_vec.adapters.randomness import RESET_DRAWS, DrawWatch, GlobalGenerator
from wm_vec.adapters.reading import TransitionReader, as_flag, given_start, one_number
from wm_vec.adapters.spaces import ActionCodec, ObservationCodec
from wm_vec.adapters.states import duplicate
from wm_vec.core import CounterRNG
from wm_vec.core.functions import is_batched
from wm_vec.envs.numpy_io import ActionReader, named_parts
from wm_vec.plain import whole_number
from wm_vec.render.frames import FramePainter


class StepInfo(dict):
    """What the model reported in a step, ``model_state`` and ``elapsed_steps``.

    It is an ordinary dict but for `keys`, which leaves out the state: Gymnasium's checker compares infos by their keys,
    and a tensor has no single answer to ``==``.
    """

    def keys(self) -> Any:
        """As `dict.keys`, without ``model_state``."""
        return {key: None for key in self if key != "model_state"}.keys()


class DirectModel:
    """One env of a model whose state may be any Python object.

    State and info are handed on as they are, observations are new arrays, nothing is clipped, NaN is handed on.

    Args:
        calls: The model's callables.
        observation_space, action_space: The env's.
        initial_observation, initial_state: What episodes start with where nothing resets; copied at every reset.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        device: Where action tensors go; None for where the model is.
        torch_actions: Give the model actions as tensors; False for NumPy.
        rng: ``"global"`` for a model that draws from the global generators: they are seeded for every step.
        keeps_frames: Keep the last observation, for `seen`.

    Attributes:
        state: The model's own, not a copy; None before the first reset.
        units, has_series: See `EngineView`; there are no named fields here.
    """

    units: ClassVar[dict[str, str]] = {}
    has_series = False

    def __init__(
        self,
        calls: ModelCalls,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        initial_observation: Any,
        initial_state: Any,
        max_episode_steps: int | None,
        device: torch.device | str | None,
        torch_actions: bool,
        rng: str,
        keeps_frames: bool,
    ) -> None:
        if rng not in ("counter", "global"):
            raise AdapterError(f"rng must be 'counter' or 'global', got {rng!r}.")
        if calls.reset is not None and is_batched(calls.reset.fn):
            raise AdapterError(
                "WorldModelEnv: reset_fn is marked batched: that needs batching='batched' or 'vmap'. Otherwise give a "
                "reset_fn of one env."
            )
        warn_of_training_mode(calls.model)
        limit = None if max_episode_steps is None else whole_number(max_episode_steps, "max_episode_steps")
        self.calls, self.max_episode_steps, self._keeps_frames = calls, limit, keeps_frames
        self._observations, self._actions = ObservationCodec(observation_space), ActionReader(action_space)
        self._device, dtype = device_of(calls.model, device), ActionCodec(action_space).model_dtype
        self._action_dtype = dtype if torch_actions else None
        self._generator = GlobalGenerator(self._device) if rng == "global" else None
        self._start_name = f"WorldModelEnv, {calls.reset.name if calls.reset else 'initial_observation'}"
        self._reader = TransitionReader(calls, self._observations, f"WorldModelEnv, {calls.transition.name}")
        self._watch = DrawWatch()
        self._draws = "rng" in calls.transition.takes
        self._start = None if calls.reset else self._given(initial_state, initial_observation)
        self.state: Any = None
        self._seen: Any = None
        self._elapsed: int | None = None  # None before the first reset
        self._seed = self._episode = 0

    def reset(
        self, seed: int | None, options: dict[str, Any] | None, generator: np.random.Generator
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; the observation, and the info that the model reported.

        Args:
            seed: What the model's reset gets; None for a number drawn from `generator`.
            options: Handed to the model's reset.
            generator: The env's own.
        """
        own = seed if seed is not None and seed < OWN_SEED_LIMIT else int(generator.integers(SEED_LIMIT))
        call = self.calls.reset
        start = self._started(generator) if call is None else self._reset(call, own, options)
        observation = self._observations.element(start.observation, self._start_name)
        self._reader.begin([start])
        if seed is not None or self._elapsed is None:
            self._seed, self._episode = own if seed is None else seed, 0
        else:
            self._episode += 1
        self._keep(start, 0)
        return observation, dict(start.info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, StepInfo]:
        """One step.

        Raises:
            RuntimeError: Before the first reset.
            ValueError: An action of another shape or kind than the action space's.
            AdapterError: The model returned what no form of `read_transition` is.
        """
        if self._elapsed is None:
            raise RuntimeError("Call reset() before step(): there is no episode yet.")
        taken, calls, reader = self._actions(action), self.calls, self._reader
        with torch.no_grad(), self._around_draws(calls.transition, self._seed, self._episode, self._elapsed):
            if calls.action_transform is not None:
                taken = self._call(calls.action_transform, (calls.model, taken))
            elif self._action_dtype is not None:
                taken = torch.as_tensor(taken, dtype=self._action_dtype, device=self._device)
            own = self._counter() if self._draws else None
            result = self._call(calls.transition, (calls.model, self.state, taken, own))
            parts, where = reader.read(result, ()), reader.where + tuple_read(result)
            observation = self._observations.element(parts.observation, where)
            reward, terminated = reader.reward_and_end(parts, taken, self._call)
            reward = float(one_number(reward, "reward", where))
            over = as_flag(one_number(terminated, "terminated", where), "terminated", where)
            cut = parts.truncated
            cut = cut is not None and as_flag(one_number(cut, "truncated", where), "truncated", where)
        elapsed, limit = self._elapsed + 1, self.max_episode_steps
        self._keep(parts, elapsed)
        info = StepInfo(parts.info)
        info.setdefault("model_state", parts.state)
        info.setdefault("elapsed_steps", elapsed)
        return observation, reward, over, cut or (limit is not None and elapsed >= limit), info

    def seen(self) -> Any:
        """The last observation, as a copy; None before the first reset."""
        return copy.deepcopy(self._seen)

    def named(self) -> dict[str, np.ndarray]:
        """The last observation's arrays by name."""
        return named_parts(self._seen)

    def painter(self) -> FramePainter:
        """What draws observations."""
        return FramePainter(self._observations.space)

    def _keep(self, parts: ResetParts | StepParts, elapsed: int) -> None:
        self.state, self._elapsed = parts.state, elapsed
        if self._keeps_frames:
            self._seen = self._observations.element(parts.observation, self._reader.where)

    def _given(self, state: Any, observation: Any) -> ResetParts | None:
        """What was given for episodes to start with; None, with a warning, where nothing was."""
        if state is None and observation is None:
            warnings.warn(
                "WorldModelEnv: nothing says how episodes start, so they start with a sample of the observation space, "
                "which is the state too. Give reset_fn, initial_state or initial_observation, or a model with "
                "reset_env, reset_state or reset.",
                stacklevel=4,
            )
            return None
        if "state" not in self.calls.transition.takes:
            raise self.calls.takes_no_state()
        start = given_start(state, observation, self.calls, self._observations)
        self._observations.element(start.observation, self._start_name)
        return start

    def _started(self, generator: np.random.Generator) -> ResetParts:
        """A start without a reset: copies of what was given, or a sample."""
        if self._start is not None:
            return self._start._replace(state=duplicate(self._start.state))
        space = copy.deepcopy(self._observations.space)
        space.seed(int(generator.integers(SEED_LIMIT)))
        sample = space.sample()
        return ResetParts(sample, sample, {}, False)

    def _reset(self, call: UserCall, seed: int, options: dict[str, Any] | None) -> ResetParts:
        try:
            with torch.no_grad(), self._around_draws(call, seed):
                result = call(self.calls.model, seed, options)
        except Exception as error:
            error.add_note(f"Raised in {call.name}, called with ({', '.join(call.takes)}), at a reset, seed {seed}.")
            raise
        return read_reset(result, self._observations, (), self._start_name)

    def _around_draws(self, call: UserCall, *words: int) -> AbstractContextManager[None]:
        """Seeds the global generators by `words` for a declared model, and looks whether another draws from them."""
        if self._generator is not None:
            return self._generator.seeded(*words)
        return self._watch(call.name, *([RESET_DRAWS] if call is self.calls.reset else []))

    def _call(self, call: UserCall, values: tuple[Any, ...]) -> Any:
        """Call a user's callable; its exceptions say where in the rollout they were raised."""
        try:
            return call(*values)
        except Exception as error:
            error.add_note(
                f"Raised in {call.name}, called with ({', '.join(call.takes)}), in step {(self._elapsed or 0) + 1} of "
                f"episode {self._episode} (seed {self._seed})."
            )
            raise

    def _counter(self) -> CounterRNG:
        """The random numbers of this env's own, at its next step."""
        counters = torch.tensor([self._seed, self._episode, self._elapsed], device=self._device)
        return CounterRNG(*counters.split(1))
