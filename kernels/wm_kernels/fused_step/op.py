"""`FusedStep`: a world's whole env step as one operator and one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels.arena import Arena, Segment
from wm_kernels.canvas_step.op import network_arguments
from wm_kernels.canvas_step.reference import Controls
from wm_kernels.canvas_step.tables import padded_size
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.dispatch import Launch
from wm_kernels.finish_step.op import MODES, NO_HORIZON, outcome_of, outcome_segments, power_of_two
from wm_kernels.finish_step.reference import Autoreset, Draw, FinishedStep
from wm_kernels.fused_step.reference import CanvasState, FusedOutput, Role


class FusedStep(Launch):
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
        super().__init__()

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
        settings = NO_HORIZON if horizon is None else horizon, MODES[autoreset]
        (buffer,) = self.over([*state, size, *actions, *bank], *settings)
        views = self.arena.views(buffer, state.values.shape[0])
        leaves = ("values",) if state.tick is None else ("tick", "values")
        finished = FinishedStep(
            final=[views["final_" + name] for name in leaves],
            state=[views[name] for name in leaves],
            **outcome_of(views, len(self.roles) > 1, autoreset),
        )
        observed, last = (
            [views[f"{name}{i}"] for i in range(len(self.roles))] for name in ("observed", "last_observed")
        )
        return FusedOutput(finished, observed, last)

    def outputs(self, tensors: Sequence[Any], *settings: int) -> list[Tensor]:
        """The arena."""
        return [tensors[0].new_empty(self.arena.size(tensors[0].shape[0]), dtype=torch.uint8)]

    def write(self, tensors: Sequence[Any], outputs: list[Tensor], *settings: int) -> None:
        """By programs of as many envs as fit in a tile, with the weights as they are now."""
        from wm_kernels.fused_step.kernel import fused_step_kernel

        controls, tables, (horizon, mode) = self.controls, self.packed().kernel, settings
        assert tables is not None
        (values, tick, elapsed, *state), size, agents = tensors[:8], tensors[8], len(self.roles)
        actions, bank = tuple(tensors[9 : 9 + agents]), tensors[9 + agents :]
        periods, num_envs = controls.period is not None, values.shape[0]
        network, constants, envs = network_arguments(tables, values.device)
        fused_step_kernel[(-(-num_envs // envs),)](
            values, tick if periods else elapsed, elapsed, *state, actions,
            bank[-1] if bank else values, bank[0] if periods and bank else elapsed,  # what is not there is not read
            elapsed if size is None else size, *self.arena.parts(outputs[0], num_envs), num_envs,
            self.arena.stride(num_envs), horizon, controls.ticks_per_step, *self.tables, controls.hold,
            controls.padded_period if periods else elapsed, *network,
            ACT_WIDTHS=tuple(len(role.acts) for role in self.roles),
            OBS_WIDTHS=tuple(len(role.observes) for role in self.roles),
            OBS_WHOLE=tuple(role.whole for role in self.roles), PP=power_of_two(agents), MODE=mode, PERIODS=periods,
            NOISE_STREAM=controls.stream, RESET_STREAM=self.reset_stream,
            HOLDS=periods or controls.held is not None, **constants,
        )  # fmt: skip
