"""Environments in worker processes: AsyncVectorEnv by spawn, and what forked workers are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from tests.envs.makers import MAKERS, same, sampled_actions
from wm_vec import WorldModel

ROOT = Path(__file__).parents[2]


def in_a_worker(make):
    """What every worker does first: small networks run fastest on one thread each."""
    torch.set_num_threads(1)
    return gym.wrappers.TimeLimit(make(), 6)


def assert_rolls_the_same(one, other, num_steps=16):
    """Observations, rewards, flags and statistics of two vector environments agree, bit by bit."""
    observation, info = one.reset(seed=13)
    expected, expected_info = other.reset(seed=13)
    assert same(observation, expected)
    assert set(info) == set(expected_info)
    ends = 0
    for action in sampled_actions(one, num_steps):
        *taken, info = one.step(action)
        *expected, expected_info = other.step(action)
        assert same(taken, expected)
        assert set(info) == set(expected_info)
        for key in {"obs_dict", "elapsed_steps"} & set(info):  # a model's reset reports neither
            assert same(info[key], expected_info[key])
        ends += int(np.sum(taken[2] | taken[3]))
    assert ends >= 4


def assert_closes(envs):
    processes = envs.processes
    envs.close(timeout=30)
    assert [process.exitcode for process in processes] == [0] * len(processes)


SPAWNED = [maker for maker in MAKERS if maker.name in ("steered", "painter", "game")]
"""One for each structure of observations, since a worker takes seconds to start; test_pickling.py sends all kinds."""


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("maker", SPAWNED, ids=lambda maker: maker.name)
def test_a_spawned_worker_gives_the_numbers_of_syncvectorenv(maker):
    makers = [partial(in_a_worker, maker.scalar)]
    envs = AsyncVectorEnv(makers, context="spawn")
    try:
        assert_rolls_the_same(envs, SyncVectorEnv(makers), 30)
    finally:
        assert_closes(envs)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_gym_make_vec_spawns_workers_of_the_registered_worlds():
    options = {"max_episode_steps": 6, "seed": 3}
    envs = gym.make_vec("wm_vec/CartPole-v1", 2, "async", {"context": "spawn"}, **options)
    try:
        assert_rolls_the_same(envs, gym.make_vec("wm_vec/CartPole-v1", 2, "sync", **options))
    finally:
        assert_closes(envs)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_ready_environments_are_sent_to_spawned_workers():
    """As people close over a model of their own; the reward is a lambda, which cloudpickle takes."""
    world = WorldModel.bundled("Pendulum-v1")

    def ready():
        return world.to_env(
            obs_fields=["observation"],
            act_fields=["action"],
            reward_fn=lambda obs, act, info: obs["observation"][0] - 0.1 * act.sum(),
            max_episode_steps=6,
        )

    sent, kept = ready(), ready()
    envs = AsyncVectorEnv([lambda: sent], context="spawn")
    try:
        assert_rolls_the_same(envs, SyncVectorEnv([lambda: kept]), 30)
    finally:
        assert_closes(envs)


# -- forks --------------------------------------------------------------------------------------------------------

FORKING = """
import json, multiprocessing, sys, warnings

def told(times, threads=None):
    import torch
    from wm_vec.envs.fork_warning import warn_if_forked

    if threads:
        torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            warn_if_forked()
    return [[w.category.__name__, str(w.message), w.filename] for w in caught]

def answer(pipe, *args):
    pipe.send(told(*args))

def in_a_child(context, *args):
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context(context).Process(target=answer, args=(there, *args))
    child.start()
    there.close()
    try:
        return here.recv()
    finally:
        child.join()

def in_a_grandchild(pipe):
    told(1)
    pipe.send(in_a_child("fork", 2))

if __name__ == "__main__":
    early = in_a_child("fork", 2)  # nobody has loaded torch yet
    import torch
    torch.set_num_threads(2)
    result = {"early": early, "here": told(2), "fork": in_a_child("fork", 3), "again": in_a_child("fork", 1)}
    result["one thread"] = in_a_child("fork", 3, 1)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=in_a_grandchild, args=(there,))
    child.start()
    result["grandchild"] = here.recv()
    child.join()
    result["here at last"] = told(1)
    if len(sys.argv) > 1:
        result["spawn"] = in_a_child("spawn", 2, 2)
    print(json.dumps(result))
"""


@pytest.mark.long
@pytest.mark.timeout(120)
def test_forked_processes_are_told_once_how_to_make_workers(tmp_path):
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    run = subprocess.run(
        [sys.executable, str(script), "spawn too"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    for silent in ("early", "here", "one thread", "here at last", "spawn"):
        assert told[silent] == [], silent
    for warned in ("fork", "again", "grandchild"):
        ((category, message, place),) = told[warned]
        assert category == "RuntimeWarning"
        assert 'AsyncVectorEnv(..., context="spawn")' in message
        assert "torch.set_num_threads(1)" in message
        assert place.endswith("forking.py")


HANGING = """
import gymnasium as gym
import torch
import wm_vec

if __name__ == "__main__":
    torch.set_num_threads(2)
    first = gym.make("wm_vec/CartPole-v1")
    first.reset(seed=0)
    torch.zeros(1_000_000).exp_()
    make = {make}
    gym.vector.AsyncVectorEnv([make], context="fork").reset(seed=0)
"""


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", ['lambda: gym.make("wm_vec/CartPole-v1")', "lambda: first"])
def test_users_are_told_before_a_forked_worker_hangs(tmp_path, make):
    """Whether the worker makes the environment or was handed one."""
    script = tmp_path / "hanging.py"
    script.write_text(HANGING.format(make=make))
    command = [sys.executable, str(script)]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **options) as run:
        try:
            told = next((line for line in run.stderr if "RuntimeWarning" in line), "")
        finally:
            os.killpg(run.pid, signal.SIGKILL)  # it would wait forever
    assert 'AsyncVectorEnv(..., context="spawn")' in told


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
