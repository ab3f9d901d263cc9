"""What an adapter costs over the model that it adapts, in env steps/s, for each way of running it.

One torch MLP world model, two layers of 256: the bare model in a loop with its state carried from call to call, the
vector environment over it with each ``batching``, and Gymnasium's SyncVectorEnv over scalar environments. A model that
does next to nothing shows what the scalar environment and SyncVectorEnv take themselves. All are called in turn within
one process, so that a machine whose speed drifts slows all alike. Figures are medians, overheads medians of differences
within a turn.
Run: ``python -m benchmarks.callable_throughput``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.timing import figures, time_in_turn
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

SIZES = (64, 1024, 4096)
HORIZON = 100
OBSERVATIONS, ACTIONS = 8, 2
OBSERVATION_SPACE = gym.spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
ACTION_SPACE = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
BARE, SCALAR, SYNC = "bare model", "scalar env", "SyncVectorEnv of scalar envs"
TRIVIAL, DIRECT, SYNC_DIRECT = "bare trivial model", "direct", "SyncVectorEnv of direct"
MANY = 64
"""Trivial models side by side."""


class MLPWorld(nn.Module):
    """State and action in, change of the state, reward and end of the episode out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(OBSERVATIONS + ACTIONS, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, OBSERVATIONS + 2),
        )

    def forward(self, state: Tensor, action: Tensor) -> dict[str, Tensor]:
        """One step of one env, or of many."""
        out = self.net(torch.cat([state, action], -1))
        after = 0.99 * state + 0.1 * torch.tanh(out[..., :OBSERVATIONS])
        return {
            "state": after,
            "observation": after,
            "reward": out[..., OBSERVATIONS],
            "terminated": out[..., OBSERVATIONS + 1] > 2.0,
        }


def reset(seed: int) -> Tensor:
    """A start of an episode."""
    return torch.randn(OBSERVATIONS, generator=torch.Generator().manual_seed(seed))


def bare(model: MLPWorld, num_envs: int | None) -> Callable[[], Any]:
    """The model alone; None for one env without a batch axis."""
    lead = () if num_envs is None else (num_envs,)
    carried = {"state": torch.randn(*lead, OBSERVATIONS)}

    def step() -> None:
        action = torch.rand(*lead, ACTIONS) * 2 - 1
        with torch.no_grad():
            carried["state"] = model(carried["state"], action)["state"]

    return step


def vector(model: MLPWorld, num_envs: int, batching: Any) -> Callable[[], Any]:
    """The vector environment, autoresets included."""
    envs = WorldModelVectorEnv.from_callables(
        model,
        OBSERVATION_SPACE,
        ACTION_SPACE,
        num_envs=num_envs,
        batching=batching,
        reset_fn=reset,
        max_episode_steps=HORIZON,
    )
    envs.reset(seed=0)
    return lambda: envs.step(torch.rand(num_envs, ACTIONS) * 2 - 1)


def scalar_env(model: MLPWorld) -> WorldModelEnv:
    """One env."""
    return WorldModelEnv(model, OBSERVATION_SPACE, ACTION_SPACE, reset_fn=reset, max_episode_steps=HORIZON)


def scalar(model: MLPWorld) -> Callable[[], Any]:
    """The scalar environment, stepped on and on as the bare model is: a reset is no part of a step."""
    env = scalar_env(model)
    env.reset(seed=0)
    return lambda: env.step((torch.rand(ACTIONS) * 2 - 1).numpy())


def sync(model: MLPWorld, num_envs: int) -> Callable[[], Any]:
    """Gymnasium's own vector environment over scalar ones."""
    envs = SyncVectorEnv([lambda: scalar_env(model)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    return lambda: envs.step((torch.rand(num_envs, ACTIONS) * 2 - 1).numpy())


def trivial(state: np.ndarray, action: np.ndarray) -> dict[str, Any]:
    """A model that costs next to nothing."""
    return {"state": state, "observation": state, "reward": 0.5, "terminated": False}


def direct_env() -> WorldModelEnv:
    """One env of the trivial model."""
    start = np.zeros(OBSERVATIONS, np.float32)
    return WorldModelEnv(trivial, OBSERVATION_SPACE, ACTION_SPACE, initial_observation=start, torch_actions=False)


def direct(num_envs: int | None, seconds: float) -> list[dict[str, Any]]:
    """The scalar environment over the trivial model, or SyncVectorEnv over many, against as many bare calls."""
    state, action = np.zeros(OBSERVATIONS, np.float32), np.zeros(ACTIONS, np.float32)
    if num_envs is None:
        env = direct_env()
        env.reset(seed=0)
        calls = {TRIVIAL: lambda: trivial(state, action), DIRECT: lambda: env.step(action)}
        return figures(1, time_in_turn(calls, seconds), TRIVIAL)
    envs, actions = SyncVectorEnv([direct_env] * num_envs), np.zeros((num_envs, ACTIONS), np.float32)
    envs.reset(seed=0)
    bare_calls = {TRIVIAL: lambda: [trivial(state, one) for one in actions], SYNC_DIRECT: lambda: envs.step(actions)}
    return figures(num_envs, time_in_turn(bare_calls, seconds), TRIVIAL)


def measure(seconds: float) -> list[dict[str, Any]]:
    """All sizes."""
    torch.manual_seed(0)
    model = MLPWorld()
    rows = figures(1, time_in_turn({BARE: bare(model, None), SCALAR: scalar(model)}, seconds), BARE)
    for num_envs in SIZES:
        fast = {BARE: bare(model, num_envs), **{b: vector(model, num_envs, b) for b in ("batched", "vmap")}}
        rows += figures(num_envs, time_in_turn(fast, seconds), BARE)
        slow = {BARE: fast[BARE], SYNC: sync(model, num_envs)}
        rows += [row for row in figures(num_envs, time_in_turn(slow, seconds), BARE) if row["subject"] != BARE]
    return rows + direct(None, seconds) + direct(MANY, seconds)


def main() -> None:
    """Measure, print a table and write benchmarks/results/callable_throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each group at each size")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/callable_throughput.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measure(args.seconds)
    for row in rows:
        print(
            f"{row['num_envs']:5d} {row['subject']:<30} {row['env_steps_per_s']:10.0f} env steps/s "
            f"{row['over_bare_us']:+10.0f} us {row['over_bare_percent']:+8.1f} % over the bare model"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
