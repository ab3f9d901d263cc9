"""How true learned worlds are where the real one is stochastic, discrete or rare, and what policies learn in them.

Every world learns from 30,000 steps with the defaults of ``wm-vec train``, and its figures are held to bars. Real
steps, worlds and policies are kept in a work folder by environment, seed and the commit that last changed the model, so
that a run that was stopped goes on where it was, and figures at other K need no training. Run:
``python -m benchmarks.world_truth`` (hours on two cores; needs the extra ``worlds``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.error import DependencyNotInstalled
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import benchmarks.truth_figures as measure
from benchmarks.machine import machine
from benchmarks.open_loop import load_transitions, save_transitions, trained_world
from benchmarks.report import RESULTS, bar, number
from benchmarks.train_worlds import RECIPES
from benchmarks.truth_drift import ROOT, at_commit, checked_out, compare, cost, drift_figures, starts
from benchmarks.truth_figures import Subject, figure
from wm_vec import collect_transitions
from wm_vec.cli.ppo import PPOConfig

BASELINE = "1743b94"
TRAINING = ("context_dropout", "data", "loop", "normalise")
MODEL = ("kernels", "wm_vec/model", "wm_vec/canvas", *(f"wm_vec/train/{name}.py" for name in TRAINING))
"""What a trained world depends on."""
HELD_OUT_SEED = 40_000


@dataclass(frozen=True)
class PolicyBar:
    """A policy from imagination alone: how it is trained, and the mean real return that it must reach."""

    least: float
    config: PPOConfig
    num_envs: int = 256
    episodes: int = 100


@dataclass(frozen=True)
class Case:
    """An environment, the data that its world learns from, and what is measured.

    Attributes:
        env_id: A Gymnasium id.
        figures: Gives the figures; None for a deterministic one, which is compared with another commit.
        held_out: Real steps that no world learns from.
        actions: ``"random"`` or ``"sticky"``, of the held-out steps, and with ``"sticky"`` of all.
        seeds: One world each.
        policy: What a policy must reach, if one is trained.
    """

    env_id: str
    figures: Callable[[Subject], list[dict]] | None = None
    held_out: int = 20_000
    actions: str = "random"
    seeds: tuple[int, ...] = (0,)
    policy: PolicyBar | None = None


def stochastic(name: str, figures: Callable[[Subject], list[dict]], held_out: int = 20_000) -> Case:
    """A case of `tests.stochastic_envs`."""
    return Case(f"tests.stochastic_envs:wm_vec_tests/{name}-v0", figures, held_out)


def deterministic(env_id: str, policy: PolicyBar | None = None) -> Case:
    """A case of three seeds."""
    return Case(env_id, seeds=(0, 1, 2), policy=policy)


CASES = {
    "Hazard": stochastic("Hazard", measure.hazard, 100_000),
    "FrozenLake": Case(
        "FrozenLake-v1",
        measure.frozen_lake,
        policy=PolicyBar(0.6, RECIPES["FrozenLake-v1"].ppo, RECIPES["FrozenLake-v1"].num_envs, episodes=1000),
    ),
    "Taxi": Case("Taxi-v4", measure.next_class),
    "Bimodal": stochastic("Bimodal", measure.bimodal),
    "CoinReward": stochastic("CoinReward", measure.coin_reward),
    "LunarLander": Case("LunarLander-v3", measure.lunar_lander, 40_000),
    "Acrobot": Case(
        "Acrobot-v1",
        measure.acrobot,
        100_000,
        "sticky",
        policy=PolicyBar(-100.0, PPOConfig(total_steps=500_000)),
    ),
    "RareEnd": stochastic("RareEnd", measure.rare_end, 100_000),
    "CartPole": deterministic("CartPole-v1"),
    "Pendulum": deterministic("Pendulum-v1"),
    "InvertedPendulum": deterministic(
        "InvertedPendulum-v5",
        PolicyBar(900.0, PPOConfig(total_steps=800_000, entropy_coeff=0.0, num_epochs=10, minibatch_size=1024)),
    ),
    "MountainCarContinuous": deterministic("MountainCarContinuous-v0"),
}


@dataclass(frozen=True)
class Run:
    """The sizes of a run and where its files are.

    Attributes:
        work: The work folder.
        commit: What the worlds are kept by.
        baseline: The commit that deterministic worlds are held against.
        baseline_seeds: Seeds for which its worlds are trained; None for all.
        k: Denoise steps to measure at; None stands for the world's own.
        transitions: Real steps that a world learns from.
        steps: Gradient steps at most; None for the defaults.
        episodes: Episodes on either side.
        starts: Open loops.
        small: Divides held-out steps, policies' training and their episodes.
    """

    work: Path
    commit: str
    baseline: str
    k: tuple[int | None, ...]
    transitions: int = 30_000
    steps: int | None = None
    episodes: int = 1000
    starts: int = 2000
    small: int = 1
    baseline_seeds: tuple[int, ...] | None = None


def measured(name: str, seed: int, run: Run) -> dict[str, Any]:
    """Train one world and measure it at every K; runs in a process of its own."""
    torch.set_num_threads(1)
    case, stem = CASES[name], f"{name}-{seed}"
    started = time.perf_counter()
    policy = "sticky" if case.actions == "sticky" else None
    data = kept_transitions(case.env_id, run.transitions, policy, seed, run.work / "data" / f"{stem}.safetensors")
    count, held_out_seed = case.held_out // run.small, HELD_OUT_SEED + seed
    path = run.work / "data" / f"{stem}-held-out.safetensors"
    held_out = load_transitions(kept_transitions(case.env_id, count, case.actions, held_out_seed, path))
    kept = run.work / run.commit / f"{stem}.safetensors"
    world = trained_world(case.env_id, data, kept, seed, run.steps)
    arrays = {key: held_out[key].numpy() for key in ("observation", "action")}
    arrays["next_observation"] = held_out["next", "observation"].numpy()
    arrays |= {key: held_out["next", key].reshape(-1).numpy() for key in ("reward", "terminated")}
    result: dict[str, Any] = {
        "terminal_rows": int(load_transitions(data)["next", "terminated"].sum()),
        "training": json.loads(kept.with_suffix(".json").read_text()),
        "figures": [],
        "compared": {},
    }
    for k in run.k:
        subject = Subject(case.env_id, world, arrays, run.episodes, seed, k)
        own_k = k or world.model.config.n_denoise_steps
        if case.figures is None:
            before = run.work / run.baseline
            real = starts(subject, run.work / "data" / f"{stem}-starts.safetensors", run.starts)
            imagined = None
            if run.baseline_seeds is None or seed in run.baseline_seeds:
                imagined = baseline_paths(case.env_id, seed, data, run, before / f"{stem}.safetensors")
                result["training_before"] = json.loads((before / f"{stem}.json").read_text())
            result["compared"][own_k] = compare(subject, real, imagined)
            figures = []
        else:
            figures = case.figures(subject)
        if case.policy is not None and seed == case.seeds[0]:
            figures.append(policy_figure(case.policy, subject, seed, run, kept.with_name(f"{stem}-policy-{own_k}")))
        result["figures"] += [{"k": own_k, "seed": seed, **row} for row in figures]
    result["seconds"] = time.perf_counter() - started
    return result


def kept_transitions(env_id: str, n: int, policy: Any, seed: int, path: Path) -> Path:
    """The file of real steps under random actions; None has every fourth env repeat its actions."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_transitions(collect_transitions(env_id, n, policy, seed=seed), path)
    return path


