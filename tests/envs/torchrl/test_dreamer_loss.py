"""TorchRL's own Dreamer losses on our world, where nothing ends: the same returns and gradients as imagination's."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ValueOperator
from torchrl.objectives import DreamerActorLoss, DreamerValueLoss
from torchrl.objectives.value.functional import td_lambda_return_estimate

from wm_vec.core import EnvState
from wm_vec.envs import TorchRLEnv

HORIZON = 5
RETURNS = {"gamma": 0.9, "lmbda": 0.8}
TIME_DIM = -2
"""DreamerActorLoss (torchrl 0.14.1) looks for time in the last axis unless told, where its lambda returns come out as
those of a single step."""


class EndlessEnv(TorchRLEnv):
    """What DreamerActorLoss takes for a model-based env: it starts from the TensorDict's "state", and nothing ends."""

    def any_done(self, tensordict):
        return False

    def maybe_reset(self, tensordict):
        return tensordict

    def _reset(self, tensordict=None, **kwargs):
        return self._seen(self.engine.set_state(EnvState.from_tensordict(tensordict["state"])))


@pytest.fixture
def networks():
    torch.manual_seed(0)
    actor = TensorDictModule(nn.Sequential(nn.Linear(3, 1), nn.Tanh()), ["observation"], ["action"])
    return actor, ValueOperator(nn.Linear(3, 1), in_keys=["observation"])


def test_torchrls_dreamer_losses_run_and_agree_with_imagination(pendulum, networks):
    actor, critic = networks
    vector = pendulum.to_vector_env(4, seed=0, autoreset_mode="disabled")
    observation, _ = vector.reset()
    spaces = vector.single_observation_space, vector.single_action_space
    starts = TensorDict({"state": vector.state().to_tensordict(), "observation": observation}, batch_size=[4])

    env = EndlessEnv(vector.engine, *spaces)
    actor_loss = DreamerActorLoss(actor, critic, env, imagination_horizon=HORIZON, discount_loss=False)
    actor_loss.make_value_estimator(**RETURNS, time_dim=TIME_DIM)
    actor_loss.set_keys(belief="observation")
    with env.engine.keep_graph():
        losses, fake = actor_loss(starts)
    losses["loss_actor"].backward()
    theirs = {name: parameter.grad.clone() for name, parameter in actor.named_parameters()}
    actor.zero_grad()
    assert all(parameter.grad is None for parameter in critic.parameters())

    env = TorchRLEnv(vector.engine, *spaces)
    env.engine.set_state(EnvState.from_tensordict(starts["state"]))
    rollout = env.imagine(actor, HORIZON, grad=True)
    after = rollout["next"]
    value = critic(after.select("observation"))["state_value"]
    returns = td_lambda_return_estimate(
        **RETURNS,
        next_state_value=value,
        reward=after["reward"],
        done=after["done"],
        terminated=after["terminated"],
    )
    torch.testing.assert_close(fake["lambda_target"], returns.detach())
    torch.testing.assert_close(fake["next", "observation"], after["observation"].detach())
    (-returns.sum((1, 2)).mean()).backward()
    for name, parameter in actor.named_parameters():
        assert float(parameter.grad.abs().max()) > 1e-3, "the world must answer for this to say anything"
        torch.testing.assert_close(parameter.grad, theirs[name])

    critic.zero_grad()
    own = rollout.set("lambda_target", returns).detach()
    for batch in (fake, own):
        losses, _ = DreamerValueLoss(critic, discount_loss=False)(batch)
        torch.testing.assert_close(
            losses["loss_value"],
            (critic.module(own["observation"]) - own["lambda_target"]).square().sum((1, 2)).mean(),
        )


def test_what_dreamer_actor_loss_cannot_see(pendulum, networks):
    """Why the example does without it: its rollout stops where any row ends, and its returns reach across ends."""
    actor, critic = networks
    env = pendulum.to_torchrl_env(4, max_episode_steps=3, seed=0)
    start = env.reset()
    actor_loss = DreamerActorLoss(actor, critic, env, imagination_horizon=HORIZON)
    actor_loss.make_value_estimator(**RETURNS, time_dim=TIME_DIM)
    actor_loss.set_keys(belief="observation")
    with pytest.raises(KeyError, match="state"):
        actor_loss(start)
    _, fake = actor_loss(start.set("state", torch.zeros(4, 1)))
    assert fake.shape == (4, 3), "of five steps"
    env.reset()
    rollout = env.imagine(actor, HORIZON)
    ends = rollout["next", "done"]
    assert ends[:, :, 0].tolist() == [[False, False, True, False, False]] * 4
    reward = rollout["next", "reward"]
    value = torch.zeros_like(reward)
    blind = actor_loss.lambda_target(reward, value)
    seeing = td_lambda_return_estimate(**RETURNS, next_state_value=value, reward=reward, done=ends)
    torch.testing.assert_close(blind[:, 3:], seeing[:, 3:])
    assert float((blind[:, :3] - seeing[:, :3]).abs().min()) > 0.01
