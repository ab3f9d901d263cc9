"""Worlds that tests share."""

from __future__ import annotations

import os

import pytest
import torch

from wm_vec import WorldModel

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are imported later, and run in host memory then


@pytest.fixture(scope="session")
def cartpole() -> WorldModel:
    """The bundled CartPole world; do not change it."""
    return WorldModel.bundled("CartPole-v1")


@pytest.fixture(scope="session")
def pendulum() -> WorldModel:
    """The bundled Pendulum world; do not change it."""
    return WorldModel.bundled("Pendulum-v1")
