"""Environments of a canvas world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wm_vec.adapters import CanvasDynamics
from wm_vec.canvas import SchemaError
from wm_vec.canvas.signature import ACTION, REWARD, TERMINATED
from wm_vec.canvas_states import bank_from_function
from wm_vec.core import AutoresetMode, Engine, Perspective
from wm_vec.core.config import EngineConfig
from wm_vec.envs import TorchRLEnv, WorldModelEnv, WorldModelVectorEnv
from wm_vec.perspectives import View, check_paths, view_of
from wm_vec.settings import CanvasConfig

if TYPE_CHECKING:
    from wm_vec.world_model import WorldModel


@dataclass(frozen=True)
class EnvFactory:
    """Makes engines over a world, and environments over engines.

    Attributes:
        world: The world. Engines that start from its own bank are added to its `engines`.
    """

    world: WorldModel

    def engine(
        self, num_envs: int, perspectives: Sequence[Perspective] | None, canvas: CanvasConfig, config: EngineConfig
    ) -> Engine:
        """An engine over the world.

        Args:
            num_envs: B.
            perspectives: Who sees, acts and is paid; None for the one that `canvas` describes.
            canvas: How the world steps and starts; with `perspectives`, what their agents see and are paid for is in
                these.
            config: How the engine runs its envs.

        Raises:
            SchemaError: `act_fields` is no list of paths, names one twice, or does not fit the actions' sizes.
        """
        world, own = self.world, self.world.signature is not None
        if perspectives is None:
            perspectives = [self._view(canvas).perspective]
        if canvas.act_fields is None and not own:
            raise SchemaError("This world comes from a schema, not from an environment: give act_fields.")
        act_fields = [ACTION] if canvas.act_fields is None else canvas.act_fields
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
            heun=canvas.heun,
        )
        return Engine(dynamics, num_envs, perspectives, config, family=world.engines if start is None else None)

    def vector_env(
        self, num_envs: int, canvas: CanvasConfig, config: EngineConfig, render_mode: str | None = None
    ) -> WorldModelVectorEnv:
        """A Gymnasium vector environment; without a horizon in `config` it has the environment's own."""
        view, engine = self._seen(num_envs, canvas, self._with_horizon(config))
        return WorldModelVectorEnv(engine, view.observation_space, view.action_space, render_mode)

    def torchrl_env(
        self,
        num_envs: int,
        canvas: CanvasConfig,
        config: EngineConfig,
        *,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> TorchRLEnv:
        """A TorchRL environment; without a horizon in `config` it has the environment's own."""
        config = replace(self._with_horizon(config), autoreset_mode=AutoresetMode.DISABLED)
        view, engine = self._seen(num_envs, canvas, config)
        spaces = view.observation_space, view.action_space
        return TorchRLEnv(engine, *spaces, one_hot=one_hot, expose_state=expose_state)

    def env(self, canvas: CanvasConfig, config: EngineConfig, render_mode: str | None = None) -> WorldModelEnv:
        """One env with NumPy in and out; without a horizon in `config` there is no time limit."""
        view, engine = self._seen(1, canvas, replace(config, autoreset_mode=AutoresetMode.DISABLED))
        return WorldModelEnv.from_engine(engine, view.observation_space, view.action_space, render_mode)

    def _seen(self, num_envs: int, canvas: CanvasConfig, config: EngineConfig) -> tuple[View, Engine]:
        view = self._view(canvas)
        return view, self.engine(num_envs, [view.perspective], canvas, config)

    def _view(self, canvas: CanvasConfig) -> View:
        world = self.world
        return view_of(world.bound, world.signature, canvas, world.device, world.model.codec.mean.dtype)

    def _with_horizon(self, config: EngineConfig) -> EngineConfig:
        signature = self.world.signature
        if config.max_episode_steps is not None or signature is None:
            return config
        return replace(config, max_episode_steps=signature.max_episode_steps)
