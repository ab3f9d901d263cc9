"""Normalisers learned from data, by hand."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict

from wm_vec import ModelConfig, TrainConfig, WorldModel
from wm_vec.canvas import EnvSignature, Field, compile_schema
from wm_vec.model.codec import FieldCodec
from wm_vec.train import data_from_sources
from wm_vec.train.normalise import MIN_ENDS, fit_normalisers


def fitted(series, codec=None, keep_fitted=False, **fields):
    bound = compile_schema({name: fields.get(name, Field()) for name in series})
    codec = codec or FieldCodec(bound)
    fit_normalisers(codec, data_from_sources(series, bound), keep_fitted)
    return codec


def test_moments_by_hand():
    codec = fitted({"x": [0.0, 2.0, 0.0, 2.0]})
    # Values as they are stepped from and to: 0 2 0 | 2 0 2; changes: 2 -2 2.
    assert float(codec.mean) == pytest.approx(1.0)
    assert float(codec.std) == pytest.approx(1.0)
    assert float(codec.step_mean[0]) == pytest.approx(2 / 3)
    assert float(codec.step_std[0]) == pytest.approx((32 / 9) ** 0.5)


def test_gaps_do_not_count():
    nan = np.nan
    codec = fitted({"x": [1.0, nan, 5.0, 7.0, nan, 100.0, 102.0]})
    # Changes are known from 5 to 7 and from 100 to 102 alone.
    assert float(codec.step_mean[0]) == pytest.approx(2.0)
    assert float(codec.mean) == pytest.approx(np.mean([1, 5, 7, 100, 5, 7, 100, 102]))


def test_slow_fields_are_measured_where_they_change():
    codec = fitted({"x": [0, 0, 0, 3, 3, 3, 7, 7, 7, 9.0]}, x=Field(period=3))
    # The changes of ticks 3, 6 and 9: 3, 4 and 2.
    assert float(codec.step_mean[0]) == pytest.approx(3.0)
    assert float(codec.step_std[0]) == pytest.approx((2 / 3) ** 0.5)


def test_classes_are_left_alone():
    codec = fitted({"x": [0, 1, 2, 2]}, x=Field(num_classes=3))
    assert (float(codec.mean), float(codec.std), float(codec.step_std[0])) == (0.0, 1.0, 1.0)


def test_fields_without_data_are_left_alone():
    bound = compile_schema({"x": Field(), "unseen": Field()})
    codec = FieldCodec(bound)
    fit_normalisers(codec, data_from_sources({"x": [1.0, 2.0, 4.0]}, bound), False)
    assert (float(codec.mean[1]), float(codec.std[1])) == (0.0, 1.0)
    assert float(codec.mean[0]) != 0.0


@pytest.mark.parametrize("value", [5.0, -0.01, 0.0, 1e7])
def test_a_constant_stays_at_its_value(value):
    codec = fitted({"x": [value] * 5})
    assert float(codec.mean) == pytest.approx(value)
    assert float(codec.step_mean[0]) == 0.0
    assert float(codec.std) == float(codec.step_std[0]) == 0.0
    assert float(codec.inverse_std()) == 0.0


def test_a_clock_is_predicted_to_its_increment():
    codec = fitted({"x": 1000.0 + 0.5 * np.arange(200)})
    assert float(codec.step_mean[0]) == pytest.approx(0.5)
    assert float(codec.step_std[0]) == 0.0


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e6])
def test_units_do_not_matter(unit):
    series = np.random.default_rng(0).normal(2.0, 1.0, 300)
    codec, plain = fitted({"x": unit * series}), fitted({"x": series})
    for name in ("mean", "std", "step_mean", "step_std"):
        got, expected = float(getattr(codec, name).flatten()[0]), unit * float(getattr(plain, name).flatten()[0])
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-6 * unit), name


def test_a_small_spread_far_from_zero_is_measured():
    codec = fitted({"x": 1000.0 + 0.05 * np.sin(np.arange(500))})
    assert float(codec.std) == pytest.approx(0.05 / 2**0.5, rel=0.05)


def test_what_is_fitted_is_kept_unless_data_spread_far_wider():
    first = np.random.default_rng(0).normal(0, 1, 400)
    codec = fitted({"x": first})
    before = float(codec.std)
    fitted({"x": first * 3 + 1}, codec, keep_fitted=True)
    assert float(codec.std) == before
    fitted({"x": first * 30}, codec, keep_fitted=True)
    assert float(codec.std) == pytest.approx(30 * before, rel=0.05)
    fitted({"x": first + 1000}, codec, keep_fitted=True)
    assert float(codec.mean) == pytest.approx(1000, rel=0.01)


def test_a_field_first_seen_later_is_fitted_then():
    bound = compile_schema({"x": Field(), "y": Field()})
    codec = FieldCodec(bound)
    noise = np.random.default_rng(0).normal(0, 0.01, 300)
    fit_normalisers(codec, data_from_sources({"x": noise}, bound), False)
    fit_normalisers(codec, data_from_sources({"y": noise}, bound), True)
    torch.testing.assert_close(codec.std[0], codec.std[1])
    torch.testing.assert_close(codec.step_std[:, 0], codec.step_std[:, 1])


@pytest.mark.parametrize(("ends", "apart"), [(MIN_ENDS, True), (MIN_ENDS - 1, False)])
def test_what_is_no_input_is_measured_apart_for_ends(ends, apart):
    end = np.zeros(200)
    end[1 : 1 + ends] = 1
    reward = np.where(end, -100.0, np.linspace(0.0, 2.0, 200))
    fields = {"reward": Field(is_input=False), "end": Field(is_input=False, num_classes=2, leads=True)}
    codec = fitted({"x": 3.0 * np.arange(200), "reward": reward, "end": end}, **fields)
    assert torch.equal(codec.step_mean[0, 0], codec.step_mean[1, 0]), "an input moves the same in either"
    assert float(codec.step_mean[1, 1]) == pytest.approx(-100.0 if apart else reward[1:].mean())
    assert float(codec.step_mean[0, 1]) == pytest.approx(
        reward[1:][end[1:] == 0].mean() if apart else reward[1:].mean()
    )


# -- what is constant, in imagination ------------------------------------------------------------------------------


def restless(world, data):
    """The world, its normalisers and bank from the data, its weights large ones that move whatever can move."""
    world.finetune(data, config=TrainConfig(n_steps=1, batch_size=16))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return world


def imagined(world, paths, steps=15, **options):
    """What 32 envs of a restless world see, ``(steps, 32, n)``, resets within."""
    act = [path for path in world.bound.field_names if path == "push"]
    env = world.to_vector_env(32, paths, act, lambda obs, act, info: 0.0, max_steps=4, seed=0, **options)
    seen = [env.reset()[0]]
    for _ in range(steps):
        seen.append(env.step(env.sample_actions())[0])
    return torch.stack(seen)


PUSH, NOISE = Field(is_output=False, low=-1.0, high=1.0), np.random.default_rng(0).normal(size=100)


@pytest.mark.parametrize(
    ("value", "dtype", "spec"),
    [
        (5.0, torch.float32, {}),
        (1e6, torch.float32, {}),
        (-3e-7, torch.float32, {"max_values": 2}),
        (0.0, torch.float32, {"period": 40, "w": 2}),
        (1.1, torch.float32, {"period": 40}),
        (1.1, torch.float64, {}),
        (5.0, torch.bfloat16, {}),
    ],
)
def test_a_field_that_is_constant_in_all_data_stays_exactly_what_it_is(value, dtype, spec, tmp_path):
    bound = compile_schema({"x": Field(**spec), "y": Field(), "push": PUSH}, d_model=32)
    world = WorldModel(bound, config=ModelConfig(num_blocks=1), dtype=dtype)
    series = np.full((100, spec.get("w", 1)), value, np.float32)
    restless(world, {"x": series, "y": NOISE, "push": np.tanh(NOISE)})
    assert imagined(world, ["x"]).double().unique().tolist() == torch.tensor([value]).tolist()
    assert len(imagined(world, ["y"]).unique()) > 80, "others move"
    world.save(tmp_path / "world")
    world = WorldModel.load(tmp_path / "world", dtype=dtype)
    assert imagined(world, ["x"]).double().unique().tolist() == torch.tensor([value]).tolist()
    if value == 5.0:
        unknown = world.predict(num_samples=20)
        assert unknown["x"].unique().tolist() == torch.tensor([value]).tolist(), "also where nothing is known of it"
        started = imagined(world, ["x"], initial_obs_fn=lambda: {"x": 7.0})
        assert started.unique().tolist() == [7.0], "where it starts elsewhere, it stays there"


def test_a_field_that_is_constant_in_what_is_known_of_it_stays():
    series = np.where(np.arange(100) % 2, np.nan, 5.0)  # no step from one known value to another
    bound = compile_schema({"x": Field(), "y": Field(), "push": PUSH}, d_model=32)
    world = restless(WorldModel(bound, config=ModelConfig(num_blocks=1)), {"x": series, "y": NOISE, "push": NOISE * 0})
    assert imagined(world, ["x"]).unique().tolist() == [5.0]


@pytest.mark.filterwarnings("ignore:none of 60 transitions")
def test_what_is_constant_within_each_episode_stays_within_each():
    """A goal, for example; and a number that always was the same, of a space and of data without it."""
    signature = EnvSignature(Box(np.float32([-9, 4, 0]), np.float32([9, 4, 9]), dtype=np.float32), Box(-1.0, 1.0, (1,)))
    goal = torch.arange(60).div(10, rounding_mode="floor") - 2.0
    seen = torch.stack((goal, torch.full((60,), 4.0), torch.full((60,), 8.1)), 1)
    steps = {"reward": torch.zeros(60, 1), "terminated": torch.zeros(60, 1).bool(), "observation": seen}
    td = TensorDict(
        {"observation": seen, "action": torch.rand(60, 1), "is_init": torch.arange(60) % 10 == 0, "next": steps}, [60]
    )
    world = restless(WorldModel.from_signature(signature, config=ModelConfig(num_blocks=1)), td)
    env = world.to_vector_env(32, max_steps=50, seed=0)
    start = env.reset()[0]
    assert len(start[:, 0].unique()) > 3
    for _ in range(10):
        seen = env.step(env.sample_actions())[0]
    assert torch.equal(seen, start)


def test_a_constant_that_varies_in_later_data_moves_from_then_on():
    series = {"x": np.full(100, 5.0), "y": NOISE, "push": np.tanh(NOISE)}
    world = WorldModel(compile_schema({"x": Field(), "y": Field(), "push": PUSH}, d_model=32))
    restless(world, series)
    restless(world, {**series, "x": 5.0 + np.sin(np.arange(100))})
    assert len(imagined(world, ["x"]).unique()) > 100
    restless(world, {**series, "x": np.full(100, 5.0)})
    assert float(world.model.codec.std[0]) > 0.5, "and is no constant again"
