"""Write docs/benchmarks.md from benchmarks/results/*.json, so that the page says what was measured and nothing else.

Run: ``python -m benchmarks.report``.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
DRIFT_STEPS = (1, 5, 20, 50)
PUBLIC_CORPORATE = 0.02
"""Env steps/s of the public implementation of a world of this kind: 50 s a step on two cores."""

INTRO = """# Benchmarks

Every figure on this page comes from a JSON file in `benchmarks/results/`, with the machine and the commit it was
measured on; `python -m benchmarks.report` writes the page from them. No GPU was at hand for any of them.
"""


def page() -> str:
    """The whole page."""
    speed = throughput(), torchrl(), adapters(), training_loops(), corporate()
    sections = *speed, economy(), worlds(), truth(), turns(), torchrl_turns(), dreamer()
    return "\n".join([INTRO, *filter(None, sections)]).rstrip() + "\n"


def throughput() -> str:
    """Env steps/s by layer."""
    result = _read("step_throughput")
    lines = [
        "## What the layers cost\n",
        "Bundled CartPole world (7 positions, width 32, 3 blocks), 3 denoise steps, float32; each layer timed in turn,",
        "call by call, in one process; medians. `make bench`.\n",
        _where(result["machine"]) + "\n",
        "| envs | what | env steps/s | over the bare network |",
        "| ---: | --- | ---: | ---: |",
    ]
    for row in result["rows"]:
        over = ""
        if row["subject"].startswith("SyncVectorEnv"):
            over = f"vector env {row['vector_env_is_times_faster']:.1f} x as fast"
        elif row["subject"] != "bare network":
            over = f"{row['over_bare_us']:+.0f} µs, {row['over_bare_percent']:+.1f} %"
        lines.append(f"| {row['num_envs']} | {row['subject']} | {row['env_steps_per_s']:,.0f} | {over} |")
    return "\n".join(lines) + "\n"


def torchrl() -> str:
    """Env steps/s of TorchRL environments."""
    result = _read("torchrl_throughput")
    lines = [
        "## TorchRL environments over one world\n",
        "Bundled CartPole world, random actions, resets of what is done: `TorchRLEnv`; TorchRL's own WorldModelEnv",
        "around the same network, with a reset source and a time limit written for it, since it has neither; TorchRL's",
        "GymWrapper over Gymnasium's SyncVectorEnv of scalar views. Each in turn with the bare network, call by call,",
        "in one process, the order of a turn drawn anew; medians. `python -m benchmarks.torchrl_throughput`.\n",
        _where(result["machine"]) + "\n",
    ]
    behind = ",\n".join(
        f"{row['over_ours_us']:,.0f} ({_interval(row['over_ours_us_interval'])}) at {row['num_envs']:,}"
        for row in result["rows"]
        if "over_ours_us" in row
    )
    beside = [
        "\nWhat a step takes beside its network, in µs, by a clock that stands still while that runs:\n",
        "| envs | what | µs |",
        "| ---: | --- | ---: |",
    ]
    for row in result["rows"]:
        if "beside_network_us" in row:
            within = _interval(row["beside_network_us_interval"])
            beside.append(f"| {row['num_envs']} | {row['subject']} | {row['beside_network_us']:,.0f} ({within}) |")
    note = (
        "\nIn brackets: the 95 % interval of the median. Within a turn a step of torchrl's WorldModelEnv takes\n"
        f"so many µs longer than one of TorchRLEnv, in the median:\n{behind}."
    )
    return "\n".join([*lines, *_over_bare(result["rows"], "bare network"), note, *beside]) + "\n"


def adapters() -> str:
    """Env steps/s of each way of running a user's model."""
    result = _read("callable_throughput")
    lines = [
        "## What an adapter costs over the model that it adapts\n",
        "A torch MLP world model, two layers of 256: the bare model in a loop; the vector environment over it with",
        "each `batching`, autoresets and statistics included; Gymnasium's SyncVectorEnv over scalar environments. Each",
        "in turn with the bare model, call by call, in one process; medians.",
        "`python -m benchmarks.callable_throughput`.\n",
        _where(result["machine"]) + "\n",
    ]
    return "\n".join(lines + _over_bare(result["rows"], "bare model")) + "\n"


