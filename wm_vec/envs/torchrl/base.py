"""What TorchRL environments over an engine share."""

from __future__ import annotations

import abc
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from wm_vec.core import AutoresetMode, Engine
from wm_vec.envs.torchrl.entries import class_indices, one_hot_actions
from wm_vec.envs.torchrl.specs import env_specs


class EngineEnv(EnvBase):
    """Specs, actions and resets of one agent's envs.

    Args:
        engine: An engine with one perspective and without autoreset.
        observation_space: One env's observations.
        action_space: One env's actions.
        num_envs: B; None for one env without a batch axis.
        one_hot: Discrete actions as one-hot vectors in place of class indices.
        state: Whether TensorDicts carry the state of the world.

    Raises:
        ValueError: An engine of another kind, or spaces that TorchRL has no specs for.
    """

    def __init__(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int | None,
        one_hot: bool,
        state: bool,
    ) -> None:
        if engine.autoreset_mode is not AutoresetMode.DISABLED or len(engine.perspectives) != 1:
            raise ValueError(
                f"{type(self).__name__} needs an engine with one perspective and autoreset_mode='disabled': TorchRL "
                f"itself resets what is done. Got {len(engine.perspectives)} perspectives, {engine.autoreset_mode}."
            )
        super().__init__(device=engine.device, batch_size=[] if num_envs is None else [num_envs])
        self.engine = engine
        self.observation_space, self.action_space = observation_space, action_space
        self.one_hot = one_hot and isinstance(action_space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete))
        specs = env_specs(engine, observation_space, action_space, num_envs or 1, one_hot=one_hot, state=state)
        specs = specs.of_one() if num_envs is None else specs
        self.observation_spec, self.state_spec = specs.observation, specs.state
        self.action_spec, self.reward_spec, self.done_spec = specs.action, specs.reward, specs.done

    def any_done(self, tensordict: TensorDictBase) -> Any:
        """Whether any env is done, ``()`` bool; nobody has looked at it yet. Writes ``_reset``."""
        done = tensordict.get("done")
        tensordict.set("_reset", done.clone())
        return done.any()

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done")
        if done.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(done.any()):
            return tensordict
        return tensordict.update(self._renewed(tensordict, done))

    @abc.abstractmethod
    def _renewed(self, tensordict: TensorDictBase, done: Tensor) -> TensorDictBase:
        """All envs, with fresh episodes where `done` ``(*B, 1)`` says."""

    def _engine_action(self, action: Tensor) -> Tensor:
        """Actions ``(B, ...)`` as the engine takes them."""
        return class_indices(action, self.action_space) if self.one_hot else action

    def _own_action(self, action: Tensor) -> Tensor:
        """The engine's actions ``(B, *shape)`` as this environment's."""
        return one_hot_actions(action, self.action_space) if self.one_hot else action
