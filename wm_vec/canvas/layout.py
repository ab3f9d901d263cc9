"""Where each field lies on the canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wm_vec.canvas.field import Field


@dataclass(frozen=True)
class CanvasLayout:
    """A canvas of N positions, each of which belongs to exactly one field.

    Fields lie one after another in the order of the schema, row-major inside each.

    Attributes:
        d_model: Width of a position's latent row.
        num_positions: N.
        starts: First position of each field, by path.
    """

    d_model: int
    num_positions: int
    starts: Mapping[str, int]

    @classmethod
    def of(cls, fields: Mapping[str, Field], d_model: int) -> CanvasLayout:
        """Lay `fields` out in their order."""
        if d_model < 32 or d_model % 32:
            raise ValueError(
                f"d_model must be a positive multiple of 32 (attention heads are 32 wide, which kernels run fast), "
                f"got {d_model}."
            )
        starts, position = {}, 0
        for path, field in fields.items():
            starts[path] = position
            position += field.num_positions
        return cls(d_model=d_model, num_positions=position, starts=starts)