def training_loops() -> str:
    """Env steps/s of the PPO scripts."""
    result = _read("cleanrl_throughput")
    lines = [
        "## What a training loop makes of it\n",
        "PPO in the bundled CartPole world, acting, stepping and gradient steps together: `examples/ppo_sync.py`, the",
        "familiar SyncVectorEnv over one environment per thunk, and `examples/ppo_tensor.py`, the same on the vector",
        f"env. {result['num_steps']} steps of each env an iteration; both in turns in one process; medians. The",
        "seconds are the process's own, since the machine was shared. `python -m benchmarks.cleanrl_throughput`.\n",
        _where(result["machine"]) + "\n",
        "| envs | ppo_sync, env steps/s | ppo_tensor, env steps/s | ppo_tensor is |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        sync, ratio = "-", "-"
        if "sync_env_steps_per_s" in row:
            sync, ratio = f"{row['sync_env_steps_per_s']:,.0f}", f"{row['tensor_is_times_faster']:.1f} x as fast"
        lines.append(f"| {row['num_envs']} | {sync} | {row['tensor_env_steps_per_s']:,.0f} | {ratio} |")
    return "\n".join(lines) + "\n"


def corporate() -> str:
    """Env steps/s of a corporate world; nothing until it was measured."""
    if not (RESULTS / "corporate.json").exists():
        return ""
    result = _read("corporate")
    world = result["world"]
    lines = [
        "## A corporate world on a CPU\n",
        f"A ready-made world of a firm, two people and their surroundings: {world['fields']} fields,",
        f"{world['positions']} positions, width 64, 6 blocks x 3 loops, {result['n_denoise_steps']} denoise steps,",
        f'float32. With `topology="groups"` there are {world["summaries"]} summaries and',
        f"{world['keys_per_query']:.0f} keys per query: {_share(world['pairs_over_dense'])} of the dense pairs, where",
        f"padded tiles compute {_share(world['tile_pairs_over_dense'])}. Both in turn, call by call, in one process;",
        "medians.",
        f"The public implementation of such a world takes 50 s a step on two cores, {PUBLIC_CORPORATE} env steps/s.",
        "`python -m benchmarks.corporate`.\n",
        _where(result["machine"]) + "\n",
        "| envs | topology | seconds a step | env steps/s | over the public implementation |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        times = row["env_steps_per_s"] / PUBLIC_CORPORATE
        lines.append(
            f"| {row['num_envs']} | {row['topology']} | {row['step_s']:.2f} | {row['env_steps_per_s']:.2f} | "
            f"{times:,.0f} x as fast |"
        )
    return "\n".join(lines) + "\n"


def economy() -> str:
    """What a world that learned the synthetic economy knows of it, and policies that learned in that world."""
    result = _read("economy")
    few, many, policies = result["one_step"], result["one_step_10"], result["policies"]
    settings = result["settings"]
    lines = [
        "## A world that learned the synthetic economy\n",
        f"{settings['n_steps']:,} gradient steps on {settings['num_episodes']:,} recordings of 60 months, judged by",
        "the equations on 2,000 unseen months. Noise is its share in the variance of the change, which no world can",
        "foretell. R2 is of the mean change: 0 is standing still, 1 the equations. Intervals of 90 %, of 99 imagined",
        "months with 4 and with 10 denoise steps, hold so many real ones. Moves: the standard deviation over 128 envs",
        "after 100 months of random actions, over that of the data. `python -m benchmarks.economy`.\n",
        _where(result["machine"]) + "\n",
        "| field | noise | R2 | interval, 4 | interval, 10 | moves |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for path, row in few.items():
        moves = f"{result['movement'][path]:.2f}" if path in result["movement"] else ""
        held = f"{row['coverage']:.1%} | {many[path]['coverage']:.1%}"
        lines.append(f"| {path} | {row['noise']:.0%} | {row['r2']:.3f} | {held} | {moves} |")
    lines += [
        "\nWhat an action of 1 instead of -1 does to a field's mean, by the equations and as imagined:\n",
        "| action | field | true | imagined |",
        "| --- | --- | ---: | ---: |",
    ]
    for control, moved in result["effects"].items():
        lines += [f"| {control} | {path} | {true:+.2f} | {guess:+.2f} |" for path, (true, guess) in moved.items()]
    lines += [
        f"\nPolicies by Stable-Baselines3's PPO, {settings['total_steps']:,} imagined months each, never in the true",
        f"economy before: mean return of true episodes of 40 months over {settings['num_seeds']} seeds, and its",
        "standard error. Rows say as what a policy was trained, columns by whose reward it is judged; the chief",
        "executive and the steward see and do the same.\n",
        "| policy | as the ceo | as the steward | as the employee |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, paid in policies.items():
        cells = [_mean_and_error(paid.get(role)) for role in ("ceo", "steward", "employee")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean_and_error(returns: list[float] | None) -> str:
    if returns is None:
        return ""
    return f"{statistics.mean(returns):.2f} ± {statistics.stdev(returns) / len(returns) ** 0.5:.2f}"


def worlds() -> str:
    """How true the bundled worlds are."""
    result = _read("world_quality")
    lines = [
        "## How true the bundled worlds are\n",
        "On fresh real steps of random actions and of two policies that no world has seen, one of them half-trained.",
        "R2 is of the change `s' - s`, never of the next state; skill is the share of squared error that is gone",
        "against standing still, and against the best linear fit that does not see the action. Drift is the open-loop",
        "error from the same start under the same actions, in standard deviations of each dimension.",
        "`python -m benchmarks.world_quality`.\n",
        _where(result["machine"]) + "\n",
    ]
    for env_id in (name for name in result if name != "machine"):
        for name, policy in result[env_id]["policies"].items():
            real = result[env_id]["policy_returns"].get(name)
            lines.append(f"### {env_id}, {name}{f' (real return {real:.0f})' if real is not None else ''}\n")
            lines += _one_step(policy)
    return "\n".join(lines) + "\n"


def truth() -> str:
    """What worlds of stochastic, discrete and rare things are held to; nothing until it was measured."""
    if not (RESULTS / "world_truth.json").exists():
        return ""
    result = _read("world_truth")
    seeds = sorted({seed for entry in result["worlds"].values() for seed in entry.get("seeds", ())})
    lines = [
        "## What worlds are held to\n",
        "Each world learns from 30,000 real steps of random actions with the defaults of `wm-vec train`; then imagined",
        "steps, from held-out states under the same actions, and whole episodes stand beside real ones. K counts the",
        f'passes of the network. "Before" is commit {result["baseline"]}, trained on the same data in the same run.',
        "Drift is the error of an open loop, in standard deviations, its median over the rollouts; of several seeds,",
        "the medians are compared, and the worst R2 counts. A policy learns in its world alone.",
        f"Seeds: {', '.join(seeds)}.",
        "`python -m benchmarks.world_truth`.\n",
        _where(result["machine"]) + "\n",
        "| world | figure | K | value | before or real | must | met |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    met = {None: "", True: "yes", False: "no"}
    for name, entry in result["worlds"].items():
        for row in entry["figures"]:
            other = row.get("before", row.get("real"))
            if isinstance(other, list):
                other = statistics.median(other) if other else None
            other = number(other)
            cells = name, row["figure"], row.get("k", ""), number(row["value"]), other, bar(row), met[row["met"]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def bar(row: dict[str, Any]) -> str:
    """What a figure of world_truth.json must be, in words."""
    low, high = (None if row[key] is None else f"{row[key]:.4g}" for key in ("at_least", "at_most"))
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}" if high else ""


def turns() -> str:
    """Policies trained in imagination alone, by seed."""
    result = _read("imagination_turns")
    config = result["config"]
    lines = [
        "## A policy for the real CartPole-v1, trained in imagination alone\n",
        f"World and policy in turns: {config['turns']} turns of {config['real_steps_per_turn']:,} real steps, and as",
        f"many again to choose the policy that falls least, {result['real_steps']:,} in all;",
        f"{config['policy_steps']:,} imagined steps a turn. Mean real return of 20 episodes after each turn.",
        "The machine was shared with other work meanwhile, so the seconds are an upper bound.",
        "`python -m benchmarks.imagination_turns`.\n",
        *_turns(result),
    ]
    return "\n".join(lines) + "\n"


def torchrl_turns() -> str:
    """The same with TorchRL's own pieces, by seed."""
    result = _read("torchrl_cartpole")
    config = result["config"]
    lines = [
        "## The same with TorchRL's own pieces\n",
        "`examples/torchrl_cartpole.py`: TorchRL's collectors on both sides, a replay buffer whose states imagined",
        f"episodes start from, `ClipPPOLoss` and `GAE`; {config['turns']} turns of {config['real_steps']:,} real",
        f"steps, {result['real_steps']:,} in all, and {config['policy_steps']:,} imagined steps a turn. Mean real",
        f"return of {config['eval_episodes']} episodes. The machine was shared with other work, so the seconds are an",
        "upper bound.",
        "`python -m examples.torchrl_cartpole --num-seeds 3 --out benchmarks/results/torchrl_cartpole.json`.\n",
        *_turns(result),
    ]
    return "\n".join(lines) + "\n"


def dreamer() -> str:
    """Policies trained through the gradients of the world, by seed."""
    result = _read("dreamer_pendulum")
    lines = [
        "## A policy for the real Pendulum-v1, trained through the gradients of the world\n",
        "`examples/dreamer_pendulum.py`: an actor on the bundled world, by the gradients of imagined lambda returns;",
        f"{result['config']['num_iterations']} iterations of {result['config']['num_envs']} envs and",
        f"{result['config']['horizon']} steps. Mean real return of {result['config']['eval_episodes']} episodes; the",
        "seeds are not those that the settings were chosen on. `python -m benchmarks.dreamer_pendulum`.\n",
        _where(result["machine"]) + "\n",
        "| seed | untrained | trained | worst episode | seconds of the process |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in result["runs"]:
        lines.append(
            f"| {run['seed']} | {run['untrained_return']:,.0f} | {run['real_return']:,.0f} | "
            f"{min(run['returns']):,.0f} | {run['process_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _turns(result: dict[str, Any]) -> list[str]:
    """Returns after every turn, by seed."""
    count = result["config"]["turns"]
    lines = [
        _where(result["machine"]) + "\n",
        "| seed | " + " | ".join(f"turn {t}" for t in range(count)) + " | chosen | seconds |",
        "| ---: |" + " ---: |" * (count + 2),
    ]
    for run in result["runs"]:
        each = " | ".join(f"{turn['real_return']:.0f}" for turn in run["turns"])
        lines.append(f"| {run['seed']} | {each} | {run['real_return']:.0f} | {run['seconds']:.0f} |")
    return [*lines, f"\nMedian {result['median']:.0f}, worst {result['worst']:.0f}."]


def _one_step(policy: dict[str, Any]) -> list[str]:
    step, drift = policy["one_step"], policy["open_loop"]
    lines = []
    for classes in step["classes"]:
        lines.append(
            f"{classes['name']}: next class right in {_share(classes['accuracy'])} of steps (two samples agree in "
            f"{_share(classes['ceiling'])}, standing still {_share(classes['persistence'])}).\n"
        )
    if step["dimensions"]:
        at = [k for k in DRIFT_STEPS if k <= len(drift["counts"])]
        head = " | ".join(f"drift at {k}" for k in at)
        lines += [
            f"| dimension | R2 | skill over standing still | over linear fit | {head} |",
            "| --- | ---: | ---: | ---: |" + " ---: |" * len(at),
        ]
        errors_of = dict(zip(drift["names"], drift["error"], strict=True))
        for dimension in step["dimensions"]:
            errors = errors_of[dimension["name"]]
            figures = [dimension["r2"], dimension["skill_persistence"], dimension["skill_linear"]]
            figures += [errors[k - 1] for k in at]
            lines.append(f"| {dimension['name']} | " + " | ".join(map(number, figures)) + " |")
        lines.append("")
    for d in step["distributions"]:
        if d["stochastic"]:
            lines.append(
                f"{d['name']} is stochastic: variance over the real one {number(d['variance_ratio'])}, central 50 and "
                f"90 % of the samples hold {_share(d['coverage_50'])} and {_share(d['coverage_90'])}.\n"
            )
    end = step["termination"]
    rates = f"{_share(end['imagined_rate']['value'])} of steps end, really {_share(end['real_rate']['value'])}"
    if end["recall"] is None or end["precision"] is None:
        lines.append(f"{rates}.")
    else:
        lines.append(
            f"{rates}; recall {_share(end['recall'])}, precision {_share(end['precision'])} (an exact sampler of the "
            f"imagined chances {_share(end['ceiling'])})."
        )
    sizes = [e for e in policy["effects"] or [] if e["relative_size"] is not None]
    if sizes:
        each = ", ".join(f"{e['name']} {e['relative_size']:.3f}" for e in sizes)
        signs = min(e["sign_agreement"] for e in sizes)
        lines.append(f"Effect of the action, imagined over real size: {each}; signs agree in {_share(signs)} or more.")
    returns = policy["returns"]
    lines.append(
        f"Returns: real {returns['real']['mean']:.1f} ± {returns['real']['std']:.1f}, imagined "
        f"{returns['imagined']['mean']:.1f} ± {returns['imagined']['std']:.1f}, KS distance {returns['ks']:.3f}, "
        f"of lengths {returns['ks_lengths']:.3f} (critical {returns['ks_critical']:.3f}).\n"
    )
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    """Four decimals, or two digits of what is smaller; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _over_bare(rows: list[dict[str, Any]], bare: str) -> list[str]:
    """A table of what `benchmarks.timing.figures` gave."""
    lines = [f"| envs | what | env steps/s | over the {bare} |", "| ---: | --- | ---: | ---: |"]
    for row in rows:
        within = f" ({_interval(row['over_bare_us_interval'])})" if "over_bare_us_interval" in row else ""
        over = f"{row['over_bare_us']:+,.0f} µs{within}, {row['over_bare_percent']:+,.1f} %"
        over = "" if row["subject"] == bare else over
        lines.append(f"| {row['num_envs']} | {row['subject']} | {row['env_steps_per_s']:,.0f} | {over} |")
    return lines


def _interval(bounds: list[float]) -> str:
    low, high = bounds
    return f"{low:,.0f} to {high:,.0f}"


def _where(machine: dict[str, Any]) -> str:
    return (
        f"Measured on {machine['cores']} cores ({machine['processor']}), {machine['torch_threads']} torch thread(s), "
        f"Python {machine['python']}, torch {machine['torch']}, gymnasium {machine['gymnasium']}, "
        f"{'with an extension in C, ' if machine.get('extension') else ''}"
        f"commit {machine['commit']}."
    )


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
