"""Calls to Ray actors that may die before they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

LOSSES = (RayActorError, ObjectLostError, GetTimeoutError)
"""Ray's errors for a worker, or a result of it, that is lost."""


class Requests:
    """Pending calls, one per worker; the call to a lost worker is repeated on its replacement.

    Args:
        actors: The workers; read at every call.
        call: ``actor -> ObjectRef``.
        timeout: Seconds after which a worker that has not answered is lost.
        replace: ``(worker, actor, cause)``: puts another actor in the place of a lost one, or raises.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        call: Callable[[Any], Any],
        timeout: float,
        replace: Callable[[int, Any, Exception], None],
    ) -> None:
        self._actors, self._call, self._timeout, self._replace = actors, call, timeout, replace
        self._pending: dict[Any, tuple[int, Any, float]] = {}  # reference -> worker, actor, deadline

    def add(self, worker: int) -> None:
        """Call a worker."""
        actor = self._actors[worker]
        self._pending[self._call(actor)] = worker, actor, time.monotonic() + self._timeout

    def next(self) -> tuple[int, Any]:
        """The worker that answers first, and its answer; at least one call must be pending.

        Raises:
            Exception: What `replace` raises, or what the call raised in the worker.
        """
        while True:
            self._replace_late()
            left = min(deadline for *_, deadline in self._pending.values()) - time.monotonic()
            ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=max(0.0, left))
            for reference in ready:
                worker, actor, _ = self._pending.pop(reference)
                try:
                    return worker, ray.get(reference, timeout=self._timeout)
                except LOSSES as error:
                    self._again(worker, actor, error)

    def _replace_late(self) -> None:
        """Replace workers whose time is up, also while others keep answering."""
        now = time.monotonic()
        late = [reference for reference, (*_, deadline) in self._pending.items() if deadline <= now]
        if late:
            # They may have answered since the last check.
            _, late = ray.wait(late, num_returns=len(late), timeout=0)
        for reference in late:
            worker, actor, _ = self._pending.pop(reference)
            self._again(worker, actor, TimeoutError(f"no answer in {self._timeout:g} s"))

    def _again(self, worker: int, actor: Any, cause: Exception) -> None:
        self._replace(worker, actor, cause)
        self.add(worker)
