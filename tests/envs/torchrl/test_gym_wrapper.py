"""TorchRL's own `GymWrapper` and `GymEnv` over our Gymnasium environments: they pass, and show TorchRLEnv's numbers."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, GymWrapper, TransformedEnv
from torchrl.envs import transforms as T
from torchrl.envs.utils import check_env_specs

from tests.envs import makers
from tests.envs.torchrl.kinds import BY_NAME
from wm_vec.envs.torchrl import ForGymWrapper

B, HORIZON, STEPS = 4, 5, 18
TAKEN = ("cartpole", "pendulum", "bfloat16", "steered", "market", "box", "discrete", "classes", "switches", "latent")
MODELS = ("painter", "torchrl heads", "rssm with our noise")
TENSORS = {"convert_actions_to_numpy": False, "categorical_action_encoding": True}
"""What GymWrapper must be told of an environment of tensors."""


def bare(kind, num_envs=B, horizon=HORIZON):
    """GymWrapper right on the vector environment."""
    return GymWrapper(BY_NAME[kind].disabled(num_envs, max_episode_steps=horizon, seed=0), **TENSORS)


def fitted(kind, mode, num_envs=B, horizon=HORIZON, **options):
    """With `ForGymWrapper` in between."""
    vector = BY_NAME[kind].vector(num_envs, max_episode_steps=horizon, autoreset_mode=mode, seed=0)
    return GymWrapper(ForGymWrapper(vector), **options)


def assert_torchrl_env_agrees(kind, rollout, horizon=HORIZON):
    """TorchRLEnv shows the same under the rollout's actions; GymWrapper seeds by a reset, so one episode is gone."""
    env = BY_NAME[kind].torchrl(rollout.shape[0], max_episode_steps=horizon)
    env.set_seed(7)
    env.reset()
    actions = rollout["action"].to(env.action_spec.dtype)
    expected = env.rollout(rollout.shape[1], actions=actions.unbind(1), break_when_any_done=False)
    for key in expected.keys(True, True):
        assert torch.equal(rollout[key].to(expected[key].dtype), expected[key]), key
    assert expected["next", "done"].any()


@pytest.mark.parametrize("kind", [*TAKEN, *MODELS])
def test_the_bare_vector_environment_passes_and_shows_the_numbers_of_torchrl_env(kind):
    check_env_specs(bare(kind), break_when_any_done="both")
    env = bare(kind)
    env.set_seed(7)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert rollout.shape == (B, STEPS)
    assert_torchrl_env_agrees(kind, rollout)


FLAT = ("cartpole", "pendulum", "bfloat16", "steered", "market", "latent", "rssm with our noise")
BOTH_MODES = [*((kind, "disabled") for kind in (*TAKEN, *MODELS)), *((kind, "same_step") for kind in FLAT)]


@pytest.mark.parametrize(("kind", "mode"), BOTH_MODES)
def test_the_fitted_vector_environment_passes_and_shows_the_numbers_of_torchrl_env(kind, mode):
    """Up to the last observations of episodes; where all end at once, GymWrapper resets SAME_STEP a second time."""
    check_env_specs(fitted(kind, mode), break_when_any_done="both")  # its defaults: one-hot actions, turned into NumPy
    env = fitted(kind, mode, **TENSORS)
    check_env_specs(env, break_when_any_done="both")
    env.set_seed(7)
    assert_torchrl_env_agrees(kind, env.rollout(STEPS if mode == "disabled" else HORIZON, break_when_any_done=False))


def test_rewards_are_float32_as_torchrl_says():
    kind = "float64"
    env = fitted(kind, "disabled", **TENSORS)
    check_env_specs(env, break_when_any_done="both")
    env.set_seed(7)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    ours = BY_NAME[kind].torchrl(B, max_episode_steps=HORIZON)
    ours.set_seed(7)
    ours.reset()
    expected = ours.rollout(STEPS, actions=rollout["action"].unbind(1), break_when_any_done=False)["next", "reward"]
    assert expected.dtype is torch.float64
    assert torch.equal(rollout["next", "reward"], expected.float())


@pytest.mark.parametrize(("kind", "mode"), [("cartpole", "disabled"), ("cartpole", "same_step"), ("box", "disabled")])
def test_envs_that_end_at_different_times_are_reset_alone(kind, mode):
    num_envs, steps = 16, 50
    env = fitted(kind, mode, num_envs, horizon=None, **TENSORS)
    env.set_seed(7)
    rollout = env.rollout(steps, break_when_any_done=False)
    ended = rollout["next", "done"][..., 0]
    assert ended.any(1).sum() >= num_envs // 2
    assert 0 < ended.sum(0).max() < num_envs
    assert_torchrl_env_agrees(kind, rollout, horizon=None)


