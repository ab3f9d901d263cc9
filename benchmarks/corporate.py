"""Env steps/s of a ready-made corporate world on a CPU: a firm and two people, dense and in groups.

The world is untrained, which costs as much as a trained one. Run: ``python -m benchmarks.corporate``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.timing import time_in_turn
from wm_vec import GeneralUnifiedWorldModel
from wm_vec.canvas import Topology
from wm_vec.schema.business import Business
from wm_vec.schema.individual import Individual

SIZES = (1, 16, 64)
TOPOLOGIES = ("dense", "groups")
DENOISE_STEPS = 10
OBSERVES = (
    "firm_acme.financials.revenue_growth",
    "firm_acme.financials.operating_margin",
    "firm_acme.market.equity_price",
    "firm_acme.latent_health",
    "regime.growth_regime",
)
ACTS = ("firm_acme.strategy.capital_allocation", "firm_acme.strategy.capex_plan")


def corporate_world(topology: str) -> GeneralUnifiedWorldModel:
    """The world, 64 wide with 6 blocks gone through 3 times; its episodes start at zeros."""
    world = GeneralUnifiedWorldModel(
        include=["regime", "financial.equities", "sector_tech"],
        entities={"firm_acme": Business(), "person_ceo": Individual(), "person_employee": Individual()},
        topology=topology,
    )
    world.bank = torch.zeros(1, world.num_positions)
    return world


def stepper(world: GeneralUnifiedWorldModel, num_envs: int, n_denoise_steps: int) -> Callable[[], Any]:
    """One step of a vector env that a chief executive sees, under one action."""
    env = world.to_vector_env(
        num_envs,
        OBSERVES,
        ACTS,
        lambda obs, act, info: obs["firm_acme.financials.revenue_growth"].mean(),
        n_denoise_steps=n_denoise_steps,
    )
    env.reset(seed=0)
    action = torch.zeros(env.action_space.shape)
    return lambda: env.step(action)


def attention_sizes(world: GeneralUnifiedWorldModel) -> dict[str, Any]:
    """What a query attends to, dense and in groups."""
    topology, count = Topology.of(world.bound), world.num_positions
    return {
        "fields": len(world.bound),
        "positions": count,
        "summaries": topology.num_summaries,
        "keys_per_query": float(topology.mask.float().sum(1).mean()),
        "pairs_over_dense": float(topology.mask.sum()) / count**2,
        "tile_pairs_over_dense": topology.tiles(64).mask.numel() / count**2,
    }


def measure(sizes: Sequence[int], n_denoise_steps: int, seconds: float) -> list[dict[str, Any]]:
    """A row per number of envs and topology."""
    worlds = {topology: corporate_world(topology) for topology in TOPOLOGIES}
    rows = []
    for num_envs in sizes:
        named = {name: stepper(world, num_envs, n_denoise_steps) for name, world in worlds.items()}
        for name, times in time_in_turn(named, seconds).items():
            step = statistics.median(times)
            rows.append(
                {
                    "num_envs": num_envs,
                    "topology": name,
                    "env_steps_per_s": num_envs / step,
                    "step_s": step,
                    "calls": len(times),
                }
            )
            print(f"{num_envs:4d} envs, {name:<6} {num_envs / step:8.3f} env steps/s, {step:7.2f} s a step", flush=True)
    return rows


def main() -> None:
    """Measure, print and write benchmarks/results/corporate.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--envs", type=int, nargs="+", default=SIZES)
    parser.add_argument("--denoise-steps", type=int, default=DENOISE_STEPS)
    parser.add_argument("--seconds", type=float, default=20.0, help="time at each size; at least three steps are timed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/corporate.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {
        "machine": machine(),
        "world": attention_sizes(corporate_world("dense")),
        "n_denoise_steps": args.denoise_steps,
        "rows": measure(args.envs, args.denoise_steps, args.seconds),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
