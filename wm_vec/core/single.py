"""One env alone, for faces that read the host at every step anyway.

A step of one env takes as many torch operations as a step of thousands, and each of them costs the same few
microseconds. Here counters and sums are Python numbers, and what remains is the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core.dynamics import Dynamics
from wm_vec.core.host import HostDynamics, read_columns
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import RowLayout, Rows
from wm_vec.core.state import StepResult
from wm_vec.core.trees import Tree


class RowTransition(NamedTuple):
    """`wm_vec.core.Transition` of one env, its judgement as Python numbers.

    Attributes:
        row: The next state as the dynamics keeps it for one env.
        observation: ``(1, ...)``.
        reward: The reward; 0.0 if the dynamics does not say.
        terminated, truncated: Whether the episode ended; False if the dynamics does not say.
        total: A number that is finite only if all floating-point numbers of the state are.
        info: As in `Transition`.
    """

    row: Any
    observation: Tree
    reward: float
    terminated: bool
    truncated: bool
    total: float
    info: dict[str, Any]


@runtime_checkable
class RowDynamics(Protocol):
    """A dynamics that steps one env in a way of its own, with the numbers of `Dynamics.step`."""

    def open_row(self, state: TensorDictBase) -> Any:
        """A state ``(1,)`` as it is kept for one env."""
        ...

    def close_row(self, row: Any) -> TensorDictBase:
        """The inverse of `open_row`."""
        ...

    def step_row(self, row: Any, action: Tensor, rng: CounterRNG) -> RowTransition:
        """One step; `action` is ``(1, A)``."""
        ...


class TensorRows:
    """Any other dynamics: the state of one env is its ``(1,)`` state.

    Args:
        dynamics: It.
        floating: The keys of its state's floating-point tensors.
    """

    def __init__(self, dynamics: Dynamics, floating: list[Any]) -> None:
        self._dynamics, self._floating = dynamics, floating

    def open_row(self, state: TensorDictBase) -> TensorDictBase:
        """The state itself."""
        return state

    def close_row(self, row: TensorDictBase) -> TensorDictBase:
        """The state itself."""
        return row

    def step_row(self, row: TensorDictBase, action: Tensor, rng: CounterRNG) -> RowTransition:
        """A step of a batch of one, read on the host."""
        state, observation, reward, terminated, truncated, info = self._dynamics.step(row, action, rng)
        total = 0.0
        for key in self._floating:
            total += state.get(key).sum().item()
        return RowTransition(
            state,
            observation,
            0.0 if reward is None else reward.item(),
            terminated is not None and bool(terminated.item()),
            truncated is not None and bool(truncated.item()),
            total,
            dict(info),
        )


class HostRow:
    """A dynamics with a way through host memory: the state of one env is its tensors.

    Args:
        dynamics: It.
        layout: The order of the tensors.
    """

    def __init__(self, dynamics: HostDynamics, layout: RowLayout) -> None:
        self._dynamics, self._layout = dynamics, layout

    def open_row(self, state: TensorDictBase) -> list[Tensor]:
        """The state's tensors, ``(1, ...)`` each."""
        return [state.get(key) for key in self._layout.keys]

    def close_row(self, row: list[Tensor]) -> TensorDictBase:
        """The inverse."""
        return self._layout.to_tensordict(row)

    def step_row(self, row: list[Tensor], action: Tensor, rng: CounterRNG) -> RowTransition:
        """A step of a batch of one."""
        dynamics = self._dynamics
        acted = [*row[:-1], row[-1].index_copy(1, dynamics.action_columns, action)]
        out = read_columns(dynamics, dynamics.next_on_host(acted, rng))
        judged = float(out.reward[0, 0]), bool(out.terminated[0, 0]), False
        return RowTransition(out.leaves, out.observation, *judged, float(out.total), out.info)


def one_row(dynamics: Dynamics, layout: RowLayout) -> RowDynamics:
    """How a dynamics keeps and steps one env: in a way of its own if it has one."""
    if isinstance(dynamics, RowDynamics) and getattr(dynamics, "steps_rows", True):
        return dynamics
    if isinstance(dynamics, HostDynamics) and dynamics.steps_on_host and dynamics.device.type == "cpu":
        return HostRow(dynamics, layout)
    return TensorRows(dynamics, layout.floating)


class RowStep(NamedTuple):
    """`StepResult` of one env: tensors ``(1, ...)``, the rest as Python numbers, and the state after the step."""

    observation: Tree
    reward: float
    terminated: bool
    truncated: bool
    diverged: bool
    episode_length: int
    row: Any
    predictions: Tree
    info: dict[str, Any]

    @classmethod
    def of(cls, result: StepResult, dynamics: RowDynamics) -> RowStep:
        """The only row of an engine's result; reads it on the host."""
        return cls(
            result.final_observation,
            result.reward.item(),
            bool(result.terminated.item()),
            bool(result.truncated.item()),
            bool(result.diverged.item()),
            int(result.episode_length.item()),
            dynamics.open_row(result.model_state),
            result.predictions,
            result.info,
        )


@dataclass
class SingleRow:
    """`Rows` of one env and one perspective, its counters on the host.

    Attributes:
        row: The dynamics' state as it keeps one env's.
        carried: What stateful reward functions carry, by perspective, ``(1, ...)``.
        elapsed, episode, seed: As in `wm_vec.core.EnvState`.
        returns: The episode's rewards so far, in the engine's dtype.
    """

    row: Any
    carried: dict[str, Tensor]
    elapsed: int
    episode: int
    seed: int
    returns: np.floating

    @classmethod
    def of(cls, rows: Rows, layout: RowLayout, dynamics: RowDynamics) -> SingleRow:
        """The only row, read on the host."""
        returns: np.floating = rows.returns.cpu().numpy()[0, 0]
        elapsed, episode, seed = (int(counter.item()) for counter in (rows.elapsed, rows.episode, rows.seed))
        row = dynamics.open_row(layout.to_tensordict(rows.leaves))
        return cls(row, layout.reward_states(rows.leaves), elapsed, episode, seed, returns)

    def to_rows(self, layout: RowLayout, dynamics: RowDynamics, device: torch.device) -> Rows:
        """As tensors again."""
        leaves = row_leaves(self.row, self.carried, layout, dynamics)
        elapsed, episode, seed = (torch.tensor([n], device=device) for n in (self.elapsed, self.episode, self.seed))
        returns = torch.from_numpy(np.array([[self.returns]])).to(device)
        return Rows(leaves, elapsed, episode, seed, returns, torch.zeros(1, dtype=torch.bool, device=device))

    def advanced(self, row: Any, carried: dict[str, Tensor], reward: float) -> SingleRow:
        """One step on."""
        returns = self.returns + type(self.returns)(reward)
        return SingleRow(row, carried, self.elapsed + 1, self.episode, self.seed, returns)


def row_leaves(row: Any, carried: dict[str, Tensor], layout: RowLayout, dynamics: RowDynamics) -> list[Tensor]:
    """The leaves of one env's state, ``(1, ...)`` each."""
    state = dynamics.close_row(row)
    return [state.get(key) for key in layout.keys] + [carried[name] for name in layout.stateful]


def is_finite(total: float, reward: float, carried: dict[str, Tensor]) -> bool:
    """Whether nothing of a row can have diverged; a sum that overflows counts as if it had."""
    total += reward
    for state in carried.values():
        total += state.sum().item()
    return math.isfinite(total)
