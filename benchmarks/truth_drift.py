"""One step and open loop of deterministic environments, beside worlds that another commit learns from the same data.

Both commits train and imagine with `benchmarks.open_loop`, each in the tree of its own.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.balancing import Balancing
from benchmarks.open_loop import imagined_paths
from benchmarks.truth_figures import Subject, figure, residual_r2
from wm_vec.train.collect import RandomActions
from wm_vec.train.episodes import real_episodes
from wm_vec.train.ground_truth import GROUND_TRUTH

ROOT = Path(__file__).resolve().parents[1]
DRIFT_STEPS = (20, 50)
LEAST_ALIVE = 20
"""Rollouts that a median goes over at least."""
R2_BAR, DRIFT_BAR = 0.999, 1.5


def checked_out(commit: str, trees: Path) -> Path:
    """The package at a commit, in a folder of its own."""
    tree = trees / commit
    if not tree.exists():
        command = ["git", "archive", commit, "wm_vec", "kernels"]
        packed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(tree, filter="data")
    return tree


def at_commit(tree: Path, *arguments: Any) -> str:
    """Run `benchmarks.open_loop` on the package in `tree`; returns what it printed."""
    paths = [str(tree), str(tree / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "benchmarks" / "open_loop.py"), "--tree", tree, *arguments]
    done = subprocess.run(
        [str(part) for part in command], cwd=tree, env=environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


def starts(subject: Subject, path: Path, count: int) -> dict[str, np.ndarray]:
    """Where steps and open loops begin, the actions, and what really followed; kept at `path`.

    Keys: ``one_start``, ``one_action`` ``(1, n, ...)`` and ``one_next`` are held-out steps; ``path_start``,
    ``path_action``, ``path_next`` and ``alive`` ``(H, count)`` the beginnings of episodes.
    """
    if not path.exists():
        seed, space = subject.seed + 70_000, subject.env.action_space
        policy: Any = RandomActions(space, count, seed, "random")
        if "InvertedPendulum" in subject.env_id:
            policy = Balancing(seed)
        steps = max(DRIFT_STEPS)
        episodes = real_episodes(subject.env_id, count, policy, max_steps=steps, keep=steps, seed=seed)
        observation, action, following, alive = (np.stack(column) for column in zip(*episodes.steps, strict=True))
        held_out = subject.held_out
        arrays = {
            "one_start": held_out["observation"],
            "one_action": held_out["action"][None],
            "one_next": held_out["next_observation"],
            "path_start": observation[0],
            "path_action": action,
            "path_next": following,
            "alive": alive,
        }
        save_file({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)
    return {name: tensor.numpy() for name, tensor in load_file(path).items()}


def quality(real: dict[str, np.ndarray], imagined: dict[str, np.ndarray]) -> dict[str, Any]:
    """R2 of the residual of every dimension, and drift by step.

    Drift is an error in standard deviations of the dimension over the held-out steps, the median over the rollouts
    whose real episode lasts that long; ``rms`` is its root mean square, as `OpenLoopMetrics` has it.
    """
    result: dict[str, Any] = {"r2": residual_r2(real["one_start"], real["one_next"], imagined["one"][0])}
    error = (imagined["path"].astype(np.float64) - real["path_next"]) / real["one_next"].astype(np.float64).std(0)
    for step in DRIFT_STEPS:
        left = error[step - 1][real["alive"][step - 1]] if len(error) >= step else error[0, :0]
        result[f"alive at {step}"] = len(left)
        enough = len(left) >= LEAST_ALIVE
        result[f"drift at {step}"] = np.median(np.abs(left), 0).tolist() if enough else None
        result[f"rms at {step}"] = np.sqrt(np.square(left).mean(0)).tolist() if enough else None
    return result


def compare(subject: Subject, real: dict[str, np.ndarray], before: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """`quality` of the subject, and of what another commit imagined from the same starts, where it did."""
    imagined = {
        name: imagined_paths(subject.world, real[f"{name}_start"], real[f"{name}_action"], subject.seed, subject.k)
        for name in ("one", "path")
    }
    compared = {"now": quality(real, imagined)}
    return compared if before is None else {**compared, "before": quality(real, before)}


def drift_figures(env_id: str, seeds: dict[int, dict[str, Any]]) -> list[dict]:
    """Figures of all seeds together: the worst R2, and the median drift over the median drift before.

    Args:
        env_id: The environment's id.
        seeds: What `compare` gave, by seed.
    """
    runs = list(seeds.values())
    size = len(runs[0]["now"]["r2"])
    known = GROUND_TRUTH.get(env_id)
    names = known.names if known else [f"observation[{i}]" for i in range(size)]
    figures = []
    sides = {side: [run[side] for run in runs if side in run] for side in ("now", "before")}
    for i, name in enumerate(names):
        now, before = ([quality["r2"][i] for quality in side] for side in sides.values())
        figures.append(figure(f"residual R2, {name}", min(now), R2_BAR, by_seed=now, before=before))
    for step in DRIFT_STEPS:
        key = f"drift at {step}"
        if not sides["before"] or any(quality[key] is None for side in sides.values() for quality in side):
            figures.append(figure(f"{key} / before", None, alive=[run["now"][f"alive at {step}"] for run in runs]))
            continue
        for i, name in enumerate(names):
            now, before = ([quality[key][i] for quality in side] for side in sides.values())
            ratio = statistics.median(now) / statistics.median(before)
            more: dict[str, Any] = {"by_seed": now, "before": before}
            figures.append(figure(f"{key} / before, {name}", ratio, high=DRIFT_BAR, **more))
    return figures


def cost(trees: dict[str, Path], seconds: float, turns: int = 3) -> list[dict]:
    """Passes and env steps/s of the bundled CartPole world at 1,024 envs, before and now, in turns.

    Args:
        trees: The package's trees, ``"before"`` and ``"now"``.
        seconds: Of every turn.
        turns: Turns of both.
    """
    runs: dict[str, list[Any]] = {name: [] for name in trees}
    for _ in range(turns):
        for name, tree in trees.items():
            runs[name].append(json.loads(at_commit(tree, "--time", seconds)))
    passes = {name: run[0][0] for name, run in runs.items()}
    rate = {name: statistics.median(turn[1] for turn in run) for name, run in runs.items()}
    return [
        figure("passes an env step", passes["now"], high=passes["before"] + 1, before=passes["before"]),
        figure("env steps/s, 1,024 envs", rate["now"], before=rate["before"]),
    ]
