"""All rollouts: a name and what makes one."""

from __future__ import annotations

from collections.abc import Callable

from tests.golden import face_cases, model_cases, vector_cases
from tests.golden.log import Log

CASES: dict[str, Callable[[], Log]] = {**vector_cases.CASES, **face_cases.CASES, **model_cases.CASES}
