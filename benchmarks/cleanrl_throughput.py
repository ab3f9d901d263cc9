"""Env steps/s of a whole training loop: SyncVectorEnv over scalar views beside tensors, in the same PPO.

The loops are those of ``examples/ppo_sync.py`` and ``examples/ppo_tensor.py``, which differ in their rollouts alone:
acting, stepping, advantages and gradient steps are all timed. At one number of envs both take turns in one process, so
that a machine whose speed drifts slows both alike. The figures are medians, the ratio the median of the turns' ratios.

The seconds are the process's own, on one thread: where nothing else runs they are the seconds on the clock, and where
the machine is shared they leave out the waits for a core. Those on the clock are in the result too.
Run: ``python -m benchmarks.cleanrl_throughput`` (two minutes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from benchmarks.machine import machine
from examples import ppo_sync, ppo_tensor

SIZES = {64: True, 256: True, 1024: False, 4096: False}
"""Number of envs -> whether SyncVectorEnv is timed too; an iteration of 4,096 scalar views would last minutes."""
NUM_STEPS = 32
TURN_SECONDS = 2.0
"""A turn lasts at least this long, in whole iterations: a tensor one may be over in a fifth of a second."""


def sync_loop(num_envs: int) -> Iterator[dict[str, float]]:
    """The training of ppo_sync.py, an iteration at each `next`."""
    args = ppo_sync.Args(device="cpu", num_envs=num_envs, num_steps=NUM_STEPS, total_timesteps=10**9)
    envs = ppo_sync.make_envs(args)
    return ppo_sync.train(envs, ppo_sync.Agent(envs.single_observation_space, envs.single_action_space), args)


def tensor_loop(num_envs: int) -> Iterator[dict[str, float]]:
    """The training of ppo_tensor.py, an iteration at each `next`."""
    args = ppo_tensor.Args(device="cpu", num_envs=num_envs, num_steps=NUM_STEPS, total_timesteps=10**9)
    envs = gym.make_vec(args.env_id, num_envs=num_envs, device="cpu")
    return ppo_tensor.train(envs, ppo_tensor.Agent(envs.single_observation_space, envs.single_action_space), args)


def time_in_turn(loops: dict[str, Iterator[Any]], turns: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds an iteration, the process's own and the clock's, in each turn; an iteration before is not timed."""
    for loop in loops.values():
        next(loop)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            own, clock, iterations = time.process_time(), time.perf_counter(), 0
            while time.perf_counter() - clock < TURN_SECONDS:
                next(loop)
                iterations += 1
            spent = time.process_time() - own, time.perf_counter() - clock
            seconds[name].append((spent[0] / iterations, spent[1] / iterations))
    return seconds


def measure(turns: int) -> list[dict[str, Any]]:
    """A row per number of envs."""
    rows = []
    for num_envs, both in SIZES.items():
        torch.manual_seed(0)
        loops = {"sync": sync_loop(num_envs)} if both else {}
        seconds = time_in_turn({**loops, "tensor": tensor_loop(num_envs)}, turns)
        row: dict[str, Any] = {"num_envs": num_envs, "turns": turns}
        own = {name: [one for one, _ in times] for name, times in seconds.items()}
        for name, times in own.items():
            row[f"{name}_env_steps_per_s"] = num_envs * NUM_STEPS / statistics.median(times)
            row[f"{name}_iteration_s"] = times
            row[f"{name}_iteration_clock_s"] = [clock for _, clock in seconds[name]]
        if both:
            ratios = [s / t for s, t in zip(own["sync"], own["tensor"], strict=True)]
            row["tensor_is_times_faster"] = statistics.median(ratios)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print a table and write benchmarks/results/cleanrl_throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="timed turns of each loop at each size")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cleanrl_throughput.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(args.turns)
    for row in rows:
        sync, ratio = row.get("sync_env_steps_per_s"), row.get("tensor_is_times_faster")
        beside = f"ppo_sync {sync:6,.0f}, ppo_tensor {ratio:.1f} x as fast" if sync else ""
        print(f"{row['num_envs']:5d} envs: ppo_tensor {row['tensor_env_steps_per_s']:7,.0f} env steps/s  {beside}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "num_steps": NUM_STEPS, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
