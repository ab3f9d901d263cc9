"""The environments that are made from a world: the ``to_*`` methods of `WorldModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import torch
from torch import Tensor

from wm_vec.agents import AgentSpec, Combine, check_agents
from wm_vec.canvas import BoundSchema, EnvSignature
from wm_vec.core import Engine, Perspective
from wm_vec.core.engine import EngineFamily
from wm_vec.environments import AgentsFactory, EnvFactory
from wm_vec.envs import (
    MultiAgentTensorDictEnv,
    MultiAgentTorchRLEnv,
    MultiAgentVectorEnv,
    TorchRLEnv,
    WorldModelEnv,
    WorldModelVectorEnv,
)
from wm_vec.model import CanvasModel
from wm_vec.plain import whole_number
from wm_vec.settings import (
    ActBound,
    CommonSettings,
    EngineSettings,
    EnvSettings,
    RunSettings,
    VectorSettings,
    configs_of,
)

if TYPE_CHECKING:
    from wm_vec.envs.parallel import WorldModelParallelEnv


class WorldEnvs(ABC):
    """What a `WorldModel` is to its environments: whatever it is made from, it makes all of them.

    Attributes:
        bound: The compiled schema.
        model: The network.
        signature: The environment's spaces, for a world that comes from one; None otherwise.
        bank: ``(M, N)`` initial states in the fields' own units; None until there are data.
        coverage: Field path -> share of steps whose next value was known in the data; None until there are data.
        engines: Those that start episodes from `bank`.
    """

    bound: BoundSchema
    model: CanvasModel
    signature: EnvSignature | None
    bank: Tensor | None
    coverage: dict[str, float] | None
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

    @overload
    def to_vector_env(
        self,
        num_envs: int = 1,
        *,
        perspectives: Mapping[str, AgentSpec],
        combine: Combine = None,
        max_steps: int | None = None,
        device: torch.device | str | None = None,
        render_mode: str | None = None,
        **settings: Unpack[EngineSettings],
    ) -> MultiAgentVectorEnv: ...

    @overload
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
    ) -> WorldModelVectorEnv: ...

    def to_vector_env(
        self,
        num_envs: int = 1,
        obs_fields: Sequence[str] | None = None,
        act_fields: Sequence[str] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminated_fn: Callable[..., Any] | None = None,
        max_steps: int | None = None,
        *,
        perspectives: Mapping[str, AgentSpec] | None = None,
        combine: Combine = None,
        device: torch.device | str | None = None,
        render_mode: str | None = None,
        **settings: Any,
    ) -> WorldModelVectorEnv | MultiAgentVectorEnv:
        """Thousands of envs of this world as one Gymnasium vector environment, tensors in and out.

        Args:
            num_envs: B.
            obs_fields: See `wm_vec.settings.CanvasConfig`, also for the next three.
            act_fields, reward_fn, terminated_fn: Likewise.
            max_steps: Alias of `max_episode_steps`, whose default is the environment's own horizon, if any.
            perspectives: Several agents by name, in place of the fields and functions of one; they share one
                prediction, and observations and actions go by their names.
            combine: What becomes of fields that several of them act on; see `to_multi_vector_env`.
            device: Moves this world there; None leaves it where it is.
            render_mode: ``"rgb_array"`` or None.
            **settings: See `wm_vec.settings.CanvasConfig` and `wm_vec.core.config.EngineConfig`.

        Raises:
            SchemaError: Fields that cannot be seen or acted on so, or no reward.
            ValueError: A setting that is out of its range, or one agent's fields beside `perspectives`.
            TypeError: A setting that there is not.
        """
        view = obs_fields, act_fields, reward_fn, terminated_fn
        keywords: type = VectorSettings
        if perspectives is not None:
            keywords = EngineSettings
            if any(part is not None for part in view):
                raise ValueError("to_vector_env: with perspectives, fields and functions belong into each AgentSpec.")
        elif combine is not None:
            raise ValueError("to_vector_env: combine is for the agents of perspectives; there are none.")
        agents = None if perspectives is None else check_agents(perspectives)
        settings = _with_alias(settings, max_steps)
        factory = self._factory(self.to_vector_env, keywords, settings, *view)
        if device is not None:
            self.to(device)
        if agents is not None:
            return AgentsFactory(factory.with_horizon(), agents, combine).vector_env(num_envs, render_mode)
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
        view = obs_fields, act_fields, reward_fn, terminated_fn
        settings = {"n_denoise_steps": n_denoise_steps, "initial_obs_fn": initial_obs_fn}
        settings = _with_alias({**settings, "act_low": act_low, "act_high": act_high}, max_steps)
        return self._factory(self.to_openenv, EnvSettings, settings, *view).env(render_mode)

    # -- many agents ----------------------------------------------------------------------------------------------

    def to_multi_vector_env(
        self,
        agents: Mapping[str, AgentSpec],
        num_envs: int = 1,
        max_steps: int | None = None,
        *,
        combine: Combine = None,
        **settings: Unpack[EngineSettings],
    ) -> MultiAgentTensorDictEnv:
        """Thousands of envs of several agents, TensorDicts in and out; all agents share one prediction per step.

        Args:
            agents: Who they are, by name. Their order is that of columns; but for "last", no number depends on it.
            num_envs: B.
            max_steps: Alias of `max_episode_steps`, whose default is the environment's own horizon, if any.
            combine: What becomes of a field that several agents act on: the ``"sum"`` or the ``"mean"`` of what they
                give, or what the ``"last"`` of them gives, in their order; of all such fields, or by path. Agents that
                have ended do not count; where all have, the field moves by itself, or stays as it is under
                ``act_mode="hold"``. None refuses such fields.
            **settings: See `wm_vec.settings.CanvasConfig` and `wm_vec.core.config.EngineConfig`.

        Raises:
            SchemaError: Fields that cannot be seen or acted on so, no reward, or fields that several agents act on.
            ValueError: No agents, or a setting that is out of its range.
            TypeError: Agents that are no `AgentSpec`, or a setting that there is not.
        """
        run = _with_alias(settings, max_steps)
        factory = self._factory(self.to_multi_vector_env, EngineSettings, run).with_horizon()
        return AgentsFactory(factory, check_agents(agents), combine).tensordict_env(num_envs)

    def to_multi_torchrl_env(
        self,
        agents: Mapping[str, AgentSpec],
        num_envs: int = 1,
        group_map: Any = None,
        *,
        combine: Combine = None,
        **settings: Unpack[CommonSettings],
    ) -> MultiAgentTorchRLEnv:
        """The same as one TorchRL environment, whose agents stand in groups.

        Args:
            agents: As in `to_multi_vector_env`.
            num_envs: B.
            group_map: Group -> names of its agents, or a `torchrl.envs.MarlGroupMapType`; None for a group per agent.
            combine: As in `to_multi_vector_env`.
            **settings: Likewise.

        Raises:
            ValueError: As there, or groups that do not hold each agent once or whose agents differ.
            SchemaError, TypeError: As there.
        """
        factory = self._factory(self.to_multi_torchrl_env, CommonSettings, settings).with_horizon()
        return AgentsFactory(factory, check_agents(agents), combine).torchrl_env(num_envs, group_map)

    def to_multi_openenv(
        self,
        agents: Mapping[str, AgentSpec],
        max_steps: int | None = 200,
        n_denoise_steps: int | None = 10,
        initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None,
        combine: Combine = None,
        render_mode: str | None = None,
        **settings: Unpack[RunSettings],
    ) -> WorldModelParallelEnv:
        """One env of several agents as a PettingZoo `ParallelEnv`, NumPy in and out.

        Args:
            agents: As in `to_multi_vector_env`.
            max_steps: Steps after which an episode is truncated; None for no limit.
            n_denoise_steps: Passes of the network per step; None for the model's own.
            initial_obs_fn: See `wm_vec.settings.CanvasConfig`.
            combine: As in `to_multi_vector_env`.
            render_mode: ``"human"`` for a table of what the agents see at every step, ``"rgb_array"``, or None.
            **settings: See `wm_vec.core.config.EngineConfig`.

        Raises:
            ImportError: PettingZoo is not installed.
            SchemaError, ValueError, TypeError: As in `to_multi_vector_env`.
        """
        run = _with_alias(settings, max_steps)
        run |= {"n_denoise_steps": n_denoise_steps, "initial_obs_fn": initial_obs_fn}
        factory = self._factory(self.to_multi_openenv, CommonSettings, run)
        return AgentsFactory(factory, check_agents(agents), combine).env(render_mode)

    def _factory(self, *call: Any) -> EnvFactory:
        """What makes environments as a call asks for them; the arguments are those of `configs_of`."""
        self._warn_if_untrained(stacklevel=4)
        return EnvFactory(self, *configs_of(*call))


def _with_alias(settings: Mapping[str, Any], max_steps: int | None) -> dict[str, Any]:
    """Settings with `max_steps`, an alias of ``max_episode_steps``, among them.

    Raises:
        ValueError: Both, of different values.
    """
    if max_steps is None:
        return {**settings}
    whole_number(max_steps, "max_steps")
    if (other := settings.get("max_episode_steps")) not in (None, max_steps):
        raise ValueError(
            f"max_steps is an alias of max_episode_steps: give max_steps alone, got {max_steps} and {other}."
        )
    return {**settings, "max_episode_steps": max_steps}
