"""Models that draw from the global generators, made reproducible without disturbing anybody else's draws."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch


class GlobalGenerator:
    """The global generators of torch, NumPy and Python, lent to a model under seeds of our own.

    Args:
        device: The model's device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: tuple[Any, ...] | None = None

    @contextmanager
    def seeded(self, *words: int) -> Iterator[None]:
        """Draws inside depend on `words` alone; outside goes on as if nothing had been drawn."""
        outer = self._get()
        self._seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
        try:
            yield
        finally:
            self._set(outer)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Draws inside go on where the last ones inside ended."""
        outer = self._get()
        if self._stream is None:
            self.restart(0)
        self._set(self._stream or outer)
        try:
            yield
        finally:
            self._stream = self._get()
            self._set(outer)

    def restart(self, seed: int) -> None:
        """Begin the stream anew."""
        outer = self._get()
        self._seed(seed)
        self._stream = self._get()
        self._set(outer)

    def _seed(self, seed: int) -> None:
        torch.random.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the global one that models draw from
        random.seed(seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)

    def _get(self) -> tuple[Any, ...]:
        card = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), np.random.get_state(), random.getstate(), card  # noqa: NPY002

    def _set(self, states: tuple[Any, ...]) -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if states[3] is not None:
            torch.cuda.set_rng_state(states[3], self._device)


class DrawWatch:
    """Looks at every callable the first time that it runs: does it draw from a global generator?"""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, name: str, *instead: str) -> AbstractContextManager[None]:
        """`warn_of_draws` around the first call of this name; nothing around others, and while tracing."""
        if torch.compiler.is_compiling() or name in self._seen:
            return nullcontext()
        self._seen.add(name)
        return warn_of_draws(name, *instead)


RESET_DRAWS = "a torch.Generator of its own, seeded with its seed argument"
"""What a reset could draw from."""


@contextmanager
def warn_of_draws(
    name: str, instead: str = "the rng argument: transition_fn(model, state, action, rng)"
) -> Iterator[None]:
    """Warn if what runs inside draws from a global generator of torch, NumPy or Python, or seeds it.

    Args:
        name: The callable.
        instead: What else it could draw from.
    """
    before = global_states()
    yield
    changed = [which for which, state in global_states().items() if state != before[which]]
    if changed:
        warnings.warn(
            f"{name} uses {' and '.join(changed)} global random generator, so the same seed need not give the same "
            f"episode, and other code's draws change. Declare it with rng='global', or draw from {instead}.",
            stacklevel=3,
        )


def global_states() -> dict[str, bytes]:
    """Whose generator -> its state."""
    _, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one
    torchs = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torchs += torch.cuda.get_rng_state_all()
    return {
        "torch's": b"".join(state.numpy().tobytes() for state in torchs),
        "NumPy's": np.asarray(words).tobytes() + repr(rest).encode(),
        "Python's": repr(random.getstate()).encode(),
    }
