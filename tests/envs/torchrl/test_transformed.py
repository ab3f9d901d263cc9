"""Our TransformedEnv: TorchRL's own, number for number, without its host reads."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, GymEnv
from torchrl.envs import TransformedEnv as StockTransformedEnv
from torchrl.envs.transforms import (
    ActionDiscretizer,
    CatFrames,
    Compose,
    DoubleToFloat,
    InitTracker,
    ObservationNorm,
    RewardSum,
    StepCounter,
)
from torchrl.envs.utils import check_env_specs

from wm_vec import WorldModel
from wm_vec.envs import TorchRLEnv, TransformedEnv

TRANSFORMS = {
    "none": Compose,
    "counter": lambda: StepCounter(max_steps=4),
    "sums": lambda: Compose(DoubleToFloat(), StepCounter(), RewardSum()),
    "starts": InitTracker,
    "frames": lambda: CatFrames(N=3, dim=-1, in_keys=["observation"]),
    "norm": lambda: ObservationNorm(loc=1.0, scale=0.5, in_keys=["observation"]),
}


def lean(td):
    """To where the pole leans."""
    return td.set("action", (td["observation"][..., -2] > 0).long())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_rollout_is_that_of_torchrls_own(cartpole, name):
    rollouts = []
    for kind in (TransformedEnv, StockTransformedEnv):
        env = kind(cartpole.to_torchrl_env(6, max_episode_steps=9), TRANSFORMS[name]())
        env.set_seed(3)
        rollouts.append(env.rollout(40, lean, break_when_any_done=False))
    ours, stock = rollouts
    assert int(ours["next", "done"].sum()) > 12
    assert set(ours.keys(True)) == set(stock.keys(True))
    assert (ours == stock).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_torchrls_checker_passes(cartpole, name):
    env = TransformedEnv(cartpole.to_torchrl_env(4, max_episode_steps=9, seed=0), TRANSFORMS[name]())
    check_env_specs(env, break_when_any_done="both")


def policies():
    return [None, TensorDictModule(nn.Linear(3, 1, device="meta"), ["observation"], ["action"])]


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("policy", policies(), ids=["random", "network"])
def test_steps_resets_and_collectors_read_nothing_on_the_host(transformed, policy):
    """On the meta device every host read raises. StepCounter, ObservationNorm and CatFrames read by themselves."""
    env = WorldModel.bundled("Pendulum-v1", device="meta").to_torchrl_env(8, max_episode_steps=5, seed=0)
    if transformed:
        env = TransformedEnv(env, Compose(DoubleToFloat(), RewardSum(), InitTracker()))
    td = env.reset()
    for _ in range(3):
        td = env.rand_action(td)
        _, td = env.step_and_maybe_reset(td)
    td = env.reset(td.set("_reset", torch.zeros(8, 1, dtype=torch.bool, device="meta")))
    assert td.device.type == "meta"
    collector = Collector(
        env,
        policy,
        frames_per_batch=8 * 10,
        total_frames=8 * 20,
        track_traj_ids=False,
        auto_register_policy_transforms=False,
    )
    assert [batch.shape for batch in collector] == [(8, 10)] * 2
    collector.shutdown()


def test_torchrls_own_does_read_the_host():
    env = WorldModel.bundled("Pendulum-v1", device="meta").to_torchrl_env(8, max_episode_steps=5, seed=0)
    env = StockTransformedEnv(env, RewardSum())
    with pytest.raises(RuntimeError, match="meta tensors"):
        env.rollout(3, break_when_any_done=False)


def test_appending_a_transform_keeps_it_ours(cartpole):
    env = cartpole.to_torchrl_env(4, max_episode_steps=9).append_transform(StepCounter())
    assert type(env) is TransformedEnv
    twice = TransformedEnv(env, RewardSum())
    assert type(twice.base_env) is TorchRLEnv
    assert {"step_count", "episode_reward"} <= set(twice.reset().keys())


def test_random_actions_are_the_bases_or_from_the_changed_spec(pendulum):
    base = pendulum.to_torchrl_env(5, seed=1)
    env = TransformedEnv(pendulum.to_torchrl_env(5, seed=1), StepCounter())
    assert torch.equal(env.rand_action(env.reset())["action"], base.rand_action(base.reset())["action"])
    coarse = TransformedEnv(pendulum.to_torchrl_env(5, seed=1), ActionDiscretizer(num_intervals=3))
    rollout = coarse.rollout(4)
    assert rollout["action"].dtype == torch.int64
    assert set(rollout["action"].unique().tolist()) <= {0, 1, 2}


def test_a_masked_reset_keeps_what_a_reset_does_not_give(pendulum):
    env = TransformedEnv(pendulum.to_torchrl_env(3, seed=0), StepCounter())
    td = env.rand_action(env.rollout(4)[:, -1]["next"])
    before = td.clone()
    mask = torch.tensor([[False], [True], [False]])
    after = env.reset(td.set("_reset", mask))
    assert torch.equal(after["action"], before["action"])
    assert after["step_count"].flatten().tolist() == [4, 0, 4]
    assert torch.equal(after["observation"][[0, 2]], before["observation"][[0, 2]])
    assert not torch.equal(after["observation"][1], before["observation"][1])
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        env.base_env._reset(TensorDict({"_reset": mask[:2]}))


def test_other_environments_are_sent_to_torchrl():
    other: EnvBase = GymEnv("Pendulum-v1")
    with pytest.raises(TypeError, match=r"torchrl\.envs\.TransformedEnv"):
        TransformedEnv(other, StepCounter())
