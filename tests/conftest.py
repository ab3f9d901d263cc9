"""Worlds that tests share."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported: kernels run in host memory then

from wm_vec import WorldModel  # noqa: E402 - imports Triton


@pytest.fixture(scope="session")
def cartpole() -> WorldModel:
    """The bundled CartPole world; do not change it."""
    return WorldModel.bundled("CartPole-v1")


@pytest.fixture(scope="session")
def pendulum() -> WorldModel:
    """The bundled Pendulum world; do not change it."""
    return WorldModel.bundled("Pendulum-v1")
