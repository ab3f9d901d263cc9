"""Rollouts from one start as bands of quantiles: how far the futures of a world part."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from wm_vec.canvas import UnknownFieldError
from wm_vec.canvas.schema import check_paths
from wm_vec.plain import check_callable, real_number, seed_number, whole_number
from wm_vec.render.video import check_file, write_film
from wm_vec.train.episodes import action_tensor

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST = 24
"""Values that get a panel each."""
FPS = 10
PANEL = 3.2, 1.5
"""Inches of a panel's width and height."""
TITLE = 44
"""Letters that fit above a panel."""
COLOUR = "#1f77b4"


class RolloutBand(NamedTuple):
    """Quantiles over several rollouts from one start, of every value at every step.

    Only rollouts that have not ended are counted; the step in which one ends is its last.

    Attributes:
        names: Of the n values: the field's, ``field[i]`` where it has several.
        low, lower, median, upper, high: The 5, 25, 50, 75 and 95 % quantiles ``(T + 1, n)`` float64, the start first;
            NaN where no rollout goes on.
        going: ``(T + 1,)`` int64, how many rollouts are counted.
        units: Name -> unit, of the values that have one.
    """

    names: list[str]
    low: np.ndarray
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray
    high: np.ndarray
    going: np.ndarray
    units: Mapping[str, str]


def rollout_band(
    env: Any,
    policy: Callable[[Any], Any] | None = None,
    *,
    num_steps: int = 50,
    num_samples: int = 32,
    fields: Sequence[str] | None = None,
    seed: int | None = 0,
    index: int = 0,
) -> RolloutBand:
    """Quantiles of what several rollouts from one start see; the env itself stays where it is.

    The rollouts are forks with noise of their own. The same call gives the same numbers.

    Args:
        env: An env or vector env of a world, or of a model made with `batching`.
        policy: Observations ``(num_samples, ...)`` as a vector env gives them -> actions; None for random ones, of each
            rollout its own, so that the band is that of world and actions together.
        num_steps: Steps T.
        num_samples: Rollouts.
        fields: Which of the world's fields; None for the observed ones.
        seed: The start is that of ``reset(seed=seed)``; None for the state in which the env is.
        index: Which env of a vector env.

    Raises:
        ValueError: No such env, or an env without an engine.
        UnknownFieldError: No such field; the message names the closest.
        RuntimeError: Without a seed, before the first reset.
    """
    engine = getattr(getattr(env, "unwrapped", env), "engine", None)
    if engine is None:
        raise ValueError(
            "rollout_band forks states, which this env cannot: give an env of a world, or a model with batching."
        )
    check_callable(policy, "rollout_band: policy")
    num_steps = whole_number(num_steps, "rollout_band: num_steps")
    num_samples = whole_number(num_samples, "rollout_band: num_samples")
    index = whole_number(index, "rollout_band: index", 0, engine.num_envs - 1)
    perspective = engine.only_perspective("rollout_band")
    # A sibling, so that neither the env nor the count of its forks changes.
    start = engine.sibling(autoreset_mode="disabled")
    if seed is None:
        start.set_state(engine.state())
    else:
        start.reset(seed_number(seed, "rollout_band: seed"))
    forks = start.fork([index] * num_samples)
    there = perspective.everything(forks.predictions())
    paths = _known(list(perspective.obs_fields or there) if fields is None else fields, list(there))

    def seen() -> np.ndarray:
        values = perspective.everything(forks.predictions())
        return np.concatenate([values[path].flatten(1).double().cpu().numpy() for path in paths], 1)

    rows, going, alive = [seen()], [num_samples], np.ones(num_samples, bool)
    for _ in range(num_steps):
        action = _action(forks, perspective, policy)
        output = forks.step({perspective.name: action})
        rows.append(np.where(alive[:, None], seen(), np.nan))
        going.append(int(alive.sum()))
        alive = alive & ~output.finished.cpu().numpy()
    samples = np.stack(rows)  # (T + 1, num_samples, n)
    quantiles = np.full((len(LEVELS), num_steps + 1, samples.shape[2]), np.nan)
    last = sum(count > 0 for count in going)
    quantiles[:, :last] = np.nanquantile(samples[:last], LEVELS, axis=1)
    names, units = [], {}
    for path in paths:
        size = math.prod(there[path].shape[1:])
        own = [path] if size == 1 else [f"{path}[{i}]" for i in range(size)]
        names += own
        units.update({name: perspective.units[path] for name in own if path in perspective.units})
    low, lower, median, upper, high = quantiles
    return RolloutBand(names, low, lower, median, upper, high, np.array(going), units)


