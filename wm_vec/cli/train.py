"""Learn a world from a real environment: collect transitions, train on them, compare the two.

Any registered Gymnasium environment will do whose observations are numbers or classes, also several in Dict and
Tuple spaces. Beside FILE stand FILE.jsonl, a line per evaluation, and, during training, FILE.resume: after a
crash or a kill the same command continues from it and ends in the same world, bit for bit.

The default steps take one core of a CPU 3 to 7 minutes where observations are 1 to 8 numbers (CartPole-v1: 5), and
about 14 where they are 24. After its first steps a run says how long it still takes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_vec.cli.arguments import CommandError, add_common, check_writable, positive, size

if TYPE_CHECKING:
    from wm_vec.cli.output import Reporter
    from wm_vec.train import TrainReport
    from wm_vec.world_model import WorldModel

EXAMPLES = """
wm-vec train --env CartPole-v1 --out cartpole.safetensors
wm-vec train --env Pendulum-v1 --out pendulum.safetensors --transitions 50000 --steps 8000 --device cuda
wm-vec train --env Acrobot-v1 --out acrobot.safetensors --policy sticky
wm-vec train --env CartPole-v1 --out cartpole.safetensors --policy policies.py:balance
wm-vec train --env CartPole-v1 --out cartpole.safetensors --data transitions.safetensors
wm-vec train --env Pendulum-v1 --env-kwargs '{"g": 9.81}' --out p.safetensors --json > metrics.json
"""
CHECK_TRANSITIONS, CHECK_STARTS = 4000, 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``wm-vec train``."""
    parser.add_argument("--env", required=True, metavar="ID", help="Gymnasium id of the real environment")
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help="where the trained world is written")
    words = "real steps to collect (default: 30000)"
    parser.add_argument("--transitions", type=positive, default=30_000, metavar="N", help=words)
    source = parser.add_mutually_exclusive_group()
    words = "random, sticky (repeats actions), MODULE:FUNCTION or FILE.py:FUNCTION (default: one env in four sticky)"
    source.add_argument("--policy", metavar="POLICY", help=words)
    words = "transitions instead of collecting any: a file that wm_vec.train.save_transitions wrote"
    source.add_argument("--data", type=Path, metavar="FILE", help=words)
    for option, kind, words in (
        ("--steps", positive, "gradient steps at most (default: that of wm_vec.TrainConfig)"),
        ("--batch-size", size, "examples per gradient step (default: likewise)"),
        ("--checkpoint-every", positive, "steps between writing FILE.resume (default: likewise)"),
    ):
        parser.add_argument(option, type=kind, metavar="N", help=words)
    words = "width of the network, a multiple of 32 (default: 32)"
    parser.add_argument("--d-model", type=positive, default=32, metavar="D", help=words)
    words = "also log to FILE.logs by TorchRL's logger of this kind: tensorboard, csv or wandb"
    parser.add_argument("--logger", choices=("tensorboard", "csv", "wandb"), help=words)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--no-check", action="store_true", help="leave out the comparison at the end")
    add_common(parser, EXAMPLES, real_env=True)


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from wm_vec.cli.output import reporting

    _check_paths(args.out, args.overwrite)
    with reporting(args.json) as reporter:
        started = time.perf_counter()
        world, transitions, report = _train(args, reporter)
        payload: dict[str, Any] = {
            "world": str(args.out),
            "log": f"{args.out}.jsonl",
            "env": args.env,
            "transitions": transitions,
            "seed": args.seed,
            "seconds": time.perf_counter() - started,
            "training": asdict(report),
            "reality": None,
        }
        early = ", stopped early" if report.stopped_early else ""
        reporter.note(
            f"{args.out}: {report.steps} steps{early}, best held-out loss {report.held_out_loss:.4g} "
            f"at step {report.best_step}"
        )
        tables = []
        if not args.no_check:
            from wm_vec.train.evaluation import evaluate_world

            evaluation = evaluate_world(
                world,
                args.env,
                n_transitions=CHECK_TRANSITIONS,
                n_starts=CHECK_STARTS,
                env_kwargs=args.env_kwargs,
                seed=args.seed,
                progress=lambda doing: reporter.note(f"checking {doing}"),
            )
            payload["reality"] = evaluation.to_dict()
            tables.append(evaluation.table())
        reporter.result(payload, *tables)
    return 0


def _train(args: argparse.Namespace, reporter: Reporter) -> tuple[WorldModel, int, TrainReport]:
    """Collect or load transitions and train on them, with progress: the world, their number, the report."""
    from wm_vec.canvas.layout import MAX_D_MODEL
    from wm_vec.cli.loading import load_device, load_logger, load_policy, load_signature
    from wm_vec.train import TrainConfig, collect_transitions, load_transitions
    from wm_vec.world_model import WorldModel

    given = {"n_steps": args.steps, "batch_size": args.batch_size, "checkpoint_every": args.checkpoint_every}
    config = TrainConfig(seed=args.seed, **{name: value for name, value in given.items() if value is not None})
    device = load_device(args.device)
    signature = load_signature(args.env, args.env_kwargs)
    if args.d_model % 32 or args.d_model > MAX_D_MODEL:
        raise CommandError(f"--d-model must be a multiple of 32 up to {MAX_D_MODEL}, got {args.d_model}.")
    world = WorldModel.from_signature(signature, d_model=args.d_model, device=device, seed=args.seed)
    policy = args.policy if args.policy in (None, "random", "sticky") else load_policy(args.policy)
    transitions = None if args.data is None else load_transitions(args.data)
    log, resume = Path(f"{args.out}.jsonl"), Path(f"{args.out}.resume")
    logger = load_logger(args.logger, f"{args.out}.logs", signature.env_id or "environment")
    _continue_log(log, resume, reporter)
    with reporter.progress() as progress:
        if transitions is None:
            collecting = progress.add_task("real steps", total=args.transitions, note="")
            transitions = collect_transitions(
                args.env,
                args.transitions,
                policy,
                seed=args.seed,
                env_kwargs=args.env_kwargs,
                progress=lambda n: progress.update(collecting, completed=n),
            )
        training = progress.add_task("gradient steps", total=config.n_steps, note="")

        def show(step: int, metrics: dict[str, float]) -> None:
            loss = metrics["held_out_loss"]  # infinite before the first evaluation
            progress.update(training, completed=step, note=f"held-out loss {loss:.4g}" if math.isfinite(loss) else "")

        report = world.finetune(
            transitions,
            config=config,
            log_path=log,
            resume_path=resume,
            save_path=args.out,
            progress=show,
            logger=logger,
        )
    return world, len(transitions), report


def _check_paths(out: Path, overwrite: bool) -> None:
    """Check before the work that its result can be written."""
    check_writable(out, "--out")
    if not os.access(out.parent, os.W_OK):
        raise CommandError(f"--out {out}: the folder {out.parent} cannot be written to.")
    if out.exists() and not overwrite:
        raise CommandError(f"--out {out}: the file exists. Give another name, or --overwrite to replace it.")


def _continue_log(log: Path, resume: Path, reporter: Reporter) -> None:
    """Cut the log back to the state that the run continues from, so that no step is logged twice."""
    from wm_vec.train.loop import read_state

    if not resume.exists():
        log.unlink(missing_ok=True)
        return
    _, step = read_state(resume)
    reporter.note(f"going on from step {step} ({resume})")
    if log.exists():
        lines = [line for line in log.read_text(errors="replace").splitlines() if _step_of(line) <= step]
        log.write_text("".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    """The step of a log line; of one that a kill cut short, infinity."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
