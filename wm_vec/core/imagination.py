"""Policy and world run together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict

from wm_kernels.finish_step.reference import AutoresetPlan
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import Rows
from wm_vec.core.transition import StepFunction
from wm_vec.core.trees import as_entry


def imagined(
    step_function: StepFunction, rows: Rows, policy: Callable[..., Any], horizon: int, plan: AutoresetPlan | None
) -> tuple[Rows, TensorDict]:
    """Roll out a policy from `rows`, under the caller's grad mode; see `Engine.imagine`.

    Args:
        step_function: One step of all rows.
        rows: Where it starts.
        policy: ``observation (B, ...) -> action (B, ...)``, or a TensorDict module.
        horizon: Steps T.
        plan: When finished rows reset; None for the step function's own.

    Returns:
        The rows at the end, and the rollout ``(B, T)``.
    """
    takes_tensordict = hasattr(policy, "in_keys") and hasattr(policy, "out_keys")
    num_envs, device = rows.seed.shape[0], rows.seed.device
    steps = []
    observation = step_function.observe(rows.leaves)
    for _ in range(horizon):
        step = TensorDict({"observation": as_entry(observation)}, batch_size=[num_envs], device=device)
        if takes_tensordict:
            step = policy(step)
        else:
            step.set("action", policy(observation))
        actions = step_function.joint.check(step.get("action"), num_envs)
        rows, result = step_function(rows, actions, CounterRNG(rows.seed, rows.episode, rows.elapsed), plan)
        step.set(
            "next",
            {
                "observation": as_entry(result.final_observation),
                "reward": result.reward.unsqueeze(1),
                "terminated": result.terminated.unsqueeze(1),
                "truncated": result.truncated.unsqueeze(1),
                "done": result.finished.unsqueeze(1),
            },
        )
        steps.append(step)
        observation = result.observation
    return rows, torch.stack(steps, 1)
