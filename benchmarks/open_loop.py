"""Train a world and imagine with it, with whatever commit of wm_vec the path leads to.

`benchmarks.world_truth` calls these functions for the code that it stands in, and runs this file as a program, with
PYTHONPATH set to another commit's tree, for the code that it is held against. So it uses only what both have.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict

import wm_vec
from wm_vec import TrainConfig, WorldModel
from wm_vec.train.episodes import Imagination


def save_transitions(transitions: TensorDict, path: Path) -> None:
    """Write transitions to a safetensors file whose names join nested keys by a slash."""
    flat = transitions.flatten_keys("/")
    save_file({name: tensor.contiguous() for name, tensor in flat.items()}, path)


def load_transitions(path: Path) -> TensorDict:
    """Read what `save_transitions` wrote."""
    tensors = load_file(path)
    return TensorDict(tensors, batch_size=[len(tensors["observation"])]).unflatten_keys("/")


def trained_world(env_id: str, data: Path, path: Path, seed: int, n_steps: int | None = None) -> WorldModel:
    """The world at `path`; trained first where there is no such file, with the defaults of the commit.

    A run that was stopped goes on from its last checkpoint. A file ``.json`` beside the world says how long the rest
    took and how many gradient steps there were.
    """
    if path.with_suffix(".json").exists():
        return WorldModel.load(path)
    world = WorldModel.from_env(env_id, seed=seed)
    started = time.perf_counter(), time.process_time()
    path.parent.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {"resume_path": path.with_suffix(".resume"), "save_path": path}
    report = world.finetune(load_transitions(data), n_steps, config=TrainConfig(seed=seed), **files)
    result = {
        "seconds": time.perf_counter() - started[0],
        "cpu_seconds": time.process_time() - started[1],
        "resumed_from": report.resumed_from,
        "steps": report.steps,
        "best_step": report.best_step,
        "held_out_loss": report.held_out_loss,
    }
    path.with_suffix(".json").write_text(json.dumps(result))
    return world


def imagination(world: WorldModel, n_denoise_steps: int | None = None) -> Imagination:
    """Steps of the world from given observations; K is the world's own unless given."""
    return Imagination(world.to_engine(1, n_denoise_steps=n_denoise_steps, autoreset_mode="disabled"))


def imagined_paths(world: WorldModel, start: np.ndarray, action: np.ndarray, seed: int, k: int | None) -> np.ndarray:
    """Observations ``(H, n, ...)`` imagined from `start` ``(n, ...)`` under `action` ``(H, n, ...)``."""
    dreams: Any = imagination(world, k)
    if hasattr(dreams, "steps"):
        return dreams.steps(start, action, seed).observation
    return dreams.open_loop(start, action, seed)  # up to November 2026


def env_steps_per_s(num_envs: int, seconds: float) -> tuple[int, float]:
    """Denoise steps of the bundled CartPole world, and the median rate of its vector env under random actions."""
    world = WorldModel.bundled("CartPole-v1")
    env = world.to_vector_env(num_envs, seed=0)
    env.reset()
    times, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        env.step(torch.randint(0, 2, (num_envs,)))
        times.append(time.perf_counter() - before)
    return world.model.config.n_denoise_steps, num_envs / statistics.median(times[1:])


def main() -> None:
    """Train, imagine and write the observations; or time the bundled CartPole world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="where wm_vec must have been imported from")
    parser.add_argument("--env", help="Gymnasium id")
    parser.add_argument("--data", type=Path, help="transitions to learn from")
    parser.add_argument("--world", type=Path, help="where the world is kept")
    parser.add_argument("--starts", type=Path, help="file of `one` and `path`: starts and actions to imagine from")
    parser.add_argument("--out", type=Path, help="where the imagined observations go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="gradient steps at most")
    parser.add_argument("--time", type=float, default=None, help="seconds to time 1,024 envs for; prints JSON")
    args = parser.parse_args()
    if not Path(wm_vec.__file__).is_relative_to(args.tree.resolve()):
        raise SystemExit(f"wm_vec was imported from {wm_vec.__file__}; put {args.tree} first on PYTHONPATH.")
    torch.set_num_threads(1)
    if args.time is not None:
        print(json.dumps(env_steps_per_s(1024, args.time)))
        return
    world = trained_world(args.env, args.data, args.world, args.seed, args.steps)
    starts = {name: tensor.numpy() for name, tensor in load_file(args.starts).items()}
    imagined = {
        name: imagined_paths(world, starts[f"{name}_start"], starts[f"{name}_action"], args.seed, None)
        for name in ("one", "path")
    }
    save_file({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in imagined.items()}, args.out)


if __name__ == "__main__":
    main()
