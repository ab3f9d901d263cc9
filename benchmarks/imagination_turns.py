"""Train a policy for the real CartPole-v1 in imagination alone, world and policy in turns.

Random data end where a good policy begins, so a world learned from them alone misleads it. Each turn therefore collects
real steps with the current policy, refines the world on everything collected, and goes on training the policy inside
it. The policy never learns from a real step. Run: ``python benchmarks/imagination_turns.py --seeds 0 1 2 3 4``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from benchmarks.machine import machine
from wm_vec import TrainConfig, WorldModel, collect_transitions
from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
from wm_vec.train import WorldData
from wm_vec.train.episodes import real_episodes

ENV_ID = "CartPole-v1"


@dataclass(frozen=True)
class TurnsConfig:
    """The pipeline's settings.

    Attributes:
        turns: Turns of collecting, refining and training.
        real_steps_per_turn: Real transitions collected in each.
        exploration: Share of random actions mixed into the policy's, so that the world sees what follows mistakes.
        first_world_steps: Gradient steps of the first world.
        world_steps: Gradient steps of each refinement.
        policy_steps: Imagined env steps of each turn's policy training.
        num_envs: Imagined envs.
        horizon: Steps of an imagined episode.
    """

    turns: int = 5
    real_steps_per_turn: int = 6000
    exploration: float = 0.1
    first_world_steps: int = 1500
    world_steps: int = 700
    policy_steps: int = 250_000
    num_envs: int = 512
    horizon: int = 500


def run(seed: int, config: TurnsConfig, say: Any = print) -> dict[str, Any]:
    """One seed of the whole pipeline; returns its figures.

    The policy that is kept is the one that fell least often while real steps were collected with it, all of which
    count; the 20 episodes that judge it at the end choose nothing.
    """
    started = time.perf_counter()
    world = WorldModel.from_env(ENV_ID, seed=seed)
    data: WorldData | None = None
    policy: Policy | None = None
    best: tuple[float, dict[str, torch.Tensor]] = (0.0, {})
    turns: list[dict[str, Any]] = []
    for turn in range(config.turns + 1):
        data, steps_per_fall = collect_turn(world, policy, data, config, seed * 1000 + turn)
        if policy is not None:
            turns[-1]["steps_per_fall"] = steps_per_fall
            if steps_per_fall > best[0]:
                best = (steps_per_fall, {name: t.clone() for name, t in policy.state_dict().items()})
            say(f"seed {seed} turn {turn - 1}: {turns[-1]}")
        if turn == config.turns:
            break
        held_out_loss = refine(world, data, config, seed + turn, first=turn == 0)
        env = world.to_vector_env(config.num_envs, max_episode_steps=config.horizon, seed=seed * 1000 + turn)
        env.engine.load_bank(start_states(data, seed + turn))
        env.reset()
        policy = policy or Policy(world, seed)
        train_policy(policy, env, ppo_config(config, seed + turn, first=turn == 0))
        turns.append(
            {
                "real_steps": len(data),
                "held_out_loss": held_out_loss,
                "real_return": float(real_episodes(ENV_ID, 20, policy, seed=10_000 + seed).returns.mean()),
                "seconds": time.perf_counter() - started,
            }
        )
    assert policy is not None
    policy.load_state_dict(best[1])
    returns = real_episodes(ENV_ID, 20, policy, seed=20_000 + seed).returns.tolist()
    result = {
        "seed": seed,
        "real_return": statistics.mean(returns),
        "returns": returns,
        "real_steps": len(data),
        "seconds": time.perf_counter() - started,
        "turns": turns,
    }
    say(f"seed {seed}: real return {result['real_return']:.0f} after {result['seconds']:.0f} s")
    return result


def collect_turn(
    world: WorldModel, policy: Policy | None, data: WorldData | None, config: TurnsConfig, seed: int
) -> tuple[WorldData, float]:
    """One turn's real steps joined to the others, and how many of them there were per fall."""
    acts = None if policy is None else explorer(policy, config.exploration, seed)
    collected = collect_transitions(ENV_ID, config.real_steps_per_turn, acts, seed=seed, num_envs=8)
    falls = int(collected["next", "terminated"].sum())
    fresh = world.as_data(collected)
    return fresh if data is None else data.join(fresh), len(collected) / max(1, falls)


def refine(world: WorldModel, data: WorldData, config: TurnsConfig, seed: int, first: bool) -> float:
    """Train the world on everything collected; returns the held-out loss."""
    settings = TrainConfig(
        n_steps=config.first_world_steps if first else config.world_steps,
        learning_rate=3e-3 if first else 1.5e-3,
        seed=seed,
    )
    return world.finetune(data, config=settings).held_out_loss


def ppo_config(config: TurnsConfig, seed: int, first: bool) -> PPOConfig:
    """Later turns change the policy less: it is good already, and wanders off if pushed."""
    return PPOConfig(total_steps=config.policy_steps, learning_rate=1e-3 if first else 5e-4, seed=seed)


def explorer(policy: Policy, share: float, seed: int) -> Any:
    """The sampling policy with a share of uniformly random actions."""
    rng = np.random.default_rng(seed)

    def act(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            action = policy.actor(
                TensorDict({"observation": torch.as_tensor(observation)}, batch_size=[len(observation)])
            )["action"].numpy()
        random = rng.integers(0, 2, len(action))
        return np.where(rng.random(len(action)) < share, random, action)

    return act


def start_states(data: WorldData, seed: int) -> TensorDict:
    """Half true starts of episodes, half states visited on the way."""
    generator = torch.Generator().manual_seed(seed)
    visited = data.values[torch.randint(len(data), (2048,), generator=generator)]
    starts = data.starts[torch.randint(len(data.starts), (2048,), generator=generator)]
    return TensorDict({"values": torch.cat((starts, visited))}, batch_size=[4096])


def main() -> None:
    """Run the seeds and write benchmarks/results/imagination_turns.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=TurnsConfig.turns)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/imagination_turns.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = replace(TurnsConfig(), turns=args.turns)
    runs = [run(seed, config, lambda line: print(line, file=sys.stderr, flush=True)) for seed in args.seeds]
    final = [r["real_return"] for r in runs]
    result = {
        "machine": machine(),
        "config": asdict(config),
        "real_steps": max(r["real_steps"] for r in runs),
        "median": statistics.median(final),
        "worst": min(final),
        "runs": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"median {result['median']:.0f}, worst {result['worst']:.0f} over {len(final)} seeds: {args.out}")


if __name__ == "__main__":
    main()
