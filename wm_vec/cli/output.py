"""What commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wm_vec.plain import printable

MIN_WIDTH = 110
"""Characters that tables may take where the output is no terminal."""
FIRST_LINE, LINE_EVERY = 2.0, 10.0
"""Seconds until progress says something for the first time where no terminal shows its bar, and from then on."""


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
        """Progress on standard error, whose tasks have a field ``note``: a bar on a terminal, lines elsewhere."""
        return (Progress if self._notes.is_terminal else Lines)(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._notes,
            disable=not self._notes.is_terminal,
        )


class Lines(Progress):
    """Progress as plain lines, for logs: how far, how fast, how long it will take, and the task's note."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task; a line where one is due, and one when the task is done."""
        super().update(task_id, **changes)
        task = self._tasks[task_id]
        elapsed = task.elapsed or 0.0
        if not task.finished and elapsed < task.fields.get("due", FIRST_LINE):
            return
        task.fields["due"] = elapsed + LINE_EVERY
        words = [f"{task.description} {task.completed:,.0f}/{task.total:,.0f}"]
        if task.finished:
            words[0] += f" in {timedelta(seconds=round(elapsed))}"
        elif task.speed:
            words += [f"{task.speed:,.1f}/s", f"{timedelta(seconds=task.time_remaining or 0.0)} left"]
        self.console.print(", ".join([*words, *filter(None, [task.fields["note"]])]))


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
