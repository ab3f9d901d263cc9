"""A world that learned the synthetic economy, held against its equations; and policies that learned in that world.

What the world says of one step is compared with the equations: its mean by R2 of the change, its 90 % intervals by how
often they hold what comes next, actions by the direction of their effect. Policies are trained by Stable-Baselines3's
PPO in imagination alone and play in the true economy, each as the agent that it was trained as and as others are paid.

Run: ``python -m benchmarks.economy``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from wm_kernels import changing_fields
from wm_vec import AgentSpec, TrainConfig, WorldModel, batched
from wm_vec.adapters import CanvasDynamics
from wm_vec.core import CounterRNG
from wm_vec.economy_env import economy_env
from wm_vec.schema.economy import (
    ALLOCATION,
    CAPEX,
    CAREER,
    CONFIDENCE,
    CONTROLS,
    EQUITY,
    FOCUS,
    GROWTH,
    HEALTH,
    MARGIN,
    REVENUE,
    RISK,
    SATISFACTION,
    STRESS,
    SyntheticEconomy,
    synthetic_economy,
)

HORIZON = 40
"""Months of an episode."""
INTERVAL = 0.9
EFFECT = 0.05
"""Of an action from -1 to 1: what moves a field's mean by less is not judged."""


def paid(reward: Callable[[dict[str, Tensor]], Tensor]) -> Any:
    """A batched reward function out of one of observations alone, ``(B, 1)`` each -> ``(B, 1)``."""
    return batched(lambda obs, action, info: reward(obs).squeeze(-1))


MANAGED, MEANS = [REVENUE, MARGIN, EQUITY, HEALTH, SATISFACTION, GROWTH], [ALLOCATION, CAPEX]
ROLES = {
    "ceo": AgentSpec(MANAGED, MEANS, paid(lambda obs: obs[REVENUE] + 0.3 * obs[EQUITY])),
    "steward": AgentSpec(MANAGED, MEANS, paid(lambda obs: obs[MARGIN] + obs[SATISFACTION])),
    "employee": AgentSpec(
        [SATISFACTION, STRESS, CONFIDENCE, CAREER],
        [FOCUS, RISK],
        paid(lambda obs: obs[CONFIDENCE] - 0.5 * obs[STRESS]),
    ),
}
"""The seed's chief executive and employee, and a chief executive who is paid for something else."""


def learn(
    economy: SyntheticEconomy, num_episodes: int, n_steps: int, batch_size: int = 512, seed: int = 0
) -> WorldModel:
    """A world that learned from recordings of the economy."""
    world = WorldModel(economy.bound, ticks_per_step=economy.ticks_per_step, seed=seed)
    config = TrainConfig(n_steps=n_steps, batch_size=batch_size, seed=seed)
    world.finetune(economy.series(num_episodes, seed=seed), config=config)
    return world


