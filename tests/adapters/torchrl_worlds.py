"""World models built of TorchRL's own parts, trained on real transitions."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torchrl.data import Unbounded
from torchrl.modules import MLP, RSSMPosterior, RSSMPrior, RSSMRollout, WorldModelWrapper

from wm_vec.train import collect_transitions


class Residual(nn.Module):
    """The observation after a step: the one before, and what the net adds to it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, observation, action):
        return observation + self.net(observation, action)


class Scaled(nn.Module):
    """Observations in units of about one: a pole falls at 0.21, and a head should see that."""

    def __init__(self, units) -> None:
        super().__init__()
        self.register_buffer("units", torch.tensor(units))

    def forward(self, observation):
        return observation / self.units


def under(key, place):
    """A key at the root, or under "next"."""
    return key if place == "root" else ("next", key)


class CartPoleNets(nn.Module):
    """Dynamics, reward head and done head, trained on random play in the real CartPole."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamics = Residual(MLP(6, 4, depth=2, num_cells=64))
        self.reward = MLP(4, 1, depth=1, num_cells=16)
        self.done = nn.Sequential(Scaled([2.4, 2.0, 0.21, 2.0]), MLP(4, 1, depth=2, num_cells=64))

    def heads(self, place):
        """TensorDict modules that write under "next", as models trained on TorchRL's batches, or at the root."""
        following = under("observation", place)
        return (
            TensorDictModule(self.dynamics, in_keys=["observation", "action"], out_keys=[following]),
            TensorDictModule(self.reward, in_keys=[following], out_keys=[under("reward", place)]),
            TensorDictModule(self.done, in_keys=[following], out_keys=[under("done", place)]),
        )

    def world(self, place="next"):
        dynamics, reward, done = self.heads(place)
        return TensorDictSequential(WorldModelWrapper(dynamics, reward), done)


def trained_cartpole() -> CartPoleNets:
    data = collect_transitions("CartPole-v1", 6000, seed=3)
    torch.manual_seed(0)
    nets = CartPoleNets()
    batch = TensorDict(
        {"observation": data["observation"], "action": F.one_hot(data["action"], 2).float()}, batch_size=[6000]
    )
    target = data["next", "observation"]
    optimiser = torch.optim.Adam(nets.parameters(), 3e-3)
    for step in range(700):
        rows = torch.randint(0, 6000, (512,))
        out = nets.world()(batch[rows].clone())
        ended = data["next", "terminated"][rows].float()
        loss = 100 * F.mse_loss(out["next", "observation"], target[rows])
        loss = loss + F.mse_loss(out["next", "reward"], data["next", "reward"][rows])
        loss = loss + F.binary_cross_entropy_with_logits(out["next", "done"], ended)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == 500:
            for group in optimiser.param_groups:
                group["lr"] = 5e-4
    return nets


STATE, BELIEF = 8, 32


class RSSMNets(nn.Module):
    """Dreamer's recurrent state-space model over vectors, in the sizes of Pendulum."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = RSSMPrior(Unbounded(1), BELIEF, BELIEF, STATE, action_dim=1)
        self.posterior = RSSMPosterior(BELIEF, STATE, rnn_hidden_dim=BELIEF, obs_embed_dim=16)
        self.encoder = MLP(3, 16, depth=1, num_cells=32)
        self.decoder = MLP(STATE + BELIEF, 3, depth=1, num_cells=32)
        self.reward = MLP(STATE + BELIEF, 1, depth=1, num_cells=32)

    def filter(self, data):
        """Posterior states of real sequences ``(B, T)``."""
        encoder = TensorDictModule(
            self.encoder, in_keys=[("next", "observation")], out_keys=[("next", "encoded_latents")]
        )
        prior = TensorDictModule(
            self.prior,
            in_keys=["state", "belief", "action"],
            out_keys=[("next", "prior_mean"), ("next", "prior_std"), "_", ("next", "belief")],
        )
        posterior = TensorDictModule(
            self.posterior,
            in_keys=[("next", "belief"), ("next", "encoded_latents")],
            out_keys=[("next", "posterior_mean"), ("next", "posterior_std"), ("next", "state")],
        )
        zeros = TensorDict(
            {"state": torch.zeros(*data.shape, STATE), "belief": torch.zeros(*data.shape, BELIEF)}, data.shape
        )
        return RSSMRollout(prior, posterior)(encoder(data.select("action", ("next", "observation")).update(zeros)))

    def imagined(self, noise=False):
        """The world model that imagines, wired as TorchRL's Dreamer wires it; at will with its noise handed in."""
        prior = TensorDictModule(
            self.prior,
            in_keys=["state", "belief", "action", *(["noise"] if noise else [])],
            out_keys=["_", "_", "state", "belief"],
        )
        reward = TensorDictModule(self.reward, in_keys=["state", "belief"], out_keys=["reward"])
        return WorldModelWrapper(prior, reward)

    def decoding(self):
        return TensorDictModule(
            self.decoder, in_keys=[("next", "state"), ("next", "belief")], out_keys=[("next", "observation")]
        )


def pendulum_episodes(num_episodes, seed) -> TensorDict:
    """Random play in the real Pendulum, ``(num_episodes, 200)``; actions and rewards about one in size."""
    data = collect_transitions("Pendulum-v1", 200 * num_episodes, seed=seed, num_envs=num_episodes)
    data["action"], data["next", "reward"] = data["action"] / 2, data["next", "reward"] / 8
    return data.reshape(200, num_episodes).transpose(0, 1).contiguous()


def trained_rssm(num_steps=250) -> RSSMNets:
    data = pendulum_episodes(32, seed=1)
    torch.manual_seed(0)
    nets = RSSMNets()
    optimiser = torch.optim.Adam(nets.parameters(), 3e-3)
    for _ in range(num_steps):
        start = int(torch.randint(0, 184, ()))
        batch = data[:, start : start + 16]
        out = nets.filter(batch)["next"]
        latent = out["state"], out["belief"]
        fit = F.mse_loss(nets.decoder(*latent), batch["next", "observation"])
        fit = fit + F.mse_loss(nets.reward(*latent), batch["next", "reward"])
        posterior, prior = (Normal(out[f"{k}_mean"], out[f"{k}_std"]) for k in ("posterior", "prior"))
        loss = 10 * fit + 0.1 * kl_divergence(posterior, prior).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(nets.parameters(), 10.0)
        optimiser.step()
    return nets
