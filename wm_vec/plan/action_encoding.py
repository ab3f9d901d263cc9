"""Actions as vectors that a normal distribution can be fitted to."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torchrl.data import Bounded, TensorSpec, Unbounded

from wm_vec.envs.torchrl.specs import one_hot_actions
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv


class ActionEncoding:
    """Vectors ``(A,)`` that stand for actions; TorchRL's planners start at mean 0 and deviation 1 in all of them.

    A continuous action is scaled by its bounds: -1 is the lower, 1 the upper one; without both bounds it stays as it
    is. A choice among n classes is n scores, of which the highest is chosen, and a binary one a score, chosen above 0.

    Args:
        env: Whose actions.

    Attributes:
        spec: Of one env's vector.
    """

    def __init__(self, env: StatelessTorchRLEnv) -> None:
        self._space, self._one_hot = env.action_space, env.one_hot
        self._shape, self._dtype = tuple(env.action_spec.shape), env.action_spec.dtype
        self._classes: list[int] = []
        if isinstance(self._space, spaces.MultiDiscrete):
            self._classes = [int(n) for n in self._space.nvec]
        elif isinstance(self._space, spaces.Discrete):
            self._classes = [int(self._space.n)]
        size = sum(self._classes) or int(np.prod(self._shape))
        self.spec: TensorSpec = Unbounded((size,), device=env.device, dtype=torch.float32)
        if isinstance(self._space, spaces.Box):
            self._scale_by_bounds(self._space, env.engine.device)

    def _scale_by_bounds(self, space: spaces.Box, device: torch.device) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            bounded = np.isfinite(space.high - space.low)
            center, half = (space.low + space.high) / 2, (space.high - space.low) / 2
        tables = (
            np.where(bounded, center, 0.0),
            np.where(bounded, half, 1.0),
            np.where(bounded, -1.0, space.low),
            np.where(bounded, 1.0, space.high),
        )
        self._center, self._half, low, high = (
            torch.as_tensor(table.ravel(), dtype=torch.float32, device=device) for table in tables
        )
        # Bounded specs read their bounds, which the meta device has none of.
        if device.type != "meta" and bool((low.isfinite() | high.isfinite()).any()):
            self.spec = Bounded(low, high, shape=self.spec.shape, device=device, dtype=torch.float32)

    def decode(self, code: Tensor) -> Tensor:
        """Vectors ``(*N, A)`` as the environment's actions ``(*N, *shape)``."""
        shape = (*code.shape[:-1], *self._shape)
        if isinstance(self._space, spaces.Box):
            return (self._center + self._half * code).to(self._dtype).reshape(shape)
        if not self._classes:
            return (code > 0).to(self._dtype).reshape(shape)
        chosen = torch.stack([scores.argmax(-1) for scores in code.split(self._classes, -1)], -1)
        if self._one_hot:
            chosen = one_hot_actions(chosen.reshape(-1, len(self._classes)), self._space)
        return chosen.reshape(shape)
