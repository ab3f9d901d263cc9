"""`canvas_step`: contract, dispatch and launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels.canvas_step.reference import Controls, canvas_step_reference
from wm_kernels.canvas_step.tables import KernelTables
from wm_kernels.canvas_step.tiles import architecture, tile_of
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.dispatch import Launch, Op, TensorContract, is_plain_tensor, wants_graph

FUSION = {"enable_fp_fusion": True}
"""Multiply and add in one, as the references do; Triton's own default changes with its version."""
COUNTERS = TensorContract(("B",), (torch.int64,))

canvas_step = Op(
    "canvas_step",
    canvas_step_reference,
    {
        "values": TensorContract(("B", "N")),
        "action": TensorContract(("B", "A")),
        "seed": COUNTERS,
        "episode": COUNTERS,
        "step": COUNTERS,
    },
    first=2,
)


def takes(values: Tensor, *tensors: Tensor | None) -> bool:
    """Whether a kernel may run over these tensors."""
    return is_plain_tensor(values) and values.dtype is torch.float32 and not wants_graph(values, *tensors)


def network_arguments(tables: KernelTables, device: torch.device) -> tuple[list[Any], dict[str, Any], int]:
    """What every kernel over a canvas takes last: tensors, constexpr sizes and launch options; and its envs."""
    import triton.language as tl

    sizes, dtype = tables.sizes, tables.weights.dtype
    tile = tile_of(sizes, dtype, architecture(device))
    heads, hidden = tables.weights, tables.weights
    if tile.DESC:
        from triton.tools.tensor_descriptor import TensorDescriptor

        heads, hidden = (TensorDescriptor.from_tensor(tables.weights, [n, sizes.D]) for n in (32, tile.HC))
    constants: dict[str, Any] = {**sizes._asdict(), **tile._asdict(), **FUSION}
    if constants.pop("maxnreg") is not None:
        constants["maxnreg"] = tile.maxnreg
    constants["WEIGHT"] = tl.bfloat16 if dtype is torch.bfloat16 else tl.float32
    constants["IP"] = "tf32" if dtype is torch.bfloat16 else "ieee"
    return [tables.weights, heads, hidden, *tables.tensors[1:]], constants, tile.R // sizes.NP


class CanvasLaunch(Launch):
    """`canvas_step` in one launch, over values, action, seed, episode, step and tick."""

    def __init__(self, tables: KernelTables, controls: Controls) -> None:
        super().__init__()
        self.tables, self.controls = tables, controls

    def outputs(self, tensors: Sequence[Any], *settings: int) -> list[Tensor]:
        """The next values."""
        return [torch.empty_like(tensors[0], memory_format=torch.contiguous_format)]

    def write(self, tensors: Sequence[Any], outputs: list[Tensor], *settings: int) -> None:
        """By programs of as many envs as fit in a tile."""
        from wm_kernels.canvas_step.kernel import canvas_step_kernel

        values, action, seed, episode, step, tick = tensors
        controls, periods = self.controls, self.controls.period is not None
        network, constants, envs = network_arguments(self.tables, values.device)
        canvas_step_kernel[(-(-values.shape[0] // envs),)](
            values, tick if periods else seed, action, seed, episode, step, outputs[0], values.shape[0],
            controls.ticks_per_step, controls.action_column, controls.hold,
            controls.padded_period if periods else seed, *network, A=action.shape[1], PERIODS=periods,
            STREAM=controls.stream, HOLDS=periods or controls.held is not None, **constants,
        )  # fmt: skip


@canvas_step.register("triton", lambda packed, _, *tensors: packed.kernel is not None and takes(*tensors))
def canvas_step_triton(packed: PackedWeights, controls: Controls, *tensors: Tensor | None) -> Tensor:
    """`canvas_step_reference` in one launch."""
    assert packed.kernel is not None
    return CanvasLaunch(packed.kernel, controls).over(tensors)[0]
