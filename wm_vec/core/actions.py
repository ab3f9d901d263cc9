"""The actions of all perspectives: checked, joined, sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels import native
from wm_kernels.dispatch import is_plain_host_tensor
from wm_vec.core.perspective import ActionSpec, PerMany, Perspective
from wm_vec.core.rng import STREAM_ACTION, CounterRNG

MAX_TABLE = 4096
"""Classes whose joint actions are kept in a table."""


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
        self.perspectives = tuple(perspectives)
        self.dtype, self.device, self.validate = dtype, device, validate
        self.may_diverge = any(p.action.kind == "box" for p in self.perspectives)
        low = [x for p in self.perspectives for x in p.action.low]
        high = [x for p in self.perspectives for x in p.action.high]
        self._low = torch.tensor(low, dtype=dtype, device=device)
        self._high = torch.tensor(high, dtype=dtype, device=device)
        # Bounds common to all elements are clamped to as Python numbers, which is faster.
        common = len({*low}) == len({*high}) == 1
        self._bounds: tuple[Any, Any] = (low[0], high[0]) if common else (self._low, self._high)
        self._rows_of_classes: list[Tensor] | None = None
        first = self.perspectives[0].action
        self._usual = torch.int64 if first.kind == "discrete" else dtype
        self._own_shape = torch.Size(first.shape)
        self._plain = len(self.perspectives) == 1 and dtype in (torch.float32, torch.float64)
        self._offset = first.offset
        classes = first.kind == "discrete" and first.shape == ()
        single = len(self.perspectives) == 1 and classes and not first.offset
        self._classes = (int(first.low[0]), int(first.high[0])) if single else None
        few = classes and first.high[0] - first.low[0] < MAX_TABLE
        if len(self.perspectives) == 1 and few and device.type == "cpu":
            every = range(int(first.low[0]), int(first.high[0]) + 1)
            self._rows_of_classes = [torch.full((1, 1), float(k), dtype=dtype) for k in every]
            self._first_class = int(first.low[0]) + first.offset

    def check(self, action: PerMany, num_envs: int) -> list[Tensor]:
        """One checked ``(B, *shape)`` tensor per perspective.

        Raises:
            TypeError, ValueError: Not one action for each perspective, or one that its `ActionSpec` refuses.
        """
        if len(self.perspectives) == 1 and (isinstance(action, Tensor) or not isinstance(action, Mapping)):
            if not self.validate and self._fits(action, num_envs):
                return [action]
            actions = [action]
        else:
            names = [p.name for p in self.perspectives]
            if not isinstance(action, Mapping) or set(action) != set(names):
                got = sorted(action) if isinstance(action, Mapping) else type(action).__name__
                raise ValueError(f"step: give one action for each of {names}, got {got}.")
            actions = [action[name] for name in names]
        for perspective, one in zip(self.perspectives, actions, strict=True):
            perspective.action.check(one, num_envs, self.device, "step")
            if self.validate:
                perspective.action.check_values(one, "step")
        return actions

    def _fits(self, action: Any, num_envs: int) -> bool:
        """Whether the only perspective's action is one that its `ActionSpec` is sure to take, seen quickly."""
        if type(action) is not Tensor or action.dtype is not self._usual or action.device != self.device:
            return False
        shape = action.shape
        return shape[1:] == self._own_shape and len(shape) > 0 and shape[0] == num_envs

    def join(self, actions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The joint action ``(B, A)`` in the joint dtype, as it is and within its bounds; class indices count from 0.

        NaN stays. Where one perspective's action is one class index, what is within its bounds is given twice.
        """
        if self._classes is not None and actions[0].dtype is torch.int64:
            clipped = actions[0].clamp(*self._classes).to(self.dtype).unsqueeze(1)
            return clipped, clipped
        if len(actions) == 1:
            joint = self.columns(actions[0], self.perspectives[0].action)
        else:
            pairs = zip(actions, self.perspectives, strict=True)
            joint = torch.cat([self.columns(action, perspective.action) for action, perspective in pairs], 1)
        return joint, joint.clamp(*self._bounds)

    def write(self, values: Tensor, columns: Tensor, actions: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """`values` ``(B, N)`` with the joint action within its bounds in `columns`; whether it was finite.

        For host memory, where a look costs nothing.
        """
        action = actions[0]
        usual = self._plain and native.AVAILABLE and action.dtype is self._usual and values.is_contiguous()
        if usual and type(action) is Tensor:
            written = native.write_columns(values, columns, action, self._low, self._high, self._offset)
            if written is not None:
                return written
        joint, clipped = self.join(actions)
        finite = not self.may_diverge or math.isfinite(joint.sum().item())
        return values.index_copy(1, columns, clipped), finite

    def columns(self, action: Tensor, spec: ActionSpec) -> Tensor:
        """One perspective's action ``(B, *shape)`` as ``(B, size)`` in the joint dtype, as it is."""
        if self._rows_of_classes is not None and action.shape[0] == 1 and is_plain_host_tensor(action):
            index = int(action.item()) - self._first_class
            return self._rows_of_classes[min(max(0, index), len(self._rows_of_classes) - 1)]
        if spec.offset:
            action = action.to(torch.int64) - spec.offset  # of narrower ones it would wrap
        if action.dtype is not self.dtype:
            action = action.to(self.dtype)
        if not spec.shape:
            return action.unsqueeze(1)
        return action if len(spec.shape) == 1 else action.reshape(action.shape[0], spec.size)

    def sample(self, rng: CounterRNG, draw: int) -> Tensor:
        """Random actions ``(B, *shape)`` of the first perspective.

        Uniform between finite bounds, standard normal clipped to the bounds otherwise.

        Args:
            rng: The envs' counters.
            draw: Another number below 2^24 gives other actions.
        """
        spec, stream = self.perspectives[0].action, STREAM_ACTION + (draw << 8)
        low, high = self._low[: spec.size], self._high[: spec.size]
        if spec.kind == "discrete":
            count = (high - low).to(torch.int64) + 1
            sample = rng.integers(spec.size, count, stream) + low.to(torch.int64) + spec.offset
            return sample.view(-1, *spec.shape)
        if all(math.isfinite(bound) for bound in (*spec.low, *spec.high)):
            sample = low + (high - low) * rng.uniform(spec.size, stream, self.dtype)
        else:
            sample = torch.clamp(rng.normal(spec.size, stream, self.dtype), low, high)
        return sample.view(-1, *spec.shape)

    def middle(self, num_envs: int) -> list[Tensor]:
        """An action ``(B, *shape)`` per perspective from the middle of its bounds, 0 where there are none."""
        actions = []
        for spec in (p.action for p in self.perspectives):
            pairs = zip(spec.low, spec.high, strict=True)
            values = torch.tensor([(lo + hi) / 2 if hi - lo < 1e6 else 0.0 for lo, hi in pairs])
            dtype = torch.int64 if spec.kind == "discrete" else self.dtype
            one = values.to(self.device, dtype) + spec.offset
            actions.append(one.expand(num_envs, -1).reshape(num_envs, *spec.shape))
        return actions
