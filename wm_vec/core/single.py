"""One env alone, for faces that read the host at every step anyway.

A step of one env costs as many torch operations as a step of thousands, and each of them costs the same few
microseconds. Here counters and sums are Python numbers, and what remains is the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core.rows import RowLayout, Rows
from wm_vec.core.state import StepResult
from wm_vec.core.trees import Tree


class RowStep(NamedTuple):
    """`StepResult` of one env: tensors ``(1, ...)``, and the rest as Python numbers."""

    observation: Tree
    reward: float
    terminated: bool
    truncated: bool
    diverged: bool
    episode_length: int
    model_state: TensorDictBase
    predictions: Tree
    info: dict[str, Any]

    @classmethod
    def of(cls, result: StepResult) -> RowStep:
        """The only row of an engine's result; reads it on the host."""
        return cls(
            result.final_observation,
            result.reward.item(),
            bool(result.terminated.item()),
            bool(result.truncated.item()),
            bool(result.diverged.item()),
            int(result.episode_length.item()),
            result.model_state,
            result.predictions,
            result.info,
        )


@dataclass
class SingleRow:
    """`Rows` of one env and one perspective, its counters on the host.

    Attributes:
        state: The dynamics' state, ``(1,)``.
        carried: What stateful reward functions carry, by perspective, ``(1, ...)``.
        elapsed, episode, seed: As in `wm_vec.core.EnvState`.
        returns: The episode's rewards so far, in the engine's dtype.
    """

    state: TensorDictBase
    carried: dict[str, Tensor]
    elapsed: int
    episode: int
    seed: int
    returns: np.floating

    @classmethod
    def of(cls, rows: Rows, layout: RowLayout) -> SingleRow:
        """The only row, read on the host."""
        returns: np.floating = rows.returns.cpu().numpy()[0, 0]
        elapsed, episode, seed = (int(counter.item()) for counter in (rows.elapsed, rows.episode, rows.seed))
        state, carried = layout.to_tensordict(rows.leaves), layout.reward_states(rows.leaves)
        return cls(state, carried, elapsed, episode, seed, returns)

    def to_rows(self, layout: RowLayout, device: torch.device) -> Rows:
        """As tensors again."""
        leaves = [self.state.get(key) for key in layout.keys] + [self.carried[name] for name in layout.stateful]
        elapsed, episode, seed = (torch.tensor([n], device=device) for n in (self.elapsed, self.episode, self.seed))
        returns = torch.from_numpy(np.array([[self.returns]])).to(device)
        return Rows(leaves, elapsed, episode, seed, returns, torch.zeros(1, dtype=torch.bool, device=device))

    def is_finite(self, layout: RowLayout, reward: float) -> bool:
        """Whether nothing in it can have diverged; a sum that overflows counts as if it had."""
        total = reward
        for key in layout.floating:
            total += self.state.get(key).sum().item()
        for carried in self.carried.values():
            total += carried.sum().item()
        return math.isfinite(total)
