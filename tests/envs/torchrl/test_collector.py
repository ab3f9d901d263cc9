"""TorchRL's `Collector` in this process with the options that matter: what is in its batches, not only their shapes."""

from __future__ import annotations

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.envs import transforms as T

from tests.envs.torchrl.kinds import BY_NAME
from wm_vec import WorldModel

# What TorchRL says of its own next versions.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
B, T_STEPS, HORIZON = 6, 15, 7
FLAGS = ("done", "terminated", "truncated")


class Reflex(nn.Module):
    """A policy that whoever knows the observation can check: push by half of what is seen first."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, observation):
        return (self.gain * observation[..., :1]).clamp(-2, 2)


def reflex():
    return TensorDictModule(Reflex(), in_keys=["observation"], out_keys=["action"])


def collected(env, policy=None, batches=3, frames=B * T_STEPS, **options):
    """All batches of a collector; times are the second axis."""
    env.set_seed(5)
    torch.manual_seed(0)
    collector = Collector(env, policy, frames_per_batch=frames, total_frames=frames * batches, **options)
    try:
        return list(collector)
    finally:
        collector.shutdown()


def pendulum(num_envs=B, **options):
    return BY_NAME["pendulum"].torchrl(num_envs, max_episode_steps=HORIZON, **options)


def assert_world(batch, kind="pendulum", seed=5, **options):
    """What the batch ``(B, T)`` holds is what the bare environment does under its actions, resets included."""
    env = BY_NAME[kind].torchrl(batch.shape[0], **options)
    env.set_seed(seed)
    expected = env.rollout(batch.shape[1], actions=batch["action"].unbind(1), break_when_any_done=False)
    for key in expected.keys(True, True):
        assert torch.equal(batch[key], expected[key]), key


def assert_joined(batch, keys=("observation",)):
    """Step t + 1 starts where step t led, but after the end of an episode."""
    ended = batch["next", "done"][:, :-1, 0]
    for key in keys:
        goes_on = (batch[key][:, 1:] == batch["next", key][:, :-1]).flatten(2).all(-1)
        assert goes_on[~ended].all(), key
        assert not goes_on[ended].any(), "a new episode starts elsewhere"
    assert not any(batch[flag].any() for flag in FLAGS)


def cat(batches):
    return torch.cat([batch.exclude("collector") for batch in batches], 1)


@pytest.mark.parametrize("policy", [None, "module"])
@pytest.mark.parametrize("options", [{}, {"no_cuda_sync": True}, {"track_traj_ids": False}], ids=str)
def test_batches_are_the_worlds_own_steps(policy, options):
    batches = collected(pendulum(), None if policy is None else reflex(), **options)
    assert [batch.shape for batch in batches] == [(B, T_STEPS)] * 3
    assert batches[0].names[-1] == "time"
    whole = cat(batches)
    assert_joined(whole)
    assert_world(whole, max_episode_steps=HORIZON)
    if policy is not None:
        torch.testing.assert_close(whole["action"], 0.5 * whole["observation"][..., :1])
    assert ("collector" in batches[0].keys()) is options.get("track_traj_ids", True)  # noqa: SIM118 - a TensorDict


@pytest.mark.parametrize("kind", ["cartpole", "box", "painter", "board", "torchrl heads", "steered"])
def test_every_kind_of_world_can_be_collected(kind):
    whole = cat(collected(BY_NAME[kind].torchrl(B, max_episode_steps=HORIZON)))
    assert_world(whole, kind, max_episode_steps=HORIZON)
    assert whole["next", "done"].sum() >= 6 * B


def test_trajectory_ids_tell_episodes_apart():
    whole = torch.cat(collected(pendulum()), 1)
    ids = whole["collector", "traj_ids"]
    ended = whole["next", "done"][:, :-1, 0]
    assert torch.equal(ids[:, 1:] != ids[:, :-1], ended)
    lengths = torch.bincount(ids.flatten())
    assert len(lengths) == B * (1 + 45 // HORIZON), "each is one env's, and its number is used once"
    assert set(lengths.tolist()) == {HORIZON, 45 % HORIZON}


def test_returns_are_the_sums_of_rewards():
    env = TransformedEnv(pendulum(), T.Compose(T.RewardSum(), T.StepCounter()))
    whole = torch.cat(collected(env), 1)
    ended = whole["next", "done"][..., 0]
    ids = whole["collector", "traj_ids"]
    for number in ids[ended]:
        rewards = whole["next", "reward"][ids == number]
        last = whole["next", "episode_reward"][ended & (ids == number)]
        torch.testing.assert_close(last.flatten(), rewards.sum(0))
        assert len(rewards) == HORIZON


def test_a_policy_may_be_compiled():
    whole = cat(collected(pendulum(), reflex(), compile_policy={"backend": "eager"}))
    assert_world(whole, max_episode_steps=HORIZON)
    torch.testing.assert_close(whole["action"], 0.5 * whole["observation"][..., :1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"cudagraph_policy": True}, {"compile_policy": True}, {}], ids=str)
def test_on_cuda_policies_may_be_captured(options):
    env = WorldModel.bundled("Pendulum-v1", device="cuda").to_torchrl_env(B, max_episode_steps=HORIZON)
    policy = reflex().cuda()
    # In the first batch a policy is captured: tensordict keeps tensors of it as the graph's inputs and overwrites them.
    whole = cat(collected(env, policy, no_cuda_sync=True, track_traj_ids=False, **options)[1:])
    assert whole["observation"].device.type == "cuda"
    assert_joined(whole)
    torch.testing.assert_close(whole["action"], 0.5 * whole["observation"][..., :1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_of_a_cuda_world_may_be_stored_in_host_memory():
    env = WorldModel.bundled("Pendulum-v1", device="cuda").to_torchrl_env(B, max_episode_steps=HORIZON)
    batches = collected(env, reflex().cuda(), storing_device="cpu")
    assert cat(batches)["observation"].device.type == "cpu"
    assert_joined(cat(batches))


def test_batches_are_stored_where_they_are_asked_for():
    whole = cat(collected(pendulum(), storing_device="cpu"))
    assert whole.device.type == "cpu"
    assert_world(whole, max_episode_steps=HORIZON)


def test_the_first_frames_may_be_random():
    """From the environment's own generator: the same seed gives the same frames, whatever torch's does."""
    runs = []
    for _ in range(2):
        torch.manual_seed(len(runs))
        runs.append(collected(pendulum(), reflex(), init_random_frames=B * T_STEPS))
    random, chosen = runs[0][0], runs[0][1]
    assert not torch.allclose(random["action"], 0.5 * random["observation"][..., :1])
    torch.testing.assert_close(chosen["action"], 0.5 * chosen["observation"][..., :1])
    assert_world(cat(runs[0]), max_episode_steps=HORIZON)
    assert all(torch.equal(one["action"], two["action"]) for one, two in zip(*runs, strict=True))


def test_trajectories_may_be_cut():
    """TorchRL cuts with a step counter of its own, and resets those envs alone."""
    env = BY_NAME["cartpole"].torchrl(B)
    whole = cat(collected(env, max_frames_per_traj=20))
    cut = whole["next", "truncated"][..., 0]
    assert torch.equal(cut, whole["next", "step_count"][..., 0] == 20)
    assert cut.any()
    assert not whole["step_count"][:, 1:][whole["next", "done"][:, :-1]].any()
    assert_joined(whole)


@pytest.mark.filterwarnings("ignore:split_trajs=True produces")
def test_trajectories_may_be_split():
    (batch,) = collected(pendulum(), split_trajs=True, batches=1)
    ids, mask = batch["collector", "traj_ids"], batch["collector", "mask"]
    assert batch.shape == (B * 3, HORIZON), "7 + 7 + 1 of 15 steps each"
    lengths = mask.sum(-1)
    assert sorted(lengths.tolist()) == sorted([7, 7, 1] * B)
    for row, length in enumerate(lengths.tolist()):
        assert len(ids[row, :length].unique()) == 1
        one = batch[row, :length]
        assert torch.equal(one["observation"][1:], one["next", "observation"][:-1])
        assert one["next", "done"][:-1].sum() == 0
    assert mask.sum() == B * T_STEPS


def test_whole_trajectories_may_be_asked_for():
    batches = collected(pendulum(), trajs_per_batch=B, traj_format="cat", batches=2)
    for batch in batches:
        ends = batch["next", "done"].flatten()
        assert ends.sum() == B
        assert ends[-1]
        lengths = torch.bincount(batch["collector", "traj_ids"].flatten())
        assert set(lengths[lengths > 0].tolist()) == {HORIZON}


def test_every_batch_may_begin_anew():
    batches = collected(pendulum(expose_state=True), reset_at_each_iter=True)
    for number, batch in enumerate(batches):
        assert not batch["world_state", "elapsed"][:, 0].any(), "a fresh episode"
        assert_joined(batch)
        episodes = batch["world_state", "episode"][:, 0]
        assert len(episodes.unique()) == 1, "of all envs alike"
        if number:
            assert (episodes > batches[number - 1]["world_state", "episode"][:, -1]).all()


@pytest.mark.parametrize("extend", [True, False])
def test_a_replay_buffer_is_filled(extend):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000, ndim=2 if extend else 1), batch_size=16)
    env = pendulum()
    env.set_seed(5)
    torch.manual_seed(0)
    collector = Collector(
        env,
        reflex(),
        frames_per_batch=B * T_STEPS,
        total_frames=3 * B * T_STEPS,
        replay_buffer=buffer,
        extend_buffer=extend,
    )
    assert all(batch is None for batch in collector)
    collector.shutdown()
    held = buffer[:]
    torch.testing.assert_close(held["action"], 0.5 * held["observation"][..., :1])
    assert held.numel() == 3 * B * T_STEPS
    frames = held.reshape(-1)
    whole = cat(collected(pendulum(), reflex()))
    expected = whole["next", "reward"].flatten().sort().values
    assert torch.equal(frames["next", "reward"].flatten().sort().values, expected), "every frame, once"


def test_slices_of_trajectories_are_sampled_from_a_buffer():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000, ndim=2),
        sampler=SliceSampler(slice_len=4, traj_key=("collector", "traj_ids"), strict_length=True),
        batch_size=64,
    )
    for batch in collected(pendulum()):
        buffer.extend(batch)
    slices = buffer.sample().reshape(16, 4)
    assert torch.equal(slices["observation"][:, 1:], slices["next", "observation"][:, :-1])


def test_new_weights_reach_the_policy_and_the_world_while_it_runs():
    world, new = (WorldModel.bundled("Pendulum-v1") for _ in range(2))
    with torch.no_grad():
        for weight in new.model.parameters():
            weight.mul_(1.1)
    env = world.to_torchrl_env(B, max_episode_steps=HORIZON, expose_state=True, seed=5)
    policy = reflex()
    collector = Collector(env, policy, frames_per_batch=B * 5, total_frames=-1)
    batches = iter(collector)
    first = next(batches)
    policy.module.gain.data.fill_(1.5)
    world.model.load_state_dict(new.model.state_dict())
    second = next(batches)
    collector.shutdown()
    for batch, gain, weights in ((first, 0.5, WorldModel.bundled("Pendulum-v1")), (second, 1.5, new)):
        torch.testing.assert_close(batch["action"], (gain * batch["observation"][..., :1]).clamp(-2, 2))
        judge = weights.to_torchrl_env(B, max_episode_steps=HORIZON, expose_state=True)
        here = judge.reset(batch[:, 0].exclude("next"), set_state=True)
        expected = judge.rollout(
            5, actions=batch["action"].unbind(1), auto_reset=False, tensordict=here, break_when_any_done=False
        )
        assert torch.equal(batch["next", "observation"], expected["next", "observation"])


def test_states_may_come_along():
    whole = cat(collected(pendulum(expose_state=True), reflex(), batches=1))
    env = pendulum(expose_state=True)
    later = env.reset(whole[:, 9].exclude("next"), set_state=True)
    assert torch.equal(later["observation"], whole["observation"][:, 9])
    out = env.step(later.set("action", whole["action"][:, 9]))
    assert torch.equal(out["next", "observation"], whole["next", "observation"][:, 9])


def test_nothing_is_read_on_the_host():
    """On the meta device every host read raises, TorchRL's too: to number trajectories it looks for what ended."""
    world = WorldModel.bundled("Pendulum-v1", device="meta")
    options = {"frames_per_batch": B * (HORIZON + 1), "total_frames": B * (HORIZON + 1), "no_cuda_sync": True}
    env = world.to_torchrl_env(B, max_episode_steps=HORIZON)
    collector = Collector(env, reflex().to("meta"), track_traj_ids=False, **options)
    (batch,) = collector
    collector.shutdown()
    assert batch["next", "observation"].shape == (B, HORIZON + 1, 3)
    assert batch["next", "observation"].device.type == "meta"
    looking = Collector(world.to_torchrl_env(B), reflex().to("meta"), **options)
    with pytest.raises(RuntimeError, match="meta"):
        next(iter(looking))
