"""Frames as films."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_vec.plain import as_path, check_callable, real_number, seed_number, whole_number
from wm_vec.render.grid import check_rgb_array, render_grid

FRAME_MS = 30
"""How long a frame is shown; GIF counts in tens of milliseconds."""
WRITERS = {
    ".gif": ("PIL", "'wm_vec[plot]'"),
    ".mp4": ("imageio_ffmpeg", "imageio-ffmpeg"),
    ".png": ("PIL", "'wm_vec[plot]'"),
}
"""Files by the end of their names: the library that writes them, and what to install for it."""


def write_gif(frames: Iterable[np.ndarray], path: Path, frame_ms: int = FRAME_MS) -> None:
    """Write frames ``(H, W, 3)`` uint8, at least one, as a GIF that repeats; equal ones in a row become one.

    Raises:
        ImportError: Pillow is missing, which comes with matplotlib.
    """
    from PIL import Image

    first, *others = map(Image.fromarray, frames)
    first.save(path, "GIF", save_all=True, append_images=others, duration=frame_ms, loop=0)


def check_file(path: Any, caller: str, kinds: Sequence[str] = (".gif", ".mp4")) -> Path:
    """The path of a file that can be written.

    Raises:
        ValueError: A file of no such kind.
        FileNotFoundError: There is no such folder.
        ImportError: What writes it is missing.
    """
    path = as_path(path, f"{caller}: path")
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{caller}: path must end in {' or '.join(kinds)}, got {str(path)!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{caller}: there is no folder {path.parent}. Make it first.")
    library, package = WRITERS[path.suffix.lower()]
    try:
        import_module(library)
    except ImportError as error:
        raise ImportError(f"{caller}: {path.suffix} files need {library}: pip install {package}.") from error
    return path


def write_film(frames: Iterable[np.ndarray], path: Path, fps: float) -> None:
    """Write frames ``(H, W, 3)`` uint8, at least one, as the GIF or MP4 that `check_file` let pass.

    A GIF counts in hundredths of a second: 32 frames per second become 33.
    """
    if path.suffix.lower() == ".gif":
        write_gif(frames, path, max(20, 10 * round(100 / fps)))  # viewers slow down what is faster
        return
    import imageio_ffmpeg

    writer = None
    for frame in frames:
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2)
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))
    if writer is not None:
        writer.close()


def record_video(
    env: Any,
    policy: Callable[[Any], Any] | None,
    path: Any,
    *,
    num_steps: int = 200,
    fps: float | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    columns: int | None = None,
) -> Path:
    """Film an env, from a reset with `seed` on: the start, and a frame for every step.

    A single env whose episode ends is reset, and goes on. Of a vector env, which resets itself, several envs are shown
    by `render_grid`.

    Args:
        env: A Gymnasium env or vector env with ``render_mode="rgb_array"``.
        policy: What the env observes -> the actions that it takes; None for random ones.
        path: File to write, ``.gif``, or ``.mp4`` (needs imageio-ffmpeg).
        num_steps: Steps T; the film has T + 1 frames.
        fps: Frames per second; None for the env's own, ``metadata["render_fps"]``.
        seed: Of the reset, and of random actions.
        indices, columns: Of a vector env, see `render_grid`.

    Returns:
        The path.

    Raises:
        ValueError: Another file, an env without frames, or numbers out of their range.
        ImportError: What draws or writes is missing.
    """
    path = check_file(path, "record_video")
    check_rgb_array(env, "record_video")
    check_callable(policy, "record_video: policy")
    num_steps, seed = whole_number(num_steps, "record_video: num_steps"), seed_number(seed, "record_video: seed")
    own = env.metadata.get("render_fps") or 30
    rate = real_number(own if fps is None else fps, "record_video: fps", 0.01, 1000)
    many = hasattr(env, "num_envs")

    def frame() -> np.ndarray:
        return render_grid(env, indices, columns) if many else env.render()

    def film() -> Iterator[np.ndarray]:
        act = _random_actions(env, seed) if policy is None else policy
        observation, _ = env.reset(seed=seed)
        yield frame()
        for _ in range(num_steps):
            with torch.no_grad():
                action = act(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            yield frame()
            if not many and (terminated or truncated):
                observation, _ = env.reset()

    write_film(film(), path, rate)
    return path


def _random_actions(env: Any, seed: int) -> Callable[[Any], Any]:
    """A policy of random actions; the env's own action space is left as it is."""
    own = getattr(env.unwrapped, "sample_actions", None)
    if own is not None:
        return lambda observation: own()
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return lambda observation: space.sample()
