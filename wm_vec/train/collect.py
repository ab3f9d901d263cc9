"""Steps of real Gymnasium environments under a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torch import nn

from wm_vec.canvas.signature import RealEnv, env_maker
from wm_vec.compat import tree_map
from wm_vec.core.rng import spawn_seeds
from wm_vec.core.trees import Tree, as_entry
from wm_vec.plain import check_callable, seed_number, whole_number

Policy = Callable[[Any], Any]
RandomPolicy = Literal["random", "sticky"]
REPEAT = 0.8
"""Probability that a sticky env repeats its last action."""


class RandomActions:
    """A policy of random actions; sticky envs repeat their last one with probability `REPEAT`.

    Uniform actions jitter in place: Acrobot-v1 swings up in none or one of 30,000 steps. Repeated ones get further
    (Machado et al., "Revisiting the Arcade Learning Environment", 2018, repeat actions with a fixed probability, too).

    Args:
        action_space: One env's actions.
        num_envs: Envs; what each does depends on its own seed alone.
        seed: Seeds them.
        sticky: None makes every fourth env sticky, ``"sticky"`` all, ``"random"`` none.
    """

    def __init__(self, action_space: gym.Space, num_envs: int, seed: int, sticky: RandomPolicy | None) -> None:
        self._spaces = [deepcopy(action_space) for _ in range(num_envs)]
        # Not seed + i, which the environments have: their chances would go with the actions.
        for space, own in zip(self._spaces, spawn_seeds(seed, num_envs), strict=True):
            space.seed(own)
        self._repeat = [REPEAT * (sticky == "sticky" or (sticky is None and i % 4 == 3)) for i in range(num_envs)]
        self._last: list[Any] = [None] * num_envs

    def __call__(self, observation: Any) -> np.ndarray:
        """Actions ``(num_envs, ...)``, whatever is observed."""
        self._last = [
            space.sample() if last is None or space.np_random.random() >= repeat else last
            for space, repeat, last in zip(self._spaces, self._repeat, self._last, strict=True)
        ]
        return np.stack(self._last)


def collect_transitions(
    env: RealEnv,
    n: int,
    policy: Policy | RandomPolicy | None = None,
    *,
    seed: int = 0,
    num_envs: int = 16,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> TensorDict:
    """Run a policy in a real environment and keep every step.

    Args:
        env: A registered Gymnasium id, an env, of which copies are run, or a callable that makes one.
        n: Transitions to collect.
        policy: Observations ``(num_envs, ...)``, dicts and tuples of them where the space is a Dict or Tuple, ->
            actions; a torch module gets float32 tensors on its device, any other callable NumPy arrays. ``"random"``
            draws every action from the action space, ``"sticky"`` repeats the last one with probability `REPEAT`, None
            repeats in every fourth environment and not in the others.
        seed: Seeds environments and random actions.
        num_envs: Environments run side by side.
        env_kwargs: Keyword arguments of the id or the callable.
        progress: Called with the number of transitions so far.

    Returns:
        TensorDict ``(n,)`` in TorchRL's layout: ``observation``, ``action``, ``is_init`` ``(n, 1)`` bool, ``episode``
        ``(n,)`` int64, and under ``next`` ``observation`` (before any reset), ``reward`` ``(n, 1)`` float32,
        ``terminated``, ``truncated``, ``done`` ``(n, 1)`` bool. Parts of Dict and Tuple observations stand under
        ``("observation", key)``, those of a Tuple by their places.
    """
    n, seed = whole_number(n, "collect_transitions: n"), seed_number(seed, "collect_transitions: seed")
    num_envs = min(whole_number(num_envs, "collect_transitions: num_envs"), n)
    check_callable(progress, "collect_transitions: progress")
    if not (policy is None or callable(policy)) and policy not in get_args(RandomPolicy):
        raise ValueError(f"collect_transitions: policy must be callable, 'random', 'sticky' or None, got {policy!r}.")
    is_init, episode = np.ones(num_envs, bool), np.arange(num_envs)
    steps: list[tuple[Tree, ...]] = []
    for step in islice(real_steps(env, num_envs, policy, seed, env_kwargs), -(-n // num_envs)):
        *_, terminated, truncated = step
        steps.append((*step, is_init, episode))
        is_init = terminated | truncated
        episode = np.where(is_init, episode + num_envs, episode)
        if progress is not None:
            progress(min(n, len(steps) * num_envs))
    columns = [
        tree_map(lambda *parts: torch.from_numpy(np.concatenate(parts)[:n]), *column)
        for column in zip(*steps, strict=True)
    ]
    observation, action, after, reward, terminations, truncations, init, episodes = columns
    flags = {"terminated": terminations, "truncated": truncations, "done": terminations | truncations}
    following = {name: flag.unsqueeze(1) for name, flag in flags.items()}
    return TensorDict(
        {
            "observation": as_entry(observation),
            "action": action,
            "is_init": init.unsqueeze(1),
            "episode": episodes,
            "next": {"observation": as_entry(after), "reward": reward.float().unsqueeze(1), **following},
        },
        batch_size=[n],
    )


def real_steps(
    env: RealEnv,
    num_envs: int,
    policy: Policy | RandomPolicy | None,
    seed: int,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Tree, ...]]:
    """Step real environments without end, arguments as for `collect_transitions`.

    Yields:
        Observation, action, next observation before any reset ``(num_envs, ...)``, reward, terminated, truncated
        ``(num_envs,)``.
    """
    envs = gym.vector.SyncVectorEnv([env_maker(env, env_kwargs)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    if len({id(made) for made in envs.envs}) < num_envs:
        raise ValueError("The callable gave one env several times; it must make a new one at every call.")
    try:
        if policy is None or isinstance(policy, str):
            policy = RandomActions(envs.single_action_space, num_envs, seed, policy)
        observation = envs.reset(seed=seed)[0]
        while True:
            action = act(policy, observation, envs.action_space)
            following, reward, terminated, truncated, _ = envs.step(action)
            yield observation, action, following, reward, terminated, truncated
            ended = terminated | truncated
            observation = envs.reset(options={"reset_mask": ended})[0] if ended.any() else following
    finally:
        envs.close()


def act(policy: Policy, observation: Tree, action_space: gym.Space) -> np.ndarray:
    """A batch of actions from a policy, in the batched action space's shape and dtype, clipped to its bounds."""
    if isinstance(policy, nn.Module):
        first = next(chain(policy.parameters(), policy.buffers()), None)
        device = torch.device("cpu") if first is None else first.device
        with torch.no_grad():
            action = policy(tree_map(partial(torch.as_tensor, dtype=torch.float32, device=device), observation))
    else:
        action = policy(observation)
    if isinstance(action, torch.Tensor):
        action = action.detach().cpu().numpy()
    action = np.asarray(action, dtype=action_space.dtype).reshape(action_space.shape or ())
    if isinstance(action_space, gym.spaces.Box):  # as our own environments do
        action = np.clip(action, action_space.low, action_space.high)
    return action
