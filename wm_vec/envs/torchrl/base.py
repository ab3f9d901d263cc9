"""What TorchRL environments over an engine share."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from wm_vec.core import AutoresetMode, Engine, StepOutput
from wm_vec.core.trees import Tree, observation_in, observation_keys
from wm_vec.envs.torchrl.checks import check_device, check_observation, check_spaces_fit
from wm_vec.envs.torchrl.resets import MaskedResets
from wm_vec.envs.torchrl.specs import (
    DONE_KEYS,
    STATE_KEY,
    as_specified,
    env_specs,
    observation_entries,
    one_hot_actions,
    one_hot_parts,
)
from wm_vec.plain import check_type, seed_number, truth
from wm_vec.spaces import check_one_hot, map_leaves, read_one_hot, without_one_hot


class OverEngine(MaskedResets):
    """An environment over an engine, whoever acts in it.

    Args:
        engine: An engine without autoreset.
        batched: Whether it is of the engine's B envs; if not, of one without a batch axis.

    Raises:
        TypeError: No engine.
        ValueError: An engine of another kind.
    """

    def __init__(self, engine: Engine, batched: bool = True) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"{type(self).__name__} takes an engine, got {type(engine).__name__}. Make it by "
                "world.to_torchrl_env(num_envs=...), vector_env.to_torchrl() or TorchRLEnv.from_dynamics(...)."
            )
        if engine.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"{type(self).__name__} needs an engine with autoreset_mode='disabled', since TorchRL itself resets "
                f"what is done; got {engine.autoreset_mode}."
            )
        if not engine.config.copy:
            raise ValueError(f"{type(self).__name__} needs copy=True, since TorchRL keeps what steps return.")
        super().__init__(device=engine.device, batch_size=[engine.num_envs] if batched else [])
        self.engine = engine

    def __repr__(self) -> str:
        world = type(self.engine.dynamics).__name__
        return f"{type(self).__name__}({world}, batch_size={list(self.batch_size)}, device={self.engine.device})"

    def to(self, device: torch.device | str | int) -> EnvBase:
        """Itself: the world stays where it is.

        Raises:
            ValueError: Another device.
        """
        check_device(device, self.engine.device)
        return self

    def reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Start episodes, as TorchRL has it.

        Raises:
            TypeError: No TensorDict.
        """
        if tensordict is not None:
            check_type(tensordict, TensorDictBase, "reset: the tensordict")
        return super().reset(tensordict, **kwargs)


