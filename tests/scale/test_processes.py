"""Process collectors and batched envs of TorchRL, with real processes."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import ParallelEnv, SerialEnv

from tests.scale.worlds import (
    HORIZON,
    NUM_ENVS,
    ROOT_SEED,
    Switch,
    changed,
    continues,
    goes_on,
    lean,
    one_env,
    same,
    shares,
)
from wm_vec.workers import RandomActions

STEPS = 2 * HORIZON + 2
GONE = (RuntimeError, ValueError)
"""TorchRL's errors when a process dies; the second one where another process ends too late."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


def test_a_synchronous_process_collector(cartpole, tmp_path):
    workers = shares(cartpole, 2, expose_state=True)
    policy = Switch()
    collector = Collector(
        workers.makers,
        policy,
        sync=True,
        backend="process",
        frames_per_batch=NUM_ENVS * STEPS,
        backend_options={"cat_results": 0},
    )
    try:
        batches = iter(collector)
        expected = one_env(cartpole).rollout(2 * STEPS, break_when_any_done=False)
        first = next(batches).clone()
        second = next(batches).clone()
        assert same(torch.cat([first, second], 1), expected)

        policy.set(1.0)
        collector.update_policy_weights_()
        third = next(batches).clone()
        assert bool((third["action"] == 1).all())
        assert continues(third, second)
        assert goes_on(third, cartpole)

        new = changed(cartpole, tmp_path / "world")
        workers.update_world_(new)
        fourth = next(batches).clone()
        assert continues(fourth, third)
        assert goes_on(fourth, new)
        assert not goes_on(fourth, cartpole)

        policy.set(0.0)
        collector.update_policy_weights_()
        assert collector.set_seed(ROOT_SEED + 50) == ROOT_SEED + 50 + NUM_ENVS
        env = one_env(new, seed=ROOT_SEED + 50)
        assert same(next(batches), env.rollout(STEPS, break_when_any_done=False))

        os.kill(collector.procs[1].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(GONE, match="process"):
            next(batches)
        assert time.monotonic() - began < 20
    finally:
        collector.shutdown()


def test_an_asynchronous_process_collector_loses_nothing(cartpole, tmp_path):
    """Its workers run on while their world changes; a message to them would stop them and lose a batch."""
    workers = shares(cartpole, 2, expose_state=True)
    collector = Collector(
        workers.makers, RandomActions(), sync=False, backend="process", frames_per_batch=NUM_ENVS // 2 * STEPS
    )
    new = changed(cartpole, tmp_path / "world")
    last = {}
    try:
        batches = iter(collector)
        for round_ in range(10):
            if round_ == 4:
                workers.update_world_(new)
                under_way = set(last)
            batch = next(batches)
            worker = int(batch["world_state", "seed"][0, 0]) != ROOT_SEED
            if worker in last:
                assert continues(batch, last[worker])
            if round_ < 4:
                assert goes_on(batch, cartpole)
            elif worker in under_way:
                under_way.discard(worker)  # begun before the change, which it may have seen midway
            else:
                assert goes_on(batch, new)
            last[worker] = batch
        assert len(last) == 2
        os.kill(collector.procs[0].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(GONE, match="process"):
            list(batches)
        assert time.monotonic() - began < 20
    finally:
        collector.shutdown()


@pytest.fixture
def threads(request):
    """Torch has run on so many threads: a forked process has a record of them, but not the threads."""
    torch.set_num_threads(request.param)
    torch.randn(512, 512) @ torch.randn(512, 512)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("batched", "threads"),
    [(SerialEnv, 1), (ParallelEnv, 1), (partial(ParallelEnv, mp_start_method="fork"), 2)],
    ids=["serial", "spawned", "forked"],
    indirect=["threads"],
)
def test_batched_envs_give_the_numbers_of_one(cartpole, tmp_path, batched):
    """Forked ones too, since TorchRL gives its workers one thread each; spawn is its default all the same."""
    workers = shares(cartpole, 2)
    env = batched(2, workers.makers)

    def roll(any_env):
        return any_env.rollout(STEPS, lean, break_when_any_done=False)

    try:
        assert same(roll(env).flatten(0, 1), roll(one_env(cartpole)))
        assert env.set_seed(7) == 7 + NUM_ENVS
        assert same(roll(env).flatten(0, 1), roll(one_env(cartpole, seed=7)))
        new = changed(cartpole, tmp_path / "world")
        workers.update_world_(new)
        env.set_seed(8)
        assert same(roll(env).flatten(0, 1), roll(one_env(new, seed=8)))
    finally:
        env.close()
