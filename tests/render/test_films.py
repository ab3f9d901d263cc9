"""Grids of frames, and films."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from tests.envs.videos import frames_of
from wm_vec import WorldModel
from wm_vec.envs import WorldModelEnv
from wm_vec.render import animate_rollout, record_video, render_grid, rollout_band
from wm_vec.render.grid import LABEL

PICTURE, PUSH = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def shades(length: int = 1000, **options) -> WorldModelEnv:
    """An env whose picture is a shade brighter at every step; it ends after `length`."""

    def brighten(state, action):
        after = state + 1
        return {
            "state": after,
            "observation": np.full((64, 64, 3), 8 * after, np.uint8),
            "terminated": after >= length,
            "reward": 0.0,
        }

    def reset(seed):
        return {"state": 0, "observation": np.zeros((64, 64, 3), np.uint8)}

    return WorldModelEnv(brighten, PICTURE, PUSH, reset_fn=reset, render_mode="rgb_array", **options)


def gif_frames(path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as film:
        each = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
    return [frame for frame, _ in each], [duration for _, duration in each]


def test_a_grid_has_each_envs_own_frame_below_its_number(cartpole: WorldModel) -> None:
    envs = cartpole.to_vector_env(20, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    h, w, _ = frames[0].shape
    grid = render_grid(envs, [7, 0, 19, 7, 2], columns=2)
    assert grid.shape == (3 * (h + LABEL), 2 * w, 3)
    assert grid.dtype == np.uint8
    tiles = [grid[y : y + h + LABEL, x : x + w] for y in range(0, len(grid), h + LABEL) for x in (0, w)]
    for tile, i in zip(tiles, (7, 0, 19, 7, 2), strict=False):
        np.testing.assert_array_equal(tile[LABEL:], frames[i])
    labels = [tile[:LABEL] for tile in tiles]
    np.testing.assert_array_equal(labels[0], labels[3])
    assert all((labels[0] != labels[i]).any() for i in (1, 2, 4))
    assert (tiles[5] == 255).all()
    assert render_grid(envs).shape == (4 * (h + LABEL), 4 * w, 3)


def test_a_grid_of_gymnasiums_own_vector_env() -> None:
    envs = gym.vector.SyncVectorEnv([shades] * 3)
    envs.reset()
    envs.step(np.zeros((3, 1), np.float32))
    grid = render_grid(envs, [2], columns=5)
    np.testing.assert_array_equal(grid[LABEL:], 8 * np.ones((64, 64, 3)))


def test_grids_that_cannot_be_are_refused(cartpole: WorldModel) -> None:
    envs = cartpole.to_vector_env(2, render_mode="rgb_array")
    envs.reset(seed=0)
    for indices in ([2], [-1], [], 1):
        with pytest.raises(ValueError, match="render_grid: indices"):
            render_grid(envs, indices)
    with pytest.raises(ValueError, match=r"env.render\(\)"):
        render_grid(shades())
    with pytest.raises(ValueError, match="render_mode='rgb_array', this one has None"):
        render_grid(cartpole.to_vector_env(2))
    with pytest.raises(ValueError, match="render_mode"):
        cartpole.to_vector_env(2).frames([0])


@pytest.mark.parametrize("end", ["gif", "mp4"])
def test_a_film_has_the_start_and_every_step_and_goes_on_after_an_end(end: str, tmp_path) -> None:
    path = record_video(shades(length=3), None, tmp_path / f"film.{end}", num_steps=7, fps=32)
    frames = gif_frames(path)[0] if end == "gif" else list(frames_of(path))
    brightness = [int(frame.mean().round()) // 8 for frame in frames]
    expected = [0, 1, 2, 3, 1, 2, 3, 1]
    assert len(frames) == 8
    np.testing.assert_allclose(brightness, expected, atol=1 if end == "mp4" else 0)


def test_a_film_of_many_envs_is_seeded_and_follows_the_policy(cartpole: WorldModel, tmp_path) -> None:
    envs = cartpole.to_vector_env(4, render_mode="rgb_array", autoreset_mode="disabled")
    seen = []

    def right(observation: torch.Tensor) -> torch.Tensor:
        seen.append(observation.clone())
        return torch.ones(4, dtype=torch.int64)

    films = [
        record_video(
            envs, policy, tmp_path / f"{name}.gif", num_steps=4, fps=10, seed=seed, indices=[0, 3]
        ).read_bytes()
        for name, policy, seed in (("a", None, 0), ("b", None, 0), ("c", None, 1), ("d", right, 0))
    ]
    assert films[0] == films[1]
    assert len(set(films)) == 3
    frames, durations = gif_frames(tmp_path / "d.gif")
    assert len(frames) == 5
    assert set(durations) == {100}
    envs.reset(seed=0)
    for observation in seen:
        np.testing.assert_array_equal(observation, envs.engine.predictions()[:, :4])
        assert abs(frames.pop(0).astype(int) - render_grid(envs, [0, 3])).mean() < 2  # a GIF has 256 colours
        envs.step(torch.ones(4, dtype=torch.int64))


def test_films_that_cannot_be_are_refused_before_the_first_step(cartpole: WorldModel, tmp_path) -> None:
    env = shades()
    with pytest.raises(ValueError, match=r"end in .gif or .mp4, got 'film.avi'"):
        record_video(env, None, "film.avi")
    with pytest.raises(FileNotFoundError, match="no folder"):
        record_video(env, None, tmp_path / "no" / "film.gif")
    with pytest.raises(ValueError, match="num_steps"):
        record_video(env, None, tmp_path / "film.gif", num_steps=0)
    with pytest.raises(ValueError, match="render_mode='rgb_array', this one has None"):
        record_video(cartpole.to_env(), None, tmp_path / "film.gif")
    assert env.state is None
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(cartpole: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib.backends.backend_agg", "PIL", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    envs = cartpole.to_vector_env(2, render_mode="rgb_array")
    envs.reset(seed=0)
    assert rollout_band(envs, num_steps=2, num_samples=2).median.shape == (3, 4), "numbers need no library"
    for call, package in (
        (lambda: envs.render(), r"'wm_vec\[plot\]'"),
        (lambda: render_grid(envs), r"'wm_vec\[plot\]'"),
        (lambda: record_video(envs, None, "film.gif"), r"'wm_vec\[plot\]'"),
        (lambda: record_video(envs, None, "film.mp4"), "imageio-ffmpeg"),
        (lambda: animate_rollout(envs, num_steps=2, num_samples=2), r"'wm_vec\[plot\]'"),
        (lambda: animate_rollout(envs, None, "band.png"), r"'wm_vec\[plot\]'"),
    ):
        with pytest.raises(ImportError, match=f"pip install {package}"):
            call()
