"""Observed values as a table for people."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

MOST = 8
"""Values of a field that get a row each."""
PLAIN_WIDTH = 200
"""Characters of a line where the output is no terminal."""


class ValueTable:
    """Prints one env's observed values: field, value, change since the last step, and unit where a field has one.

    A terminal has one table, rewritten at every step below what others print. Elsewhere, in files and pipes, every
    step prints a table of plain text. It can be pickled and copied; a copy begins anew.

    Args:
        units: Field path -> unit of its values; fields without one may be missing.
    """

    def __init__(self, units: Mapping[str, str]) -> None:
        self._units = dict(units)
        self._step = -1
        self._before: Mapping[str, np.ndarray] = {}
        self._last: Mapping[str, np.ndarray] = {}
        self._live: Live | None = None

    def show(self, step: int, named: Mapping[str, np.ndarray]) -> None:
        """Print the values of one step.

        Args:
            step: Which one of the episode; 0 has no step before it, so no changes.
            named: Field path -> values. Kept until the next step, not changed.
        """
        if step != self._step:
            self._before, self._step = self._last if step else {}, step
        self._last = named
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            Console(highlight=False, markup=False, width=PLAIN_WIDTH).print(self._table())
            return
        if self._live is None:
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
            weakref.finalize(self, self._live.stop)  # gives the cursor back, when Python exits too
        self._live.update(self._table(), refresh=True)

    def close(self) -> None:
        """Leave the last table as it is; what is shown next begins below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table("field", title=f"step {self._step}", title_justify="left", box=None, pad_edge=False)
        table.columns[0].no_wrap = True
        for name in ("value", "change"):
            table.add_column(name, justify="right", no_wrap=True)
        if self._units:
            table.add_column("unit")
        for path, values in self._last.items():
            for row in _rows(path, np.ravel(values), self._before.get(path)):
                table.add_row(*row, *([self._units.get(path, "")] if self._units else []))
        return table

    def __reduce__(self) -> tuple[type[ValueTable], tuple[Mapping[str, str]]]:
        return ValueTable, (self._units,)


def _rows(path: str, values: np.ndarray, before: np.ndarray | None) -> Iterator[tuple[str, str, str]]:
    """Name, value and change of a field's values ``(n,)``."""
    changes = None if before is None else values.astype(np.float64) - np.ravel(before)
    for i, value in enumerate(values[:MOST]):
        name = path if len(values) == 1 else f"{path}[{i}]"
        yield name, f"{value:.4g}", "" if changes is None else f"{changes[i]:+.4g}" if changes[i] else "0"
    if len(values) > MOST:
        yield f"{path}[{MOST}:]", f"{len(values) - MOST} more", ""
