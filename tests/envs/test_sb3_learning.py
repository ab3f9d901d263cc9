"""Stable-Baselines3's algorithms learn in imagined environments, and what they learn holds in the real one."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from wm_vec.envs import SB3VecEnv

pytestmark = pytest.mark.long


def mean_return(model, env, seed=1, episodes=20, deterministic=True):
    env.reset(seed=seed)
    return evaluate_policy(model, env, n_eval_episodes=episodes, deterministic=deterministic)[0]


def random_return(env, seed=1, episodes=20):
    env.reset(seed=seed)
    env.action_space.seed(seed)
    total = 0.0
    for _ in range(episodes):
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + reward, terminated or truncated
        env.reset()
    return total / episodes


def test_ppo_on_256_imagined_cartpoles_balances_the_real_one(cartpole, tmp_path):
    venv = SB3VecEnv(cartpole.to_vector_env(256, max_episode_steps=500))
    model = PPO(
        "MlpPolicy",
        venv,
        n_steps=32,
        batch_size=1024,
        learning_rate=2e-3,
        gae_lambda=0.9,
        gamma=0.98,
        seed=0,
        device="cpu",
    )
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(8 * 32 * 256)
    # Logged without any monitor around it.
    with (tmp_path / "progress.json").open() as log:
        means = [json.loads(line)["rollout/ep_rew_mean"] for line in log]
    assert means[0] < 40 < 80 < means[-1]
    real = Monitor(gym.make("CartPole-v1"))
    by_chance = random_return(gym.make("CartPole-v1"))
    assert by_chance < 40
    learned = mean_return(model, real)
    assert learned > 150, f"{learned} in the real CartPole, {by_chance} by chance"

    model.save(tmp_path / "ppo")
    loaded = PPO.load(tmp_path / "ppo", env=venv, device="cpu")
    observation = venv.reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    loaded.learn(32 * 256)


def test_ppo_on_the_scalar_view(cartpole):
    def make():
        return Monitor(cartpole.to_env(max_episode_steps=200))

    check_env(make(), skip_render_check=True)
    model = PPO(
        "MlpPolicy",
        make(),
        n_steps=512,
        learning_rate=1e-3,
        gae_lambda=0.9,
        gamma=0.98,
        seed=1,
        device="cpu",
    )
    before = mean_return(model, make(), episodes=10, deterministic=False)
    assert before < 40
    model.learn(3072)
    after = mean_return(model, make(), episodes=10)
    assert after > before + 80, f"from {before} to {after}"


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (A2C, {"n_steps": 8}),
        (DQN, {"learning_starts": 128, "buffer_size": 4096, "train_freq": 4}),
    ],
)
def test_other_algorithms_run(cartpole, algorithm, options):
    venv = SB3VecEnv(cartpole.to_vector_env(16, max_episode_steps=40))
    model = algorithm("MlpPolicy", venv, seed=0, device="cpu", **options)
    model.learn(1024)
    assert model.num_timesteps >= 1024
    assert len(model.ep_info_buffer) >= 10
