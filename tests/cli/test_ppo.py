"""Policies trained in imagination alone, against the real environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.imagination_turns import TurnsConfig, run
from wm_vec import Field, WorldModel
from wm_vec.canvas import EnvSignature
from wm_vec.cli.ppo import KEPT_EPISODES, OneHot, Policy, PPOConfig, RolloutStatistics, train_policy
from wm_vec.core.rng import STREAM_NOISE
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.train.episodes import real_episodes

ENV_ID = "CartPole-v1"


def trained_policy(world, config):
    env = world.to_vector_env(256, seed=config.seed)
    env.reset()
    policy = Policy(world, config.seed)
    train_policy(policy, env, config)
    return policy


@pytest.mark.long
def test_a_policy_trained_in_the_bundled_world_holds_the_real_pole(cartpole):
    before = real_episodes(ENV_ID, 10, Policy(cartpole, 3), seed=1).returns.mean()
    policy = trained_policy(cartpole, PPOConfig(total_steps=100_000, seed=3))
    after = real_episodes(ENV_ID, 10, policy, seed=1).returns.mean()
    assert after > 200 > 3 * before / 2, (before, after)


@pytest.mark.long
def test_world_and_policy_in_turns_beat_random_by_far():
    """The pipeline of benchmarks/imagination_turns.py, small: 6,000 real steps in all."""
    config = TurnsConfig(turns=1, real_steps_per_turn=3000, first_world_steps=500, policy_steps=60_000, num_envs=128)
    result = run(0, config, say=lambda line: None)
    random = real_episodes(ENV_ID, 20, None, seed=0).returns.mean()
    assert result["real_steps"] == 6000
    assert len(result["turns"]) == 1
    assert result["real_return"] > 3 * random, (result, random)


def test_the_same_seed_trains_the_same_policy(cartpole):
    weights = []
    for _ in range(2):
        policy = trained_policy(cartpole, PPOConfig(total_steps=8192, seed=5))
        weights.append(torch.cat([p.flatten() for p in policy.parameters()]))
    assert torch.equal(*weights)


def test_a_policy_samples_in_imagination_and_is_greedy_when_called(cartpole):
    env = cartpole.to_vector_env(256, seed=0)
    env.reset()
    policy = Policy(cartpole)
    rollout = env.imagine(policy.actor, 4)
    assert 0.3 < float(rollout["action"].float().mean()) < 0.7  # untrained, so about even; greedy would be one-sided
    observation = rollout["observation"][:, 0]
    logits = policy.actor.get_dist(rollout[:, 0].select("observation")).logits
    assert torch.equal(policy(observation), logits.argmax(-1))
    policy.greedy = False
    assert 0.3 < float(policy(observation).float().mean()) < 0.7


def test_continuous_actions_have_the_space_s_shape(pendulum):
    env = pendulum.to_vector_env(8, seed=0)
    observation, _ = env.reset()
    policy = Policy(pendulum)
    assert policy(observation).shape == (8, 1)
    before = policy(observation)
    train_policy(policy, env, PPOConfig(total_steps=512, rollout_steps=16, minibatch_size=64))
    assert not torch.equal(policy(observation), before)


@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_observations_of_double_precision_are_taken():
    signature = EnvSignature(Box(-1, 1, (3,), np.float64), Box(-1, 1, (2,), np.float64))
    world = WorldModel.from_signature(signature)
    env = world.to_vector_env(4, max_episode_steps=5, seed=0)
    observation, _ = env.reset()
    policy = Policy(world)
    assert observation.dtype == torch.float64
    assert policy(observation).shape == (4, 2)
    train_policy(policy, env, PPOConfig(total_steps=64, rollout_steps=16, minibatch_size=32))


def exact_lake(num_envs):
    """The real FrozenLake-v1's own table of transitions as tensors: what a perfect world of it would be."""
    table = gym.make("FrozenLake-v1").unwrapped.P
    # Three outcomes, equally likely; holes and the goal have a single one.
    outcomes = np.array([[(table[s][a] * 3)[:3] for a in range(4)] for s in range(16)])
    following, reward, terminated = (torch.from_numpy(outcomes[..., i]) for i in (1, 2, 3))

    def transition(model, state, action, rng):
        taken = state.reshape(-1).long(), action.reshape(-1), rng.integers(1, 3, STREAM_NOISE)[:, 0]
        after = following[taken].long()
        return {
            "state": after,
            "observation": after,
            "reward": reward[taken].float(),
            "terminated": terminated[taken].bool(),
        }

    return WorldModelVectorEnv.from_callables(
        None,
        Discrete(16),
        Discrete(4),
        num_envs=num_envs,
        transition_fn=transition,
        initial_observation=torch.zeros(1, dtype=torch.int64),
        max_episode_steps=100,
        seed=0,
    )