def held_out(economy: SyntheticEconomy, num_steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps that no world learned from: values and next values ``(M, N)``, and ticks ``(M,)``."""
    series = economy.series(max(2, num_steps // 59 + 1), 60, seed)
    table = torch.from_numpy(np.stack([series[path] for path in economy.bound], 1)).unflatten(0, (-1, 60))
    tick = torch.from_numpy(series["tick"]).unflatten(0, (-1, 60))[:, :-1].flatten()
    chosen = torch.randperm(len(tick), generator=torch.Generator().manual_seed(seed))[:num_steps]
    return table[:, :-1].flatten(0, 1)[chosen], table[:, 1:].flatten(0, 1)[chosen], tick[chosen]


@torch.no_grad()
def imagined(world: WorldModel, values: Tensor, tick: Tensor, num_samples: int, n_denoise_steps: int | None) -> Tensor:
    """Next values ``(M, num_samples, N)`` that the world imagines of ``(M, N)`` at the ticks ``(M,)``."""
    controls = [path for path in CONTROLS if path in world.bound]
    dynamics = CanvasDynamics(world.model, controls, n_denoise_steps=n_denoise_steps)
    state = dynamics.encode(values, CounterRNG.from_seeds(torch.arange(len(values))))
    state["tick"] = tick.clone()
    many = state[torch.arange(len(values)).repeat_interleave(num_samples)]
    rng = CounterRNG.from_seeds(torch.arange(len(values) * num_samples))
    after = dynamics.step(many, dynamics.current_action(many), rng)
    return after.observation.unflatten(0, (-1, num_samples))


def one_step(
    economy: SyntheticEconomy,
    world: WorldModel,
    num_steps: int = 1000,
    num_samples: int = 99,
    n_denoise_steps: int | None = None,
    seed: int = 1,
) -> dict[str, dict[str, float]]:
    """How well the world foretells one step, field by field, where the field changes.

    Returns:
        Field path -> ``r2`` of the mean change against the equations' own, ``noise``, the share of noise in the
        variance of the change, and ``coverage`` of the 90 % interval.
    """
    values, after, tick = held_out(economy, num_steps, seed)
    samples = imagined(world, values, tick, num_samples, n_denoise_steps)
    mean, due = economy.mean(values, tick), changing_fields(tick, economy.period, economy.ticks_per_step)
    # The real value is as likely to have any rank among those imagined, if they come from one distribution.
    rank = (samples < after[:, None]).sum(1)
    tail = round((1 - INTERVAL) / 2 * (num_samples + 1))
    inside = (rank >= tail) & (rank <= num_samples - tail)
    found = {}
    for at, path in enumerate(economy.bound):
        rows = due[:, at]
        change, error = (mean - values)[rows, at], (samples.mean(1) - mean)[rows, at]
        found[path] = {
            "r2": 1 - float(error.square().mean() / change.var()),
            "noise": float((after - mean)[rows, at].var() / (after - values)[rows, at].var()),
            "coverage": float(inside[rows, at].float().mean()),
        }
    return found


def effects(economy: SyntheticEconomy, world: WorldModel, num_steps: int = 100) -> dict[str, dict[str, list[float]]]:
    """What an action of 1 in place of -1 does to each field's mean: control -> field -> ``[true, imagined]``."""
    values, _, tick = held_out(economy, num_steps, seed=2)
    tick = torch.full_like(tick, economy.ticks_per_step * 2)  # the quarter ends in this step, so every field changes
    found: dict[str, dict[str, list[float]]] = {}
    for control in CONTROLS:
        at = economy.bound[control].start
        true, guess = 0.0, 0.0
        for action in (1.0, -1.0):
            acted = values.clone()
            acted[:, at] = action
            true = action * economy.mean(acted, tick).mean(0) + true
            guess = action * imagined(world, acted, tick, 16, None).mean((0, 1)) + guess
        pairs = zip(economy.bound, true.tolist(), guess.tolist(), strict=True)
        found[control] = {path: [a, b] for path, a, b in pairs if abs(a) >= EFFECT and path not in CONTROLS}
    return found


def movement(
    economy: SyntheticEconomy, world: WorldModel, num_envs: int = 128, num_steps: int = 100
) -> dict[str, float]:
    """Field path -> standard deviation over envs after `num_steps` random actions, over that of the data."""
    series = economy.series(50, seed=3)
    states = [path for path in economy.bound if path not in CONTROLS]
    env = world.to_vector_env(num_envs, states, list(CONTROLS), lambda obs, action, info: 0.0)
    observation, _ = env.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        observation = env.step(torch.rand(num_envs, len(CONTROLS), generator=generator) * 2 - 1)[0]
    return {p: float(s) / float(series[p].std()) for p, s in zip(states, observation.std(0), strict=True)}


def train_policy(world: WorldModel, role: AgentSpec, total_steps: int, seed: int) -> Any:
    """A policy by Stable-Baselines3's PPO, from 64 envs."""
    from stable_baselines3 import PPO

    from wm_vec.envs.sb3 import SB3VecEnv

    view = role.obs_fields, role.act_fields, role.reward_fn
    env = world.to_vector_env(64, *view, max_episode_steps=HORIZON)
    settings: dict[str, Any] = {"n_steps": 20, "batch_size": 320, "n_epochs": 5, "gamma": 0.95, "learning_rate": 1e-3}
    return PPO("MlpPolicy", SB3VecEnv(env), seed=seed, device="cpu", **settings).learn(total_steps)


def true_return(economy: SyntheticEconomy, role: AgentSpec, policy: Any, seed: int, num_envs: int = 256) -> float:
    """Mean return of an episode in the true economy; of random actions where there is no policy."""
    view = role.obs_fields, role.act_fields, role.reward_fn
    env = economy_env(economy, num_envs, *view, max_episode_steps=HORIZON, autoreset_mode="disabled")
    observation, _ = env.reset(seed=1_000_000 + 10_000 * seed)
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(HORIZON):
        if policy is None:
            action = torch.rand(num_envs, len(role.act_fields), generator=generator) * 2 - 1
        else:
            action = torch.as_tensor(policy.predict(observation.numpy(), deterministic=True)[0])
        observation, reward, *_ = env.step(action)
        total += float(reward.mean())
    return total


def policies(economy: SyntheticEconomy, world: WorldModel, total_steps: int, num_seeds: int) -> dict[str, Any]:
    """True returns by what a policy was trained as -> what it is paid as -> one number per seed."""
    table: dict[str, Any] = {}
    for seed in range(num_seeds):
        for name, role in ROLES.items():
            policy = train_policy(world, role, total_steps, seed)
            for paid_as, other in ROLES.items():
                if other.obs_fields == role.obs_fields:
                    for trained, acts in ((name, policy), (f"random as {name}", None)):
                        returns = table.setdefault(trained, {}).setdefault(paid_as, [])
                        returns.append(true_return(economy, other, acts, seed))
                        print(f"seed {seed}: {trained}, paid as {paid_as}: {returns[-1]:.2f}", flush=True)
    return table


def main() -> None:
    """Measure, and write benchmarks/results/economy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-episodes", type=int, default=1000)
    parser.add_argument("--n-steps", type=int, default=4000)
    parser.add_argument("--total-steps", type=int, default=60_000)
    parser.add_argument("--num-seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/economy.json"))
    args = parser.parse_args()
    economy = synthetic_economy()
    world = learn(economy, args.num_episodes, args.n_steps)
    result = {
        "machine": machine(),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "one_step": one_step(economy, world, 2000),
        "one_step_10": one_step(economy, world, 2000, n_denoise_steps=10),
        "effects": effects(economy, world),
        "movement": movement(economy, world),
        "policies": policies(economy, world, args.total_steps, args.num_seeds),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
