"""Planning in the bundled worlds, acting in the real environments that these were learned from."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from wm_vec.plan import CEM, MPPI

pytestmark = pytest.mark.long

SEEDS = (0, 1)


def real_returns(name, num_steps, act) -> list[float]:
    """The returns of the first steps of real episodes, one per seed.

    Args:
        name: Gymnasium's.
        num_steps: After which they are cut off.
        act: Observations ``(B, ...)`` of all of them -> actions ``(B, ...)``.
    """
    envs = [gym.make(name) for _ in SEEDS]
    seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, SEEDS, strict=True)]
    returns, over = [0.0] * len(envs), [False] * len(envs)
    for _ in range(num_steps):
        for i, action in enumerate(act(np.stack(seen))):
            if not over[i]:
                seen[i], reward, over[i], *_ = envs[i].step(action)
                returns[i] += float(reward)
    return returns


def planned(world, planner):
    """Acts by plans from what the real environments show.

    One evaluation of the network a step is enough, and a third of the time.
    """
    env = world.to_torchrl_env(n_denoise_steps=1).to_stateless()

    def act(seen):
        real = TensorDict({"observation": torch.as_tensor(seen)}, batch_size=[len(seen)])
        return policy(env.reset(real))["action"].numpy()

    policy = planner(env)
    return act


def at_random(name):
    space = gym.make(name).action_space
    space.seed(0)
    return lambda seen: [space.sample() for _ in seen]


@pytest.mark.long
@pytest.mark.parametrize("planner", [CEM, MPPI])
def test_it_swings_the_real_pendulum_up(pendulum, planner):
    torch.manual_seed(0)
    search = {"horizon": 12, "num_candidates": 32, "num_iterations": 2, "num_elites": 6 if planner is CEM else 32}
    got = real_returns("Pendulum-v1", 100, planned(pendulum, lambda env: planner(env, **search)))
    random = real_returns("Pendulum-v1", 100, at_random("Pendulum-v1"))
    assert max(random) < -300
    assert min(got) > -200, "to hang costs about 10 a step, to stand nothing"


def test_it_balances_the_real_cartpole_by_classes(cartpole):
    torch.manual_seed(0)
    search = {"horizon": 15, "num_candidates": 24, "num_iterations": 2, "num_elites": 5}
    got = real_returns("CartPole-v1", 50, planned(cartpole, lambda env: CEM(env, **search)))
    assert got == [50.0, 50.0]
    assert max(real_returns("CartPole-v1", 50, at_random("CartPole-v1"))) < 45
