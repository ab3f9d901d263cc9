"""How true the bundled worlds are, on held-out steps of a random policy and of policies they never saw.

The second policy is trained here, in the world, from another seed than those whose steps the world learned from; a
half-trained one is measured too, since it still makes mistakes. Run: ``python -m benchmarks.world_quality``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.train_worlds import RECIPES
from wm_vec import WorldModel
from wm_vec.cli.ppo import Policy, train_policy
from wm_vec.train.episodes import real_episodes
from wm_vec.train.evaluation import evaluate_world

SEED = 77
HALF = 8
"""The half-trained policy's share of the training: one part in this many."""


def unseen_policies(world: WorldModel, env_id: str) -> dict[str, Policy]:
    """A half-trained and a trained policy, from a seed of their own."""
    recipe = RECIPES[env_id]
    policies = {}
    for name, parts in (("half-trained", HALF), ("trained", 1)):
        env = world.to_vector_env(recipe.num_envs, seed=SEED)
        env.reset()
        policy = Policy(world, SEED)
        train_policy(policy, env, replace(recipe.ppo, total_steps=recipe.ppo.total_steps // parts, seed=SEED))
        policies[name] = policy
    return policies


def measure(env_id: str) -> dict[str, Any]:
    """The whole evaluation of one bundled world; prints its table."""
    world = WorldModel.bundled(env_id)
    policies = unseen_policies(world, env_id)
    report = evaluate_world(world, env_id, policies=policies, seed=SEED)
    Console(width=120).print(report.table())
    returns = {name: float(real_episodes(env_id, 20, p, seed=SEED).returns.mean()) for name, p in policies.items()}
    return {"policy_returns": returns, **report.to_dict()}


def main() -> None:
    """Measure the named worlds and write benchmarks/results/world_quality.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("envs", nargs="*", default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/world_quality.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine()}
    for env_id in args.envs:
        print(f"{env_id}: training the policies", file=sys.stderr)
        result[env_id] = measure(env_id)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
