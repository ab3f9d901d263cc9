"""Environments of a canvas world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from wm_vec.adapters import CanvasDynamics
from wm_vec.canvas import SchemaError
from wm_vec.canvas.schema import check_paths
from wm_vec.canvas.signature import REWARD, TERMINATED
from wm_vec.canvas_states import bank_from_function
from wm_vec.core import AutoresetMode, Engine, Perspective
from wm_vec.core.config import EngineConfig
from wm_vec.envs import TorchRLEnv, WorldModelEnv, WorldModelVectorEnv
from wm_vec.perspectives import View, view_of
from wm_vec.settings import CanvasConfig

if TYPE_CHECKING:
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
        return Engine(dynamics, num_envs, perspectives, self.config, family=family)

    def view(self) -> View:
        """What an env's agent sees and does."""
        world = self.world
        return view_of(world.bound, world.signature, self.canvas, world.device, world.model.codec.mean.dtype)

    def vector_env(self, num_envs: int, render_mode: str | None = None) -> WorldModelVectorEnv:
        """A Gymnasium vector environment; its horizon is the environment's own where `config` has none."""
        return WorldModelVectorEnv(*self._with_horizon()._seen(num_envs), render_mode)

    def torchrl_env(self, num_envs: int, one_hot: bool = False, expose_state: bool = False) -> TorchRLEnv:
        """A TorchRL environment; its horizon is the environment's own where `config` has none."""
        seen = self._with_horizon(autoreset_mode=AutoresetMode.DISABLED)._seen(num_envs)
        return TorchRLEnv(*seen, one_hot=one_hot, expose_state=expose_state)

    def env(self, render_mode: str | None = None) -> WorldModelEnv:
        """One env with NumPy in and out; there is no time limit where `config` has none."""
        config = replace(self.config, autoreset_mode=AutoresetMode.DISABLED)
        return WorldModelEnv.from_engine(*replace(self, config=config)._seen(1), render_mode)

    def _seen(self, num_envs: int) -> tuple[Engine, gym.Space, gym.Space]:
        view = self.view()
        return self.engine(num_envs, [view.perspective]), view.observation_space, view.action_space

    def _with_horizon(self, **changes: Any) -> EnvFactory:
        signature, horizon = self.world.signature, self.config.max_episode_steps
        if horizon is None and signature is not None:
            horizon = signature.max_episode_steps
        return replace(self, config=replace(self.config, max_episode_steps=horizon, **changes))
