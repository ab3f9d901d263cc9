"""The trained models that the seeds leave open: small networks with the methods that their blocks call."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelWorld(nn.Module):
    """Seed 000's: a latent state, pictures (3, 64, 64) of whole numbers; takes any leading axes."""

    num_actions = 6

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.dynamics = nn.Sequential(nn.Linear(8 + 6, 32), nn.ReLU(), nn.Linear(32, 8))
            self.decoder = nn.Linear(8, 3 * 64 * 64)
            self.head = nn.Linear(8, 1)
            self.start = nn.Parameter(torch.randn(8))

    def initial_latent(self) -> Tensor:
        """Learned, and computed: so it hangs on a graph, as encoders' outputs do."""
        return torch.tanh(self.start)

    def reset_state(self, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """For the blocks that say nothing of how episodes start."""
        latent = torch.randn(8, generator=torch.Generator().manual_seed(seed or 0))
        return latent, self.decode(latent)

    def imagine_step(self, state: Tensor, action: Tensor) -> Tensor:
        action = torch.as_tensor(action, dtype=torch.float32)
        return 0.9 * state + 0.5 * torch.tanh(self.dynamics(torch.cat([state, action], -1)))

    def decode(self, state: Tensor) -> Tensor:
        bright = torch.sigmoid(self.decoder(state)) * 255
        return bright.unflatten(-1, (3, 64, 64)).to(torch.uint8)

    def reward(self, state: Tensor) -> Tensor:
        return self.head(state).squeeze(-1)

    def termination(self, state: Tensor) -> Tensor:
        return state[..., 0] > 1.5


class VectorWorld(nn.Module):
    """Seed 001's: resets by a seed, observations of 64 numbers; takes any leading axes."""

    num_actions = 6

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.dynamics = nn.Sequential(nn.Linear(16 + 6, 32), nn.ReLU(), nn.Linear(32, 16))
            self.decoder = nn.Linear(16, 64)
            self.reward_head = nn.Sequential(nn.Linear(16 + 6, 16), nn.Tanh(), nn.Linear(16, 1))

    def sample_initial_state(self, seed: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        return torch.randn(16, generator=generator)

    def decode_observation(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    def predict_next_state(self, state: Tensor, action: Tensor) -> Tensor:
        action = torch.as_tensor(action)  # what an action_transform_fn returns comes as it is
        return 0.9 * state + 0.3 * torch.tanh(self.dynamics(torch.cat([state, action], -1)))

    def predict_reward(self, state: Tensor, action: Tensor) -> Tensor:
        action = torch.as_tensor(action)
        return self.reward_head(torch.cat([state, action], -1)).squeeze(-1)

    def predict_terminal(self, state: Tensor) -> Tensor:
        return state.square().mean(-1) > 4.0
