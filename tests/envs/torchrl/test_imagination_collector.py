"""`ImaginationCollector` against TorchRL's own, entry by entry."""

from __future__ import annotations

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import ExplorationType
from torchrl.envs.transforms import RewardSum
from torchrl.modules import ProbabilisticActor, TanhNormal

from tests.envs.torchrl.kinds import BY_NAME
from wm_vec.envs import ImaginationCollector, TransformedEnv
from wm_vec.envs.torchrl.collector import numbered

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
B, STEPS, HORIZON = 5, 9, 4


def actor():
    torch.manual_seed(1)
    split = nn.Sequential(nn.Linear(3, 2), nn.Unflatten(-1, (2, 1)))
    return ProbabilisticActor(
        TensorDictModule(lambda seen: split(seen).tanh().unbind(-2), ["observation"], ["loc", "spread"]),
        in_keys={"loc": "loc", "scale": "spread"},
        distribution_class=Wide,
        return_log_prob=True,
    )


class Wide(TanhNormal):
    def __init__(self, loc, scale):
        super().__init__(loc, scale.exp())


def collector_of(kind, policy, made=None, env="pendulum", batches=3, **options):
    made = BY_NAME[env].torchrl(B, max_episode_steps=HORIZON) if made is None else made
    made.set_seed(7)
    torch.manual_seed(0)
    frames = B * STEPS
    # Buffers of TorchRL lack a device, and have room for entries that a policy has not written yet.
    options = {"use_buffers": False, **options}
    return kind(made, policy, frames_per_batch=frames, total_frames=frames * batches, **options)


def both(policy, **options):
    """Each collector's batches, and itself; `policy` makes one."""
    results = []
    for kind in (Collector, ImaginationCollector):
        collector = collector_of(kind, policy() if policy else None, **options)
        results.append((list(collector), collector))
    return results


def assert_same(theirs, ours):
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert set(a.keys(True, True)) == set(b.keys(True, True))
        assert (a.batch_size, a.names, a.device) == (b.batch_size, b.names, b.device)
        for key, value in a.items(True, True):
            assert value.dtype == b[key].dtype, key
            assert torch.equal(value, b[key]), key


OPTIONS = {
    "plain": {},
    "without ids": {"track_traj_ids": False},
    "truncated at the end of a batch": {"set_truncated": True},
    "at the mode": {"exploration_type": ExplorationType.DETERMINISTIC},
    "random first": {"init_random_frames": B * STEPS},
    "reset at each": {"reset_at_each_iter": True},
    "split": {"split_trajs": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_batches_are_those_of_torchrls_collector(name):
    (theirs, _), (ours, collector) = both(actor, **OPTIONS[name])
    assert_same(theirs, ours)
    assert collector._frames == 3 * B * STEPS
    assert sum(int(batch["next", "done"].sum()) for batch in ours) >= B * (3 * STEPS // HORIZON - 3)


def test_a_batch_is_one_imagination(monkeypatch):
    monkeypatch.setattr(Collector, "rollout", None)
    assert len(list(collector_of(ImaginationCollector, actor()))) == 3


@pytest.mark.parametrize("env", ["cartpole", "box", "board"])
def test_random_actions_of_every_kind_of_space(env):
    (theirs, _), (ours, _) = both(None, env=env)
    assert_same(theirs, ours)


def test_resets_and_saved_states_go_on_with_the_next_number():
    runs = []
    for kind in (Collector, ImaginationCollector):
        collector = collector_of(kind, actor(), batches=4)
        batches = iter(collector)
        seen = [next(batches).clone()]
        collector.reset(1)
        seen.append(next(batches).clone())
        collector.reset()
        seen.append(next(batches).clone())
        runs.append((seen, collector.state_dict()))
    assert_same(runs[0][0], runs[1][0])
    states = [state for _, state in runs]
    assert states[0].keys() == states[1].keys()
    assert states[0]["traj_pool"] == states[1]["traj_pool"]
    assert (states[0]["frames"], states[0]["iter"]) == (states[1]["frames"], states[1]["iter"])


@torch.no_grad()
def bend(policy):
    for parameter in policy.parameters():
        parameter.add_(0.3)


def test_new_weights_act_from_the_next_batch_on():
    runs = []
    for kind in (Collector, ImaginationCollector):
        policy, seen = actor(), []
        for batch in collector_of(kind, policy):
            seen.append(batch.clone())
            bend(policy)
        runs.append(seen)
    assert_same(*runs)
    assert not torch.equal(runs[1][0]["loc"], runs[1][1]["loc"])


def test_a_transformed_env_and_a_replay_buffer_are_torchrls_own():
    runs = []
    for kind in (Collector, ImaginationCollector):
        made = TransformedEnv(BY_NAME["pendulum"].torchrl(B, max_episode_steps=HORIZON), RewardSum())
        runs.append([batch.clone() for batch in collector_of(kind, actor(), made)])
    assert_same(*runs)
    contents = []
    for kind in (Collector, ImaginationCollector):
        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(200))
        assert list(collector_of(kind, actor(), replay_buffer=buffer)) == [None] * 3
        contents.append(buffer[:])
    assert (contents[0] == contents[1]).all()


def test_numbers_of_trajectories_by_hand():
    """Env 1 ends in steps 0 and 2, env 0 in step 2: 12 begins first, then 13 (env 0) and 14 (env 1)."""
    ended = torch.tensor([[False, False, True], [True, False, True]])
    assert numbered(torch.tensor([11, 4]), ended).tolist() == [[11, 11, 11, 13], [4, 12, 12, 14]]
