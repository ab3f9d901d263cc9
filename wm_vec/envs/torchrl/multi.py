"""A TorchRL environment of several agents in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs.utils import MarlGroupMapType, check_marl_grouping

from wm_vec.compat import new_tensordict
from wm_vec.core import Engine, StepOutput
from wm_vec.core.trees import Tree
from wm_vec.envs.agent_spaces import spaces_by_agent
from wm_vec.envs.torchrl.base import SeededEnvs
from wm_vec.envs.torchrl.checks import check_mask
from wm_vec.envs.torchrl.resets import known_to_be_running
from wm_vec.envs.torchrl.specs import DONE_KEYS, KEPT, KEPT_ANYWHERE, OBSERVATION, action_spec, observation_specs


class MultiAgentTorchRLEnv(SeededEnvs):
    """B imagined envs of several agents as one batched `torchrl.envs.EnvBase`.

    The agents of a group stand side by side, in an axis of their own after the batch: ``(group, "observation")``
    ``(B, n, ...)``, ``(group, "action")`` ``(B, n, ...)``, ``(group, "reward")`` ``(B, n, 1)`` and ``(group, "done")``,
    ``"terminated"``, ``"truncated"`` ``(B, n, 1)`` bool. An agent that has ended stays done, is paid 0 and acts no
    more: ``~td[group, "done"]`` masks what it is shown. The flags at the root, ``(B, 1)``, are the env's, which ends
    when all agents have ended; by them it is reset.

    Seeds are per env, and the numbers those of `MultiAgentVectorEnv`.

    Args:
        engine: An engine without autoreset.
        observation_spaces: One env's observations by agent.
        action_spaces: One env's actions by agent.
        group_map: Group -> names of its agents, a `torchrl.envs.MarlGroupMapType`, or None for a group per agent.

    Attributes:
        group_map: Group -> names of its agents.

    Raises:
        ValueError: A group map that does not name each agent once, agents of one group that see or do different things,
            or an engine of another kind.
        TypeError: Something else than a group map.
    """

    def __init__(
        self,
        engine: Engine,
        observation_spaces: Mapping[str, gym.Space],
        action_spaces: Mapping[str, gym.Space],
        group_map: Mapping[str, Sequence[str]] | MarlGroupMapType | None = None,
    ) -> None:
        seen, taken = spaces_by_agent(engine, observation_spaces, action_spaces, type(self).__name__)
        super().__init__(engine)
        names = [*seen]
        self.group_map = _groups(group_map, names)
        self._places = {group: [names.index(name) for name in agents] for group, agents in self.group_map.items()}
        self._draws = 0
        self.rand_action = self._random_actions

        def observed(space: gym.Space) -> TensorSpec:
            return observation_specs(space, engine.num_envs, engine.device)[OBSERVATION]

        def acted(space: gym.Space) -> TensorSpec:
            return action_spec(space, engine.num_envs, engine.device, one_hot=False)

        def paid(agents: list[str]) -> TensorSpec:
            return Unbounded((engine.num_envs, len(agents), 1), device=engine.device, dtype=engine.reward_dtype)

        self.observation_spec = self._grouped(lambda agents: {OBSERVATION: _side_by_side(seen, agents, observed)})
        self.action_spec = self._grouped(lambda agents: {"action": _side_by_side(taken, agents, acted)})
        self.reward_spec = self._grouped(lambda agents: {"reward": paid(agents)})
        flags = self._grouped(lambda agents: {key: self._flag(len(agents)) for key in DONE_KEYS})
        flags.update({key: self._flag() for key in DONE_KEYS})
        self.done_spec = flags

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done", None)
        if done is None or known_to_be_running(done):
            return tensordict
        return self.reset(tensordict.set("_reset", done.clone()))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        seed = None
        if mask is not None:
            mask = check_mask(mask, self.engine.num_envs, "_reset")
        if mask is None or not self.engine.started:
            seed, self._next_seed, mask = self._next_seed, None, None
            self._draws = 0
        observation = self.engine.reset(seed, mask)
        running = torch.zeros(len(DONE_KEYS), *self.batch_size, len(observation), dtype=torch.bool, device=self.device)
        flags = dict(zip(DONE_KEYS, running, strict=True))
        root = {key: flag[:, :1].clone() for key, flag in flags.items()}
        return self._packed(root, observation, flags)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        actions: dict[str, Tensor] = {}
        for group, agents in self.group_map.items():
            action = tensordict.get((group, "action"), None)
            if action is None:
                raise KeyError(
                    f"{type(self).__name__}.step: the TensorDict has no {(group, 'action')!r}. Let a policy or "
                    "env.rand_action write one."
                )
            if tuple(action.shape[:2]) != (self.engine.num_envs, len(agents)):
                raise ValueError(
                    f"{type(self).__name__}.step: {(group, 'action')!r} must have shape "
                    f"{tuple(self.full_action_spec[group, 'action'].shape)}, got {tuple(action.shape)}."
                )
            actions.update(zip(agents, action.unbind(1), strict=True))
        output = self.engine.step(actions)
        self._draws = 0
        return self._ended(output)

    def _ended(self, output: StepOutput) -> TensorDict:
        """Where a step ended."""
        truncated = output.truncated[:, None]
        agents = {"terminated": output.terminated, "truncated": truncated & ~output.terminated}
        agents["done"] = output.terminated | truncated
        root = {
            "done": output.finished[:, None],
            "terminated": output.terminated.all(1, keepdim=True),
            "truncated": truncated,
        }
        return self._packed(root, output.final_observation, {**agents, "reward": output.reward})

    def _random_actions(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """`tensordict` with random actions, by the envs' own counters; before the first reset from the spec."""
        if not self.engine.started:
            return super().rand_action(tensordict)
        sampled = self.engine.sample_actions(self._draws)
        self._draws += 1
        tensordict = self._packed({}, {}, {}) if tensordict is None else tensordict
        for group, agents in self.group_map.items():
            action = torch.stack([sampled[name] for name in agents], 1)
            tensordict.set((group, "action"), action.to(self.full_action_spec[group, "action"].dtype))
        return tensordict

    def _packed(self, root: dict[str, Any], seen: Mapping[str, Tree], columns: Mapping[str, Tensor]) -> TensorDict:
        """What all groups show, of what all agents see, and of ``(B, P)`` columns by key."""
        made = new_tensordict(root, self.batch_size, self.device)
        for group, agents in self.group_map.items():
            places = self._places[group]
            entries = {key: column[:, places, None] for key, column in columns.items()}
            if seen:
                entries[OBSERVATION] = torch.stack([seen[name] for name in agents], 1)
            made.set(group, new_tensordict(entries, torch.Size([*self.batch_size, len(agents)]), self.device))
        return made

    def _flag(self, *agents: int) -> TensorSpec:
        return Categorical(2, shape=(*self.batch_size, *agents, 1), device=self.device, dtype=torch.bool)

    def _grouped(self, entries: Callable[[list[str]], dict[str, TensorSpec]]) -> Composite:
        """The specs of all groups; `entries` gives those of one, of its agents."""
        groups = {
            group: Composite(entries(agents), shape=(*self.batch_size, len(agents)), device=self.device)
            for group, agents in self.group_map.items()
        }
        return Composite(groups, shape=self.batch_size, device=self.device)