class SeededEnvs(OverEngine):
    """Seeds are per env: the next full reset seeds env i with ``seed + i``."""

    _next_seed: int | None = None

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed env i with ``seed + i`` at the next full reset.

        Args:
            seed: The first env's seed.
            static_seed: Return the seed itself.

        Returns:
            The seed after those of these envs, so that what holds several batches of envs and seeds them one after
            another (`SerialEnv`, `ParallelEnv`, collectors) gives all envs the seeds of one batch.
        """
        if seed is not None:
            seed = seed_number(seed, "set_seed: seed")
        self._set_seed(seed)
        return seed if seed is None or static_seed else seed + self.engine.num_envs

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed


class EngineEnv(OverEngine):
    """Specs, actions and starts of one agent's envs.

    Args:
        engine: An engine with one perspective and without autoreset.
        observation_space: One env's observations.
        action_space: One env's actions.
        batched: Whether it is of the engine's B envs; if not, of one without a batch axis.
        one_hot: Discrete actions and observations as one-hot vectors in place of class indices.
        state: Whether TensorDicts carry the state of the world.

    Raises:
        TypeError: No engine.
        ValueError: An engine of another kind, or spaces that TorchRL has no specs for or that do not fit the engine.
    """

    def __init__(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        batched: bool,
        one_hot: bool,
        state: bool,
    ) -> None:
        one_hot = truth(one_hot, "one_hot")
        super().__init__(engine, batched)
        self._perspective = engine.only_perspective(type(self).__name__)
        check_spaces_fit(engine, observation_space, action_space)
        num_envs = engine.num_envs if batched else None
        self.observation_space, self.action_space = observation_space, action_space
        self._asked_one_hot = one_hot
        # Spaces hold NumPy, which `torch.compile` would trace.
        self._hot_parts = one_hot_parts(observation_space) if one_hot else None
        self._hot_action = one_hot_parts(action_space)
        self.one_hot = one_hot and isinstance(action_space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete))
        # An attribute, not a method of the class: over classes that override it, TorchRL's TransformedEnv refuses
        # transforms that change actions. As it is, those draw from the transformed spec.
        self.rand_action = self._random_actions
        specs = env_specs(engine, observation_space, action_space, num_envs or 1, one_hot=one_hot, state=state)
        specs = specs.of_one() if num_envs is None else specs
        self.observation_spec, self.state_spec = specs.observation, specs.state
        self.action_spec, self.reward_spec, self.done_spec = specs.action, specs.reward, specs.done
        self._action_dtype = self.action_spec.dtype
        self._observations, self._observations_fit = specs.observation.clone(), False
        if state:
            del self._observations[STATE_KEY]

    def given_starts(self, tensordict: TensorDictBase) -> TensorDictBase | None:
        """The observations in `tensordict` that episodes are to start from, with its flags; None without any.

        Raises:
            ValueError: A part of them alone.
        """
        if tensordict.get(STATE_KEY, None) is not None:  # which a reset without set_state is not to go on from
            return None
        keys = observation_keys(self.observation_space)
        missing = [key for key in keys if tensordict.get(key, None) is None]
        if len(missing) == len(keys):
            return None
        if missing:
            raise ValueError(
                f"{type(self).__name__}: reset(td) starts from td's observations if it has all of {keys}, but it lacks "
                f"{missing}. Add them, or leave all of them out for episodes that start as ever."
            )
        return tensordict.select(*keys, *DONE_KEYS, strict=False)

    def _shown(self, observation: Mapping[str, Tree]) -> dict[str, Any]:
        """The agent's observation, of those by perspective name, as entries."""
        seen = observation[self._perspective.name]
        if self._hot_parts is not None:
            parts = self.observation_space, self._hot_parts, seen
            seen = map_leaves(lambda _, leaf, part, value: value if part is None else part.of(value), *parts)
        return observation_entries(seen)

    def _given(self, tensordict: TensorDictBase) -> dict[str, Tree]:
        """The observations of a TensorDict ``(M,)`` by perspective name, as the engine takes them."""
        seen = observation_in(tensordict, self.observation_space)
        return {self._perspective.name: without_one_hot(self.observation_space, seen, f"{type(self).__name__}.reset")}

    def _fresh(self, observation: Mapping[str, Tree], num_envs: int) -> dict[str, Any]:
        """The entries of envs none of which is done; the first time they are checked against the spec.

        Args:
            observation: Perspective name -> ``(B, ...)``.
            num_envs: B.

        Raises:
            ValueError: Other observations than the space says.
        """
        entries = self._shown(observation)
        if not self._observations_fit:
            check_observation(entries, self._observations if self.batch_locked else self._observations.expand(num_envs))
            self._observations_fit = True
        running = torch.zeros((len(DONE_KEYS), num_envs, 1), dtype=torch.bool, device=self.engine.device)
        return {**entries, **dict(zip(DONE_KEYS, running.unbind(), strict=True))}

    def _ended(self, output: StepOutput) -> dict[str, Any]:
        """Where a step ended, before any reset: the entries under ``next``."""
        entries = self._shown(output.final_observation)
        entries["reward"] = output.reward
        entries["done"], entries["truncated"] = output.finished.unsqueeze(1), output.truncated.unsqueeze(1)
        entries["terminated"] = output.terminated
        return entries

    @abc.abstractmethod
    def _random_actions(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """`tensordict` with random actions that were made on the device."""

    def _engine_action(self, action: Tensor) -> Tensor:
        """Actions ``(B, ...)`` as the engine takes them.

        Raises:
            ValueError: No one-hot vectors, where values may be read: in host memory, and under `validate`.
        """
        if not self.one_hot:
            return action
        index, clear = read_one_hot(action, self._hot_action.counts)
        if (action.is_cpu and not torch.compiler.is_compiling()) or self.engine.config.validate:
            check_one_hot(action, clear, self.action_space, f"{type(self).__name__}.step: the action of env")
        return index if self._perspective.action.shape else index[:, 0]

    def _own_action(self, action: Tensor) -> Tensor:
        """The engine's actions ``(B, *shape)`` as this environment's."""
        if self.one_hot:
            action = one_hot_actions(action, self.action_space)
        return action if action.dtype is self._action_dtype else as_specified(action, self.action_spec)
