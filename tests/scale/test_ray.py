"""Two real Ray workers on this machine, and the loss of one."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torchrl.collectors import Collector

from tests.scale.worlds import (
    HORIZON,
    NUM_ENVS,
    ROOT_SEED,
    Switch,
    changed,
    continues,
    goes_on,
    one_env,
    same,
    shares,
)

ray = pytest.importorskip("ray")
from wm_vec.workers import WorkerEnvs  # noqa: E402
from wm_vec.workers.ray_collector import RayWorldCollector, WorkerDiedError  # noqa: E402 - needs Ray

STEPS = 2 * HORIZON + 2
ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A local Ray, without network access."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}},
    )
    yield
    ray.shutdown()


def collector_of(workers, policy=None, **options):
    options = {"remote_configs": {"num_cpus": 1}, "timeout": 60.0, **options}
    steps = NUM_ENVS * STEPS if options.get("sync", True) else NUM_ENVS // 2 * STEPS
    return RayWorldCollector(workers, policy, frames_per_batch=steps, **options)


def pids(collector):
    return ray.get([actor.cascade_execute.remote("env.process_id") for actor in collector.remote_collectors])


def as_one(batch):
    """``(W, N / W, T)`` as ``(N, T)``."""
    return batch.flatten(0, 1)


def test_two_workers_give_the_numbers_of_one_env_and_take_new_weights(cartpole, tmp_path):
    workers = shares(cartpole, 2, expose_state=True)
    policy = Switch()
    collector = collector_of(workers, policy)
    try:
        batches = iter(collector)
        first, second = as_one(next(batches)), as_one(next(batches))
        expected = one_env(cartpole).rollout(2 * STEPS, break_when_any_done=False)
        assert same(torch.cat([first, second], 1), expected)

        policy.set(1.0)
        collector.update_policy_weights_()
        new = changed(cartpole, tmp_path / "world")
        collector.update_world_(new)
        third = as_one(next(batches))
        assert bool((third["action"] == 1).all())
        assert continues(third, second)
        assert goes_on(third, new)
        assert not goes_on(third, cartpole)

        policy.set(0.0)
        collector.update_policy_weights_(policy)
        assert collector.set_seed(ROOT_SEED + 50) == ROOT_SEED + 50 + NUM_ENVS
        assert same(as_one(next(batches)), one_env(new, seed=ROOT_SEED + 50).rollout(STEPS, break_when_any_done=False))

        os.kill(pids(collector)[1], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(
            WorkerDiedError, match=r"worker 1 of 2 is lost \(its process or machine died\) .*max_restarts"
        ):
            next(batches)
        assert time.monotonic() - began < 20
        with pytest.raises(RuntimeError, match="shut down"):
            next(iter(collector))
    finally:
        collector.shutdown()


def test_a_lost_worker_is_replaced_as_ray_is_told_to_and_the_batch_is_whole(cartpole, tmp_path):
    workers = shares(cartpole, 2, expose_state=True)
    policy = Switch()
    collector = collector_of(workers, policy, remote_configs={"num_cpus": 1, "max_restarts": 2})
    try:
        batches = iter(collector)
        next(batches)
        policy.set(1.0)
        collector.update_policy_weights_()
        policy.set(-1.0)  # not sent: the others do not have it either
        new = changed(cartpole, tmp_path / "world")
        collector.update_world_(new)
        before = next(batches)

        victim, other = pids(collector)
        os.kill(victim, signal.SIGSTOP)  # so that it is killed in the middle of a batch
        threading.Timer(1.0, os.kill, (victim, signal.SIGKILL)).start()
        with pytest.warns(RuntimeWarning, match="worker 0 of 2 is lost .* is replaced"):
            batch = next(batches)
        assert batch.shape == (2, NUM_ENVS // 2, STEPS)
        assert bool((batch["action"] == 1).all())
        assert pids(collector)[1] == other
        assert continues(batch[1], before[1]), "the other worker continues its episodes"
        assert goes_on(batch[1], new)
        seeds, elapsed = batch["world_state", "seed"][:, :, 0], batch["world_state", "elapsed"][:, :, 0]
        assert seeds.tolist() == [[106, 107, 108], [103, 104, 105]]
        assert elapsed[0].tolist() == [0, 0, 0]
        assert goes_on(batch[0], new)
        assert continues(next(batches)[0], batch[0])

        os.kill(pids(collector)[0], signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match="worker 0 of 2 is lost .* is replaced"):
            collector.update_policy_weights_()
        batch = next(batches)
        assert batch["world_state", "seed"][:, :, 0].tolist() == [[112, 113, 114], [103, 104, 105]]
        assert bool((batch["action"] == 0).all())
        assert goes_on(batch[0], new)

        os.kill(pids(collector)[0], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="worker 0 of 2"):
            next(batches)
    finally:
        collector.shutdown()


def test_an_asynchronous_collector_waits_for_no_worker_longer_than_it_is_told(cartpole, tmp_path):
    workers = shares(cartpole, 2, expose_state=True)
    # Half a CPU each: Ray is slow to kill a stopped process, and its replacement needs a CPU meanwhile.
    collector = collector_of(workers, sync=False, timeout=5.0, remote_configs={"num_cpus": 0.5, "max_restarts": 1})
    try:
        batches = iter(collector)
        last = {}

        def take():
            batch = next(batches)
            assert batch.shape == (NUM_ENVS // 2, STEPS)
            first_seed = int(batch["world_state", "seed"][0, 0])
            if first_seed in last:
                assert continues(batch, last[first_seed])
            last[first_seed] = batch
            return batch

        def take_until(seeds):
            while last.keys() != seeds:
                take()

        take_until({100, 103})
        assert all(goes_on(batch, cartpole) for batch in last.values())
        new = changed(cartpole, tmp_path / "world")
        collector.update_world_(new)
        for _ in range(2):  # begun before the world was sent
            take()
        for _ in range(3):
            assert goes_on(take(), new)

        os.kill(pids(collector)[0], signal.SIGSTOP)
        began = time.monotonic()
        with pytest.warns(RuntimeWarning, match="no answer in 5 s"):
            take_until({100, 103, 106})
        assert goes_on(last[106], new)
        assert goes_on(last[103], new)
        assert time.monotonic() - began < 40

        os.kill(pids(collector)[0], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="worker 0 of 2"):
            list(batches)
    finally:
        collector.shutdown()


def test_arguments_that_do_not_fit_are_refused(cartpole):
    workers = shares(cartpole, 2)
    with pytest.raises(TypeError, match="takes no replay_buffer"):
        collector_of(workers, replay_buffer=object())
    with pytest.raises(ValueError, match="must divide among 4 workers"):
        collector_of(shares(cartpole, 4))
    with pytest.raises(ValueError, match="among all envs; got 20"):
        RayWorldCollector(workers, frames_per_batch=20)
    with pytest.raises(ValueError, match="one remote config or one each, got 3"):
        collector_of(workers, remote_configs=[{"num_cpus": 1}] * 3)


def test_torchrls_own_ray_collector_takes_the_makers(cartpole, tmp_path):
    """On one machine its workers follow the world's file as any other process does."""
    workers = shares(cartpole, 2, expose_state=True)
    policy = Switch()
    collector = Collector(
        workers.makers,
        policy,
        backend="ray",
        sync=True,
        frames_per_batch=NUM_ENVS * STEPS,
        total_frames=10**6,
        backend_options={"remote_configs": {"num_cpus": 1}},
    )
    try:
        collector.update_policy_weights_()
        batches = iter(collector)
        first = as_one(next(batches))
        assert same(first, one_env(cartpole).rollout(STEPS, break_when_any_done=False))
        policy.set(-1.0)
        collector.update_policy_weights_()
        new = changed(cartpole, tmp_path / "world")
        workers.update_world_(new)
        second = as_one(next(batches))
        assert bool((second["action"] == 0).all())
        assert continues(second, first)
        assert goes_on(second, new)
    finally:
        collector.shutdown()


def broken(num_envs, seed):
    raise ValueError("no such simulator")


def test_workers_that_cannot_start_are_an_error(cartpole):
    with pytest.raises(WorkerDiedError, match=r"of 3 does not run after 4 s\. `ray status`"):
        collector_of(shares(cartpole, 3), start_timeout=4.0)
    with pytest.raises(WorkerDiedError, match=r"worker 0 of 2 ended while it was starting") as caught:
        collector_of(WorkerEnvs(broken, NUM_ENVS, 2))
    assert "no such simulator" in str(caught.value.__cause__)
