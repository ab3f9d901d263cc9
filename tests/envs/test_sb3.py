"""The Stable-Baselines3 face, against its DummyVecEnv over scalar views."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper

from tests.envs.counting import actions_for

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from wm_vec.envs import SB3VecEnv

HORIZON = 17
B = 5


def scalar_views(world, num_envs=B):
    """What Stable-Baselines3 makes of our scalar environment."""
    return DummyVecEnv([lambda: Monitor(world.to_env(max_episode_steps=HORIZON, exact_rows=True))] * num_envs)


def vectorised(world, num_envs=B):
    return SB3VecEnv(world.to_vector_env(num_envs, max_episode_steps=HORIZON, exact_rows=True))


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_it_is_scalar_views_side_by_side(name, request):
    """Bit by bit, over several episodes that end in both ways and a reset amid them."""
    world = request.getfixturevalue(name)
    theirs, ours = scalar_views(world), vectorised(world)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert ours.seed(11) == theirs.seed(11)
    ends = {True: 0, False: 0}
    for t, actions in enumerate(actions_for(theirs, 70)):
        if t in (0, 40):
            np.testing.assert_array_equal(ours.reset(), theirs.reset())
        expected, got = theirs.step(actions), ours.step(actions)
        for mine, wanted in zip(got[:3], expected[:3], strict=True):
            assert (type(mine), mine.dtype) == (np.ndarray, wanted.dtype)
            np.testing.assert_array_equal(mine, wanted)
        for row, (mine, wanted) in enumerate(zip(got[3], expected[3], strict=True)):
            if not expected[2][row]:
                assert mine == {}
                continue
            assert set(mine) == {"terminal_observation", "TimeLimit.truncated", "episode"}
            np.testing.assert_array_equal(mine["terminal_observation"], wanted["terminal_observation"])
            assert mine["TimeLimit.truncated"] is bool(wanted["TimeLimit.truncated"])
            assert mine["episode"]["l"] == wanted["episode"]["l"]
            # Sums in single and in double precision.
            assert mine["episode"]["r"] == pytest.approx(wanted["episode"]["r"], rel=1e-5)
            assert {type(v) for v in mine["episode"].values()} == {float, int}
            ends[mine["TimeLimit.truncated"]] += 1
    assert ends[True] >= 5
    assert name == "pendulum" or ends[False] >= 3


def test_seeds_count_once_and_later_episodes_follow(cartpole):
    ours, again = vectorised(cartpole), vectorised(cartpole)
    ours.seed(3)
    again.seed(3)
    first, second = ours.reset(), ours.reset()
    np.testing.assert_array_equal(first, again.reset())
    np.testing.assert_array_equal(second, again.reset())
    assert (first != second).any()
    assert ours.reset_infos == [{}] * B
    ours.seed(3)
    np.testing.assert_array_equal(ours.reset(), first)


def test_arrays_stay_as_they_are_and_writing_into_them_changes_nothing(cartpole):
    ours, twin = vectorised(cartpole), vectorised(cartpole)
    for venv in (ours, twin):
        venv.seed(0)
    kept, copies = [ours.reset()], [twin.reset()]
    actions = actions_for(ours, 40)
    for mine in actions:
        given = mine.copy()
        observation, reward, done, infos = ours.step(given)
        given[:] = 0
        kept += [observation, reward, done, *(info["terminal_observation"] for info in infos if info)]
        *spoilt, infos = twin.step(mine)
        copies += [array.copy() for array in (*spoilt, *(i["terminal_observation"] for i in infos if i))]
        # PPO adds to rewards, others do worse.
        for array in spoilt:
            array[:] = True if array.dtype == bool else np.nan
        for info in infos:
            info["mine"] = 1
            info.get("terminal_observation", np.zeros(1))[:] = np.nan
    assert len(kept) > 1 + 3 * 40
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_the_gpu_waits_once():
    from wm_vec import WorldModel

    venv = SB3VecEnv(WorldModel.bundled("CartPole-v1", device="cuda").to_vector_env(64, max_episode_steps=9))
    venv.reset()
    venv.step(np.zeros(64, np.int64))  # compiles and allocates
    actions = np.ones(64, np.int64)
    torch.cuda.set_sync_debug_mode("error")
    try:
        venv.step_async(actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    observation, *_ = venv.step_wait()
    assert np.isfinite(observation).all()


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_other_autoreset_modes_are_refused(cartpole, mode):
    with pytest.raises(ValueError, match=r"autoreset_mode='same_step'"):
        SB3VecEnv(cartpole.to_vector_env(2, autoreset_mode=mode))


def test_steps_out_of_order_say_what_to_do(cartpole):
    venv = vectorised(cartpole)
    actions = np.zeros(B, np.int64)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        venv.step(actions)
    venv.reset()
    with pytest.raises(RuntimeError, match=r"call step_async\(\)"):
        venv.step_wait()
    venv.step_async(actions)
    with pytest.raises(RuntimeError, match=r"call step_wait\(\)"):
        venv.step_async(actions)
    # A reset cancels the step, as the base class has it.
    venv.reset()
    venv.step(actions)


def test_a_world_that_broke_down_says_so(cartpole):
    """As the scalar view does; its neighbours go on."""
    vector = cartpole.to_vector_env(3, max_episode_steps=50)
    venv = SB3VecEnv(vector)
    venv.reset()
    state = vector.state()
    state.dynamics["values"][1] = torch.nan
    vector.set_state(state)
    _, _, done, infos = venv.step(np.zeros(3, np.int64))
    assert done.tolist() == [False, True, False]
    assert infos[1]["diverged"] is True
    assert infos[1]["TimeLimit.truncated"] is False


# -- attributes, methods, wrappers ------------------------------------------------------------------------------------


class Doubled(VectorWrapper):
    """Pays double."""

    bonus = 1

    def step(self, actions):
        observation, reward, *rest = self.env.step(actions)
        return observation, 2 * reward, *rest


def test_a_wrapped_environment(cartpole):
    vector = Doubled(cartpole.to_vector_env(3, max_episode_steps=4))
    venv = SB3VecEnv(vector)
    assert venv.get_attr("bonus") == [1] * 3
    assert venv.get_attr("max_episode_steps", [0, 2]) == [4, 4]
    assert venv.get_attr("observation_space", 1) == [vector.single_observation_space]
    assert venv.has_attr("engine")
    assert not venv.has_attr("no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        venv.get_attr("no_such_thing")
    venv.set_attr("bonus", 5)
    assert vector.bonus == 5
    with pytest.raises(ValueError, match="share one 'bonus'"):
        venv.set_attr("bonus", 5, indices=[0])
    assert venv.env_is_wrapped(Doubled) == [True] * 3
    assert venv.env_is_wrapped(Monitor, indices=[0]) == [True]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    venv.reset()
    rewards = sum(venv.step(np.zeros(3, np.int64))[1] for _ in range(3))
    _, last, done, infos = venv.step(np.zeros(3, np.int64))
    assert done.all()
    np.testing.assert_allclose([2 * i["episode"]["r"] for i in infos], rewards + last, rtol=1e-5)


def test_methods_are_called_once_for_all(cartpole):
    pytest.importorskip("matplotlib")
    venv = SB3VecEnv(cartpole.to_vector_env(3, max_episode_steps=4, render_mode="rgb_array"))
    assert venv.render_mode == "rgb_array"
    venv.reset()
    frames = venv.get_images()
    assert [frame.dtype for frame in frames] == [np.uint8] * 3
    np.testing.assert_array_equal(venv.env_method("render", indices=[2])[0], frames[2])
    assert venv.render().shape[0] == 2 * frames[0].shape[0], "tiled two by two"
    states = venv.env_method("state", indices=[0, 1])
    assert states[0] is states[1]
    for name in ("reset", "step"):
        with pytest.raises(ValueError, match=rf"call {name}\(\) of the VecEnv"):
            venv.env_method(name)
    venv.close()
    assert venv.get_attr("closed") == [True] * 3


def test_no_frames_without_a_render_mode(cartpole):
    venv = vectorised(cartpole)
    assert venv.render_mode is None
    with pytest.warns(UserWarning, match="rgb_array"):
        assert venv.get_images() == [None] * B


# -- Stable-Baselines3's own wrappers ---------------------------------------------------------------------------------


def test_vec_monitor_agrees_with_the_infos(cartpole, tmp_path):
    ours = vectorised(cartpole)
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        monitored = VecMonitor(vectorised(cartpole), str(tmp_path / "log"))
    for venv in (ours, monitored):
        venv.seed(4)
        venv.reset()
    episodes = 0
    for actions in actions_for(ours, 40):
        *_, mine = ours.step(actions)
        *_, theirs = monitored.step(actions)
        for one, two in zip(mine, theirs, strict=True):
            assert ("episode" in one) is ("episode" in two)
            if one:
                assert (two["episode"]["r"], two["episode"]["l"]) == pytest.approx(
                    (one["episode"]["r"], one["episode"]["l"]), rel=1e-5
                )
                episodes += 1
    monitored.close()
    assert episodes >= 10
    assert len((tmp_path / "log.monitor.csv").read_text().splitlines()) == 2 + episodes


def test_vec_normalize_sees_what_it_sees_of_scalar_views(pendulum, tmp_path):
    ours, theirs = VecNormalize(vectorised(pendulum)), VecNormalize(scalar_views(pendulum))
    for venv in (ours, theirs):
        venv.seed(4)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ended = 0
    for actions in actions_for(ours, 40):
        mine, wanted = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], wanted[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        for row in np.flatnonzero(mine[2]):
            np.testing.assert_array_equal(mine[3][row]["terminal_observation"], wanted[3][row]["terminal_observation"])
            ended += 1
    assert ended >= 10
    ours.save(str(tmp_path / "normaliser"))
    loaded = VecNormalize.load(str(tmp_path / "normaliser"), vectorised(pendulum, 2))
    np.testing.assert_array_equal(loaded.obs_rms.mean, theirs.obs_rms.mean)
    assert np.isfinite(loaded.reset()).all()


def test_evaluation_needs_no_monitor(cartpole):
    class Left:
        def predict(self, observation, state=None, **_):
            return np.zeros(len(observation), np.int64), state

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            Left(), vectorised(cartpole), n_eval_episodes=10, return_episode_rewards=True
        )
    # Pushed to one side a real pole falls within ten steps or so, and each pays one.
    assert all(7 <= length <= 12 for length in lengths)
    np.testing.assert_allclose(returns, lengths, rtol=1e-3)


def test_without_stable_baselines_everything_else_works():
    code = """
import sys
sys.modules["stable_baselines3"] = None
from wm_vec import *
from wm_vec.envs import *
WorldModelVectorEnv
try:
    from wm_vec.envs import SB3VecEnv
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'wm_vec[sb3]'" in run.stdout
