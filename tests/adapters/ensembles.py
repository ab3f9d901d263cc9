"""Ensembles of TorchRL's networks that say how much their members disagree."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import EnsembleModule, TensorDictModule
from torch import nn
from torchrl.modules import MLP

MEMBERS = 5


class Ensemble(nn.Module):
    """Members that each predict the change of the observation, and the reward; any leading axes.

    Args:
        num_observed: Size of observations.
        num_actions: Size of actions.
    """

    def __init__(self, num_observed: int, num_actions: int) -> None:
        super().__init__()
        self.net = MLP(num_observed + num_actions, num_observed + 1, depth=2, num_cells=32, activation_class=nn.SiLU)
        module = TensorDictModule(self.net, in_keys=["observation", "action"], out_keys=["change"])
        self.members = EnsembleModule(module, MEMBERS)
        self.register_buffer("scale", torch.ones(num_observed))

    def predict_members(self, observation, action):
        """``(MEMBERS, ..., n + 1)``: changes in units of `scale`, and rewards."""
        scaled = TensorDict(
            {"observation": observation / self.scale, "action": action}, batch_size=observation.shape[:-1]
        )
        return self.members(scaled)["change"]

    def predict(self, observation, action):
        """The members' mean, and what they disagree on in info: one number per env."""
        told = self.predict_members(observation, action)
        mean = told.mean(0)
        following = observation + mean[..., :-1] * self.scale
        never = torch.zeros(following.shape[:-1], dtype=torch.bool)
        return following, mean[..., -1], never, never, {"disagreement": told.std(0).mean(-1)}


def fit(model: Ensemble, data: TensorDict, num_steps: int) -> Ensemble:
    """Train every member on a resampling of its own of ``(N,)`` real transitions in TorchRL's layout."""
    observation, action = data["observation"], data["action"]
    model.scale.copy_(observation.std(0))
    target = torch.cat([(data["next", "observation"] - observation) / model.scale, data["next", "reward"]], -1)
    weights = torch.distributions.Poisson(torch.ones(MEMBERS, len(data), 1)).sample()
    optimiser = torch.optim.Adam(model.members.parameters(), 3e-3)
    for _ in range(num_steps):
        rows = torch.randint(0, len(data), (256,))
        error = model.predict_members(observation[rows], action[rows]) - target[rows]
        loss = (weights[:, rows] * error.square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model
