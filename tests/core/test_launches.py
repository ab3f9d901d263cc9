"""How many operations a step launches: on a GPU that number, and no arithmetic, is what a small batch costs."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import wm_vec
from wm_kernels.philox_normal.reference import philox_normal_reference, philox_words_reference
from wm_kernels.predict.reference import denoiser_block_reference
from wm_vec import WorldModel

PARTS = {
    philox_words_reference.__code__: "philox",
    philox_normal_reference.__code__: "philox",
    denoiser_block_reference.__code__: "blocks",
}


class Launches(TorchDispatchMode):
    """Counts the operations that are no views, by the part of the step that they belong to."""

    def __init__(self):
        super().__init__()
        self.count = dict.fromkeys((*PARTS.values(), "rest"), 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returns_views = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not (function.is_view or returns_views):
            self.count[part_of(sys._getframe(1))] += 1
        return function(*args, **(kwargs or {}))


def part_of(frame):
    while frame is not None:
        if frame.f_code in PARTS:
            return PARTS[frame.f_code]
        frame = frame.f_back
    return "rest"


def launches_of(call):
    with Launches() as launches:
        call()
    return launches.count


@pytest.fixture(scope="module")
def on_meta():
    """CartPole without values: a step that reads none on the host runs all the same."""
    return WorldModel.bundled("CartPole-v1").to("meta")


@pytest.mark.parametrize("num_envs", [1, 64])
@pytest.mark.parametrize(("mode", "limit"), [("same_step", 115), ("next_step", 125), ("disabled", 100)])
def test_a_step_launches_few_operations(on_meta, num_envs, mode, limit):
    engine = on_meta.to_engine(num_envs, max_episode_steps=500, autoreset_mode=mode, seed=0)
    engine.reset()
    action = torch.ones(num_envs, dtype=torch.int64, device="meta")
    engine.step(action)  # which packs the weights
    count = launches_of(lambda: engine.step(action))
    assert count["blocks"] > 0
    assert 100 < count["philox"] <= 300
    assert 60 < count["rest"] <= limit


def test_the_count_sees_operations_and_leaves_out_views():
    x = torch.zeros(4, 2, device="meta")
    assert launches_of(lambda: x.view(8)[2:].unsqueeze(0).expand(3, 6))["rest"] == 0
    assert launches_of(lambda: (x.t() + 1).mul_(2))["rest"] == 2


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "Acrobot-v1"])
def test_where_rewards_are_fields_a_step_of_kernels_is_one_operation(name, mode):
    world = WorldModel.bundled(name).to("meta")
    engine = world.to_engine(64, max_episode_steps=500, autoreset_mode=mode, seed=0, backend="triton", copy=False)
    engine.reset()
    actions = engine.sample_actions()
    engine.step(actions)  # which packs the weights
    assert sum(launches_of(lambda: engine.step(actions)).values()) == 1


@pytest.mark.parametrize("backend", ["fastest"])
@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_around_users_functions_there_are_few_operations(on_meta, mode, backend):
    counted = []

    def reward(obs, act, info):
        with Launches() as own:
            paid = obs["observation"][:, 0] + 1
        counted.append(sum(own.count.values()))
        return paid

    env = on_meta.to_vector_env(
        64, reward_fn=wm_vec.batched(reward), max_steps=9, autoreset_mode=mode, backend="triton", copy=False
    )
    env.reset(seed=0)
    actions = torch.ones(64, dtype=torch.int64, device="meta")
    env.step(actions)
    count = sum(launches_of(lambda: env.step(actions)).values())
    assert 3 <= count - counted[-1] <= 12
