"""Environments through pickle, cloudpickle and deepcopy, in the middle of an episode: they go on with the same bits."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.makers import BY_NAME, MAKERS, bundled, roll, roll_vector, same, sampled_actions
from wm_vec import WorldModel

ROOT = Path(__file__).parents[2]
ROUTES = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}
kinds = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
modes = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)


@kinds
def test_scalar_views_go_on_with_the_same_bits(maker):
    """Over the ends of episodes too, and without touching the original."""
    env = gym.wrappers.TimeLimit(maker.scalar(), 11)
    env.reset(seed=4)
    actions = sampled_actions(env, 40)
    roll(env, actions[:7])
    copies = {name: route(env) for name, route in ROUTES.items()}
    first = roll(copies["pickle"], actions[7:])
    expected = roll(env, actions[7:])
    assert same(first, expected)
    for name in ("cloudpickle", "deepcopy"):
        assert same(roll(copies[name], actions[7:]), expected), name
    assert len(expected) > 33 + 2  # some episodes ended
    assert not same(roll(env, actions[7:]), expected)  # what is compared is no constant


@kinds
@modes
def test_vector_environments_go_on_with_the_same_bits(maker, mode):
    env = maker.vector(3, max_episode_steps=6, autoreset_mode=mode)
    env.reset(seed=4)
    actions = sampled_actions(env, 24)
    roll_vector(env, actions[:8])
    copies = {name: route(env) for name, route in ROUTES.items()}
    first = roll_vector(copies["pickle"], actions[8:])
    expected = roll_vector(env, actions[8:])
    assert same(first, expected)
    for name in ("cloudpickle", "deepcopy"):
        assert same(roll_vector(copies[name], actions[8:]), expected), name
    assert copies["pickle"].metadata == env.metadata
    assert copies["pickle"].single_action_space == env.single_action_space
    assert not same(roll_vector(env, actions[8:]), expected)


@kinds
def test_fresh_environments_come_through_too(maker):
    env = maker.scalar(seed=3)
    copies = {name: route(env) for name, route in ROUTES.items()}
    expected = env.reset()[0]
    for name, other in copies.items():
        assert same(other.reset()[0], expected), name


def test_another_process_goes_on_with_the_same_bits(tmp_path):
    """Nothing hangs on what this process has loaded or counted."""
    sent = {}
    for maker in MAKERS:
        env = gym.wrappers.TimeLimit(maker.scalar(), 11)
        env.reset(seed=4)
        actions = sampled_actions(env, 25)
        roll(env, actions[:5])
        sent[maker.name] = (env, actions[5:])
    (tmp_path / "sent").write_bytes(pickle.dumps(sent))
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "sent"), str(tmp_path / "back")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    back = pickle.loads((tmp_path / "back").read_bytes())
    assert list(back) == list(sent)
    for name, (env, actions) in sent.items():
        assert same(back[name], roll(env, actions)), name


ELSEWHERE = """
import pickle, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.envs.makers import roll
sent = pickle.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).write_bytes(pickle.dumps({name: roll(*both) for name, both in sent.items()}))
"""


def test_lambdas_need_cloudpickle():
    env = bundled("Pendulum-v1").to_env(
        obs_fields=["observation"], act_fields=["action"], reward_fn=lambda obs, act, info: obs["observation"][0]
    )
    env.reset(seed=0)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(env)
    actions = sampled_actions(env, 5)
    assert same(roll(ROUTES["cloudpickle"](env), actions), roll(env, actions))


def test_spaces_keep_their_place_in_their_random_numbers():
    env = BY_NAME["pendulum"].scalar()
    env.action_space.seed(1)
    env.action_space.sample()
    assert same(pickle.loads(pickle.dumps(env)).action_space.sample(), env.action_space.sample())


def test_a_pickle_holds_the_weights_once_and_no_noise():
    """In the middle of an episode noise and tables are there that are cheaper made again than sent."""
    env = BY_NAME["cartpole"].scalar()
    before = len(pickle.dumps(env))
    env.reset(seed=0)
    roll(env, sampled_actions(env, 3))
    weights = sum(p.numel() * p.element_size() for p in env.engine.dynamics.model.parameters())
    assert len(pickle.dumps(env)) < before + 20_000
    assert len(pickle.dumps(env)) < 1.5 * weights


def test_environments_pickled_together_share_their_world():
    world = WorldModel.bundled("Pendulum-v1")
    pair = [world.to_env(), world.to_vector_env(2)]
    one, two = pickle.loads(pickle.dumps(pair))
    assert one.engine.dynamics.model is two.engine.dynamics.model
    assert one.engine.dynamics.model is not world.model


def test_a_copy_steps_with_its_own_weights_as_they_change():
    """A fused optimizer writes without counting, and the copied model must notice all the same."""
    world = WorldModel.bundled("Pendulum-v1")
    world.to_vector_env(2).reset(seed=0)
    for made in (pickle.loads(pickle.dumps(world)), copy.deepcopy(world)):
        env = made.to_vector_env(2)

        def first(env=env):
            env.reset(seed=0)
            return env.step(torch.ones(2, 1))[0]

        before = first()
        parameters = list(made.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW(parameters, lr=0.1, fused=True).step()
        after = first()
        assert not torch.equal(before, after)
        # A model that never prepared anything has nothing stale.
        fresh = WorldModel.bundled("Pendulum-v1")
        fresh.model.load_state_dict(made.model.state_dict())
        expected = fresh.to_vector_env(2)
        expected.reset(seed=0)
        assert torch.equal(after, expected.step(torch.ones(2, 1))[0])
    untouched = WorldModel.bundled("Pendulum-v1").model.state_dict()
    assert all(torch.equal(t, untouched[name]) for name, t in world.model.state_dict().items())