def baseline_paths(env_id: str, seed: int, data: Path, run: Run, world: Path) -> dict[str, Any]:
    """What a world of the baseline, trained on the same data, imagines from the same starts."""
    imagined = world.with_name(f"{world.stem}-imagined.safetensors")
    if not imagined.exists():
        files = "--data", data, "--starts", data.with_name(f"{data.stem}-starts.safetensors"), "--world", world
        steps = [] if run.steps is None else ["--steps", run.steps]
        tree = run.work / "trees" / run.baseline
        at_commit(tree, "--env", env_id, "--seed", seed, *files, "--out", imagined, *steps)
    return {name: tensor.numpy() for name, tensor in load_file(imagined).items()}


def policy_figure(policy: PolicyBar, subject: Subject, seed: int, run: Run, path: Path) -> dict:
    """The mean real return of a policy trained in the world alone."""
    config = replace(policy.config, seed=seed, total_steps=policy.config.total_steps // run.small)
    episodes = max(2, policy.episodes // run.small)
    value = subject.policy_return(path.with_suffix(".safetensors"), config, policy.num_envs, episodes)
    return figure("real return of a policy from imagination alone", value, policy.least, episodes=episodes)


def of_world(name: str, seeds: dict[int, dict[str, Any]], run: Run) -> dict[str, Any]:
    """The entry of one world in the results, from what `measured` gave for each seed."""
    figures = [row for result in seeds.values() for row in result["figures"]]
    first = next(iter(seeds.values()))
    for k in first["compared"]:
        rows = drift_figures(CASES[name].env_id, {seed: result["compared"][k] for seed, result in seeds.items()})
        figures += [{"k": k, **row} for row in rows]
    kept = ("terminal_rows", "training", "training_before", "seconds", "compared")
    return {
        "env": CASES[name].env_id,
        "commit": run.commit,
        "seeds": {seed: {key: result[key] for key in kept if result.get(key)} for seed, result in seeds.items()},
        "figures": figures,
    }


def model_commit() -> str:
    """The commit that last changed the model, with a plus where it has changed since."""
    ask = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    commit = ask(["git", "log", "-1", "--format=%h", "--", *MODEL]).stdout.strip()
    return commit + ("+" if ask(["git", "status", "--porcelain", "--", *MODEL]).stdout.strip() else "")


def missing(env_id: str) -> str | None:
    """Why an environment cannot be made; None if it can."""
    try:
        gym.make(env_id).close()
    except (DependencyNotInstalled, ImportError) as error:
        return str(error)
    return None


def table(result: dict[str, Any]) -> Table:
    """Every figure with its bar."""
    shown = Table(title=f"worlds beside the real environments, {result['machine']['commit']}")
    for column in ("world", "K", "seed", "figure", "value", "must", "met"):
        shown.add_column(column)
    words = {None: "", True: "yes", False: "[red]no[/red]"}
    for name, entry in result["worlds"].items():
        for row in entry["figures"]:
            seed = str(row.get("seed", ""))
            cells = name, str(row.get("k", "")), seed, row["figure"], number(row["value"]), bar(row), words[row["met"]]
            shown.add_row(*cells)
    return shown


def main() -> None:
    """Measure the named worlds, and write benchmarks/results/world_truth.json, where the others stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "cost"], default=[*CASES, "cost"], metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of each world's own")
    parser.add_argument("--k", nargs="+", type=int, help="denoise steps; the worlds' own unless given")
    parser.add_argument("--jobs", type=int, default=2, help="worlds at a time, a process and a thread each")
    parser.add_argument("--baseline", default=BASELINE, metavar="COMMIT")
    parser.add_argument("--baseline-seeds", nargs="+", type=int, metavar="SEED", help="of its worlds; all unless given")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "world_truth", help="where worlds are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "world_truth.json")
    parser.add_argument("--tiny", action="store_true", help="see that everything runs; the figures mean nothing")
    args = parser.parse_args()
    run = Run(args.work.resolve(), model_commit(), args.baseline, tuple(args.k or [None]))
    if args.baseline_seeds is not None:
        run = replace(run, baseline_seeds=tuple(args.baseline_seeds))
    if args.tiny:
        run = replace(run, work=run.work / "tiny", transitions=600, steps=20, episodes=8, starts=24, small=200)
    trees = {"before": checked_out(args.baseline, run.work / "trees"), "now": ROOT}
    console = Console(width=140)
    sizes = {name: value for name, value in asdict(run).items() if name not in ("work", "commit", "baseline", "k")}
    about = {"machine": machine(), "baseline": args.baseline, "sizes": sizes}
    result: dict[str, Any] = {"worlds": {}, **about}

    def write(name: str, entry: dict[str, Any]) -> None:
        entries = json.loads(args.out.read_text())["worlds"] if args.out.exists() else {}  # of another run, too
        entries[name] = entry
        result["worlds"] = {name: entries[name] for name in (*CASES, "cost") if name in entries}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    if "cost" in args.only:  # alone on the machine
        figures = cost(trees, 0.5 if args.tiny else 10.0)
        write("cost", {"env": "CartPole-v1, bundled", "commit": run.commit, "figures": figures})
    jobs: dict[Any, tuple[str, int]] = {}
    done: dict[str, dict[int, Any]] = {}
    failed = []
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        for name in (name for name in args.only if name != "cost"):
            if (why := missing(CASES[name].env_id)) is not None:
                console.print(f"{name} is left out: {why}")
                continue
            done[name] = dict.fromkeys(args.seeds or CASES[name].seeds)
            jobs |= {pool.submit(measured, name, seed, run): (name, seed) for seed in done[name]}
        for job in as_completed(jobs):
            name, seed = jobs[job]
            if (error := job.exception()) is not None:
                console.print(f"{name} seed {seed} failed: {type(error).__name__}: {error}")
                failed.append(name)
                continue
            done[name][seed] = job.result()
            console.print(f"{name} seed {seed}: {done[name][seed]['seconds']:.0f} s")
            if all(done[name].values()):
                write(name, of_world(name, done[name], run))
    console.print(table(result))
    if failed:
        raise SystemExit(f"Without figures: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