def animate_rollout(
    env: Any,
    policy: Callable[[Any], Any] | None = None,
    path: Any = None,
    *,
    num_steps: int = 50,
    num_samples: int = 32,
    fields: Sequence[str] | None = None,
    seed: int | None = 0,
    index: int = 0,
    fps: float = FPS,
) -> list[np.ndarray]:
    """Draw `rollout_band` step by step: a panel per value, with the median, the middle half and the middle 90 %.

    Args:
        env, policy, num_steps, num_samples, fields, seed, index: See `rollout_band`; at most 24 values.
        path: File to write: ``.gif``, ``.mp4`` (needs imageio-ffmpeg), or ``.png`` for the last frame alone; None for
            none.
        fps: Frames, which are steps, per second.

    Returns:
        The frames ``(H, W, 3)`` uint8, T + 1 of them.

    Raises:
        ValueError: More than 24 values, another file, or what `rollout_band` refuses.
        ImportError: matplotlib (the extra ``wm_vec[plot]``), or what writes the file, is missing.
    """
    if path is not None:
        path = check_file(path, "animate_rollout", (".gif", ".mp4", ".png"))
    fps = real_number(fps, "animate_rollout: fps", 0.01, 1000)
    settings: dict[str, Any] = {"fields": fields, "seed": seed, "index": index}
    band = rollout_band(env, policy, num_steps=num_steps, num_samples=num_samples, **settings)
    frames = list(_frames(band))
    if path is not None and path.suffix.lower() == ".png":
        from PIL import Image

        Image.fromarray(frames[-1]).save(path)
    elif path is not None:
        write_film(frames, path, fps)
    return frames


def _known(paths: Sequence[str], names: list[str]) -> list[str]:
    """Field paths, all of which there are, as Python strings.

    Raises:
        UnknownFieldError: One that there is not; the message names the closest.
        SchemaError: No list of different paths.
    """
    check_paths("rollout_band: fields", paths)
    for path in paths:
        if path not in names:
            close = difflib.get_close_matches(path, names, n=3, cutoff=0.4)
            hint = f"Closest: {', '.join(close)}." if close else f"There are: {', '.join(names[:8])}."
            raise UnknownFieldError(f"rollout_band: unknown field path {path!r}. {hint}")
    return [str(path) for path in paths]


def _action(engine: Any, perspective: Any, policy: Callable[[Any], Any] | None) -> Any:
    if policy is None:
        return engine.sample_actions()[perspective.name]
    with torch.no_grad():
        action = policy(perspective.observe(engine.predictions()))
    return action_tensor(engine, action) if isinstance(action, np.ndarray) else action


def _frames(band: RolloutBand) -> Iterator[np.ndarray]:
    """The panels with nothing in them, of which each step uncovers more.

    Raises:
        ValueError: Too many values.
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("animate_rollout draws with matplotlib: pip install 'wm_vec[plot]'.") from error
    count, steps = len(band.names), len(band.going) - 1
    if count > MOST:
        raise ValueError(f"animate_rollout draws at most {MOST} values, these are {count}: name some in fields.")
    columns = 1 if count < 3 else 2 if count < 9 else 3
    rows = -(-count // columns)
    width, height = PANEL
    # Even sides, which films need; a hundredth of a pixel more, as inches are cut down to whole pixels.
    size = width * columns + 1e-4, (round(100 * (height * rows + 0.4)) // 2 * 2) / 100 + 1e-4
    figure: Any = Figure(size, dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ended = f", {band.going[0] - band.going[-1]} of them over" if band.going[-1] < band.going[0] else ""
    title = f"{band.going[0]} rollouts from one start{ended}: median, middle 50 % and 90 %"
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    drawn, x = [], np.arange(steps + 1)
    for i, (axes, name) in enumerate(zip(grid, band.names, strict=False)):
        # The end of a long name stays, which tells nested ones apart.
        short = name if len(name) <= TITLE else "…" + name[1 - TITLE :]
        axes.set_title(short, fontsize=8, loc="left", parse_math=False)
        axes.set_ylabel(band.units.get(name, ""), fontsize=7, parse_math=False)
        for low, high, strength in ((band.low, band.high, 0.2), (band.lower, band.upper, 0.35)):
            drawn.append(axes.fill_between(x, low[:, i], high[:, i], color=COLOUR, alpha=strength, linewidth=0))
        drawn += axes.plot(x, band.median[:, i], color=COLOUR, linewidth=1.3)
        axes.set_xlim(0, steps)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    for axes in grid[count:]:
        axes.set_axis_off()
    full = _pixels(canvas)
    figure.set_layout_engine("none")
    for artist in drawn:
        artist.set_visible(False)
    empty = _pixels(canvas)
    boxes = [axes.get_window_extent() for axes in grid[:count]]
    for step in range(steps + 1):
        frame = empty.copy()
        for box in boxes:
            left, right = math.floor(box.x0), math.ceil(box.x0 + box.width * step / steps) + 1
            frame[:, left:right] = full[:, left:right]
        yield frame


def _pixels(canvas: Any) -> np.ndarray:
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
