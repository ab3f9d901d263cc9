"""The TorchRL face: TorchRL's own checker and collectors, and the numbers of the Gymnasium face."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv
from torchrl.envs.transforms import Compose, DoubleToFloat, RewardSum, StepCounter
from torchrl.envs.utils import check_env_specs

from wm_vec.adapters import CallableDynamics
from wm_vec.envs import TorchRLEnv, WorldModelVectorEnv

PLANE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
SEEN = gym.spaces.Dict({"place": PLANE, "eye": gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)})})
ACTIONS = {
    "box": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
    "discrete": gym.spaces.Discrete(3),
    "several": gym.spaces.MultiDiscrete([3, 4]),
    "binary": gym.spaces.MultiBinary(2),
}


def move(state, action):
    """The place moves by a tenth of the action's numbers; far out the episode ends."""
    push = action.reshape(state.shape[0], -1).float().mean(-1, keepdim=True)
    after = state + 0.1 * push + 0.05
    image = (after[:, :1, None, None].abs() * 20).clamp(0, 255).expand(-1, 3, 8, 8).to(torch.uint8)
    return {
        "state": after,
        "observation": {"place": after, "eye": {"image": image}},
        "reward": after.sum(-1),
        "terminated": after[:, 0] > 0.6,
    }


def plane_env(kind, num_envs, **options):
    dynamics = CallableDynamics(
        move,
        SEEN,
        ACTIONS[kind],
        initial_state=torch.tensor([[0.0, 0.0], [0.3, 0.1], [-0.2, 0.5]]),
        initial_observation={"place": torch.zeros(3, 2), "eye": {"image": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}},
    )
    return TorchRLEnv.from_dynamics(dynamics, SEEN, ACTIONS[kind], num_envs=num_envs, max_episode_steps=7, **options)


@pytest.mark.parametrize("num_envs", [1, 5, 2048])
@pytest.mark.parametrize("expose_state", [False, True])
@pytest.mark.parametrize(
    ("kind", "one_hot"),
    [("box", False), ("discrete", False), ("discrete", True), ("several", False), ("several", True), ("binary", False)],
)
def test_torchrls_checker_passes(kind, one_hot, expose_state, num_envs):
    env = plane_env(kind, num_envs, one_hot=one_hot, expose_state=expose_state, seed=0)
    check_env_specs(env, break_when_any_done="both")


@pytest.mark.parametrize("one_hot", [False, True])
def test_it_passes_on_learned_worlds(cartpole, pendulum, one_hot):
    check_env_specs(cartpole.to_torchrl_env(16, one_hot=one_hot, seed=0), break_when_any_done="both")
    check_env_specs(pendulum.to_torchrl_env(3, seed=0), break_when_any_done="both")
    fields = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": lambda obs, act, info: 1.0}
    check_env_specs(cartpole.to_torchrl_env(4, **fields, max_episode_steps=9, seed=0), break_when_any_done="both")


@pytest.mark.parametrize("exact_rows", [False, True])
def test_a_seeded_rollout_is_the_gymnasium_faces_number_for_number(cartpole, exact_rows):
    num_envs, steps = 6, 60
    env = cartpole.to_torchrl_env(num_envs, max_episode_steps=25, exact_rows=exact_rows)
    env.set_seed(11)
    rollout = env.rollout(steps, break_when_any_done=False)
    vector = cartpole.to_vector_env(
        num_envs, max_episode_steps=25, exact_rows=exact_rows, autoreset_mode=AutoresetMode.DISABLED
    )
    observation, _ = vector.reset(seed=11)
    ends = 0
    for t in range(steps):
        assert torch.equal(rollout["observation"][:, t], observation)
        observation, reward, terminated, truncated, _ = vector.step(rollout["action"][:, t])
        after = rollout[:, t]["next"]
        assert torch.equal(after["observation"], observation), "where the step ended"
        assert torch.equal(after["reward"][:, 0], reward)
        assert torch.equal(after["terminated"][:, 0], terminated)
        assert torch.equal(after["truncated"][:, 0], truncated)
        assert torch.equal(after["done"][:, 0], terminated | truncated)
        if bool((terminated | truncated).any()):
            ends += 1
            observation, _ = vector.reset(options={"reset_mask": terminated | truncated})
    assert ends > 3


def test_the_same_seed_gives_the_same_rollout_random_actions_included(pendulum):
    first, second = (pendulum.to_torchrl_env(4, max_episode_steps=9) for _ in range(2))
    for env in (first, second):
        env.set_seed(3)
    one, two = (env.rollout(20, break_when_any_done=False) for env in (first, second))
    assert (one == two).all()
    first.set_seed(4)
    assert not torch.equal(first.rollout(20, break_when_any_done=False)["observation"], one["observation"])


