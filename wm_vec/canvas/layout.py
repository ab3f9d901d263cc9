"""Where each field lies on the canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

from wm_vec.canvas.field import MAX_POSITIONS, Field

MAX_D_MODEL = 4096


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
        """Lay `fields` out in their order.

        Raises:
            ValueError: A width that is no multiple of 32 up to `MAX_D_MODEL`, or more than `MAX_POSITIONS`.
        """
        if not isinstance(d_model, Integral) or d_model % 32 or not 32 <= d_model <= MAX_D_MODEL:
            raise ValueError(
                f"d_model must be a positive multiple of 32 (attention heads are 32 wide, which kernels run fast), "
                f"at most {MAX_D_MODEL}, got {d_model!r}."
            )
        starts, position = {}, 0
        for path, field in fields.items():
            starts[path] = position
            position += field.num_positions
        if position > MAX_POSITIONS:
            raise ValueError(f"The fields have {position} positions; a canvas takes at most {MAX_POSITIONS}.")
        return cls(d_model=int(d_model), num_positions=position, starts=starts)
