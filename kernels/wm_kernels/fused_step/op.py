"""`FusedStep`: a world's whole env step as one operator and one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from wm_kernels.arena import Arena, Segment
from wm_kernels.canvas_step.op import network_arguments
from wm_kernels.canvas_step.reference import Controls
from wm_kernels.canvas_step.tables import padded_size
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.dispatch import LIBRARY
from wm_kernels.finish_step.op import MODES, NO_HORIZON, outcome_of, outcome_segments, power_of_two
from wm_kernels.finish_step.reference import Autoreset, Draw, FinishedStep
from wm_kernels.fused_step.reference import CanvasState, FusedOutput, Role

_STEPS: WeakValueDictionary[int, FusedStep] = WeakValueDictionary()
_NUMBERS = count()


class FusedStep:
    """`fused_step_reference` of one world as a kernel. All outputs are views of one byte tensor.

    Args:
        packed: Gives the weights as they are at a step, with their kernel tables; called on the host at every step.
        controls: How the canvas is acted on.
        roles: The perspectives.
        reset_stream: The stream that places the starts of episodes.

    Raises:
        ValueError: Positions that two perspectives act on, or that one observes twice.
    """

    def __init__(
        self, packed: Callable[[], PackedWeights], controls: Controls, roles: Sequence[Role], reset_stream: int
    ) -> None:
        acted = [position for role in roles for position in role.acts]
        if len({*acted}) < len(acted) or any(len({*role.observes}) < len(role.observes) for role in roles):
            raise ValueError("FusedStep: a position is acted on by one perspective, and observed once by each.")
        self.packed, self.controls, self.roles, self.reset_stream = packed, controls, tuple(roles), reset_stream
        self.arena, self.tables = self._arena(), self._tables()
        self._restore()

    def _restore(self) -> None:
        self.number = next(_NUMBERS)
        _STEPS[self.number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._restore()

    def _arena(self) -> Arena:
        """Where the outputs lie."""
        positions = self.controls.num_positions
        segments = [*outcome_segments(len(self.roles))]
        if self.controls.period is not None:
            segments += [Segment("tick", torch.int64), Segment("final_tick", torch.int64)]
        segments += [
            Segment("values", torch.float32, (positions,)),
            Segment("final_values", torch.float32, (positions,)),
        ]
        for i, role in enumerate(self.roles):
            dtype = torch.int64 if role.whole else torch.float32
            segments += [Segment(f"{name}{i}", dtype, (len(role.observes),)) for name in ("observed", "last_observed")]
        return Arena(segments)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """``columns``, ``bounds`` and ``roles`` of the kernel."""
        size, roles, device = padded_size(self.controls.num_positions), self.roles, self.controls.columns.device
        columns = torch.full((3 + len(roles), size), -1, dtype=torch.int32)
        bounds = torch.zeros(2, size)
        for p, role in enumerate(roles):
            acts, observes = list(role.acts), list(role.observes)
            columns[0, acts], columns[1, acts] = p, torch.arange(len(acts), dtype=torch.int32)
            columns[2, acts] = role.offset
            bounds[:, acts] = torch.tensor((role.low, role.high))
            columns[3 + p, observes] = torch.arange(len(observes), dtype=torch.int32)
        paid = torch.tensor([[role.reward for role in roles], [role.terminated for role in roles]], dtype=torch.int32)
        return columns.to(device), bounds.to(device), paid.to(device)

    def __call__(
        self,
        state: CanvasState,
        actions: Sequence[Tensor],
        bank: Sequence[Tensor],
        draw: Draw | None,
        horizon: int | None,
        autoreset: Autoreset,
    ) -> FusedOutput:
        """One step of B envs; see `fused_step_reference`."""
        size = None if draw is None else draw.size
        buffer = torch.ops.wm_kernels.fused_step(
            *state, list(actions), list(bank), size, NO_HORIZON if horizon is None else horizon, autoreset, self.number,
        )  # fmt: skip
        return self._output(buffer, state, autoreset)

    def _output(self, buffer: Tensor, state: CanvasState, autoreset: Autoreset) -> FusedOutput:
        views = self.arena.views(buffer, state.values.shape[0])
        several, ticks = len(self.roles) > 1, state.tick is not None
        leaves = ("tick", "values") if ticks else ("values",)
        finished = FinishedStep(
            final=[views["final_" + name] for name in leaves],
            state=[views[name] for name in leaves],
            **outcome_of(views, several, autoreset),
        )
        return FusedOutput(
            finished,
            [views[f"observed{i}"] for i in range(len(self.roles))],
            [views[f"last_observed{i}"] for i in range(len(self.roles))],
        )


LIBRARY.define(
    "fused_step(Tensor values, Tensor? tick, Tensor elapsed, Tensor episode, Tensor seed, Tensor returns, "
    "Tensor ended, Tensor pending, Tensor[] actions, Tensor[] bank, Tensor? size, SymInt horizon, str autoreset, "
    "int number) -> Tensor",
    tags=(torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else (),
)


@torch.library.register_fake("wm_kernels::fused_step")
def _buffer(values: Tensor, *arguments: Any) -> Tensor:
    """The arena, not yet written."""
    return values.new_empty(_STEPS[arguments[-1]].arena.size(values.shape[0]), dtype=torch.uint8)


@torch.library.impl(LIBRARY, "fused_step", "CPU")
@torch.library.impl(LIBRARY, "fused_step", "CUDA")
def _launch(
    values: Tensor,
    tick: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    seed: Tensor,
    returns: Tensor,
    ended: Tensor,
    pending: Tensor,
    actions: list[Tensor],
    bank: list[Tensor],
    size: Tensor | None,
    horizon: int,
    autoreset: str,
    number: int,
) -> Tensor:
    from wm_kernels.fused_step.kernel import fused_step_kernel

    step, num_envs = _STEPS[number], values.shape[0]
    buffer, controls, packed = _buffer(values, number), step.controls, step.packed()
    if not num_envs:
        return buffer
    assert packed.kernel is not None
    network, constants, envs = network_arguments(packed.kernel, values.device)
    state = [
        x.contiguous() for x in (values, elapsed if tick is None else tick, elapsed, episode, seed, returns, ended)
    ]
    start = bank[-1] if bank else values
    fused_step_kernel[(-(-num_envs // envs),)](
        *state,
        pending.contiguous(),
        tuple(action.contiguous() for action in actions),
        start,
        bank[0] if len(bank) > 1 else elapsed,
        elapsed if size is None else size,
        *step.arena.parts(buffer, num_envs),
        num_envs,
        step.arena.stride(num_envs),
        horizon,
        controls.ticks_per_step,
        *step.tables,
        controls.hold,
        elapsed if controls.padded_period is None else controls.padded_period,
        *network,
        ACT_WIDTHS=tuple(len(role.acts) for role in step.roles),
        OBS_WIDTHS=tuple(len(role.observes) for role in step.roles),
        OBS_WHOLE=tuple(role.whole for role in step.roles),
        PP=power_of_two(len(step.roles)),
        MODE=MODES[autoreset],
        PERIODS=controls.period is not None,
        NOISE_STREAM=controls.stream,
        RESET_STREAM=step.reset_stream,
        HOLDS=controls.held is not None or controls.period is not None,
        **constants,
    )
    return buffer
