"""Small models of other people's making, of every kind that the adapters take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import VectorEnv
from torch import nn

from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv


def generator(seed: int | None) -> torch.Generator:
    return torch.Generator().manual_seed(0 if seed is None else int(seed))


class Latent(nn.Module):
    """A latent state of its own behind a flat, unbounded observation; takes any leading axes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.dynamics, self.decoder = nn.Linear(6, 4), nn.Linear(4, 3)

    def imagine_step(self, state, action):
        latent = 0.9 * state + torch.tanh(self.dynamics(torch.cat([state, action], -1)))
        return {
            "state": latent,
            "observation": self.decoder(latent),
            "reward": latent.mean(-1) - 0.1 * action.square().sum(-1),
            "terminated": latent.abs().amax(-1) > 4.0,
        }

    def reset_state(self, seed=None):
        latent = torch.randn(4, generator=generator(seed))
        return latent, self.decoder(latent)


class Painter(nn.Module):
    """Observes a picture and a class in a Dict, draws noise from torch's global generator, acts by classes."""

    def predict(self, state, action):
        place = (state + 0.1 * (action - 1) + 0.02 * torch.randn_like(state)) % 1.0
        return place, self.see(place), torch.cos(place * 6.28)

    def reset(self, seed=None):
        place = torch.rand((), generator=generator(seed))
        return place, self.see(place)

    def see(self, place):
        line = torch.linspace(0, 1, 40)
        bright = 255 * torch.exp(-8 * (line - place[..., None]) ** 2)
        return {
            "image": bright[..., None, None, :].expand(*place.shape, 3, 40, 40).to(torch.uint8),
            "side": (place > 0.5).to(torch.int64),
        }


@dataclass
class Board:
    """A state that is a Python object."""

    cells: list[int]
    moves: int = 0


class Game:
    """A board game in NumPy: states are objects, observations a Tuple."""

    def reset(self, seed=None, options=None):
        cells = np.random.default_rng(seed).integers(0, 5, 4).tolist()
        return Board(cells), self.see(Board(cells)), {}

    def step(self, state, action):
        place, up = (int(x) for x in action)
        board = Board(list(state.cells), state.moves + 1)
        board.cells[place] = (board.cells[place] + (1 if up else -1)) % 5
        won = len(set(board.cells)) == 1
        return board, self.see(board), float(won) - 0.01 * board.moves, won, False, {"moves": board.moves}

    def see(self, board):
        return np.asarray(board.cells, np.float32) / 4, np.int64(board.moves % 3)


class Games:
    """The board game for many at once, in tensors."""

    def reset(self, seed=None):
        board = Game().reset(seed)[0]
        state = {"cells": torch.tensor(board.cells), "moves": torch.tensor(board.moves)}
        return state, self.see(state)

    def step(self, state, action):
        change = nn.functional.one_hot(action[..., 0], 4) * (2 * action[..., 1:] - 1)
        after = {"cells": (state["cells"] + change) % 5, "moves": state["moves"] + 1}
        won = (after["cells"] == after["cells"][..., :1]).all(-1)
        reward = won.float() - 0.01 * after["moves"]
        return after, self.see(after), reward, won, torch.zeros_like(won), {"moves": after["moves"]}

    def see(self, state):
        return state["cells"].float() / 4, state["moves"] % 3


CONTINUOUS = Box(-1.0, 1.0, (2,), np.float32)
FLAT = Box(-np.inf, np.inf, (3,), np.float32)
PICTURE = Dict(image=Box(0, 255, (3, 40, 40), np.uint8), side=Discrete(2))
BOARD = Tuple((Box(0.0, 1.0, (4,), np.float32), Discrete(3)))
MODELS = {
    "latent": (Latent, FLAT, CONTINUOUS, "batched", {}),
    "vmapped": (Latent, FLAT, CONTINUOUS, "vmap", {}),
    "painter": (Painter, PICTURE, Discrete(3), "batched", {"rng": "global"}),
    "game": (Games, BOARD, gym.spaces.MultiDiscrete([4, 2]), "batched", {}),
}
"""Model, spaces, how many of it are run, and options."""
ALONE = {"game": (Game, {"torch_actions": False})}
"""Models that the scalar env takes in place of those for many, whose states are Python objects, and their options."""


def scalar_env(name: str, **options) -> gym.Env:
    model, observation_space, action_space, _, own = MODELS[name]
    model, own = ALONE.get(name, (model, own))
    return WorldModelEnv(model(), observation_space, action_space, **own, **options)


def vector_env(name: str, num_envs: int, **options) -> VectorEnv:
    model, observation_space, action_space, batching, own = MODELS[name]
    return WorldModelVectorEnv.from_callables(
        model(), observation_space, action_space, num_envs=num_envs, batching=batching, bank_size=16, **own, **options
    )


makers = {name: (partial(scalar_env, name), partial(vector_env, name)) for name in MODELS}
