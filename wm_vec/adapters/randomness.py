"""Models that draw from torch's global generator, made reproducible without disturbing anybody else's draws."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class GlobalGenerator:
    """Torch's global generator (of the CPU, and of the model's card), lent to a model under seeds of our own.

    Args:
        device: The model's device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: list[torch.Tensor] | None = None

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
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)

    def _get(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states

    def _set(self, states: list[torch.Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)


@contextmanager
def warn_of_draws(
    name: str, instead: str = "the rng argument: transition_fn(model, state, action, rng)"
) -> Iterator[None]:
    """Warn if what runs inside draws from torch's global generator, or seeds it.

    Args:
        name: The callable.
        instead: What else it could draw from.
    """
    before = torch.get_rng_state()
    yield
    if not torch.equal(before, torch.get_rng_state()):
        warnings.warn(
            f"{name} uses torch's global random generator, so the same seed need not give the same episode, and other "
            f"code's draws change. Declare it with rng='global', or draw from {instead}.",
            stacklevel=3,
        )
