"""Every test of the core runs twice: with the fastest implementations, and with the references alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wm_kernels import use_backend


@pytest.fixture(params=["fastest", "reference"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which implementations of the operations run."""
    if request.param == "fastest":
        yield request.param
        return
    with use_backend(request.param):
        yield request.param
