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

from wm_vec.cli.arguments import add_common, add_examples, positive
from wm_vec.cli.errors import CommandError

ENV_ID = "CartPole-v1"
NUM_EPISODES = 20
EXAMPLES = """
wm-vec demo
wm-vec demo --policy-steps 1_000_000 --out cartpole.png
wm-vec demo --json > demo.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wm-vec demo``."""
    parser.add_argument(
        "--num-envs", type=positive, default=2048, metavar="N", help="imagined rollouts at once (default: 2048)"
    )
    parser.add_argument(
        "--policy-steps",
        type=positive,
        default=600_000,
        metavar="N",
        help="imagined steps to train the policy for (default: 600,000)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo.png"), metavar="FILE", help="where the picture is written"
    )
    add_common(parser)
    add_examples(parser, EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Imagine, train, evaluate, draw."""
    _check_out(args.out)
    from wm_vec.cli.loading import load_device
    from wm_vec.cli.output import reporting
    from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
    from wm_vec.render.demo_plot import plot_demo
    from wm_vec.train.episodes import real_episodes
    from wm_vec.world_model import WorldModel

    started = time.perf_counter()
    with reporting(args.json) as reporter:
        world = WorldModel.bundled(ENV_ID, device=load_device(args.device))
        reporter.note(f"1. Imagining {args.num_envs:,} rollouts of {world}")
        speed = _imagine(world, args.num_envs, args.seed)
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
                # Steps over ends: where hardly an episode ends within a rollout, it lasts as long as it may.
                episode_length = min(episode_length, env.max_episode_steps or episode_length)
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


def _check_out(path: Path) -> None:
    """Check before the work that its picture can be drawn."""
    if path.is_dir():
        raise CommandError(f"--out {path} is a folder; expected a file.")
    try:
        import matplotlib  # noqa: F401 - only to see that it is there
    except ImportError as error:
        raise CommandError("the demo draws a picture, which needs matplotlib: pip install 'wm_vec[plot]'.") from error
    path.parent.mkdir(parents=True, exist_ok=True)


def _imagine(world: Any, num_envs: int, seed: int, steps: int = 50) -> float:
    """Imagined env steps/s of `num_envs` rollouts under random actions."""
    env = world.to_vector_env(num_envs, seed=seed)
    env.reset()
    env.step(env.sample_actions())
    before = time.perf_counter()
    for _ in range(steps):
        env.step(env.sample_actions())
    float(env.engine.predictions().sum())  # waits for the device
    return num_envs * steps / (time.perf_counter() - before)


def _drift(world: Any, seed: int) -> dict[str, Any]:
    """One real episode of random actions and the imagined one from the same start: ``(T, 4)`` arrays."""
    import gymnasium as gym
    import numpy as np
    import torch

    real_env = gym.make(ENV_ID)
    rng = np.random.default_rng(seed)
    longest: list[Any] = []
    for attempt in range(20):
        observation, _ = real_env.reset(seed=seed + attempt)
        observations, actions, done = [observation], [], False
        while not done:
            actions.append(int(rng.integers(0, 2)))
            observation, _, terminated, truncated, _ = real_env.step(actions[-1])
            observations.append(observation)
            done = terminated or truncated
        if not longest or len(actions) > len(longest[1]):
            longest = [np.stack(observations), actions]
    real_env.close()
    env = world.to_vector_env(1, seed=seed, autoreset_mode="disabled", max_episode_steps=10_000)
    env.reset()
    state = env.state()
    where = world.bound["observation"].indices()
    state.dynamics["values"][0, where] = torch.as_tensor(longest[0][0]).to(state.dynamics["values"])
    imagined = [env.set_state(state)]
    imagined += [env.step(torch.tensor([a], device=env.device))[0] for a in longest[1]]
    return {"real": longest[0], "imagined": torch.cat(imagined).cpu().numpy()}


def _summary(payload: dict[str, Any]) -> str:
    returns = payload["real_return"]
    return (
        f"{payload['imagined_env_steps_per_second']:,.0f} imagined env steps/s with {payload['num_envs']:,} rollouts\n"
        f"real {payload['world']}: {returns['trained']:.0f} after {payload['policy_steps']:,} imagined steps, "
        f"{returns['random']:.0f} for random actions\n"
        f"{payload['picture']}, {payload['seconds']:.0f} s in all"
    )
