"""`canvas_step`: contract, dispatch and launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wm_kernels.canvas_step.reference import Controls, canvas_step_reference
from wm_kernels.canvas_step.tables import KernelTables, Sizes
from wm_kernels.canvas_step.tiles import architecture, tile_of
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.dispatch import LIBRARY, Op, TensorContract, is_plain_tensor, wants_graph

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
    constants: dict[str, Any] = {**sizes._asdict(), **tile._asdict()}
    if constants.pop("maxnreg") is not None:
        constants["maxnreg"] = tile.maxnreg
    constants["WEIGHT"] = tl.bfloat16 if dtype is torch.bfloat16 else tl.float32
    constants["IP"] = "tf32" if dtype is torch.bfloat16 else "ieee"
    return [tables.weights, heads, hidden, *tables.tensors[1:]], constants, tile.R // sizes.NP


LIBRARY.define(
    "canvas_step(Tensor values, Tensor? tick, Tensor action, Tensor seed, Tensor episode, Tensor step, "
    "Tensor[] tables, int[] sizes, Tensor action_column, Tensor hold, Tensor? period, int ticks_per_step, int stream, "
    "bool holds) "
    "-> Tensor"
)


@canvas_step.register(
    "triton", lambda packed, controls, values, *tensors: packed.kernel is not None and takes(values, *tensors)
)
def canvas_step_triton(
    packed: PackedWeights,
    controls: Controls,
    values: Tensor,
    action: Tensor,
    seed: Tensor,
    episode: Tensor,
    step: Tensor,
    tick: Tensor | None = None,
) -> Tensor:
    """`canvas_step_reference` in one launch."""
    assert packed.kernel is not None
    tables, tick = packed.kernel, tick if controls.period is not None else None
    return torch.ops.wm_kernels.canvas_step(
        values, tick, action, seed, episode, step, list(tables.tensors), list(tables.sizes), controls.action_column,
        controls.hold, controls.padded_period, controls.ticks_per_step, controls.stream,
        controls.held is not None or controls.period is not None,
    )  # fmt: skip


@torch.library.register_fake("wm_kernels::canvas_step")
def _fake(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@torch.library.impl(LIBRARY, "canvas_step", "CPU")
@torch.library.impl(LIBRARY, "canvas_step", "CUDA")
def _launch(
    values: Tensor,
    tick: Tensor | None,
    action: Tensor,
    seed: Tensor,
    episode: Tensor,
    step: Tensor,
    tables: list[Tensor],
    sizes: list[int],
    action_column: Tensor,
    hold: Tensor,
    period: Tensor | None,
    ticks_per_step: int,
    stream: int,
    holds: bool,
) -> Tensor:
    from wm_kernels.canvas_step.kernel import canvas_step_kernel

    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    packed = KernelTables._make([*tables, Sizes._make(sizes)])
    network, constants, envs = network_arguments(packed, values.device)
    if values.shape[0]:
        canvas_step_kernel[(-(-values.shape[0] // envs),)](
            values.contiguous(),
            seed if tick is None else tick.contiguous(),
            action.contiguous(),
            seed.contiguous(),
            episode.contiguous(),
            step.contiguous(),
            out,
            values.shape[0],
            ticks_per_step,
            action_column,
            hold,
            seed if period is None else period,
            *network,
            A=action.shape[1],
            PERIODS=period is not None,
            STREAM=stream,
            HOLDS=holds,
            **constants,
        )
    return out
