"""Policy and world run together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torch import nn

from wm_vec.compat import tree_map
from wm_vec.core.probe import why_not_captured
from wm_vec.core.state import EnvState
from wm_vec.core.step import World, step
from wm_vec.core.trees import Tree, as_entry


def imagined(
    world: World, state: EnvState, policy: Callable[..., Any], horizon: int, autoreset_mode: AutoresetMode
) -> tuple[EnvState, TensorDict]:
    """The state after `Engine.imagine` from `state`, and the rollout ``(B, T)``; under the caller's grad mode."""
    (name,) = (p.name for p in world.perspectives)
    num_envs = state.seed.shape[0]
    steps = []
    observation = world.observe(state)[name]
    for _ in range(horizon):
        rollout = acted(policy, observation, num_envs, state.seed.device)
        actions = world.actions.check({name: rollout.get("action")}, num_envs)
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


def acted(policy: Callable[..., Any], observation: Tree, num_envs: int, device: torch.device) -> TensorDict:
    """The observation ``(B, ...)``, the action ``(B, ...)`` by `policy`, and what else that writes."""
    entries = TensorDict({"observation": as_entry(observation)}, batch_size=[num_envs], device=device)
    if hasattr(policy, "in_keys") and hasattr(policy, "out_keys"):
        return policy(entries)
    return entries.set("action", policy(observation))


def why_policy_not_captured(world: World, state: EnvState, policy: Callable[..., Any]) -> str | None:
    """Why a policy of these envs cannot be captured; None where it can. The trial takes no random numbers from it."""
    (seen,) = world.observe(state).values()
    other = tree_map(lambda leaf: leaf.flip(0) if leaf.shape[0] > 1 else leaf + 1, seen)
    num_envs, device = state.seed.shape[0], state.seed.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return why_not_captured(
            lambda obs: acted(policy, obs, num_envs, device), [(seen,), (other,)], device, draws=True
        )


def addresses_of(policy: Callable[..., Any]) -> Hashable:
    """Where a policy's parameters and buffers lie, and which of its modules are in training."""
    owner = policy if isinstance(policy, nn.Module) else getattr(policy, "__self__", None)
    if not isinstance(owner, nn.Module):
        return None
    training = tuple(module.training for module in owner.modules())
    return training, tuple(tensor.data_ptr() for tensor in (*owner.parameters(), *owner.buffers()))
