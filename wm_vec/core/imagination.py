"""Policy and world run together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict

from wm_vec.core.state import EnvState
from wm_vec.core.step import World, step
from wm_vec.core.trees import as_entry


def imagined(
    world: World, state: EnvState, policy: Callable[..., Any], horizon: int, autoreset_mode: AutoresetMode
) -> tuple[EnvState, TensorDict]:
    """The state after `Engine.imagine` from `state`, and the rollout ``(B, T)``; under the caller's grad mode."""
    (name,) = (p.name for p in world.perspectives)
    takes_tensordict = hasattr(policy, "in_keys") and hasattr(policy, "out_keys")
    num_envs, device = state.seed.shape[0], state.seed.device
    steps = []
    observation = world.observe(state)[name]
    for _ in range(horizon):
        rollout = TensorDict({"observation": as_entry(observation)}, batch_size=[num_envs], device=device)
        if takes_tensordict:
            rollout = policy(rollout)
        action = rollout.get("action") if takes_tensordict else policy(observation)
        actions = world.actions.check({name: action}, num_envs)
        rollout.set("action", action)
        state, output = step(world, state, actions, autoreset_mode)
        rollout.set(
            "next",
            {
                "observation": as_entry(output.final_observation[name]),
                "reward": output.reward,
                "terminated": output.terminated,
                "truncated": output.truncated.unsqueeze(1),
                "done": output.finished.unsqueeze(1),
            },
        )
        steps.append(rollout)
        observation = output.observation[name]
    return state, torch.stack(steps, 1)
