"""What each layer over the network costs, in env steps/s.

All are timed in turn, call by call, in one process, so that a machine whose speed drifts slows all of them alike; the
figures are medians, the overheads medians of differences within a turn. Run: ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

from benchmarks.machine import machine
from benchmarks.timing import figures, time_in_turn
from wm_vec import WorldModel

SIZES = (1, 64, 1024, 4096)
BUDGET_SECONDS = 12.0


def bare_network(world: WorldModel, num_envs: int, horizon: int = 500) -> Callable[[], Any]:
    """The network alone, its state carried from call to call: write the action, draw noise, predict."""
    packed = world.model.packed(world.model.config.n_denoise_steps)
    bank, noise_size = world.bank, world.model.noise_size
    assert bank is not None
    start = bank[torch.arange(num_envs) % len(bank)]
    where = torch.tensor(world.bound["action"].indices())
    state = {"values": start, "steps": 0}

    def step() -> None:
        action = torch.randint(0, 2, (num_envs, 1)).to(start.dtype)
        with torch.no_grad():
            values = state["values"].index_copy(1, where, action)
            state["values"] = packed.predict(values, torch.randn(num_envs, noise_size))
        state["steps"] += 1
        if state["steps"] % 20 == 0:
            state["values"] = start

    return step


def subjects(world: WorldModel, num_envs: int, sync_envs: bool) -> dict[str, Callable[[], Any]]:
    """What is timed at one size, by name; all draw their actions inside the timed call."""
    engine = world.to_engine(num_envs, max_episode_steps=500)
    engine.reset(0)
    vector = world.to_vector_env(num_envs, max_episode_steps=500)
    vector.reset(seed=0)
    named: dict[str, Callable[[], Any]] = {
        "bare network": bare_network(world, num_envs),
        "engine": lambda: engine.step(torch.randint(0, 2, (num_envs,))),
        "vector env": lambda: vector.step(torch.randint(0, 2, (num_envs,))),
    }
    if num_envs == 1:
        scalar = world.to_env()
        scalar.reset(seed=0)
        state = {"done": False}

        def step() -> None:
            if state["done"]:
                scalar.reset()
            _, _, terminated, truncated, _ = scalar.step(int(torch.randint(0, 2, (1,))))
            state["done"] = terminated or truncated

        named["scalar view"] = step
    if sync_envs:
        sync = gym.vector.SyncVectorEnv(
            [lambda: world.to_env(max_episode_steps=500)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
        )
        sync.reset(seed=0)
        named["SyncVectorEnv of scalar views"] = lambda: sync.step(torch.randint(0, 2, (num_envs,)).numpy())
    return named


def measure(world: WorldModel, seconds: float) -> list[dict[str, Any]]:
    """A row per size and subject."""
    rows = []
    for num_envs in SIZES:
        turns = time_in_turn(subjects(world, num_envs, sync_envs=False), seconds)
        # On its own, and against the same yardstick: one of its calls lasts as long as thousands of the others.
        slow = subjects(world, num_envs, sync_envs=True)
        names = ("bare network", "vector env", "SyncVectorEnv of scalar views")
        against_sync = time_in_turn({name: slow[name] for name in names}, seconds / 2)
        rows += figures(num_envs, turns, "bare network")
        sync = statistics.median(against_sync[names[2]])
        rows.append(
            {
                "num_envs": num_envs,
                "subject": names[2],
                "env_steps_per_s": num_envs / sync,
                "step_us": sync * 1e6,
                "vector_env_is_times_faster": sync / statistics.median(against_sync["vector env"]),
                "calls": len(against_sync[names[2]]),
            }
        )
    return rows


def main() -> None:
    """Measure, print a table and write benchmarks/results/step_throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="time at each size")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step_throughput.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measure(WorldModel.bundled("CartPole-v1"), args.seconds)
    for row in rows:
        over = (
            f"{row['over_bare_us']:+9.0f} us {row['over_bare_percent']:+6.1f} % over bare"
            if "over_bare_us" in row
            else f"vector env {row['vector_env_is_times_faster']:.1f} x as fast"
        )
        print(f"{row['num_envs']:5d} {row['subject']:<30} {row['env_steps_per_s']:10.0f} env steps/s  {over}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
