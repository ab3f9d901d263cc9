"""Steps of real Gymnasium environments under a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torch import nn

Policy = Callable[[Any], Any]


def collect_transitions(
    env_id: str,
    n: int,
    policy: Policy | None = None,
    *,
    seed: int = 0,
    num_envs: int = 16,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> TensorDict:
    """Run a policy in a real environment and keep every step.

    Args:
        env_id: A registered Gymnasium id.
        n: Transitions to collect.
        policy: Observations ``(num_envs, ...)`` -> actions; a torch module gets float32 tensors on its device, any
            other callable NumPy arrays. None draws from the action space.
        seed: Seeds environments and random actions.
        num_envs: Environments run side by side.
        env_kwargs: Keyword arguments of the environment.
        progress: Called with the number of transitions so far.

    Returns:
        TensorDict ``(n,)`` in TorchRL's layout: ``observation``, ``action``, ``is_init`` ``(n, 1)`` bool, ``episode``
        ``(n,)`` int64, and under ``next`` ``observation`` (before any reset), ``reward`` ``(n, 1)`` float32,
        ``terminated``, ``truncated``, ``done`` ``(n, 1)`` bool.
    """
    if n < 1:
        raise ValueError(f"collect_transitions: n must be at least 1, got {n}.")
    num_envs = min(num_envs, n)
    is_init, episode = np.ones(num_envs, bool), np.arange(num_envs)
    steps: list[tuple[np.ndarray, ...]] = []
    for step in islice(real_steps(env_id, num_envs, policy, seed, env_kwargs), -(-n // num_envs)):
        *_, terminated, truncated = step
        steps.append((*step, is_init, episode))
        is_init = terminated | truncated
        episode = np.where(is_init, episode + num_envs, episode)
        if progress is not None:
            progress(min(n, len(steps) * num_envs))
    columns = [torch.from_numpy(np.concatenate(column)[:n]) for column in zip(*steps, strict=True)]
    observation, action, after, reward, terminations, truncations, init, episodes = columns
    flags = {"terminated": terminations, "truncated": truncations, "done": terminations | truncations}
    following = {name: flag.unsqueeze(1) for name, flag in flags.items()}
    return TensorDict(
        {
            "observation": observation,
            "action": action,
            "is_init": init.unsqueeze(1),
            "episode": episodes,
            "next": {"observation": after, "reward": reward.float().unsqueeze(1), **following},
        },
        batch_size=[n],
    )


def real_steps(
    env_id: str, num_envs: int, policy: Policy | None, seed: int, env_kwargs: Mapping[str, Any] | None = None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Step real environments without end, arguments as for `collect_transitions`.

    Yields:
        Observation, action, next observation before any reset ``(num_envs, ...)``, reward, terminated, truncated
        ``(num_envs,)``.
    """
    options = {"autoreset_mode": AutoresetMode.SAME_STEP}
    envs = gym.make_vec(
        env_id, num_envs=num_envs, vectorization_mode="sync", vector_kwargs=options, **(env_kwargs or {})
    )
    try:
        envs.action_space.seed(seed)
        observation = np.array(envs.reset(seed=seed)[0])
        while True:
            action = envs.action_space.sample() if policy is None else act(policy, observation, envs.action_space)
            following, reward, terminated, truncated, info = envs.step(action)
            after = np.array(following)
            for i in np.flatnonzero(terminated | truncated):
                after[i] = info["final_obs"][i]
            yield observation, action, after, reward, terminated, truncated
            observation = np.array(following)
    finally:
        envs.close()


def act(policy: Policy, observation: np.ndarray, action_space: gym.Space) -> np.ndarray:
    """A batch of actions from a policy, in the batched action space's shape and dtype, clipped to its bounds."""
    if isinstance(policy, nn.Module):
        first = next(chain(policy.parameters(), policy.buffers()), None)
        device = torch.device("cpu") if first is None else first.device
        with torch.no_grad():
            action = policy(torch.as_tensor(observation, dtype=torch.float32, device=device))
    else:
        action = policy(observation)
    if isinstance(action, torch.Tensor):
        action = action.detach().cpu().numpy()
    action = np.asarray(action, dtype=action_space.dtype).reshape(action_space.shape or ())
    if isinstance(action_space, gym.spaces.Box):  # as our own environments do
        action = np.clip(action, action_space.low, action_space.high)
    return action
