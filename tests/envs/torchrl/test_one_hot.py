"""One-hot vectors: actions that are nearly so, and observations as TorchRL's own environments show them."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from tensordict import TensorDict
from torch.nn.functional import one_hot
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs

from tests.envs.torchrl.kinds import BY_NAME
from wm_vec import ModelConfig, WorldModel

B = 64
SIZES = {"cartpole": [2], "discrete": [3], "classes": [3, 4]}


def straight_through(sizes, dtype):
    """``hot + probs - probs.detach()`` and the classes that it stands for."""
    torch.manual_seed(0)
    probs = [torch.randn(B, n).softmax(-1).to(dtype) for n in sizes]
    chosen = [torch.randint(n, (B,)) for n in sizes]
    hot = [one_hot(c, n).to(dtype) + p - p.detach() for c, n, p in zip(chosen, sizes, probs, strict=True)]
    return torch.cat(hot, -1), torch.stack(chosen, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("stateless", [False, True])
def test_what_a_straight_through_estimator_gives_is_the_class_that_it_chose(kind, dtype, stateless):
    hot, chosen = straight_through(SIZES[kind], dtype)
    results = []
    for one_hot_env, action in ((True, hot), (False, chosen if len(SIZES[kind]) > 1 else chosen[:, 0])):
        env = BY_NAME[kind].torchrl(B, one_hot=one_hot_env, seed=0)
        env = env.to_stateless() if stateless else env
        td = env.reset(TensorDict(batch_size=[B])) if stateless else env.reset()
        results.append(env.step(td.set("action", action))["next", "reward"])
        results.append(env.step(env.step_mdp(td).set("action", action))["next", "reward"])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


BAD = {
    "probabilities": [0.4, 0.6],
    "nothing": [0.0, 0.0],
    "two": [1.0, 1.0],
    "nearly": [0.0, 0.99],
    "scores": [-3.0, 8.0],
    "no numbers": [torch.nan, 1.0],
    "a whole number": [0.0, 2.0],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("stateless", [False, True])
def test_other_vectors_are_refused_and_nothing_is_lost(bad, stateless):
    env, other = (BY_NAME["cartpole"].torchrl(3, one_hot=True, seed=0) for _ in range(2))
    if stateless:
        env, other = env.to_stateless(), other.to_stateless()
    td, same = (one.reset(TensorDict(batch_size=[3])) if stateless else one.reset() for one in (env, other))
    action = torch.eye(2)[[0, 1, 0]]
    action[1] = torch.tensor(BAD[bad])
    with pytest.raises(ValueError, match=r"Env\.step: the action of env 1 is \[.*no one-hot vector of Discrete\(2\)"):
        env.step(td.clone().set("action", action))
    good = torch.eye(2)[[0, 1, 0]]
    after, expected = (one.step(start.set("action", good)) for one, start in ((env, td), (other, same)))
    assert torch.equal(after["next", "observation"], expected["next", "observation"])


# -- observations --------------------------------------------------------------------------------------------------


class Cards(gym.Env):
    """Shows random elements of a space."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(action), False, False, {}


def lake(**options):
    return GymEnv("FrozenLake-v1", **options)


def cards(space, **options):
    return GymWrapper(Cards(space), **options)


REAL = {
    "lake": lake,
    "two kinds": lambda **options: cards(MultiDiscrete([3, 4]), **options),
    "parts": lambda **options: cards(gym.spaces.Dict(suit=Discrete(4), held=MultiBinary(3)), **options),
}


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("hot", [True, False])
def test_a_world_learned_from_a_torchrl_env_shows_what_that_shows(real, hot):
    env = REAL[real](categorical_action_encoding=not hot)
    spaces = {"parts": gym.spaces.Dict(suit=Discrete(4), held=MultiBinary(3))}
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    for batch in Collector(env, None, frames_per_batch=50, total_frames=50):
        buffer.extend(batch)
    if real in spaces:  # whose parts TorchRL spreads over the root
        world = WorldModel.from_env(lambda: Cards(spaces[real]), config=ModelConfig(num_blocks=1))
    else:
        world = WorldModel.from_torchrl_env(env, config=ModelConfig(num_blocks=1))
    world.finetune(buffer, n_steps=1)
    imagined = world.to_torchrl_env(5, one_hot=hot, seed=0)
    check_env_specs(imagined)
    check_env_specs(imagined.to_stateless())

    imagined.start_from(buffer)
    vector = world.to_vector_env(5, seed=0)
    vector.start_from(buffer)
    vector.reset()
    seen, starts = imagined.reset(), imagined.reset()
    for key, spec in env.observation_spec.items(True, True):
        assert (seen[key].shape[1:], seen[key].dtype) == (spec.shape, spec.dtype)
        stored = {tuple(one.reshape(-1).tolist()) for one in buffer[:][key]}
        assert all(tuple(one.reshape(-1).tolist()) in stored for one in starts[key])
    # What an env shows starts it again.
    given = seen.exclude("done", "terminated", "truncated")
    again = imagined.reset(given.clone())
    alone = imagined.to_stateless().reset(given.clone())
    for key in env.observation_spec.keys(True, True):
        assert torch.equal(again[key], seen[key])
        assert torch.equal(alone[key], seen[key])

    def policy(td):  # of the real env: reads what that shows and acts as that wants it
        seen = [td[key].reshape(*td.batch_size, -1).float().sum(-1) for key in env.observation_spec.keys(True, True)]
        action = (sum(seen) % 3).long()
        return td.set("action", one_hot(action, env.action_spec.space.n) if hot else action)

    for one in (env, imagined):
        assert one.rollout(3, policy, break_when_any_done=False)["action"].shape[-1 - hot] == 3


@pytest.mark.parametrize(("hot", "shape"), [(True, (2, 3)), (False, (2,))])
def test_classes_of_equal_numbers_have_the_shape_of_torchrls(hot, shape):
    env = cards(MultiDiscrete([3, 3]), categorical_action_encoding=not hot)
    world = WorldModel.from_torchrl_env(env, config=ModelConfig(num_blocks=1))
    assert world.signature.observation_space == MultiDiscrete([3, 3])
    world.trained = True
    imagined = world.to_torchrl_env(4, one_hot=hot)
    check_env_specs(imagined)
    td = imagined.reset()
    assert td["observation"].shape[1:] == env.observation_spec["observation"].shape == shape
    imagined.start_from(env.rollout(5))
    assert torch.equal(imagined.reset(td.select("observation"))["observation"], td["observation"])


def test_observations_that_are_not_quite_one_hot_are_refused():
    env = BY_NAME["board"].torchrl(3, one_hot=True, seed=0)
    given = env.reset().exclude("done", "terminated", "truncated")
    given["phase"][2] = torch.tensor([1, 1, 0])
    with pytest.raises(ValueError, match=r"TorchRLEnv\.reset: the observation\['phase'\] 2 is \[1, 1, 0\]"):
        env.reset(given)
