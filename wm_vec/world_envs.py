"""The environments of a canvas world."""

from __future__ import annotations

import abc
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import gymnasium as gym
import torch
from torch import Tensor

from wm_vec.adapters import CanvasDynamics
from wm_vec.adapters.canvas import ActMode, whole_number
from wm_vec.canvas import BoundSchema, EnvSignature, SchemaError
from wm_vec.canvas.signature import ACTION, OBSERVATION, REWARD, TERMINATED
from wm_vec.core import AutoresetMode, CounterRNG, Engine, Perspective
from wm_vec.core.engine import BANK_SEED
from wm_vec.envs import TorchRLEnv, WorldModelEnv, WorldModelVectorEnv
from wm_vec.model import CanvasModel
from wm_vec.perspectives import check_paths, field_perspective, signature_perspective

MAX_BANK = 1024
"""Initial states that a checkpoint keeps."""
FUNCTION_BANK = 256
"""Initial states that are filled from a user's `initial_obs_fn`, which is called once for each."""


class WorldEnvironments(abc.ABC):
    """What makes environments of a world; `wm_vec.WorldModel` is one.

    Attributes:
        bound: The compiled schema.
        model: The network.
        signature: The environment's spaces, for a world that comes from one; None otherwise.
        bank: ``(M, N)`` initial states in the fields' own units; None until there are data.
        trained: Whether it has learned from data.
    """

    bound: BoundSchema
    model: CanvasModel
    signature: EnvSignature | None
    bank: Tensor | None
    trained: bool
    _warned: bool
    _engines: weakref.WeakSet[Engine]  # those that start from the world's own bank

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where the network lives."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the world."""

    @abc.abstractmethod
    def _field_values(self, path: str, value: Any, where: str) -> Tensor:
        """A field's values as people give them: ``(n,)`` float32, checked."""

    @abc.abstractmethod
    def _fill_in(self, values: Tensor, known: Tensor, seed: int, n_denoise_steps: int | None) -> Tensor:
        """States ``(M, N)`` with what is not known sampled."""

    def to_engine(
        self,
        num_envs: int,
        perspectives: Sequence[Perspective] | None = None,
        *,
        act_fields: Sequence[str] | None = None,
        max_episode_steps: int | None = None,
        n_denoise_steps: int | None = None,
        act_mode: ActMode = "set",
        heun: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        seed: int | None = None,
        exact_rows: bool = False,
        validate: bool = False,
    ) -> Engine:
        """An engine over this world; the faces are made from it.

        Args:
            num_envs: B.
            perspectives: Who sees, acts and is paid; None for the environment's own.
            act_fields: Fields that the perspectives' actions are written to, in their order; None for the
                environment's own.
            max_episode_steps: Horizon; None for no limit.
            n_denoise_steps: K; None for the model's own.
            act_mode: ``"set"`` or ``"hold"``; see `CanvasDynamics`.
            heun: Second-order sampler.
            autoreset_mode: Gymnasium's, or its name.
            initial_obs_fn: Gives field path -> values to start episodes with, the rest filled in by the model.
            seed: Seed of the first reset.
            exact_rows: Bit-equal rows at any B.
            validate: Check the values of actions; reads them on the host.

        Raises:
            SchemaError: `act_fields` is no list of paths, names one twice, or does not fit the actions' sizes.
            ValueError: A number that must be whole and is not, or is out of its range.
        """
        self._warn_if_untrained()
        if max_episode_steps is not None:
            max_episode_steps = whole_number(max_episode_steps, "max_episode_steps")
        if perspectives is None:
            signature = self._require_signature("its own perspective")
            perspectives = [signature_perspective(self.bound, signature, self.device, self.model.codec.mean.dtype)[0]]
        if act_fields is None:
            self._require_signature("its own action")
            act_fields = [ACTION]
        check_paths("act_fields", act_fields)
        columns, positions = sum(p.action.size for p in perspectives), len(self.bound.indices(act_fields))
        if columns != positions:
            raise SchemaError(
                f"to_engine: the perspectives' actions have {columns} numbers, the act_fields {list(act_fields)} "
                f"{positions} positions; each number needs its position."
            )
        own = self.signature is not None
        bank = self.bank if initial_obs_fn is None else self._bank_from_function(initial_obs_fn)
        dynamics = CanvasDynamics(
            self.model,
            act_fields,
            n_denoise_steps=n_denoise_steps,
            act_mode=act_mode,
            reward_field=REWARD if own else None,
            terminated_field=TERMINATED if own else None,
            bank=bank,
            heun=heun,
        )
        engine = Engine(
            dynamics,
            num_envs,
            perspectives,
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            seed=seed,
            exact_rows=exact_rows,
            validate=validate,
        )
        if initial_obs_fn is None:
            self._engines.add(engine)
        return engine

    def to_vector_env(
        self,
        num_envs: int = 1,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_steps: int | None = None,
        n_denoise_steps: int | None = None,
        act_low: float | None = None,
        act_high: float | None = None,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        seed: int | None = None,
        device: torch.device | str | None = None,
        *,
        max_episode_steps: int | None = None,
        act_mode: ActMode = "set",
        heun: bool = False,
        reward_state: Tensor | None = None,
        exact_rows: bool = False,
        validate: bool = False,
        render_mode: str | None = None,
    ) -> WorldModelVectorEnv:
        """Thousands of envs of this world as one Gymnasium vector environment, tensors in and out.

        Args:
            num_envs: B.
            obs_fields: Paths that the agent sees; None for the environment's own observation.
            act_fields: Paths that it controls; None for the environment's own action.
            reward_fn: ``(obs, action, info) -> float`` of one env; None for the learned reward.
            terminated_fn: ``(obs, step, info) -> bool`` of one env; None for the learned termination, if any.
            max_steps: Alias of `max_episode_steps`.
            n_denoise_steps: K; None for the model's own.
            act_low, act_high: Bounds of actions on fields; None for the fields' own, else -1 and 1.
            initial_obs_fn: Gives field path -> values to start episodes with; called to fill the bank.
            autoreset_mode: Gymnasium's, or its name.
            seed: Seed of the first reset.
            device: Moves this world there; None leaves it where it is.
            max_episode_steps: Horizon; None for the environment's own, if any.
            act_mode: ``"set"`` or ``"hold"``; see `CanvasDynamics`.
            heun: Second-order sampler.
            reward_state: Start value of what a stateful `reward_fn` carries through an episode of one env. It then
                takes a fourth argument and returns ``(reward, reward_state)``.
            exact_rows: Bit-equal rows at any B.
            validate: Check the values of actions; reads them on the host.
            render_mode: ``"rgb_array"`` or None.
        """
        if device is not None:
            self.to(device)
        perspective, observation_space, action_space, written = self._perspective(
            obs_fields, act_fields, reward_fn, terminated_fn, act_low, act_high, reward_state
        )
        horizon = _one_horizon(max_steps, max_episode_steps)
        if horizon is None and self.signature is not None:
            horizon = self.signature.max_episode_steps
        engine = self.to_engine(
            num_envs,
            [perspective],
            act_fields=written,
            max_episode_steps=horizon,
            n_denoise_steps=n_denoise_steps,
            act_mode=act_mode,
            heun=heun,
            autoreset_mode=autoreset_mode,
            initial_obs_fn=initial_obs_fn,
            seed=seed,
            exact_rows=exact_rows,
            validate=validate,
        )
        return WorldModelVectorEnv(engine, observation_space, action_space, render_mode)

    def to_torchrl_env(
        self,
        num_envs: int = 1,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_episode_steps: int | None = None,
        n_denoise_steps: int | None = None,
        *,
        act_low: float | None = None,
        act_high: float | None = None,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        seed: int | None = None,
        act_mode: ActMode = "set",
        heun: bool = False,
        reward_state: Tensor | None = None,
        exact_rows: bool = False,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> TorchRLEnv:
        """Thousands of envs of this world as one TorchRL environment, TensorDicts in and out.

        The arguments are `to_vector_env`'s, without its alias `max_steps`, and `TorchRLEnv`'s ``one_hot`` and
        ``expose_state``.
        """
        env = self.to_vector_env(
            num_envs,
            obs_fields,
            act_fields,
            reward_fn,
            terminated_fn,
            n_denoise_steps=n_denoise_steps,
            act_low=act_low,
            act_high=act_high,
            initial_obs_fn=initial_obs_fn,
            autoreset_mode=AutoresetMode.DISABLED,
            seed=seed,
            max_episode_steps=max_episode_steps,
            act_mode=act_mode,
            heun=heun,
            reward_state=reward_state,
            exact_rows=exact_rows,
        )
        spaces = env.single_observation_space, env.single_action_space
        return TorchRLEnv(env.engine, *spaces, one_hot=one_hot, expose_state=expose_state)

    def to_env(
        self,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_episode_steps: int | None = None,
        n_denoise_steps: int | None = None,
        act_low: float | None = None,
        act_high: float | None = None,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        render_mode: str | None = None,
        seed: int | None = None,
        *,
        act_mode: ActMode = "set",
        heun: bool = False,
        reward_state: Tensor | None = None,
        exact_rows: bool = False,
    ) -> WorldModelEnv:
        """The scalar view: one env, NumPy in and out, the numbers of row 0 of `to_vector_env` at the same seed.

        The arguments are `to_vector_env`'s; without `max_episode_steps` there is no time limit.
        """
        perspective, observation_space, action_space, written = self._perspective(
            obs_fields, act_fields, reward_fn, terminated_fn, act_low, act_high, reward_state
        )
        engine = self.to_engine(
            1,
            [perspective],
            act_fields=written,
            max_episode_steps=max_episode_steps,
            n_denoise_steps=n_denoise_steps,
            act_mode=act_mode,
            heun=heun,
            autoreset_mode=AutoresetMode.DISABLED,
            initial_obs_fn=initial_obs_fn,
            seed=seed,
            exact_rows=exact_rows,
        )
        return WorldModelEnv.from_engine(engine, observation_space, action_space, render_mode)

    def to_openenv(
        self,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_steps: int | None = 200,
        n_denoise_steps: int = 10,
        act_low: float = -1.0,
        act_high: float = 1.0,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        render_mode: str | None = None,
    ) -> WorldModelEnv:
        """`to_env` with the parameters and defaults that the environment-extraction guide documents.

        Args:
            obs_fields: Field paths the agent observes.
            act_fields: Field paths the agent controls.
            reward_fn: ``(obs_dict, action, info) -> float``.
            terminated_fn: ``(obs_dict, step, info) -> bool``.
            max_steps: Episode length before truncation.
            n_denoise_steps: Denoiser evaluations per predict.
            act_low: Lower bound of actions on fields.
            act_high: Upper bound.
            initial_obs_fn: Gives the values that episodes start with.
            render_mode: ``"human"`` (text), ``"rgb_array"`` (image) or None.
        """
        return self.to_env(
            obs_fields,
            act_fields,
            reward_fn,
            terminated_fn,
            max_steps,
            n_denoise_steps,
            act_low,
            act_high,
            initial_obs_fn,
            render_mode,
        )

    def _perspective(
        self,
        obs_fields: Sequence[str] | None,
        act_fields: Sequence[str] | None,
        reward_fn: Callable[..., Any] | None,
        terminated_fn: Callable[..., Any] | None,
        act_low: float | None,
        act_high: float | None,
        reward_state: Tensor | None,
    ) -> tuple[Perspective, gym.Space, gym.Space, list[str]]:
        """The perspective with its observation and action spaces, and the paths that actions are written to."""
        if reward_state is not None and reward_fn is None:
            raise ValueError("reward_state is what a reward_fn carries: give reward_fn too.")
        if obs_fields is None and act_fields is None:
            signature = self._require_signature("an environment without obs_fields and act_fields")
            perspective, observation_space = signature_perspective(
                self.bound, signature, self.device, self.model.codec.mean.dtype, reward_fn, terminated_fn, reward_state
            )
            return perspective, observation_space, signature.action_space, [ACTION]
        if obs_fields is None or act_fields is None:
            self._require_signature("an environment without both obs_fields and act_fields")
        if reward_fn is None and self.signature is None:
            raise SchemaError("This world has no learned reward: give reward_fn(obs, action, info) -> float.")
        written = [ACTION] if act_fields is None else act_fields
        perspective, observation_space, action_space = field_perspective(
            self.bound,
            [OBSERVATION] if obs_fields is None else obs_fields,
            written,
            self.device,
            self.model.codec.mean.dtype,
            act_low=act_low,
            act_high=act_high,
            reward_fn=reward_fn,
            terminated_fn=terminated_fn,
            reward_state=reward_state,
        )
        return perspective, observation_space, action_space, list(written)

    def _bank_from_function(self, initial_obs_fn: Callable[[], Mapping[str, Any]]) -> Tensor:
        """Initial states from a user's function, called once per state; the rest filled in by the model."""
        positions = self.bound.layout.num_positions
        values = torch.zeros(FUNCTION_BANK, positions, device=self.device)
        known = torch.zeros(FUNCTION_BANK, positions, dtype=torch.bool, device=self.device)
        for row in range(FUNCTION_BANK):
            given = initial_obs_fn()
            if not isinstance(given, Mapping):
                raise TypeError(
                    f"initial_obs_fn must return a mapping of field path -> values, got {type(given).__name__}."
                )
            for path, value in given.items():
                index = self.bound[path].indices()
                values[row, index] = self._field_values(path, value, "initial_obs_fn").to(self.device)
                known[row, index] = True
        return self._fill_in(values, known, seed=0, n_denoise_steps=None)

    def _warn_if_untrained(self) -> None:
        if not self.trained and not self._warned:
            self._warned = True
            warnings.warn(
                "This world is untrained: what it imagines means nothing yet. Train it with finetune().", stacklevel=3
            )

    def _require_signature(self, what: str) -> EnvSignature:
        if self.signature is None:
            raise SchemaError(
                f"This world comes from a schema, not from an environment, so it cannot learn from {what}. "
                "Give a mapping of field path -> array over time, or make it with WorldModel.from_env()."
            )
        return self.signature

    def _take_bank(self, bank: Tensor | None) -> None:
        """Start from other states, also in the engines that were made before."""
        self.bank = bank
        for engine in self._engines:
            dynamics = engine.dynamics
            assert isinstance(dynamics, CanvasDynamics)
            dynamics.replace_bank(bank)
            states = dynamics.bank
            if states is None:  # as the engine does where there is no bank
                seeds = torch.arange(BANK_SEED, BANK_SEED + MAX_BANK, device=self.device)
                states = dynamics.initial_state(CounterRNG.from_seeds(seeds), MAX_BANK)
            engine.load_bank(states)


def _one_horizon(max_steps: int | None, max_episode_steps: int | None) -> int | None:
    if max_steps is not None:
        max_steps = whole_number(max_steps, "max_steps")
    if max_steps is not None and max_episode_steps is not None and max_steps != max_episode_steps:
        raise ValueError(
            f"max_steps is an alias of max_episode_steps; give one of them, got {max_steps} and {max_episode_steps}."
        )
    return max_episode_steps if max_steps is None else max_steps
