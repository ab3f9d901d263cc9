"""The Dreamer script: it runs, learns, leaves the world as it is, and its returns are what its docstring says."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import SoftUpdate

from examples import dreamer_pendulum as dreamer

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "num_envs": 32,
    "horizon": 8,
    "episode_steps": 16,
    "num_iterations": 40,
    "gamma": 0.9,
    "ent_coef": 0.0,
    "device": "cpu",
}


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def imagined_return(world, actor, steps=16):
    """What the actor earns from 256 starts without its noise, on average."""
    env = world.to_torchrl_env(256, seed=99)
    env.reset()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return float(env.imagine(actor, steps)["next", "reward"].sum(1).mean())


@pytest.mark.long
def test_the_actor_improves_in_a_world_that_stays_as_it_is(pendulum):
    """At full size the untrained actor learns to balance the real pendulum: see benchmarks/results."""
    before = {name: tensor.clone() for name, tensor in pendulum.model.state_dict().items()}
    args = dreamer.Args(**SMALL)
    torch.manual_seed(0)
    env, actor = dreamer.make_env(pendulum, args), dreamer.make_actor(args)
    untrained = imagined_return(pendulum, actor)
    alive = []
    for log in dreamer.train(env, actor, args):
        if log["iteration"] in (3, 40):
            alive.append(live_tensors())
    assert imagined_return(pendulum, actor) > untrained + 10, "at about -100 untrained"
    assert len({*alive}) == 1, "iterations leave nothing behind"
    assert all(parameter.grad is None for parameter in pendulum.model.parameters())
    for name, tensor in pendulum.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.long
def test_the_script_trains_and_meets_the_real_pendulum():
    options = ["--num-iterations", "20", "--num-envs", "4", "--horizon", "3", "--eval-episodes", "2", "--device", "cpu"]
    command = [sys.executable, "-W", "error::UserWarning", "examples/dreamer_pendulum.py", *options]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, whichever is installed
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=own)
    assert done.returncode == 0, done.stderr
    assert re.match(r"iteration: 20, reward: -[\d.]+, entropy: -?[\d.]+, critic_loss: [\d.]+, seconds: ", done.stdout)
    assert re.search(r"^real Pendulum-v1: mean return -\d+\.\d over 2 episodes$", done.stdout, re.MULTILINE)


def test_not_all_episodes_end_at_once(pendulum):
    env = dreamer.make_env(pendulum, dreamer.Args(**SMALL))
    rollout = env.imagine(dreamer.make_actor(dreamer.Args(**SMALL)), 16)
    ends = rollout["next", "done"][..., 0].sum(0)
    assert ends.sum() == 32
    assert (ends > 0).sum() > 8


@pytest.fixture
def critic_loss():
    """A critic by which everything is worth 4, and a target by which it is worth 10; rewards count double."""
    loss = dreamer.CriticLoss(dreamer.Args(gamma=0.5, lmbda=0.5, reward_scale=2.0, device="cpu"))
    SoftUpdate(loss, tau=0.5)  # which starts the target as a copy
    for parameters, worth in ((loss.critic_params, 4.0), (loss.target_critic_params, 10.0)):
        last = parameters["module", "layers", "4"]
        last["weight"].data.zero_()
        last["bias"].data.fill_(worth)
    return loss


def test_returns_by_hand(critic_loss):
    """Discount 1/2, lambda 1/2, rewards of 1 that count 2, what comes after is worth 10; step 1 terminates.

    The last: 2 + 10/2 = 7. Step 2: 2 + 1/2 (10/2 + 7/2) = 6.25. Step 1: 2. Step 0: 2 + 1/2 (10/2 + 2/2) = 5.
    """
    ends = torch.tensor([False, True, False, False]).view(1, 4, 1)
    after = {"observation": torch.zeros(1, 4, 3), "reward": torch.ones(1, 4, 1), "done": ends, "terminated": ends}
    rollout = TensorDict({"observation": torch.zeros(1, 4, 3), "next": after}, batch_size=[1, 4])
    rollout["next", "reward"].requires_grad_()
    returns = critic_loss.lambda_returns(rollout)
    assert returns.flatten().tolist() == [5.0, 2.0, 6.25, 7.0]
    returns[0, 0].sum().backward()
    assert rollout["next", "reward"].grad.flatten().tolist() == [2.0, 0.5, 0.0, 0.0]
    assert all(parameter.grad is None for parameter in critic_loss.parameters())
    rollout = rollout.set("lambda_return", returns).detach()
    loss = critic_loss(rollout)["loss_critic"]
    assert loss.item() == pytest.approx((1 + 4 + 2.25**2 + 9) / 4)
    loss.backward()
    assert any(parameter.grad is not None for parameter in critic_loss.parameters())
