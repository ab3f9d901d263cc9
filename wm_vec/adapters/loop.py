"""Running a model env by env."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters.calls import UserCall
from wm_vec.adapters.errors import AdapterError
from wm_vec.adapters.forms import ResetParts, StepParts, read_transition, tuple_read
from wm_vec.adapters.objects import ObjectTensor, duplicate
from wm_vec.adapters.randomness import warn_of_draws
from wm_vec.adapters.running import Runner, Setting, as_flag, one_number
from wm_vec.adapters.states import STATE
from wm_vec.core import CounterRNG, Transition
from wm_vec.core.rng import STREAM_BANK
from wm_vec.core.single import RowTransition
from wm_vec.core.trees import Tree, map_tree, rows_of

LoopRow = tuple[Any, dict[str, Tensor]]
"""One env's state, and the leaves of its observation, ``(1, ...)``."""


class LoopRunner(Runner):
    """Env by env, with states of any kind: the model sees one env's state and action, no leading axis."""

    batching = "loop"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._kind: Any = None
        self._flag_of = [torch.tensor([flag], device=self.device) for flag in (False, True)]

    def pack(self, starts: Sequence[ResetParts], lead: tuple[int, ...]) -> TensorDict:
        """States of any kind in one column."""
        where = self.where(self.calls.reset or "initial_observation")
        if lead:
            raise AdapterError(f"{where}: starts of many envs at once need batching='batched' or 'vmap'.")
        self._begin(starts)
        if self._kind is None and self.starts_as_observed:
            self._kind = kind_of(starts[0].state)
        rows = [self.observations.tensors(start.observation, (), self.device, where) for start in starts]
        state = {STATE: ObjectTensor.of([start.state for start in starts])}
        return self._finish(state, _stack(rows), len(starts))

    def encode(self, observation: dict[str, Tensor], rng: CounterRNG) -> TensorDict:
        """Env by env."""
        num_states = next(iter(observation.values())).shape[0]
        trees = rows_of(self.observations.tree({name: leaf.cpu() for name, leaf in observation.items()}), num_states)
        seen = [map_tree(lambda leaf: leaf[0], tree) for tree in trees]
        call = self.calls.encode
        if call is None:
            states = [as_kind(self._kind, one, self.where("encode")) for one in seen]
        else:
            states = [self._encoded(call, one, rng, row) for row, one in enumerate(seen)]
        return self._finish({STATE: ObjectTensor.of(states)}, observation, num_states)

    def _encoded(self, call: UserCall, observation: Tree, rng: CounterRNG, row: int) -> Any:
        """What the user's encoder makes of one env's observation."""
        own = CounterRNG(rng.seed[row : row + 1], rng.episode[row : row + 1], rng.step[row : row + 1])
        given = map_tree(lambda leaf: leaf.to(self.device) if self.torch_actions else leaf.numpy(), observation)
        values = (self.calls.model, given, own)
        if self.generator is None:
            with warn_of_draws(call.name, "its argument rng") if row == 0 else nullcontext():
                return self._call(call, values, rng, row)
        words = [int(counter[row]) for counter in (rng.seed, rng.episode, rng.step)]
        with self.generator.seeded(*words, STREAM_BANK):  # a step of its own draws at the first three
            return self._call(call, values, rng, row)

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """Env by env."""
        states, actions = state.get(STATE).objects(), self.actions.unpack(action)
        rows = [self._one(states[i], actions[i], rng, i) for i in range(len(states))]
        parts, observations, judged = zip(*rows, strict=True)
        info: dict[str, list[Any]] = {}
        for i, part in enumerate(parts):
            if part.info:
                for key, value in part.info.items():
                    info.setdefault(key, [None] * len(rows))[i] = value
        reward, terminated, truncated = self._columns(judged)
        column = {STATE: ObjectTensor.of([part.state for part in parts])}
        after = self._finish(column, _stack(observations), len(rows))
        return Transition(after, self.observations.tree(after), reward, terminated, truncated, info)

    def model_state(self, state: TensorDictBase, row: int | None) -> Any:
        """A copy of the object, or a list of copies of all; what cannot be copied is handed out itself."""
        objects = state.get(STATE).objects()
        return [_copy_if_possible(one) for one in objects] if row is None else _copy_if_possible(objects[row])

    def step_row(self, row: LoopRow, action: Tensor, rng: CounterRNG) -> RowTransition:
        """One env alone."""
        part, observation, (reward, terminated, truncated) = self._one(row[0], self.actions.unpack(action)[0], rng, 0)
        own = _stack([observation])
        total = 0.0
        for leaf in own.values():
            if leaf.dtype.is_floating_point:
                total += leaf.sum().item()
        info = {key: [value] for key, value in part.info.items()} if part.info else {}
        seen = self.observations.tree(own)
        return RowTransition((part.state, own), seen, float(reward), terminated, bool(truncated), total, info)

    def _one(
        self, state: Any, action: Tensor, rng: CounterRNG, row: int
    ) -> tuple[StepParts, dict[str, Tensor], tuple[Any, Any, Any]]:
        """One env: what came back, its observation, and ``(reward, terminated, truncated)``."""
        calls = self.calls
        if self.generator is not None:
            words = [int(counter[row]) for counter in (rng.seed, rng.episode, rng.step)]
            with self.generator.seeded(*words):
                return self._transition(state, action, rng, row)
        if self._watched:
            return self._transition(state, action, rng, row)
        with self._watch(calls.transition):
            return self._transition(state, action, rng, row)

    def _transition(
        self, state: Any, action: Tensor, rng: CounterRNG, row: int
    ) -> tuple[StepParts, dict[str, Tensor], tuple[Any, Any, Any]]:
        calls, own = self.calls, None
        taken: Any = action
        if not self.torch_actions or calls.action_transform is not None:
            taken = self.actions.to_numpy(action)
        if calls.action_transform is not None:
            taken = self._call(calls.action_transform, (calls.model, taken), rng, row)
            if self.torch_actions and isinstance(taken, (np.ndarray, np.number, int, float)):
                taken = torch.as_tensor(taken, device=self.device)
        if "rng" in calls.transition.takes:
            own = CounterRNG(rng.seed[row : row + 1], rng.episode[row : row + 1], rng.step[row : row + 1])
        result = self._call(calls.transition, (calls.model, state, taken, own), rng, row)
        where = self._transition_name
        parts = read_transition(result, self.observations, (), where)
        if not self._looked or not parts.has_state:
            self._look(parts)
        where += tuple_read(result)
        observation = self.observations.tensors(parts.observation, (), self.device, where)
        reward, terminated = self._judge(parts, taken, rng, row)
        reward = one_number(reward, "reward", where)
        terminated = as_flag(one_number(terminated, "terminated", where), "terminated", where)
        truncated = parts.truncated
        if truncated is not None:
            truncated = as_flag(one_number(truncated, "truncated", where), "truncated", where)
        return parts, observation, (reward, terminated, truncated)

    def _columns(self, judged: Sequence[tuple[Any, bool, bool | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rewards ``(B,)`` float64, terminations and truncations ``(B,)`` bool of every env's own."""
        rewards, terminated, truncated = zip(*judged, strict=True)
        if any(isinstance(reward, Tensor) for reward in rewards):
            reward = torch.stack([torch.as_tensor(r, dtype=torch.float64, device=self.device) for r in rewards])
        else:
            reward = torch.tensor(rewards, dtype=torch.float64, device=self.device)
        over = None if truncated == (None,) * len(rewards) else self._flags([bool(t) for t in truncated])
        return reward, self._flags(terminated), over

    def _flags(self, values: Sequence[bool]) -> Tensor:
        """``(B,)`` bool; those of one env are made once, since nobody writes into them."""
        if len(values) > 1:
            return torch.tensor(values, device=self.device)
        return self._flag_of[bool(values[0])]


def kind_of(value: Any) -> Any:
    """What an observation is made of: arrays and tensors of no element, types, and dicts, tuples and lists of them."""
    if isinstance(value, Tensor):
        return value.new_empty(0)
    if isinstance(value, (np.ndarray, np.generic)):
        return np.empty(0, value.dtype)
    if type(value) is dict:
        return {key: kind_of(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(kind_of(part) for part in value)
    return type(value)


def as_kind(kind: Any, tree: Tree, where: str) -> Any:
    """An observation's tensors as `kind_of` says of another.

    Raises:
        AdapterError: It is made of something else.
    """
    if isinstance(tree, Tensor):
        if isinstance(kind, Tensor):
            return tree.to(kind).clone()
        if isinstance(kind, np.ndarray):
            return tree.numpy().astype(kind.dtype)[()]
        if kind in (int, float, bool) and tree.numel() == 1:
            return kind(tree.item())
    elif isinstance(tree, dict) and isinstance(kind, dict):
        return {key: as_kind(kind[key], part, where) for key, part in tree.items()}
    elif isinstance(tree, tuple) and isinstance(kind, (tuple, list)):
        return type(kind)(as_kind(own, part, where) for own, part in zip(kind, tree, strict=True))
    raise AdapterError(
        f"{where}: episodes start with a state that is {kind!r}, which cannot be made of an observation without being "
        "told how. Give encode=(model, observation) -> state."
    )


def _copy_if_possible(value: Any) -> Any:
    try:
        return duplicate(value)
    except Exception:
        return value


def _stack(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Leaves ``(B, ...)`` of each env's own, as copies."""
    if len(rows) == 1:
        return {name: leaf.unsqueeze(0).clone() for name, leaf in rows[0].items()}
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