def test_a_partial_reset_with_the_reset_key_alone():
    env = plane_env("box", 3, seed=0)
    env.rollout(4, break_when_any_done=False)
    before = env.engine.predictions()["place"].clone()
    only = TensorDict({"_reset": torch.tensor([[False], [True], [False]])}, batch_size=[3])
    fresh = env._reset(only.clone())
    assert torch.equal(fresh["place"][[0, 2]], before[[0, 2]])
    assert not torch.equal(fresh["place"][1], before[1])
    assert not fresh["done"].any()
    whole = TensorDict({**fresh.exclude("done"), "done": torch.zeros(3, 1).bool()}, batch_size=[3]).update(only)
    again = env.reset(whole)
    assert torch.equal(again["place"][[0, 2]], before[[0, 2]])
    with pytest.raises(ValueError, match=r"shape \(3, 1\)"):
        env._reset(TensorDict({"_reset": torch.ones(2, 1, dtype=torch.bool)}, batch_size=[]))


def test_rows_that_are_not_to_step_stay(pendulum):
    env = pendulum.to_torchrl_env(4, seed=0)
    td = env.rand_action(env.reset())
    before = env.engine.state()
    only = torch.tensor([True, False, True, False])
    env.step(td.set("_step", only))
    after = env.engine.state()
    assert after.elapsed.tolist() == [1, 0, 1, 0]
    assert torch.equal(after.dynamics["values"][~only], before.dynamics["values"][~only])


def test_the_state_goes_out_and_comes_in(pendulum):
    env = pendulum.to_torchrl_env(3, expose_state=True, seed=0)
    env.rollout(5)
    td = env.rand_step(env.reset())
    kept = td["next"].clone()
    action = env.rand_action(kept.clone())["action"]
    futures = []
    for _ in range(2):
        here = env.reset(kept.clone(), set_state=True)
        assert torch.equal(here["observation"], kept["observation"])
        futures.append(env.step(here.set("action", action))["next", "observation"])
        env.rollout(3, auto_reset=False, tensordict=env.reset())
    assert torch.equal(*futures)
    with pytest.raises(KeyError, match="world_state"):
        env.reset(kept.exclude("world_state"), set_state=True)
    with pytest.raises(NotImplementedError):
        pendulum.to_torchrl_env(3).reset(kept, set_state=True)


def test_a_step_and_its_resets_read_nothing_on_the_host(pendulum):
    """On the meta device every host read raises."""
    world = type(pendulum).bundled("Pendulum-v1", device="meta")
    env = world.to_torchrl_env(8, max_episode_steps=5, seed=0)
    td = env._reset()
    for _ in range(7):
        td = env.rand_action(td)
        _, td = env.step_and_maybe_reset(td)
    assert td["observation"].shape == (8, 3)
    assert td.device.type == "meta"


def test_collectors_and_transforms(cartpole):
    env = TransformedEnv(
        cartpole.to_torchrl_env(32, max_episode_steps=15, seed=0), Compose(DoubleToFloat(), StepCounter(), RewardSum())
    )
    collector = Collector(env, None, frames_per_batch=32 * 20, total_frames=32 * 60)
    batches = list(collector)
    collector.shutdown()
    assert [batch.shape for batch in batches] == [(32, 20)] * 3
    counts = torch.cat([batch["next", "step_count"] for batch in batches], 1)
    done = torch.cat([batch["next", "done"] for batch in batches], 1)
    assert int(counts.max()) == 15, "the horizon ends episodes"
    assert bool(done[counts == 15].all())
    returns = torch.cat([batch["next", "episode_reward"] for batch in batches], 1)
    torch.testing.assert_close(returns, counts.float(), rtol=0, atol=0.3, msg="a CartPole earns about 1 a step")


def test_the_vector_env_makes_one_of_the_same_world(cartpole):
    vector = cartpole.to_vector_env(4, max_episode_steps=9)
    env = vector.to_torchrl()
    assert isinstance(vector, WorldModelVectorEnv)
    env.set_seed(5)
    observation, _ = vector.reset(seed=5)
    assert torch.equal(env.reset()["observation"], observation)
    assert env.engine.max_episode_steps == 9
    vector.step(vector.sample_actions())
    assert env.engine.state().elapsed.tolist() == [0] * 4, "with episodes of its own"


def test_what_does_not_fit_is_refused(cartpole):
    vector = cartpole.to_vector_env(2)
    spaces = vector.single_observation_space, vector.single_action_space
    with pytest.raises(ValueError, match="autoreset_mode='disabled'"):
        TorchRLEnv(vector.engine, *spaces)
    engine = vector.engine.sibling(autoreset_mode="disabled")
    with pytest.raises(ValueError, match="counts classes from 0"):
        TorchRLEnv(engine, spaces[0], gym.spaces.Discrete(2, start=1))
    with pytest.raises(ValueError, match="Dict instead of a Tuple"):
        TorchRLEnv(engine, gym.spaces.Tuple([PLANE]), spaces[1])
