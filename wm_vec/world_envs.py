"""The environments that are made from a world: the ``to_*`` methods of `WorldModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from wm_vec.canvas import BoundSchema, EnvSignature
from wm_vec.core import Engine, Perspective
from wm_vec.core.engine import EngineFamily
from wm_vec.environments import EnvFactory
from wm_vec.envs import TorchRLEnv, WorldModelEnv, WorldModelVectorEnv
from wm_vec.model import CanvasModel
from wm_vec.plain import whole_number
from wm_vec.settings import ActBound, EngineSettings, EnvSettings, VectorSettings, configs_of


class WorldEnvs(ABC):
    """What a `WorldModel` is to its environments: whatever it is made from, it makes all of them.

    Attributes:
        bound: The compiled schema.
        model: The network.
        signature: The environment's spaces, for a world that comes from one; None otherwise.
        bank: ``(M, N)`` initial states in the fields' own units; None until there are data.
        engines: Those that start episodes from `bank`.
    """

    bound: BoundSchema
    model: CanvasModel
    signature: EnvSignature | None
    bank: Tensor | None
    engines: EngineFamily

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the network lives."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the world."""

    @abstractmethod
    def _warn_if_untrained(self, stacklevel: int = 3) -> None:
        """Warn once of a world that has not learned from data."""

    def to_engine(
        self,
        num_envs: int,
        perspectives: Sequence[Perspective] | None = None,
        *,
        act_fields: Sequence[str] | None = None,
        **settings: Unpack[EngineSettings],
    ) -> Engine:
        """An engine over this world; environments are made from it.

        Args:
            num_envs: B.
            perspectives: Who sees, acts and is paid; None for the environment's own.
            act_fields: Paths that the perspectives' actions are written to, in order; None for the environment's own.
            **settings: See `wm_vec.settings.CanvasConfig` and `wm_vec.core.config.EngineConfig`.

        Raises:
            SchemaError: `act_fields` is no list of paths, names one twice, or does not fit the actions' sizes.
            ValueError: A setting that is out of its range.
            TypeError: A setting that there is not.
        """
        factory = self._factory(self.to_engine, EngineSettings, settings, None, act_fields)
        return factory.engine(num_envs, perspectives)

    def to_vector_env(
        self,
        num_envs: int = 1,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_steps: int | None = None,
        *,
        device: torch.device | str | None = None,
        render_mode: str | None = None,
        **settings: Unpack[VectorSettings],
    ) -> WorldModelVectorEnv:
        """Thousands of envs of this world as one Gymnasium vector environment, tensors in and out.

        Args:
            num_envs: B.
            obs_fields: See `wm_vec.settings.CanvasConfig`, also for the next three.
            act_fields, reward_fn, terminated_fn: Likewise.
            max_steps: Alias of `max_episode_steps`, whose default is the environment's own horizon, if any.
            device: Moves this world there; None leaves it where it is.
            render_mode: ``"rgb_array"`` or None.
            **settings: See `wm_vec.settings.CanvasConfig` and `wm_vec.core.config.EngineConfig`.

        Raises:
            SchemaError: Fields that cannot be seen or acted on so, or no reward.
            ValueError: A setting that is out of its range.
            TypeError: A setting that there is not.
        """
        if max_steps is not None:
            whole_number(max_steps, "max_steps")
            if (other := settings.get("max_episode_steps")) not in (None, max_steps):
                raise ValueError(
                    f"max_steps is an alias of max_episode_steps; give one of them, got {max_steps} and {other}."
                )
            settings["max_episode_steps"] = max_steps
        view = obs_fields, act_fields, reward_fn, terminated_fn
        factory = self._factory(self.to_vector_env, VectorSettings, settings, *view)
        if device is not None:
            self.to(device)
        return factory.vector_env(num_envs, render_mode)

    def to_torchrl_env(
        self,
        num_envs: int = 1,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        *,
        one_hot: bool = False,
        expose_state: bool = False,
        **settings: Unpack[EnvSettings],
    ) -> TorchRLEnv:
        """Thousands of envs of this world as one TorchRL environment, TensorDicts in and out.

        The arguments are `to_vector_env`'s, and `TorchRLEnv`'s ``one_hot`` and ``expose_state``.
        """
        view = obs_fields, act_fields, reward_fn, terminated_fn
        factory = self._factory(self.to_torchrl_env, EnvSettings, settings, *view)
        return factory.torchrl_env(num_envs, one_hot, expose_state)

    def to_env(
        self,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        *,
        render_mode: str | None = None,
        **settings: Unpack[EnvSettings],
    ) -> WorldModelEnv:
        """The scalar view: one env, NumPy in and out, the numbers of env 0 of `to_vector_env` at the same seed.

        The arguments are `to_vector_env`'s; without `max_episode_steps` there is no time limit.
        """
        view = obs_fields, act_fields, reward_fn, terminated_fn
        return self._factory(self.to_env, EnvSettings, settings, *view).env(render_mode)

    def to_openenv(
        self,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_steps: int | None = 200,
        n_denoise_steps: int = 10,
        act_low: ActBound = -1.0,
        act_high: ActBound = 1.0,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        render_mode: str | None = None,
    ) -> WorldModelEnv:
        """`to_env` with the parameters and defaults that the environment-extraction guide documents."""
        return self.to_env(
            obs_fields,
            act_fields,
            reward_fn,
            terminated_fn,
            max_episode_steps=max_steps,
            n_denoise_steps=n_denoise_steps,
            act_low=act_low,
            act_high=act_high,
            initial_obs_fn=initial_obs_fn,
            render_mode=render_mode,
        )

    def _factory(self, *call: Any) -> EnvFactory:
        """What makes environments as a call asks for them; the arguments are those of `configs_of`."""
        self._warn_if_untrained(stacklevel=4)
        return EnvFactory(self, *configs_of(*call))
