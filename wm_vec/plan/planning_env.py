"""The environment that a planner searches, and actions as vectors that a normal distribution can be fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded

from wm_vec.envs.torchrl.specs import STATE_KEY, one_hot_actions
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv
from wm_vec.spaces import box_bounds


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
        lower, upper = box_bounds(space)
        with np.errstate(over="ignore", invalid="ignore"):
            bounded = np.isfinite(upper - lower)
            center, half = (lower + upper) / 2, (upper - lower) / 2
        pairs = (center, 0.0), (half, 1.0), (np.float32(-1), lower), (np.float32(1), upper)
        tables = [np.where(bounded, scaled, plain) for scaled, plain in pairs]
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
            scaled = self._center + self._half * code
            return (scaled if self._dtype.is_floating_point else scaled.round()).to(self._dtype).reshape(shape)
        if not self._classes:
            return (code > 0).to(self._dtype).reshape(shape)
        chosen = torch.stack([scores.argmax(-1) for scores in code.split(self._classes, -1)], -1)
        if self._one_hot:
            chosen = one_hot_actions(chosen.reshape(-1, len(self._classes)), self._space)
        return chosen.reshape(shape)


class PlanningEnv(nn.Module):
    """What TorchRL's planners ask of an environment, over a stateless one.

    It differs from the environment itself in three ways. Every rollout starts from a fork of the given states, so that
    each candidate meets noise of its own and none the noise of the real future. Actions are encoded, see
    `ActionEncoding`. And rollouts leave the states out, which would be most of their memory.

    Args:
        env: The world.
    """

    batch_locked = False

    def __init__(self, env: StatelessTorchRLEnv) -> None:
        super().__init__()
        self.env = env
        self.encoding = ActionEncoding(env)
        self.action_spec = self.encoding.spec
        self.observation_spec = Composite({STATE_KEY: env.observation_spec[STATE_KEY]}, device=env.device)
        self.done_keys, self.device = env.done_keys, env.device

    def rollout(
        self,
        max_steps: int,
        policy: Callable[[TensorDictBase], TensorDictBase],
        tensordict: TensorDictBase,
        auto_reset: bool = False,
        break_when_any_done: bool = False,
    ) -> TensorDictBase:
        """Transitions ``(*N, T)`` from a fork of `tensordict`'s states, past the ends of episodes.

        Args:
            max_steps: T.
            policy: Sets ``"action"`` to encoded actions ``(*N, A)``.
            tensordict: ``(*N,)``, with the state.
            auto_reset, break_when_any_done: As planners give them: both False.
        """
        here = self.env.reset(self.env.fork(tensordict), set_state=True)
        steps = []
        for _ in range(max_steps):
            here = policy(here)
            here = self.env.step(here.set("action", self.encoding.decode(here.get("action"))))
            steps.append(here.exclude(STATE_KEY, ("next", STATE_KEY)))
            here = here.get("next").exclude("reward")
        return torch.stack(steps, -1)
