"""Worlds and models that the rollouts are of, and the actions taken in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from wm_vec import Field, ModelConfig, WorldModel, compile_schema

SCHEMA_WORLD = Path(__file__).parent / "schema_world.safetensors"
PORT = {
    "slow": Field(w=2, period=3),
    "fast": Field(low=-2.0, high=2.0),
    "mode": Field(num_classes=4, period=2),
    "gear": Field(num_classes=3),
    "push": Field(is_output=False),
    "steer": Field(w=2, is_output=False, low=-0.5, high=0.5),
}


@cache
def bundled(env_id: str) -> WorldModel:
    """A bundled world; do not change it."""
    return WorldModel.bundled(env_id)


@cache
def port() -> WorldModel:
    """A world of numbers and classes, some of them slow; do not change it."""
    return WorldModel.load(SCHEMA_WORLD)


def save_port() -> None:
    """Write the weights of `port`: random ones, large enough that every part of the network matters."""
    world = WorldModel(
        compile_schema(PORT, d_model=32),
        config=ModelConfig(num_blocks=1, mlp_ratio=2, sigma_max=1.5, n_denoise_steps=2),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    world.model.codec.step_mean.fill_(0.03)
    world.model.codec.step_std.fill_(0.1)
    world.trained = True  # as far as warnings go
    world.save(SCHEMA_WORLD)


def classes(num_steps: int, num_envs: int, num_classes: int = 2, seed: int = 0) -> np.ndarray:
    """Random class indices ``(T, B)`` int64; every second dozen of an env leans to low ones, so that poles fall."""
    leans = (np.arange(num_steps)[:, None] // 12 + np.arange(num_envs)) % 2 == 0
    drawn = np.random.default_rng(seed).random((num_steps, num_envs)) * np.where(leans, 0.6, 1.0)
    return (drawn * num_classes).astype(np.int64)


def numbers(num_steps: int, num_envs: int, size: int = 1, high: float = 1.2, seed: int = 0) -> np.ndarray:
    """Random actions ``(T, B, size)`` float32, some beyond the bounds of the env if these are below `high`."""
    return np.random.default_rng(seed).uniform(-high, high, (num_steps, num_envs, size)).astype(np.float32)


def _weights(*shape: int, seed: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


class Latent:
    """A latent state behind a flat observation; takes any leading axes."""

    def __init__(self) -> None:
        self.inward, self.outward = _weights(6, 4, seed=1), _weights(4, 3, seed=2)

    def decode(self, state):
        return state @ self.outward

    def step(self, state, action):
        return self.after(0.8 * state + 0.5 * torch.tanh(torch.cat([state, action], -1) @ self.inward), action)

    def after(self, latent, action):
        return {
            "state": latent,
            "observation": self.decode(latent),
            "reward": latent.mean(-1) - 0.1 * action.square().sum(-1),
            "terminated": latent.abs().amax(-1) > 2.0,
            "truncated": latent[..., 0] < -1.6,
        }


def noisy_step(model, state, action, rng):
    """A step with the env's own random numbers."""
    noise = 0.3 * rng.normal(4).reshape(state.shape)
    latent = 0.8 * state + 0.5 * torch.tanh(torch.cat([state, action], -1) @ model.inward) + noise
    return model.after(latent, action)


def reset_one(model, seed):
    """A start made of the seed, without a generator."""
    latent = torch.as_tensor(np.random.default_rng(seed).normal(size=4).astype(np.float32))
    return latent, model.decode(latent)


class Painter:
    """Observes a picture and a class in a Dict, acts by a class."""

    def step(self, state, action):
        place = (state + 0.13 * (action - 4)) % 1.0
        return place, self.see(place), torch.cos(place * 6.28)

    def reset(self, seed):
        place = torch.tensor(seed % 97 / 97.0)
        return place, self.see(place)

    def see(self, place):
        line = torch.linspace(0, 1, 6)
        bright = (255 * torch.exp(-8 * (line - place[..., None]) ** 2)).round()
        return {"image": bright.to(torch.uint8), "side": (place > 0.5).to(torch.int64)}
