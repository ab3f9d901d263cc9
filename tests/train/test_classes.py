"""What data make of positions that carry few values: tables of classes, exactly drawn, kept and grown."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wm_kernels.canvas_step import weights as packed_weights
from wm_vec import ModelConfig, TrainConfig, WorldModel, compile_schema
from wm_vec.canvas import Field
from wm_vec.core import ActionSpec, Perspective
from wm_vec.model.codec import FieldCodec
from wm_vec.train import CheckpointError, data_from_sources
from wm_vec.train.normalise import STEPS_PER_VALUE, fit_normalisers

LENGTH = 400
SCHEMA = {
    "x": Field(w=2, max_values=2),  # the second a switch of two values
    "push": Field(is_output=False),
    "reward": Field(is_input=False, max_values=16),
    "end": Field(is_input=False, num_classes=2, leads=True),
}
BOUND = compile_schema(SCHEMA, d_model=32)
SWITCH, REWARD, END = 1, 3, 4
QUICK = TrainConfig(n_steps=4, batch_size=64, eval_every=4)


def recording(rewards, length=LENGTH, seed=0):
    """Numbers, a switch of -0.5 and 0.3, and rewards that go round."""
    random = np.random.default_rng(seed)
    return {
        "x": np.stack((random.normal(size=length), random.choice([-0.5, 0.3], length)), 1),
        "push": random.normal(size=length),
        "reward": np.resize(np.asarray(rewards, dtype=np.float64), length),
        "end": (np.arange(length) % 50 == 0).astype(float),
    }


def trained(rewards, config=QUICK, **options):
    world = WorldModel(BOUND, config=ModelConfig(num_blocks=1), **options)
    world.finetune(recording(rewards), config=config)
    return world


def env_of(world, num_envs=500):
    reward = lambda obs, act, info: info["predictions"]["reward"].sum()  # noqa: E731
    env = world.to_vector_env(num_envs, ["x"], ["push"], reward, seed=0, autoreset_mode="disabled")
    env.reset()
    return env


def rewards_of(env, push=0.0):
    return env.step(torch.full((env.num_envs, 1), push))[1]


def table(world, position=REWARD):
    codec = world.model.codec
    first = int(codec.first_row[position])
    return codec.class_value[first : first + codec.counts[position]].tolist()


def numbers(count):
    return (np.arange(count) * 0.7 - 2).astype(np.float32)


@pytest.mark.parametrize("count", [2, 16])
def test_rewards_of_few_values_come_out_exactly(count):
    world = trained(numbers(count))
    assert table(world) == numbers(count).tolist()
    got = rewards_of(env_of(world)).unique().tolist()
    assert set(got) <= set(numbers(count).tolist())
    assert len(got) == count, "untrained as it is, it draws all of them"


def test_seventeen_rewards_are_a_number():
    world = trained(numbers(17))
    assert world.model.codec.counts[REWARD] == 0
    assert world.model.codec.has_numbers
    assert len(rewards_of(env_of(world)).unique()) == 500
    assert float(world.model.codec.step_std[0, REWARD]) == pytest.approx(numbers(17).std(), rel=0.05)


@pytest.mark.parametrize("reward", [0.0, 1.0, -0.1])
def test_a_constant_reward_is_constant(reward):
    world = trained([reward])
    assert table(world) == [np.float32(reward)]
    assert REWARD not in [c.position for c in world.model.codec.classes]
    assert rewards_of(env_of(world)).unique().tolist() == [np.float32(reward)]


def test_an_observation_of_two_values_is_a_class_and_of_one_or_three_a_number():
    world = trained([1.0])
    assert table(world, SWITCH) == [np.float32(-0.5), np.float32(0.3)]
    assert world.model.codec.counts[0] == 0
    env = env_of(world)
    seen = env.step(torch.zeros(500, 1))[0]
    assert sorted(seen[:, 1].unique().tolist()) == table(world, SWITCH)
    assert len(seen[:, 0].unique()) == 500
    for values in ([2.0], [1.0, 2.0, 3.0]):
        codec = FieldCodec(BOUND)
        data = recording([1.0])
        data["x"][:, 1] = np.resize(values, LENGTH)
        fit_normalisers(codec, data_from_sources(data, BOUND), False)
        assert codec.counts[SWITCH] == 0


def test_observations_beside_the_table_encode_as_the_nearest_value():
    engine = env_of(trained([1.0]), 2).engine
    engine.encode({"agent": torch.tensor([[0.1, 0.3], [7.0, -1.5]])})
    with pytest.raises(ValueError, match="'x' must be finite"):
        engine.encode({"agent": torch.tensor([[0.1, 0.3], [7.0, torch.inf]])})


@pytest.mark.parametrize(("steps", "count"), [(STEPS_PER_VALUE * 4, 4), (STEPS_PER_VALUE * 4 - 1, 0)])
def test_too_few_steps_for_each_value_are_a_number(steps, count):
    codec = FieldCodec(BOUND)
    fit_normalisers(codec, data_from_sources(recording(numbers(4), steps + 1), BOUND), False)
    assert codec.counts[REWARD] == count


# -- a second finetune --------------------------------------------------------------------------------------


def test_new_rewards_within_the_room_get_rows_and_old_ones_keep_theirs():
    world = trained([3.0, 5.0])
    before = world.model.denoiser.class_weight.detach().clone()
    env = env_of(world)
    rewards_of(env)
    packed = world.model.packed(4)
    world.finetune(recording([1.0, 5.0, 4.0]), config=QUICK)
    assert table(world) == [3.0, 5.0, 1.0, 4.0]
    assert before.shape == world.model.denoiser.class_weight.shape
    assert not packed.like(world.model.packed(4)), "other tensors than before"
    assert set(rewards_of(env).unique().tolist()) == {3.0, 5.0, 1.0, 4.0}, "an env of before goes on"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_same_rewards_again_change_nothing_even_in_few_steps(dtype):
    world = trained([0.1, 0.2, 0.7], dtype=dtype)
    before, packed = table(world), world.model.packed(4)
    assert len(before) == 3
    for length in (LENGTH, 8):
        world.finetune(recording([0.1, 0.2, 0.7], length), config=QUICK)
        assert table(world) == before
        assert len(table(world, SWITCH)) == 2
    assert world.model.packed(4) is packed


def test_rewards_beyond_the_room_become_a_number_that_learns():
    world = trained(numbers(3))
    env = env_of(world)
    rewards_of(env)
    config = TrainConfig(n_steps=150, batch_size=128, eval_every=150, context_dropout=0.0)
    random = np.random.default_rng(1)
    data = recording([0.0], 2000)
    data["reward"] = np.roll(data["push"], 1) * 0.1 + 5.0 + random.normal(size=2000) * 1e-3
    world.finetune(data, config=config)
    assert world.model.codec.counts[REWARD] == 0
    pushed, pulled = rewards_of(env, 1.0), rewards_of(env, -1.0)
    assert len(pushed.unique()) > 100
    assert float(pushed.mean()) == pytest.approx(5.1, abs=0.03)
    assert float(pulled.mean()) == pytest.approx(4.9, abs=0.03)
    world.finetune(recording(numbers(3)), config=QUICK)
    assert world.model.codec.counts[REWARD] == 0, "numbers stay numbers"


def test_a_refused_resume_leaves_the_classes_as_they_were(tmp_path):
    world = trained([3.0, 5.0])
    save_file({"w": torch.ones(1)}, tmp_path / "r", metadata={"wm_vec": json.dumps({"format_version": 2})})
    with pytest.raises(CheckpointError, match="broken state of a training run"):
        world.finetune(recording([1.0, 2.0]), config=QUICK, resume_path=tmp_path / "r")
    assert table(world) == [3.0, 5.0]
    assert set(rewards_of(env_of(world)).unique().tolist()) == {3.0, 5.0}


# -- unseen classes -----------------------------------------------------------------------------------------

MOODS = compile_schema({"x": Field(), "mood": Field(num_classes=5), "other": Field(num_classes=3)}, d_model=32)


def moods(world, path="mood"):
    world.clear_observations()
    return sorted(world.predict(num_samples=400)[path].flatten().unique().tolist())


def mood_data(*seen, length=200):
    return {"x": np.random.default_rng(0).normal(size=length), "mood": np.resize(seen, length)}


def test_classes_without_data_are_never_drawn_until_there_are_some():
    world = WorldModel(MOODS, config=ModelConfig(num_blocks=1))
    world.finetune(mood_data(1, 3), config=QUICK)
    assert moods(world) == [1.0, 3.0]
    assert moods(world, "other") == [0.0, 1.0, 2.0], "a field without any data keeps all of its classes"
    world.finetune(mood_data(3, 4), config=QUICK)
    assert moods(world) == [1.0, 3.0, 4.0], "the old ones stay"
    world.finetune({"x": np.random.default_rng(0).normal(size=200)}, config=QUICK)
    assert moods(world) == [1.0, 3.0, 4.0]
    world.finetune({"other": np.resize([2], 200)}, config=QUICK)
    assert moods(world, "other") == [0.0, 1.0, 2.0], "of which all counted as seen"


# -- copies -------------------------------------------------------------------------------------------------


def saved_and_loaded(world, tmp_path):
    world.save(tmp_path / "w")
    return WorldModel.load(tmp_path / "w")


def loaded_weights(world, tmp_path):
    world.save(tmp_path / "w")
    other = WorldModel(BOUND, config=ModelConfig(num_blocks=1), seed=3)
    other.load_weights(tmp_path / "w")
    return other


COPIES = {
    "save and load": saved_and_loaded,
    "load_weights": loaded_weights,
    "deepcopy": lambda world, _: copy.deepcopy(world),
    "pickle": lambda world, _: pickle.loads(pickle.dumps(world)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_the_same_classes(name, tmp_path):
    world = trained([0.5, -1.0, 2.0])
    again = COPIES[name](world, tmp_path)
    assert again.model.codec.counts == world.model.codec.counts
    assert again.model.codec.classes == world.model.codec.classes
    assert table(again) == table(world) == [-1.0, 0.5, 2.0]
    expected, got = (env_of(w).step(torch.zeros(500, 1)) for w in (world, again))
    assert all(map(torch.equal, expected[:3], got[:3]))


def test_load_weights_of_other_classes_serves_environments_that_exist(tmp_path):
    world, other = trained(numbers(17)), trained([0.5, 2.0])
    env = env_of(world)
    rewards_of(env)
    other.save(tmp_path / "w")
    world.load_weights(tmp_path / "w")
    assert set(rewards_of(env).unique().tolist()) == {0.5, 2.0}


@pytest.mark.parametrize("rewards", [[1.0], [0.5, 2.0], numbers(17)])
def test_a_step_of_classes_reads_nothing_on_the_host(rewards):
    """Tensors without values have none to read: whatever looked at one would fail."""
    world = trained(rewards)
    counts = world.model.codec.counts
    view = Perspective(
        ActionSpec("box", (1,), (-1.0,), (1.0,)), reward_fn=lambda obs, act, info: obs["observation"].sum()
    )
    engine = world.to("meta").to_engine(3, [view], act_fields=["push"], seed=0)
    engine.reset()
    assert engine.step(torch.zeros(3, 1, device="meta")).reward.is_meta
    assert copy.deepcopy(world).model.codec.counts == world.model.codec.counts == counts


def test_a_bfloat16_network_is_sampled_in_float32(monkeypatch):
    env = WorldModel.bundled("CartPole-v1", dtype=torch.bfloat16).to_vector_env(2, seed=0)
    env.reset()
    seen, predict = [], packed_weights.predict

    def watched(canvas, noise, *rest):
        sample = predict(canvas, noise, *rest)
        seen.append((canvas.dtype, noise.dtype, sample.dtype))
        return sample

    monkeypatch.setattr(packed_weights, "predict", watched)
    env.step(torch.zeros(2, dtype=torch.int64))
    assert seen == [(torch.bfloat16, torch.float32, torch.float32)]