def test_modes_that_torchrl_cannot_take_are_refused():
    with pytest.raises(RuntimeError, match="SAME_STEP or DISABLED"):
        GymWrapper(BY_NAME["cartpole"].vector(2, autoreset_mode="next_step"), **TENSORS)
    for kind, mode in (("cartpole", "next_step"), ("box", "same_step")):
        with pytest.raises(ValueError, match="autoreset_mode='disabled'"):
            fitted(kind, mode)


def test_what_torchrl_makes_of_the_bare_environment():
    """If one of these passes one day, `ForGymWrapper` can lose what it does about it."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        GymWrapper(BY_NAME["cartpole"].vector(2, autoreset_mode="same_step"), **TENSORS)
    summed = TransformedEnv(bare("pendulum"), T.RewardSum())
    td = summed.step(summed.rand_action(summed.reset()))
    assert td["next", "episode_reward"].shape == (B, B), "the sum of (B, 1) and (B,)"


def test_actions_as_numpy_are_taken_and_one_hot_refused_with_a_reason():
    vector = BY_NAME["cartpole"].disabled(2)
    assert GymWrapper(vector, categorical_action_encoding=True).rollout(2).batch_size[0] == 2
    one_hot = GymWrapper(vector, convert_actions_to_numpy=False)
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(2, 2\)"):
        one_hot.rollout(2)


@pytest.mark.parametrize("mode", ["disabled", "same_step"])
def test_a_collector_runs_over_it_with_transforms(mode):
    env = TransformedEnv(fitted("pendulum", mode), T.Compose(T.RewardSum(), T.StepCounter()))
    env.set_seed(7)
    collector = Collector(env, None, frames_per_batch=B * 10, total_frames=B * 30)
    batches = list(collector)
    collector.shutdown()
    whole = torch.cat([batch.exclude("collector") for batch in batches], 1)
    ended = whole["next", "done"][..., 0]
    assert whole["next", "step_count"][ended].unique().tolist() == [HORIZON]
    for row in range(B):
        ends = ended[row].nonzero()[:, 0].tolist()
        rewards = whole["next", "reward"][row, ends[0] + 1 : ends[1] + 1]
        torch.testing.assert_close(whole["next", "episode_reward"][row, ends[1]], rewards.sum(0))


# -- one env at a time ---------------------------------------------------------------------------------------------


def scalar(name):
    return gym.wrappers.TimeLimit(makers.BY_NAME[name].scalar(), HORIZON)


@pytest.mark.parametrize("categorical", [True, False])
@pytest.mark.parametrize("name", [maker.name for maker in makers.MAKERS])
def test_the_scalar_environment_passes_torchrls_checker(name, categorical):
    if name in ("game", "hand"):  # Tuples of unlike parts, which TorchRL's wrapper does not take; ours names the parts
        with pytest.raises(RuntimeError, match="Found more than one type of specs"):
            GymWrapper(scalar(name))
        check_env_specs(makers.BY_NAME[name].vector(1).to_torchrl())
        return
    check_env_specs(GymWrapper(scalar(name), categorical_action_encoding=categorical), break_when_any_done="both")


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "steered", "market"])
def test_the_scalar_environment_shows_row_0_of_torchrl_env(name):
    """Of the worlds with a bank; models that are reset at every episode start elsewhere, see docs/adapters.md."""
    env = GymWrapper(scalar(name), categorical_action_encoding=True)
    env.set_seed(7)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    ours = makers.BY_NAME[name].vector(1, max_episode_steps=HORIZON).to_torchrl()
    ours.set_seed(7)
    ours.reset()
    actions = rollout["action"][None].to(ours.action_spec.dtype)
    expected = ours.rollout(STEPS, actions=actions.unbind(1), break_when_any_done=False)["next"]
    for key in (*ours.observation_keys, "reward", "terminated", "truncated", "done"):
        torch.testing.assert_close(rollout["next", key].to(expected[key].dtype), expected[key][0], msg=str(key))
    assert rollout["next", "truncated"].sum() >= STEPS // HORIZON - 1


def test_registered_worlds_by_their_id():
    env = GymEnv("wm_vec/CartPole-v1", categorical_action_encoding=True)
    check_env_specs(env, break_when_any_done="both")
    env.set_seed(7)
    rollout = env.rollout(30, break_when_any_done=False)
    ours = makers.bundled("CartPole-v1").to_torchrl_env(1, max_episode_steps=500)
    ours.set_seed(7)
    ours.reset()
    expected = ours.rollout(30, actions=rollout["action"][None].unbind(1), break_when_any_done=False)
    torch.testing.assert_close(rollout["next", "observation"], expected["next", "observation"][0])


def test_registered_worlds_by_their_id_as_vectors():
    vector = gym.make_vec(
        "wm_vec/Pendulum-v1", num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode="disabled"
    )
    env = GymWrapper(vector, **TENSORS)
    check_env_specs(env, break_when_any_done="both")
    assert env.rollout(4).shape == (3, 4)
