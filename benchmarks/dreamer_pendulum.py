"""How good a policy examples/dreamer_pendulum.py makes, by seed: trained in imagination alone, judged in the real one.

The script's settings were chosen on seeds 1 and 2, so others judge it. Run: ``python -m benchmarks.dreamer_pendulum``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from examples.dreamer_pendulum import Args, evaluate, make_actor, make_env, train
from wm_vec import WorldModel


def run(args: Args, say: Any = print) -> dict[str, Any]:
    """One seed: real returns before and after, what each 20 iterations earned in imagination, and the time it took.

    The seconds are the process's own, since the machine was shared.
    """
    torch.manual_seed(args.seed)
    env = make_env(WorldModel.bundled(args.env_id, device=args.device), args)
    actor = make_actor(args)
    untrained = evaluate(actor, args)
    started, rewards = time.process_time(), []
    for log in train(env, actor, args):
        rewards.append(log["reward"])
        if log["iteration"] % 20 == 0:
            say(f"seed {args.seed}: {log}")
    seconds = time.process_time() - started
    returns = evaluate(actor, args)
    return {
        "seed": args.seed,
        "untrained_return": statistics.mean(untrained),
        "real_return": statistics.mean(returns),
        "returns": returns,
        "process_seconds": seconds,
        "imagined_reward_per_step": [statistics.mean(rewards[i : i + 20]) for i in range(0, len(rewards), 20)],
    }


def main() -> None:
    """Run the seeds and write benchmarks/results/dreamer_pendulum.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--num-iterations", type=int, default=Args.num_iterations)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dreamer_pendulum.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = []
    for seed in options.seeds:
        args = Args(seed=seed, num_iterations=options.num_iterations, device="cpu")
        runs.append(run(args, lambda line: print(line, file=sys.stderr, flush=True)))
    config = {name: value for name, value in asdict(args).items() if name != "seed"}
    result = {"machine": machine(), "config": config, "runs": runs}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(", ".join(f"seed {r['seed']}: {r['real_return']:.0f}" for r in runs) + f": {options.out}")


if __name__ == "__main__":
    main()
