"""Environments of a canvas world."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from wm_vec.adapters import CanvasDynamics
from wm_vec.agents import AgentSpec, Combine, joint_fields, views_of
from wm_vec.canvas import SchemaError
from wm_vec.canvas.schema import check_paths
from wm_vec.canvas.signature import REWARD, TERMINATED
from wm_vec.canvas_states import bank_from_function, num_filled
from wm_vec.core import AutoresetMode, Engine, Perspective
from wm_vec.core.actions import Sharing
from wm_vec.core.config import EngineConfig
from wm_vec.envs import (
    MultiAgentTensorDictEnv,
    MultiAgentTorchRLEnv,
    MultiAgentVectorEnv,
    TorchRLEnv,
    WorldModelEnv,
    WorldModelVectorEnv,
)
from wm_vec.perspectives import View, box_of, view_of
from wm_vec.settings import CanvasConfig

if TYPE_CHECKING:
    from wm_vec.envs.parallel import WorldModelParallelEnv
    from wm_vec.world_envs import WorldEnvs


@dataclass(frozen=True)
class EnvFactory:
    """Makes engines over a world, and environments over engines.

    Attributes:
        world: The world. Engines that start from its own bank are added to its `engines`.
        canvas: What an env's agent sees, controls and is paid for, and how the world steps and starts.
        config: How engines run their envs.
    """

    world: WorldEnvs
    canvas: CanvasConfig
    config: EngineConfig

    def engine(self, num_envs: int, perspectives: Sequence[Perspective] | None = None) -> Engine:
        """An engine over the world, from the environment's own perspective or from others, as `to_engine` has it.

        Raises:
            SchemaError: A world of a schema needs more, or `act_fields` is no list of paths, names one twice, or does
                not fit the actions' sizes.
        """
        world, canvas, own = self.world, self.canvas, self.world.signature is not None
        if not own and (perspectives is None or canvas.act_fields is None):
            raise SchemaError(
                "to_engine: this world comes from a schema, not from an environment: give perspectives and act_fields."
            )
        if perspectives is None:
            perspectives = [replace(self, canvas=CanvasConfig()).view().perspective]
        act_fields = canvas.act_fields
        if act_fields is None:
            assert world.signature is not None
            act_fields = list(world.signature.action_fields)
        check_paths("act_fields", act_fields)
        columns, positions = sum(p.action.size for p in perspectives), len(world.bound.indices(act_fields))
        if columns != positions:
            raise SchemaError(
                f"to_engine: the perspectives' actions have {columns} numbers, the act_fields {list(act_fields)} "
                f"{positions} positions; each number needs its position."
            )
        return self.engine_of(num_envs, perspectives, act_fields)

    def engine_of(
        self,
        num_envs: int,
        perspectives: Sequence[Perspective],
        act_fields: Sequence[str],
        sharing: Sharing | None = None,
    ) -> Engine:
        """An engine of perspectives whose joint action, or what `sharing` makes of it, is of `act_fields`."""
        world, canvas, own = self.world, self.canvas, self.world.signature is not None
        start = canvas.initial_obs_fn
        dynamics = CanvasDynamics(
            world.model,
            act_fields,
            n_denoise_steps=canvas.n_denoise_steps,
            act_mode=canvas.act_mode,
            reward_field=REWARD if own else None,
            terminated_field=TERMINATED if own else None,
            bank=world.bank if start is None else bank_from_function(world.model, start),
            backend=self.config.backend,
            dtype=self.config.dtype,
        )
        family = world.engines if start is None else None
        config = self.config
        if dynamics.bank is None:
            config = replace(config, bank_size=num_filled(world.model, config.bank_size, dynamics.n_denoise_steps))
        return Engine(dynamics, num_envs, perspectives, config, family=family, sharing=sharing)

    def view(self) -> View:
        """What an env's agent sees and does."""
        world = self.world
        return view_of(world.bound, world.signature, self.canvas, world.device, world.model.codec.mean.dtype)

    def vector_env(self, num_envs: int, render_mode: str | None = None) -> WorldModelVectorEnv:
        """A Gymnasium vector environment; its horizon is the environment's own where `config` has none."""
        return WorldModelVectorEnv(*self.with_horizon()._seen(num_envs), render_mode)

    def torchrl_env(self, num_envs: int, one_hot: bool = False, expose_state: bool = False) -> TorchRLEnv:
        """A TorchRL environment; its horizon is the environment's own where `config` has none."""
        seen = self.with_horizon(autoreset_mode=AutoresetMode.DISABLED)._seen(num_envs)
        return TorchRLEnv(*seen, one_hot=one_hot, expose_state=expose_state)

    def env(self, render_mode: str | None = None) -> WorldModelEnv:
        """One env with NumPy in and out; there is no time limit where `config` has none."""
        return WorldModelEnv.from_engine(*self.with_config(autoreset_mode=AutoresetMode.DISABLED)._seen(1), render_mode)

    def _seen(self, num_envs: int) -> tuple[Engine, gym.Space, gym.Space]:
        view = self.view()
        self.warn_of_fields(view.perspective.obs_fields, self.canvas.act_fields or ())
        return self.engine(num_envs, [view.perspective]), view.observation_space, view.action_space

    def warn_of_fields(self, seen: Iterable[str], acted: Iterable[str], agent: str | None = None) -> None:
        """Say so if what an agent observes stands still for whole episodes, or was in no data; actions move fields."""
        bound, horizon = self.world.bound, self.config.max_episode_steps
        who = "the agent" if agent is None else f"agent {agent!r}"
        periods = [bound[path].spec.period for path in seen if bound[path].spec.is_output]
        ticks = self.world.model.config.ticks_per_step
        moved = not {*seen}.isdisjoint(acted)
        if horizon is not None and periods and min(periods) > horizon * ticks and not moved:
            warnings.warn(
                f"Whatever {who} observes stands still: it changes every {min(periods)} ticks at the soonest, and an "
                f"episode of {horizon} steps lasts {horizon * ticks}. Make the world with ticks_per_step="
                f"{min(periods)} (of a ready-made world, a longer step), where it changes in every step, or at least "
                f"{math.ceil(min(periods) / horizon)}.",
                stacklevel=5,
            )
        coverage = self.world.coverage or {}
        if unknown := [path for path in seen if coverage.get(path) == 0]:
            warnings.warn(
                f"No data covered {', '.join(unknown)}, which {who} observes: what the world imagines there means "
                "nothing. Learn from a source that has it, or observe something else.",
                stacklevel=5,
            )

    def with_horizon(self, **changes: Any) -> EnvFactory:
        """The same with the environment's own horizon where `config` has none, and with other settings."""
        signature, horizon = self.world.signature, self.config.max_episode_steps
        if horizon is None and signature is not None:
            horizon = signature.max_episode_steps
        return self.with_config(max_episode_steps=horizon, **changes)

    def with_config(self, **changes: Any) -> EnvFactory:
        """The same with other settings of its engines."""
        return replace(self, config=replace(self.config, **changes))


