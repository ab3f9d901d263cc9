"""Actions as points that a normal distribution can be fitted to."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torchrl.data import Bounded, TensorSpec, Unbounded

from wm_vec.envs.torchrl.specs import one_hot_actions
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv


class ActionPoints:
    """The plane ``(A,)`` in which a planner searches, from mean 0 and deviation 1 on whatever the actions are.

    Continuous actions lie in it by their bounds: -1 is the lower, 1 the upper one; without both bounds they are as they
    are. Of every choice among n classes it holds n scores, of which the highest is chosen, and of binary ones a score
    each, chosen above 0.

    Args:
        env: Whose actions.

    Attributes:
        spec: Of one env's point.
    """

    def __init__(self, env: StatelessTorchRLEnv) -> None:
        self._space, self._one_hot = env.action_space, env.one_hot
        self._shape, self._dtype = tuple(env.action_spec.shape), env.action_spec.dtype
        self._classes: list[int] = []
        self._center, self._half = torch.tensor(0.0), torch.tensor(1.0)
        space, size = self._space, int(np.prod(self._shape))
        if isinstance(space, spaces.MultiDiscrete):
            self._classes = [int(n) for n in space.nvec]
        elif isinstance(space, spaces.Discrete):
            self._classes = [int(space.n)]
        self.spec: TensorSpec = Unbounded((sum(self._classes) or size,), device=env.device, dtype=torch.float32)
        if isinstance(space, spaces.Box):
            self._place(space, env.engine.device)

    def _place(self, space: spaces.Box, device: torch.device) -> None:
        """Lay continuous actions out by their bounds."""
        with np.errstate(over="ignore", invalid="ignore"):
            between = np.isfinite(space.high - space.low)
            center, half = (space.low + space.high) / 2, (space.high - space.low) / 2
        flat = np.where(between, center, 0.0), np.where(between, half, 1.0)
        self._center, self._half = (torch.as_tensor(x.ravel(), dtype=torch.float32, device=device) for x in flat)
        low, high = np.where(between, -1.0, space.low).ravel(), np.where(between, 1.0, space.high).ravel()
        # Bounded specs read their bounds, which the meta device has none of.
        if device.type != "meta" and np.isfinite([low, high]).any():
            bounds = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (low, high))
            self.spec = Bounded(*bounds, shape=self.spec.shape, device=device, dtype=torch.float32)

    def actions(self, points: Tensor) -> Tensor:
        """Points ``(*N, A)`` as the environment's actions ``(*N, *shape)``."""
        shape = (*points.shape[:-1], *self._shape)
        if isinstance(self._space, spaces.Box):
            return (self._center + self._half * points).to(self._dtype).reshape(shape)
        if not self._classes:
            return (points > 0).to(self._dtype).reshape(shape)
        chosen = torch.stack([scores.argmax(-1) for scores in points.split(self._classes, -1)], -1)
        if self._one_hot:
            chosen = one_hot_actions(chosen.reshape(-1, len(self._classes)), self._space)
        return chosen.reshape(shape)
