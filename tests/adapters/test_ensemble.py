"""An ensemble trained on the real Pendulum: what its members disagree on, through every kind of environment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from tests.adapters.ensembles import MEMBERS, Ensemble, fit
from tests.adapters.torchrl_worlds import pendulum_episodes
from wm_vec.adapters import TorchRLDynamics
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv, check_vector_env

SEEN = Box(-10, 10, (3,), np.float32)
TORQUE = Box(-1, 1, (1,), np.float32)
SLOW, FAST = 2.5, 5.0
"""The ensemble saw speeds below the first alone; those above the second are far from all it knows."""


@pytest.fixture(scope="module")
def real():
    return pendulum_episodes(64, seed=1).reshape(-1)


@pytest.fixture(scope="module")
def slow(real):
    near = real[real["observation"][:, 2].abs() < SLOW]
    return near[torch.randperm(len(near), generator=torch.Generator().manual_seed(0))]


@pytest.fixture(scope="module")
def fast(real):
    return real[real["observation"][:, 2].abs() > FAST]


@pytest.fixture(scope="module")
def ensemble(slow):
    torch.manual_seed(0)
    return fit(Ensemble(3, 1), slow[:4000], 400).requires_grad_(False)


def by_hand(ensemble, observation, action):
    """The spread of the members' answers, each asked by itself, one env at a time."""
    told = []
    for k in range(MEMBERS):
        with ensemble.members.params_td[k].to_module(ensemble.members.module):
            told.append(ensemble.net(observation / ensemble.scale, action).numpy())
    return np.stack(told).std(0, ddof=1).mean(-1)


def test_members_disagree_where_they_have_seen_nothing(ensemble, slow, fast):
    """On real transitions that were held out, and on others of speeds that they never saw; and they err there."""
    told = {}
    for name, data in (("near", slow[4000:]), ("far", fast)):
        following, _, _, _, info = ensemble.predict(data["observation"], data["action"])
        error = (following - data["next", "observation"]).abs().mean(-1)
        told[name] = info["disagreement"], error
    assert told["far"][0].mean() > 5 * told["near"][0].mean()
    assert told["far"][1].mean() > 5 * told["near"][1].mean()
    # Sorting by disagreement tells the two apart, one transition at a time.
    threshold = told["near"][0].quantile(0.95)
    assert (told["far"][0] > threshold).float().mean() > 0.9


def make(ensemble, starts, num_envs, **options):
    return WorldModelVectorEnv.from_callables(
        ensemble,
        SEEN,
        TORQUE,
        num_envs=num_envs,
        initial_state=starts,
        transition_fn=Ensemble.predict,
        max_episode_steps=20,
        **options,
    )


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_every_env_gets_its_own_disagreement(ensemble, slow, fast, batching):
    """Against the members asked one by one, by which env is which."""
    starts = torch.cat([slow["observation"][4000:4008], fast["observation"][:8]])
    env = WorldModelVectorEnv.from_callables(
        ensemble, SEEN, TORQUE, num_envs=12, transition_fn=Ensemble.predict, batching=batching, initial_state=starts
    )
    before, _ = env.reset(seed=0)
    for seed in range(3):
        action = torch.rand(12, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        observation, _, _, _, info = env.step(action)
        disagreement = info["disagreement"]
        assert isinstance(disagreement, torch.Tensor)
        assert disagreement.shape == (12,)
        expected = [by_hand(ensemble, before[i], action[i]) for i in range(12)]
        np.testing.assert_allclose(disagreement.numpy(), expected, rtol=1e-3, atol=1e-6)
        before = observation
    moving = before[:, 2].abs() > FAST
    assert moving.any()
    assert disagreement[moving].mean() > 3 * disagreement[~moving].mean()


@pytest.mark.parametrize("batching", [None, "batched"])
def test_the_scalar_env_gets_a_number(ensemble, slow, batching):
    env = WorldModelEnv(
        ensemble,
        SEEN,
        TORQUE,
        initial_state=slow["observation"][4000],
        transition_fn=Ensemble.predict,
        batching=batching,
        max_episode_steps=20,
    )
    observation, _ = env.reset(seed=0)
    action = np.array([0.3], np.float32)
    info = env.step(action)[4]
    assert np.shape(info["disagreement"]) == ()
    expected = by_hand(ensemble, torch.from_numpy(observation), torch.from_numpy(action))
    assert float(info["disagreement"]) == pytest.approx(float(expected), rel=1e-3)


def test_through_tensordict_modules_it_is_the_same(ensemble, slow):
    module = TensorDictModule(
        lambda observation, action: (*(told := ensemble.predict(observation, action))[:2], told[4]["disagreement"]),
        in_keys=["observation", "action"],
        out_keys=[("next", "observation"), ("next", "reward"), ("next", "disagreement")],
    )
    starts = slow["observation"][4000:4016]
    dynamics = TorchRLDynamics(
        module,
        SEEN,
        TORQUE,
        initial_state=TensorDict({"observation": starts}, batch_size=[16]),
        info_keys=["disagreement"],
    )
    modules = WorldModelVectorEnv.from_dynamics(dynamics, SEEN, TORQUE, num_envs=8, max_episode_steps=20)
    plain = make(ensemble, starts, 8)
    plain.reset(seed=5)
    modules.reset(seed=5)
    for _ in range(30):
        action = plain.sample_actions()
        one, two = plain.step(action), modules.step(action)
        torch.testing.assert_close(one[:4], two[:4])
        torch.testing.assert_close(one[4]["disagreement"], two[4]["disagreement"])


def test_an_ensemble_is_an_environment_by_our_checker(ensemble, slow):
    report = check_vector_env(
        make(ensemble, slow["observation"][:50], 5),
        num_steps=48,
        make_env=lambda n: make(ensemble, slow["observation"][:50], n),
    )
    assert not report.skipped
