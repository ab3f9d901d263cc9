"""Imagine many episodes at once, under random actions or a policy: returns, and imagined steps per second.

Every env resets itself when its episode ends. The returns are those of the episodes that ended within the
steps given, so let it run for longer than an episode lasts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_vec.cli.arguments import CommandError, add_common, add_world, check_writable, positive, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wm_vec.core.trees import Tree
    from wm_vec.envs import WorldModelVectorEnv
    from wm_vec.train.collect import Policy

SPEED_STEPS = 50
"""Steps that the demo measures the speed over."""
EXAMPLES = """
wm-vec rollout CartPole-v1 --num-envs 4096                   (a bundled world, by its name)
wm-vec rollout pendulum.safetensors --num-envs 1024 --steps 200 --device cuda
wm-vec rollout cartpole.safetensors --policy my_policies:balance --steps 500 --json
wm-vec rollout CartPole-v1 --num-envs 1 --video cartpole.gif
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wm-vec rollout``."""
    add_world(parser)
    parser.add_argument("--num-envs", type=size, default=1024, metavar="N", help="envs (default: 1024)")
    parser.add_argument("--steps", type=positive, default=200, metavar="T", help="steps of each env (default: 200)")
    parser.add_argument("--policy", metavar="MODULE:FUNCTION", help="batch of observations -> batch of actions")
    parser.add_argument("--max-episode-steps", type=positive, metavar="H", help="horizon (default: the environment's)")
    words = "a film of the first env's observations, FILE.gif (needs matplotlib)"
    parser.add_argument("--video", type=Path, metavar="FILE", help=words)
    add_common(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Imagine and report."""
    import torch

    from wm_vec.cli.loading import load_device, load_policy, load_world
    from wm_vec.cli.output import reporting
    from wm_vec.compat import tree_map

    if args.video is not None:
        check_writable(args.video, "--video", picture=True)
        if args.video.suffix.lower() != ".gif":
            raise CommandError(f"--video {args.video}: expected a name that ends in .gif.")
    with reporting(args.json) as reporter:
        device = load_device(args.device)
        world = load_world(args.world, device)
        policy = None if args.policy is None else load_policy(args.policy)
        env = world.to_vector_env(
            args.num_envs, n_denoise_steps=args.denoise_steps, max_episode_steps=args.max_episode_steps, seed=args.seed
        )
        with reporter.progress() as progress:
            task = progress.add_task("imagined steps", total=args.steps, note="")
            shown: list[Tree] = []

            def watch(observation: Tree) -> None:
                progress.update(task, advance=1)
                if args.video is not None:
                    shown.append(tree_map(lambda part: part[:1].clone(), observation))

            statistics, seconds = imagine(env, policy, args.steps, args.seed, watch)
        if args.video is not None:
            _write_video(env, shown, args.video)
            reporter.note(f"wrote {args.video}")
        payload: dict[str, Any] = {
            "world": args.world,
            "num_envs": args.num_envs,
            "steps": args.steps,
            "env_steps": args.num_envs * args.steps,
            "seconds": seconds,
            "env_steps_per_second": args.num_envs * args.steps / seconds,
            "policy": args.policy or "random",
            "n_denoise_steps": args.denoise_steps or world.model.config.n_denoise_steps,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "seed": args.seed,
            **statistics,
        }
        reporter.result(payload, _summary(payload))
    return 0


def imagine(
    env: WorldModelVectorEnv,
    policy: Policy | None,
    steps: int,
    seed: int,
    watch: Callable[[Tree], None] = lambda observation: None,
) -> tuple[dict[str, Any], float]:
    """Step every env, from a reset with `seed`, under a policy or random actions; `watch` sees every observation.

    Returns:
        Statistics of the episodes that ended, and the seconds that all steps took, actions included.
    """
    import torch

    from wm_vec.compat import tree_map
    from wm_vec.train.collect import act
    from wm_vec.train.episodes import action_tensor

    def actions(observation: Tree) -> torch.Tensor:
        if policy is None:
            return env.sample_actions()
        return action_tensor(
            env.engine, act(policy, tree_map(lambda part: part.cpu().numpy(), observation), env.action_space)
        )

    observation, _ = env.reset(seed=seed)
    env.step(actions(observation))  # the first step of all prepares tables
    observation, _ = env.reset(seed=seed)
    totals = torch.zeros(5, dtype=torch.float64, device=env.device)
    low = torch.full((), float("inf"), dtype=torch.float64, device=env.device)
    high = -low
    float(low)  # waits for the device
    started = time.perf_counter()
    for _ in range(steps):
        observation, _, _, _, info = env.step(actions(observation))
        ended, returns, lengths = info["_episode"], info["episode"]["r"].double(), info["episode"]["l"].double()
        columns = (torch.ones_like(returns), returns, returns.square(), lengths, info["diverged"].double())
        totals += torch.stack([torch.where(ended, column, 0.0).sum() for column in columns])
        low = torch.minimum(low, torch.where(ended, returns, low).min())
        high = torch.maximum(high, torch.where(ended, returns, high).max())
        watch(observation)
    count, total, squares, steps_in_all, diverged = totals.tolist()  # waits for the device
    seconds = time.perf_counter() - started
    statistics: dict[str, Any] = {"episodes": int(count), "diverged": int(diverged), "return": None, "length": None}
    if count:
        mean = total / count
        std = max(0.0, squares / count - mean**2) ** 0.5
        statistics["return"] = {"mean": mean, "std": std, "min": float(low), "max": float(high)}
        statistics["length"] = {"mean": steps_in_all / count}
    return statistics, seconds


def _write_video(env: WorldModelVectorEnv, shown: Sequence[Tree], path: Path) -> None:
    """A film of one env's observations ``(1, ...)``."""
    from wm_vec.envs.numpy_io import element_of, painter_of
    from wm_vec.render.video import write_gif

    space = env.single_observation_space
    paint = painter_of(env.engine.only_perspective("--video"), space)
    write_gif((paint(element_of(seen, space)) for seen in shown), path)


def _summary(payload: dict[str, Any]) -> str:
    lines = [
        f"{payload['num_envs']:,} envs x {payload['steps']:,} steps of {payload['world']}, "
        f"{payload['policy']} actions, {payload['n_denoise_steps']} denoise steps, {payload['device']}",
        f"{payload['env_steps_per_second']:,.0f} imagined env steps/s in {payload['seconds']:.2f} s",
    ]
    if payload["return"] is None:
        lines.append(f"no episode ended within {payload['steps']} steps")
    else:
        r = payload["return"]
        lines.append(
            f"{payload['episodes']:,} episodes: return {r['mean']:.4g} ± {r['std']:.3g} "
            f"(from {r['min']:.4g} to {r['max']:.4g}), mean length {payload['length']['mean']:.4g}"
        )
    if payload["diverged"]:
        lines.append(f"{payload['diverged']:,} episodes ended because the world broke down")
    return "\n".join(lines)
