"""Train a policy in an imagined CartPole and evaluate it on the real one, in a few minutes.

Loads the bundled world, which was learned from the real CartPole-v1; imagines thousands of rollouts at once; trains a
policy in imagination alone; and evaluates that policy and a random one on the real environment.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from wm_vec.cli.arguments import add_common, check_writable, positive, size

ENV_ID = "CartPole-v1"
NUM_EPISODES = 20
EXAMPLES = """
wm-vec demo
wm-vec demo --policy-steps 1_000_000 --out cartpole.png
wm-vec demo --json > demo.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wm-vec demo``."""
    words = "imagined rollouts at once (default: 2048)"
    parser.add_argument("--num-envs", type=size, default=2048, metavar="N", help=words)
    words = "imagined steps to train the policy for (default: 600,000)"
    parser.add_argument("--policy-steps", type=positive, default=600_000, metavar="N", help=words)
    words = "where the picture is written"
    parser.add_argument("--out", type=Path, default=Path("demo.png"), metavar="FILE", help=words)
    add_common(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Imagine, train, evaluate, draw."""
    if not args.out.is_dir():
        args.out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(args.out, "--out", picture=True)
    from wm_vec.cli.loading import load_device
    from wm_vec.cli.output import reporting
    from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
    from wm_vec.cli.rollout import SPEED_STEPS, imagine
    from wm_vec.render.demo_plot import plot_demo
    from wm_vec.train.episodes import real_episodes
    from wm_vec.world_model import WorldModel

    started = time.perf_counter()
    with reporting(args.json) as reporter:
        world = WorldModel.bundled(ENV_ID, device=load_device(args.device))
        reporter.note(f"1. Imagining {args.num_envs:,} rollouts of {world}")
        env = world.to_vector_env(args.num_envs, seed=args.seed)
        _, seconds = imagine(env, None, SPEED_STEPS, args.seed)
        speed = args.num_envs * SPEED_STEPS / seconds
        reporter.note(f"   {speed:,.0f} imagined env steps/s")
        drift = _drift(world, args.seed)

        reporter.note("2. Training a policy in imagination alone")
        env = world.to_vector_env(512, seed=args.seed)
        env.reset()
        policy = Policy(world, args.seed)
        curve: list[tuple[int, float]] = []
        with reporter.progress() as progress:
            task = progress.add_task("imagined steps", total=args.policy_steps, note="")

            def report(steps: int, episode_length: float) -> None:
                curve.append((steps, episode_length))
                progress.update(task, completed=steps, note=f"episodes last {episode_length:.0f} steps")

            train_policy(policy, env, PPOConfig(total_steps=args.policy_steps, seed=args.seed), report)

        reporter.note(f"3. Evaluating it on the real {ENV_ID}, {NUM_EPISODES} episodes")
        trained, random = (
            real_episodes(ENV_ID, NUM_EPISODES, who, seed=args.seed).returns.tolist() for who in (policy, None)
        )
        plot_demo(args.out, drift=drift, curve=curve, trained=trained, random=random, speed=speed)
        payload: dict[str, Any] = {
            "world": ENV_ID,
            "num_envs": args.num_envs,
            "imagined_env_steps_per_second": speed,
            "policy_steps": args.policy_steps,
            "real_return": {"trained": statistics.mean(trained), "random": statistics.mean(random)},
            "seconds": time.perf_counter() - started,
            "picture": str(args.out),
        }
        reporter.result(payload, _summary(payload))
    return 0


def _drift(world: Any, seed: int) -> dict[str, Any]:
    """One real episode of random actions and the imagined one from the same start: ``(T, 4)`` arrays."""
    import numpy as np

    from wm_vec.train.episodes import EPISODE_CAP, Imagination, real_episodes

    episodes = real_episodes(ENV_ID, NUM_EPISODES, None, keep=EPISODE_CAP, seed=seed)
    longest = int(episodes.lengths.argmax())
    end = episodes.lengths[longest]
    observations, actions, following, _ = (
        np.stack(column)[:end, longest] for column in zip(*episodes.steps, strict=True)
    )
    imagination = Imagination(world.to_engine(1, autoreset_mode="disabled"))
    imagined = imagination.steps(observations[:1], actions[:, None], seed).observation[:, 0]
    paths = {"real": following, "imagined": imagined}
    return {name: np.concatenate([observations[:1], path]) for name, path in paths.items()}


def _summary(payload: dict[str, Any]) -> str:
    returns = payload["real_return"]
    return (
        f"{payload['imagined_env_steps_per_second']:,.0f} imagined env steps/s with {payload['num_envs']:,} rollouts\n"
        f"real {payload['world']}: {returns['trained']:.0f} after {payload['policy_steps']:,} imagined steps, "
        f"{returns['random']:.0f} for random actions\n"
        f"{payload['picture']}, {payload['seconds']:.0f} s in all"
    )
