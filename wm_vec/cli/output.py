"""What commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_vec.plain import printable

MIN_WIDTH = 110
"""Characters that tables may take where the output is no terminal."""


class Reporter:
    """Where a command's words go.

    Args:
        stdout: Where the result goes.
        as_json: Whether the result is JSON.
    """

    def __init__(self, stdout: IO[str], as_json: bool) -> None:
        self.as_json = as_json
        self._stdout = stdout
        self._notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line on standard error."""
        self._notes.print(printable(text))

    def result(self, payload: dict[str, Any], *renderables: RenderableType) -> None:
        """The command's result: `payload` as JSON, or else `renderables` for people."""
        if self.as_json:
            print(json.dumps(finite(payload), indent=2, allow_nan=False), file=self._stdout, flush=True)
            return
        width = None if self._stdout.isatty() else MIN_WIDTH
        console = Console(file=self._stdout, highlight=False, markup=False, width=width)
        for renderable in renderables:
            console.print(renderable)

    def progress(self) -> Progress:
        """A progress bar on standard error, whose tasks have a field ``note``."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._notes,
        )


@contextmanager
def reporting(as_json: bool) -> Iterator[Reporter]:
    """A reporter, which also notes warnings; under `as_json` what else is printed goes to standard error meanwhile."""
    reporter = Reporter(sys.stdout, as_json)
    with redirect_stdout(sys.stderr) if as_json else nullcontext(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: reporter.note(f"warning: {message}")
        yield reporter


def finite(value: Any) -> Any:
    """The same plain data with None for numbers that JSON does not have."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)
