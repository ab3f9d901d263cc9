"""Rolling our vector environment out with given actions, for tests that compare rollouts."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

MODES = list(AutoresetMode)


def start(world, num_envs=4, seed=0, mode=AutoresetMode.SAME_STEP, horizon=12, **options):
    """An environment of `world`, reset."""
    env = world.to_vector_env(num_envs, max_episode_steps=horizon, autoreset_mode=mode, **options)
    env.reset(seed=seed)
    return env


def random_actions(env, num_steps, seed=0):
    """``(T, B, ...)`` tensor of random actions; a row's are the same at any B."""
    space = env.single_action_space
    rows = []
    for i in range(env.num_envs):
        space.seed(1000 * seed + i)
        rows.append(torch.as_tensor(np.stack([space.sample() for _ in range(num_steps)])))
    return torch.stack(rows, 1)


def roll(env, actions, resets=None):
    """Take the actions; reset what ended by mask under DISABLED, and the envs of ``resets[t]`` after step t.

    Returns:
        Name -> ``(T, B, ...)`` tensor, final observations zero where no episode ended.
    """
    taken = {name: [] for name in ("observation", "reward", "terminated", "truncated", "final", "next")}
    for t, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
        final = info.get("final_obs", observation)
        taken["observation"].append(observation)
        taken["reward"].append(reward)
        taken["terminated"].append(terminated)
        taken["truncated"].append(truncated)
        taken["final"].append(torch.where(ended[:, None], final, 0.0))
        mask = torch.zeros_like(ended)
        if resets and t in resets:
            mask[resets[t]] = True
        if env.autoreset_mode is AutoresetMode.DISABLED:
            mask |= ended
        if mask.any():
            observation, _ = env.reset(options={"reset_mask": mask})
        taken["next"].append(observation)
    return {name: torch.stack(values) for name, values in taken.items()}


def assert_equal(a, b, rows_a=slice(None), rows_b=slice(None)):
    """The rows of two rollouts are equal, bit by bit."""
    for name in a:
        differs = (a[name][:, rows_a] != b[name][:, rows_b]).flatten(1).any(1)
        assert not differs.any(), f"{name} differs from step {int(differs.int().argmax())} on"
