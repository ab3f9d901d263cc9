"""Worlds, policies and comparisons for tests with several processes; a module that workers can import."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import nn

from wm_vec import WorldModel
from wm_vec.workers import RandomActions, WorkerEnvs

ROOT_SEED, NUM_ENVS, HORIZON = 100, 6, 9
ENTRIES = ["observation", "action", "done", ("next", "observation"), ("next", "reward"), ("next", "done")]


def shares(world, num_workers, **options) -> WorkerEnvs:
    """The same six envs, on any number of workers."""
    options = {"seed": ROOT_SEED, "max_episode_steps": HORIZON, "exact_rows": True, **options}
    return WorkerEnvs(world, NUM_ENVS, num_workers, **options)


def one_env(world, **options):
    """The same six envs as one, without any code of workers."""
    options = {"seed": ROOT_SEED, "max_episode_steps": HORIZON, "exact_rows": True, **options}
    return world.to_torchrl_env(NUM_ENVS, **options)


@torch.no_grad()
def changed(world: WorldModel, path) -> WorldModel:
    """A copy of a world with other weights, normalisers and initial states."""
    world.save(path)
    other = WorldModel.load(path)
    generator = torch.Generator().manual_seed(5)
    for parameter in other.model.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    other.model.codec.step_mean.add_(0.01)
    other.bank = 0.5 * other.bank[:300]
    return other


def lean(tensordict):
    """A policy of the observation alone: to the side that the pole leans to."""
    return tensordict.set("action", (tensordict["observation"][..., 2] > 0).long())


class Switch(nn.Module):
    """Random actions while its only weight is 0; action 1 while it is above, 0 while it is below."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self._random = RandomActions()

    def register_collector(self, collector) -> None:
        self._random.register_collector(collector)

    def forward(self, tensordict):
        tensordict = self._random(tensordict)
        action = tensordict["action"]
        fixed = (self.weight > 0).long().expand(action.shape)
        return tensordict.set("action", torch.where(self.weight == 0, action, fixed))

    def set(self, weight: float) -> None:
        with torch.no_grad():
            self.weight.fill_(weight)


def same(batch: TensorDict, expected: TensorDict) -> bool:
    """Whether two batches ``(B, T)`` agree in every entry, bit by bit."""
    return all(torch.equal(batch[name], expected[name]) for name in ENTRIES)


def goes_on(batch: TensorDict, world: WorldModel) -> bool:
    """Whether a batch with the state of the world is what a fresh env of `world` computes from its first state.

    The fresh env has another number of envs, never had another world, and gets the actions alone.
    """
    num_envs, num_steps = batch.shape
    env = world.to_torchrl_env(num_envs, max_episode_steps=HORIZON, exact_rows=True, expose_state=True)
    td = env.reset(batch[:, 0].exclude("next", "action", "collector"), set_state=True)
    ends = 0
    for t in range(num_steps):
        stepped, td = env.step_and_maybe_reset(td.set("action", batch["action"][:, t]))
        if not same_step(stepped, batch[:, t]):
            return False
        ends += int(stepped["next", "done"].sum())
    assert ends >= num_envs, "episodes began from the bank in between"
    return True


def same_step(one: TensorDict, other: TensorDict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ENTRIES)


def continues(batch: TensorDict, before: TensorDict) -> bool:
    """Whether the episodes that did not end in `before` continue in `batch`."""
    open_ones = ~before["next", "done"][:, -1, 0]
    assert bool(open_ones.any())
    return torch.equal(batch["observation"][:, 0][open_ones], before["next", "observation"][:, -1][open_ones])
