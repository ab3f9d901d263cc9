"""The TorchRL face: seeds, partial resets and steps, states out and in."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import SerialEnv
from torchrl.envs import TransformedEnv as StockTransformedEnv
from torchrl.envs.transforms import StepCounter
from torchrl.envs.utils import check_env_specs

from wm_vec.adapters import CallableDynamics
from wm_vec.envs import TorchRLEnv, TransformedEnv, WorldModelVectorEnv

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


@pytest.mark.parametrize(
    ("wrap", "stateless"), [(TransformedEnv, False), (StockTransformedEnv, False), (StockTransformedEnv, True)]
)
def test_the_state_goes_through_transforms(pendulum, wrap, stateless):
    base = pendulum.to_torchrl_env(3, expose_state=True, seed=0)
    base = base.to_stateless() if stateless else base
    env = wrap(base, StepCounter())
    td = env.rand_step(env.reset())
    kept, action = env.step_mdp(td.clone()), td["action"]
    futures = []
    for state in (kept.clone(), kept.select(*base.state_spec.keys(True, True))):
        here = env.reset(state, set_state=True)
        assert torch.equal(here["observation"], kept["observation"])
        futures.append(env.step(here.set("action", action))["next", "observation"])
    assert torch.equal(*futures)


def test_the_state_goes_through_batches_of_environments(pendulum):
    many = SerialEnv(2, lambda: pendulum.to_torchrl_env(3, expose_state=True))
    many.set_seed(0)
    one = pendulum.to_torchrl_env(6, expose_state=True, seed=0)
    state = many.rollout(4, actions=torch.zeros(4, 2, 3, 1).unbind(0))["next", "world_state"]
    expected = one.rollout(4, actions=torch.zeros(4, 6, 1).unbind(0))["next", "world_state"]
    assert torch.equal(state["dynamics", "values"].flatten(0, 1), expected["dynamics", "values"])
    check_env_specs(many)


def test_the_vector_env_makes_one_of_the_same_world(cartpole):
    vector = cartpole.to_vector_env(4, max_episode_steps=9)
    env = vector.to_torchrl()
    assert isinstance(vector, WorldModelVectorEnv)
    env.set_seed(5)
    observation, _ = vector.reset(seed=5)
    assert torch.equal(env.reset()["observation"], observation)
    assert env.engine.config.max_episode_steps == 9
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
    with pytest.raises(ValueError, match="no spec for observations of Text"):
        TorchRLEnv(engine, gym.spaces.Tuple([gym.spaces.Text(3)]), spaces[1])
    with pytest.raises(ValueError, match="do not fit the observation space"):
        TorchRLEnv(engine, gym.spaces.Tuple([PLANE]), spaces[1]).reset()