@pytest.mark.long
def test_a_policy_over_classes_crosses_the_slippery_lake():
    """Sparse rewards, Discrete observations; the optimum gets there 74 times in 100, random actions once or twice."""
    world = WorldModel.from_env("FrozenLake-v1")
    env = exact_lake(64)
    env.reset()
    policy = Policy(world)
    train_policy(policy, env, PPOConfig(total_steps=500_000, entropy_coeff=0.03, rollout_steps=64, gamma=0.999))
    assert real_episodes("FrozenLake-v1", 500, policy, seed=1).returns.mean() > 0.6


def test_classes_are_one_hot_and_start_where_their_space_does():
    one_hot = OneHot(Discrete(3, start=5))
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert torch.equal(one_hot(torch.tensor([7, 5])), expected)
    assert torch.equal(one_hot(torch.tensor([7.0, 5.0])), expected)  # as collect_transitions hands them to modules
    policy = Policy(WorldModel.from_env("FrozenLake-v1"))
    assert policy(torch.arange(16)).shape == (16,)
    assert torch.equal(policy(torch.arange(16)), policy(torch.arange(16.0)))


def test_the_spread_of_returns_is_that_of_sb3_s_wrapper():
    envs = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 4), norm_obs=False, gamma=0.9)
    envs.seed(0)
    envs.reset()
    statistics, rng = RolloutStatistics(4, 0.9), np.random.default_rng(0)
    for _ in range(30):
        done = np.stack([envs.step(rng.integers(0, 2, 4))[2] for _ in range(10)])
        statistics.update(np.ones((10, 4)), done)
    assert statistics.returns.var == pytest.approx(envs.ret_rms.var, rel=1e-5)
    assert statistics.returns.var > 1


def test_lengths_are_those_of_episodes_that_ended():
    """Envs in step with one another reach their horizon together: no wave of short episodes is seen there."""
    statistics = RolloutStatistics(3, 0.99)
    done = np.zeros((10, 3), bool)
    done[4, 1] = True
    statistics.update(np.zeros((10, 3)), done)
    assert list(statistics.lengths) == [5]
    done[:] = False
    done[9] = True
    statistics.update(np.zeros((10, 3)), done)
    assert list(statistics.lengths) == [5, 20, 15, 20]
    statistics.update(np.zeros((2 * KEPT_EPISODES, 3)), np.ones((2 * KEPT_EPISODES, 3), bool))
    assert list(statistics.lengths) == [1] * KEPT_EPISODES


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_size_of_rewards_does_not_matter(pendulum, factor):
    weights = []
    for scale in (1.0, factor):
        env = pendulum.to_vector_env(
            16, reward_fn=lambda obs, act, info, scale=scale: -scale * obs["observation"].square().sum(), seed=0
        )
        env.reset()
        policy = Policy(pendulum)
        train_policy(policy, env, PPOConfig(total_steps=1024, rollout_steps=32, minibatch_size=128, num_epochs=1))
        weights.append(torch.cat([p.flatten() for p in policy.parameters()]))
    assert torch.allclose(*weights, atol=1e-3)


@pytest.mark.parametrize(
    "spaces",
    [None, (MultiDiscrete([2, 2]), Discrete(2)), (Box(0, 1, (2, 2)), Discrete(2)), (Discrete(2), Box(0, 1, ()))],
)
def test_worlds_that_a_policy_cannot_take(spaces):
    world = WorldModel({"x": Field()})
    if spaces is not None:
        world.signature = EnvSignature(*spaces)
    with pytest.raises(ValueError, match="a Box of one axis or Discrete") as error:
        Policy(world)
    assert str(list(spaces or (None, None))) in str(error.value)