def _side_by_side(
    spaces: Mapping[str, gym.Space], agents: list[str], made: Callable[[gym.Space], TensorSpec]
) -> TensorSpec:
    """The spec of a group's agents, ``(B, n, ...)``, where `made` makes one ``(B, ...)`` of a space.

    Raises:
        ValueError: They differ in more than the bounds of numbers.
    """
    of_group = [spaces[name] for name in agents]
    first = of_group[0]
    if isinstance(first, Box) and all(isinstance(space, Box) and space.shape == first.shape for space in of_group):
        low, high = (np.stack([getattr(space, end) for space in of_group]) for end in ("low", "high"))
        return made(Box(low, high, dtype=low.dtype.type))
    if any(space != first for space in of_group):
        raise ValueError(
            f"group_map: {agents} are in one group, but they see or do different things: {of_group}. Give them groups "
            "of their own."
        )
    return torch.stack([made(first) for _ in of_group], 1)


def _groups(group_map: Any, names: list[str]) -> dict[str, list[str]]:
    """A group map as it was meant."""
    if group_map is None:
        group_map = MarlGroupMapType.ONE_GROUP_PER_AGENT
    if isinstance(group_map, MarlGroupMapType):
        group_map = group_map.get_group_map(names)
    if not isinstance(group_map, Mapping) or not all(
        isinstance(agents, (list, tuple)) for agents in group_map.values()
    ):
        raise TypeError(f"group_map must be {{group: [names]}} or torchrl's MarlGroupMapType, got {group_map!r}.")
    groups = {group: [*agents] for group, agents in group_map.items()}
    for group in groups:
        if not isinstance(group, str) or group in (*KEPT, *KEPT_ANYWHERE, OBSERVATION):
            raise ValueError(f"group_map: {group!r} can be no group's name: TorchRL keeps it for itself.")
    check_marl_grouping(groups, names)
    return groups