@dataclass(frozen=True)
class AgentsFactory:
    """Makes environments of several agents.

    Attributes:
        factory: What makes engines over the world.
        agents: Who they are, by name.
        combine: What becomes of fields that several of them act on.
    """

    factory: EnvFactory
    agents: Mapping[str, AgentSpec]
    combine: Combine = None

    def vector_env(self, num_envs: int, render_mode: str | None = None) -> MultiAgentVectorEnv:
        """A Gymnasium vector environment."""
        return MultiAgentVectorEnv(*self._seen(num_envs), render_mode)

    def tensordict_env(self, num_envs: int) -> MultiAgentTensorDictEnv:
        """Many envs with TensorDicts in and out."""
        return MultiAgentTensorDictEnv(*self._seen(num_envs))

    def torchrl_env(self, num_envs: int, group_map: Any = None) -> MultiAgentTorchRLEnv:
        """A TorchRL environment."""
        return MultiAgentTorchRLEnv(*self._unreset()._seen(num_envs), group_map)

    def env(self, render_mode: str | None = None) -> WorldModelParallelEnv:
        """One env with NumPy in and out, PettingZoo's."""
        from wm_vec.envs.parallel import WorldModelParallelEnv

        state_space = box_of(self.factory.world.bound.bound_fields())
        return WorldModelParallelEnv(*self._unreset()._seen(1), self.agents, state_space, render_mode)

    def _unreset(self) -> AgentsFactory:
        return replace(self, factory=self.factory.with_config(autoreset_mode=AutoresetMode.DISABLED))

    def _seen(self, num_envs: int) -> tuple[Engine, dict[str, gym.Space], dict[str, gym.Space]]:
        factory, world = self.factory, self.factory.world
        dtype = world.model.codec.mean.dtype
        views = views_of(world.bound, world.signature, self.agents, world.device, dtype)
        act_fields, sharing = joint_fields(world.bound, self.agents, self.combine)
        for name, spec in self.agents.items():
            factory.warn_of_fields(spec.obs_fields, act_fields, name)
        perspectives = [view.perspective for view in views.values()]
        return (
            factory.engine_of(num_envs, perspectives, act_fields, sharing),
            {name: view.observation_space for name, view in views.items()},
            {name: view.action_space for name, view in views.items()},
        )
