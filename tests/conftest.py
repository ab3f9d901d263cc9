"""Worlds that tests share."""

from __future__ import annotations

import pytest
import torch

from wm_vec import WorldModel

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cartpole() -> WorldModel:
    """The bundled CartPole world; do not change it."""
    return WorldModel.bundled("CartPole-v1")


@pytest.fixture(scope="session")
def pendulum() -> WorldModel:
    """The bundled Pendulum world; do not change it."""
    return WorldModel.bundled("Pendulum-v1")
