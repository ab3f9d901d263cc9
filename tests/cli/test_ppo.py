"""Policies trained in imagination alone, against the real environment."""

import pytest
import torch
from gymnasium.spaces import Discrete

from benchmarks.imagination_turns import TurnsConfig, run
from wm_vec import Field, WorldModel
from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
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
    train_policy(policy, env, PPOConfig(total_steps=512, rollout_steps=16, minibatch_size=64, reward_scale=0.1))
    assert not torch.equal(policy(observation), before)


@pytest.mark.parametrize("world", ["FrozenLake-v1", "schema"])
def test_worlds_that_a_policy_cannot_take(world):
    made = WorldModel({"x": Field()}) if world == "schema" else WorldModel.from_env(world)
    got = "[None, None]" if world == "schema" else f"{[Discrete(16), Discrete(4)]}"
    with pytest.raises(ValueError, match="a Box of one axis to observe") as error:
        Policy(made)
    assert got in str(error.value)
