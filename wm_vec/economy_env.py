"""The synthetic economy as an environment: the real one, in which policies from a learned world are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.compat import new_tensordict
from wm_vec.core import CounterRNG, Dynamics, Engine, Transition
from wm_vec.core.config import EngineConfig, EngineKeywords
from wm_vec.core.rng import STREAM_BANK, STREAM_NOISE
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.perspectives import view_of
from wm_vec.schema.economy import SyntheticEconomy
from wm_vec.settings import CanvasConfig


def economy_env(
    economy: SyntheticEconomy,
    num_envs: int,
    obs_fields: Sequence[str],
    act_fields: Sequence[str],
    reward_fn: Callable[..., Any],
    terminated_fn: Callable[..., Any] | None = None,
    **settings: Unpack[EngineKeywords],
) -> WorldModelVectorEnv:
    """The true economy behind the interface of a learned one.

    Args:
        economy: It.
        num_envs: B.
        obs_fields, act_fields, reward_fn, terminated_fn: As `WorldModel.to_vector_env` takes them.
        **settings: See `wm_vec.core.EngineConfig`.
    """
    canvas = CanvasConfig(obs_fields, act_fields, reward_fn, terminated_fn)
    view = view_of(economy.bound, None, canvas, torch.device("cpu"))
    engine = Engine(EconomyDynamics(economy, act_fields), num_envs, [view.perspective], EngineConfig(**settings))
    return WorldModelVectorEnv(engine, view.observation_space, view.action_space)


class EconomyDynamics(Dynamics):
    """A `SyntheticEconomy` some of whose fields are acted on.

    Args:
        economy: It.
        act_fields: Paths that the joint action's columns are written to, in order.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, economy: SyntheticEconomy, act_fields: Sequence[str]) -> None:
        self.economy = economy
        self.columns = torch.tensor(economy.bound.indices(act_fields))

    def initial_state(self, rng: CounterRNG, num_envs: int) -> TensorDict:
        """Ordinary times, more or less."""
        values = self.economy.start(rng.normal(len(self.economy.bound), STREAM_BANK))
        return new_tensordict({"values": values, "tick": torch.zeros(num_envs, dtype=torch.int64)}, values.shape[:1])

    def observe(self, state: TensorDictBase) -> Tensor:
        """All fields' values, ``(B, N)``."""
        return state["values"]

    def current_action(self, state: TensorDictBase) -> Tensor:
        """The act fields' current values, ``(B, A)``."""
        return state["values"][:, self.columns]

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """Write the action ``(B, A)``, then let the equations move everything."""
        values, tick = state["values"].index_copy(1, self.columns, action), state["tick"]
        values = self.economy.advance(values, tick, rng.normal(values.shape[1], STREAM_NOISE))
        after = {"values": values, "tick": tick + self.economy.ticks_per_step}
        return Transition(new_tensordict(after, state.batch_size), values)
