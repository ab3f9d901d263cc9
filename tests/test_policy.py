"""Policies trained in imagination alone, against the real environment."""

import statistics

import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary

from benchmarks.imagination_turns import TurnsConfig, run
from wm_vec.train.policy import Policy, PPOConfig, episode_returns, train_policy

ENV_ID = "CartPole-v1"


def policy_for(world, seed):
    env = world.to_vector_env(256, seed=seed)
    env.reset()
    codec, where = world.model.codec, world.bound["observation"].indices()
    torch.manual_seed(seed)
    return env, Policy(env.single_observation_space, env.single_action_space, codec.mean[where], codec.std[where])


def test_a_policy_trained_in_the_bundled_world_holds_the_real_pole(cartpole):
    env, policy = policy_for(cartpole, 3)
    before = statistics.mean(episode_returns(ENV_ID, policy, 10, seed=1))
    train_policy(policy, env, PPOConfig(total_steps=100_000, seed=3))
    after = statistics.mean(episode_returns(ENV_ID, policy, 10, seed=1))
    assert after > 200 > 3 * before / 2, (before, after)


def test_world_and_policy_in_turns_beat_random_by_far():
    """The pipeline of benchmarks/imagination_turns.py, small: 6,000 real steps in all."""
    config = TurnsConfig(turns=1, real_steps_per_turn=3000, first_world_steps=500, policy_steps=60_000, num_envs=128)
    result = run(0, config, say=lambda line: None)
    random = statistics.mean(episode_returns(ENV_ID, None, 20, seed=0))
    assert result["real_steps"] == 6000
    assert len(result["turns"]) == 1
    assert result["real_return"] > 3 * random, (result, random)


def test_the_same_seed_trains_the_same_policy(cartpole):
    weights = []
    for _ in range(2):
        env, policy = policy_for(cartpole, 5)
        train_policy(policy, env, PPOConfig(total_steps=8192, seed=5))
        weights.append(torch.cat([p.flatten() for p in policy.parameters()]))
    assert torch.equal(*weights)


def test_a_policy_samples_in_imagination_and_is_greedy_when_called(cartpole):
    env, policy = policy_for(cartpole, 0)
    rollout = env.imagine(policy.actor, 4)
    assert 0.3 < float(rollout["action"].float().mean()) < 0.7  # untrained, so about even; greedy would be one-sided
    observation = rollout["observation"][:, 0]
    assert torch.equal(policy(observation), policy(observation))


def test_continuous_actions_have_the_space_s_shape(pendulum):
    env = pendulum.to_vector_env(8, seed=0)
    observation, _ = env.reset()
    policy = Policy(env.single_observation_space, env.single_action_space, torch.zeros(3), torch.ones(3))
    assert policy(observation).shape == (8, 1)
    train_policy(policy, env, PPOConfig(total_steps=512, rollout_steps=16, minibatch_size=64, reward_scale=0.1))


@pytest.mark.parametrize(("observation", "action"), [(MultiBinary(3), Discrete(2)), (Box(-1, 1, (2, 2)), Discrete(2))])
def test_spaces_that_a_policy_cannot_take(observation, action):
    with pytest.raises(ValueError, match="observations must be Discrete or a Box of one axis"):
        Policy(observation, action, torch.zeros(4), torch.ones(4))
