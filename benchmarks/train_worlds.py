"""Train the worlds that come with the package, from real steps of random actions and of policies trained inside.

A policy is trained in turns with a scout of the world; the world that is kept is trained afresh on all the steps. Run:
``python -m benchmarks.train_worlds``, or with the ids of some.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from wm_vec import TrainConfig, WorldModel, collect_transitions
from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
from wm_vec.train.collect import RandomPolicy
from wm_vec.train.episodes import real_episodes

WORLDS = Path(__file__).resolve().parents[1] / "wm_vec" / "worlds"


@dataclass(frozen=True)
class WorldRecipe:
    """How one bundled world is made.

    Attributes:
        random_steps: Real steps with random actions.
        world_steps: Gradient steps of the world that is kept.
        ppo: How the policy is trained in each turn.
        actions: Which random actions, as `collect_transitions` takes them.
        turns: Turns of the policy; 0 where random actions see all there is.
        scout_steps: Gradient steps of the scout in each turn.
        policy_steps: Real steps with the policy in each turn.
        num_envs: Imagined envs that it is trained in.
    """

    random_steps: int
    world_steps: int
    ppo: PPOConfig
    actions: RandomPolicy | None = None
    turns: int = 2
    scout_steps: int = 1000
    policy_steps: int = 20_000
    num_envs: int = 512


RECIPES = {
    "CartPole-v1": WorldRecipe(60_000, 5000, PPOConfig(total_steps=200_000)),
    "Pendulum-v1": WorldRecipe(
        40_000,
        5000,
        PPOConfig(total_steps=200_000, gamma=0.95, entropy_coeff=0.0, num_epochs=10, minibatch_size=1024),
        num_envs=256,
    ),
    "FrozenLake-v1": WorldRecipe(
        60_000,
        3000,
        PPOConfig(total_steps=500_000, entropy_coeff=0.03, rollout_steps=64, gamma=0.999),
        turns=0,
        num_envs=64,
    ),
    "Acrobot-v1": WorldRecipe(60_000, 5000, PPOConfig(total_steps=300_000), actions="sticky", turns=1),
}


def make_world(env_id: str, recipe: WorldRecipe, seed: int = 0) -> WorldModel:
    """Collect, train policies in a first world, collect with them, train the world that is kept."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{env_id} {time.perf_counter() - started:6.0f} s  {text}", flush=True)

    scout = WorldModel.from_env(env_id, seed=seed)
    data = scout.as_data(collect_transitions(env_id, recipe.random_steps, recipe.actions, seed=seed))
    policy: Policy | None = None
    for turn in range(recipe.turns):
        report = scout.finetune(data, config=TrainConfig(n_steps=recipe.scout_steps, seed=seed + turn))
        say(f"scout world {turn}: held-out loss {report.held_out_loss:.5f}")
        policy = policy or Policy(scout, seed)
        imagined = scout.to_vector_env(recipe.num_envs, seed=seed)
        imagined.reset()
        train_policy(policy, imagined, recipe.ppo)
        returns = real_episodes(env_id, 20, policy, seed=seed + 900).returns
        say(f"policy {turn}: mean real return {returns.mean():.1f}")
        policy.greedy = turn == 1
        steps = collect_transitions(env_id, recipe.policy_steps, policy, seed=seed + 1 + turn)
        policy.greedy = True
        data = data.join(scout.as_data(steps))
    world = WorldModel.from_env(env_id, seed=seed)
    last = {"step": 0}

    def progress(step: int, metrics: dict[str, float]) -> None:
        if step - last["step"] >= 1000:
            last["step"] = step
            say(f"step {step}: {metrics}")

    report = world.finetune(
        data, config=TrainConfig(n_steps=recipe.world_steps, patience=None, seed=seed), progress=progress
    )
    say(f"held-out loss {report.held_out_loss:.5f} at step {report.best_step}")
    return world


def main() -> None:
    """Train and save the named worlds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("envs", nargs="*", default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=WORLDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for env_id in args.envs:
        make_world(env_id, RECIPES[env_id]).save(args.out / f"{env_id}.safetensors")


if __name__ == "__main__":
    main()
