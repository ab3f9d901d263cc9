"""Compare a world with the real environment that it was learned from.

Single steps: what is deterministic by R2 of the change s'-s and by skill over standing still and over the best
linear fit that does not see the action; what chance decides by its distribution, from several samples of the same
state and action: numbers, classes, rewards and ends. Open loop from the same starts under the same actions; where
the real state can be set, the effects of actions from the same states; returns and lengths of whole episodes.
Always under random actions, and under any policies besides.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wm_vec.cli.arguments import CommandError, add_common, add_world, check_writable, positive, size

EXAMPLES = """
wm-vec check cartpole.safetensors
wm-vec check CartPole-v1 --out-png cartpole.png              (a bundled world, by its name)
wm-vec check cartpole.safetensors --policy my_policies:balance --out-json figures.json
wm-vec check pendulum.safetensors --denoise-steps 1 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wm-vec check``."""
    add_world(parser)
    parser.add_argument("--env", metavar="ID", help="the real environment (default: the one it was learned from)")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="also under this policy: batch of observations -> batch of actions; can be given several times",
    )
    parser.add_argument("--out-json", type=Path, metavar="FILE", help="write the figures there as JSON")
    parser.add_argument("--out-png", type=Path, metavar="FILE", help="write a picture there (needs matplotlib)")
    words = "held-out real steps (default: 10000)"
    parser.add_argument("--transitions", type=positive, default=10_000, metavar="N", help=words)
    parser.add_argument("--starts", type=size, default=200, metavar="N", help="whole episodes (default: 200)")
    parser.add_argument("--horizon", type=positive, default=50, metavar="T", help="open-loop steps (default: 50)")
    add_common(parser, EXAMPLES, real_env=True)


def run(args: argparse.Namespace) -> int:
    """Check and report."""
    from wm_vec.cli.loading import load_device, load_policy, load_signature, load_world
    from wm_vec.cli.output import finite, reporting
    from wm_vec.train.evaluation import evaluate_world

    if args.out_json is not None:
        check_writable(args.out_json, "--out-json")
    if args.out_png is not None:
        check_writable(args.out_png, "--out-png", picture=True)
    for option in ("transitions", "starts"):
        if getattr(args, option) < 2:
            raise CommandError(f"--{option} must be at least 2, got {getattr(args, option)}.")
    with reporting(args.json) as reporter:
        world = load_world(args.world, load_device(args.device))
        learned_from = world.signature.env_id if world.signature else None
        env_id = learned_from if args.env is None else args.env
        if env_id is None:
            raise CommandError(f"{args.world} does not say which environment it was learned from: give --env ID.")
        if args.env is None and ":" in env_id:
            raise CommandError(
                f"{args.world} says that it was learned from {env_id}, which imports the module before the colon. If "
                "you trust it, give it as --env yourself."
            )
        load_signature(env_id, args.env_kwargs)
        report = evaluate_world(
            world,
            env_id,
            policies={name: load_policy(name) for name in args.policy},
            n_transitions=args.transitions,
            n_starts=args.starts,
            horizon=args.horizon,
            n_denoise_steps=args.denoise_steps,
            env_kwargs=args.env_kwargs,
            seed=args.seed,
            progress=reporter.note,
        )
        payload = {"world": args.world, **report.to_dict()}
        if args.out_json is not None:
            args.out_json.write_text(json.dumps(finite(payload), indent=2, allow_nan=False) + "\n")
            reporter.note(f"wrote {args.out_json}")
        if args.out_png is not None:
            from wm_vec.render.evaluation_plot import plot_evaluation

            plot_evaluation(report, args.out_png)
            reporter.note(f"wrote {args.out_png}")
        reporter.result(payload, report.table())
    return 0
