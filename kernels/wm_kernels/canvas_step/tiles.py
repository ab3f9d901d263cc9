"""Which worlds the kernels take, and in which tiles."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from wm_kernels.canvas_step.tables import HEAD_WIDTH, Sizes

LARGEST_CANVAS = 8192
"""N x D that fit on chip."""

WIDTHS = (32, 64, 128)
MOST_POSITIONS = 128


class Tile(NamedTuple):
    """How a kernel is cut: its constexpr sizes and launch options.

    Attributes:
        R: Rows of a program.
        GR: Rows that attend to each other.
        HC: Hidden units at a time.
        NS: Stages of the weights' pipeline.
        DESC: Whether weights are loaded through tensor descriptors.
        num_warps: Warps of a program.
        maxnreg: Registers of a thread; None leaves it to the compiler.
    """

    R: int
    GR: int
    HC: int
    NS: int
    DESC: bool
    num_warps: int
    maxnreg: int | None


def why_not(num_positions: int, width: int, num_heads: int, topology: str = "dense") -> str | None:
    """Why no kernel takes such a canvas; None where one does."""
    if width not in WIDTHS:
        return f"its d_model is {width}, not {', '.join(map(str, WIDTHS))}"
    if width != num_heads * HEAD_WIDTH:
        return f"its attention heads are {width // num_heads} wide, not {HEAD_WIDTH}"
    if topology != "dense":
        return f"its topology is {topology!r}, not 'dense'"
    if num_positions > MOST_POSITIONS or num_positions * width > LARGEST_CANVAS:
        return (
            f"its {num_positions} positions x {width} are more than fit on chip: {LARGEST_CANVAS} in all, of at most "
            f"{MOST_POSITIONS} positions"
        )
    return None


@lru_cache(maxsize=64)
def tile_of(sizes: Sizes, dtype: torch.dtype, arch: str) -> Tile:
    """The tile of a world on an architecture, whatever the number of envs: an env's bits depend on it.

    Chosen by what the prototypes of these kernels did on an H100, where 64 rows by 4 warps won at most sizes.

    Args:
        sizes: The world's.
        dtype: Of the network.
        arch: As `architecture` gives it.
    """
    rows = max(64, sizes.NP)
    hopper = arch in ("cuda:90", "cuda:100")
    wide = sizes.D == 128 and dtype is torch.bfloat16
    # Descriptors are wrong under one assembler at other widths; there is no room for three stages elsewhere.
    stages = 1 if arch.startswith("hip") and sizes.D == 128 else 3 if hopper and wide else 2
    chunk = 64 if sizes.H % 64 == 0 else 32
    limit = {32: 128, 64: 168}.get(sizes.D) if dtype is torch.bfloat16 and arch.startswith("cuda") else None
    return Tile(rows, max(16, sizes.NP), chunk, stages, hopper and wide, 4 if rows == 64 else 8, limit)


@lru_cache(maxsize=8)
def architecture(device: torch.device) -> str:
    """The GPU behind a device: ``"cuda:90"``, ``"hip:gfx942"``; ``"interpreter"`` in host memory."""
    if device.type != "cuda":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return f"hip:{properties.gcnArchName.split(':')[0]}"
    return f"cuda:{properties.major}{properties.minor}"
