"""The actions of all perspectives: checked, joined, sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_vec.core.perspective import ActionSpec, Perspective
from wm_vec.core.rng import STREAM_ACTION, CounterRNG


class JointAction:
    """What the dynamics takes: the perspectives' actions, flattened, side by side.

    Args:
        perspectives: In the order of the columns.
        dtype: Floating dtype of the joint action.
        device: Where actions must be.
        validate: Check values too, which reads them on the host.

    Attributes:
        may_diverge: Whether an action can be non-finite at all.
    """

    def __init__(
        self, perspectives: Sequence[Perspective], dtype: torch.dtype, device: torch.device, validate: bool
    ) -> None:
        self.perspectives, self.dtype, self.device, self.validate = tuple(perspectives), dtype, device, validate
        self._specs = [p.action for p in self.perspectives]
        self.may_diverge = any(spec.kind == "box" for spec in self._specs)
        self._low = torch.tensor([x for spec in self._specs for x in spec.low], dtype=dtype, device=device)
        self._high = torch.tensor([x for spec in self._specs for x in spec.high], dtype=dtype, device=device)

    def check(self, action: Any, num_envs: int) -> list[Tensor]:
        """One checked ``(B, *shape)`` tensor per perspective.

        Args:
            action: Perspective name -> ``(B, *shape)``; of a single perspective also the tensor itself.
            num_envs: B.

        Raises:
            TypeError, ValueError: Not one action for each perspective, or one that its `ActionSpec` refuses.
        """
        names = [p.name for p in self.perspectives]
        if len(names) == 1 and not isinstance(action, Mapping):
            actions = [action]
        elif isinstance(action, Mapping) and set(action) == set(names):
            actions = [action[name] for name in names]
        else:
            got = sorted(action) if isinstance(action, Mapping) else type(action).__name__
            raise ValueError(f"step: give one action for each of {names}, got {got}.")
        for spec, one in zip(self._specs, actions, strict=True):
            spec.check(one, num_envs, self.device, "step")
            if self.validate:
                spec.check_values(one, "step")
        return actions

    def join(self, actions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The joint action ``(B, A)`` in the joint dtype, as it is and within its bounds; class indices count from 0.

        NaN stays.
        """
        parts = [self._columns(action, spec) for action, spec in zip(actions, self._specs, strict=True)]
        joint = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return joint, torch.clamp(joint, self._low, self._high)

    def _columns(self, action: Tensor, spec: ActionSpec) -> Tensor:
        """One perspective's action ``(B, *shape)`` as ``(B, size)`` in the joint dtype, as it is."""
        if spec.offset:
            action = action.to(torch.int64) - spec.offset  # of narrower ones it would wrap
        return action.to(self.dtype).reshape(action.shape[0], spec.size)

    def sample(self, rng: CounterRNG, draw: int) -> dict[str, Tensor]:
        """Random actions ``(B, *shape)`` by perspective name.

        Uniform between finite bounds, standard normal clipped to the bounds otherwise.

        Args:
            rng: The envs' counters.
            draw: Another number below 2^24 gives other actions.
        """
        stream, size = STREAM_ACTION + (draw << 8), self._low.shape[0]
        words = rng.words(size, stream)
        sampled, first = {}, 0
        for perspective in self.perspectives:
            spec = perspective.action
            mine = slice(first, first + spec.size)
            low, high, first = self._low[mine], self._high[mine], mine.stop
            if spec.kind == "discrete":
                count = (high - low).to(torch.int64) + 1
                action = ((words[:, mine] * count) >> 32) + low.to(torch.int64) + spec.offset
            elif all(map(math.isfinite, (*spec.low, *spec.high))):
                action = low + (high - low) * ((words[:, mine] >> 8).to(self.dtype) * 2.0**-24)
            else:
                action = torch.clamp(rng.normal(size, stream, self.dtype)[:, mine], low, high)
            sampled[perspective.name] = action.reshape(len(words), *spec.shape)
        return sampled

    def middle(self, num_envs: int) -> list[Tensor]:
        """An action ``(B, *shape)`` per perspective from the middle of its bounds, 0 where there are none."""
        middle = torch.where(self._high - self._low < 1e6, (self._low + self._high) / 2, 0.0)
        actions = []
        for spec, part in zip(self._specs, middle.split([spec.size for spec in self._specs]), strict=True):
            part = part.to(torch.int64) + spec.offset if spec.kind == "discrete" else part
            actions.append(part.expand(num_envs, -1).reshape(num_envs, *spec.shape))
        return actions
