"""A world's fields as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from wm_vec.canvas import BoundSchema, Field
from wm_vec.schema.calendar import TICKS

WORDS = {ticks: name for name, ticks in TICKS.items()}


def description(bound: BoundSchema, ticks_per_step: int, coverage: Mapping[str, float] | None) -> Group:
    """One line per field, under its group, as something that a rich console prints.

    Args:
        bound: The fields.
        ticks_per_step: Ticks of their periods that a step lasts.
        coverage: Field path -> share of the data that have it; None where that is not known.
    """
    specs = {field.path: field.spec for field in bound.bound_fields()}
    periods = {spec.period for spec in specs.values()}
    words = WORDS if periods <= WORDS.keys() and periods != {1} else {}  # periods of one tick belong to any calendar
    step = (
        f"a {words[ticks_per_step]}"
        if ticks_per_step in words
        else f"{ticks_per_step} tick{'s' * (ticks_per_step > 1)}"
    )
    names = ("field", "h x w", "unit", "period", "bounds", "coverage")
    columns = [
        *(Column(name, no_wrap=True) for name in names),
        Column("meaning", no_wrap=True, ratio=1),
    ]  # what is left
    table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
    group = ""
    for path, spec in specs.items():
        before, (group, _, name) = group, path.rpartition(".")
        if group not in ("", before):
            table.add_row(Text(group, style="bold"))
        period = [_steps(spec.period / ticks_per_step), *([words[spec.period]] if words else [])]
        share = coverage.get(path) if coverage is not None else None
        covered = "-" if share is None else f"{share:.0%}"
        cells = (f"{spec.h} x {spec.w}", spec.unit, ", ".join(period), _bounds(spec), covered, spec.meaning)
        table.add_row(*map(Text, (f"  {name}" if group else name, *cells)))
    title = f"{len(specs)} fields, {bound.layout.num_positions} positions; a step lasts {step}"
    return Group(Text(title, style="italic"), table)


def _steps(steps: float) -> str:
    return "each step" if steps <= 1 else f"{steps:.4g} steps"


def _bounds(spec: Field) -> str:
    if spec.num_classes is not None:
        return f"{spec.num_classes} classes"
    low, high = min(spec.bounds("low")), max(spec.bounds("high"))
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    return f"from {low:g}" if math.isfinite(low) else f"to {high:g}" if math.isfinite(high) else ""
