"""The class a user holds: observing, predicting, learning, and the environments made of it."""

import copy
import inspect
import pickle
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.record.loggers import TensorboardLogger

from wm_kernels.canvas_step import reference
from wm_vec import ModelConfig, TrainConfig, WorldModel, collect_transitions, compile_schema
from wm_vec.canvas import EnvSignature, Field, SchemaError, UnknownFieldError, UnsupportedSpaceError
from wm_vec.canvas_states import num_filled
from wm_vec.compat import tree_map
from wm_vec.core import ActionSpec, CounterRNG, Perspective
from wm_vec.core.rng import STREAM_BANK, STREAM_NOISE
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv
from wm_vec.train import CheckpointError, read_checkpoint, write_checkpoint
from wm_vec.train.data import DataError

FIRM = {
    "firm": {"revenue": Field(low=0.0), "staff": Field(2, 2), "mood": Field(num_classes=3)},
    "market": {"price": Field(low=-2.0, high=2.0), "rate": Field(high=5.0)},
}
QUICK = TrainConfig(n_steps=5, batch_size=16, eval_every=5)


def firm(**options):
    return WorldModel(compile_schema(FIRM, d_model=32), config=ModelConfig(num_blocks=1), **options)


@pytest.fixture
def world():
    """A small schema world, taken as trained so that it does not warn."""
    made = firm()
    made.trained = True
    return made


def by_field(obs, act, info):
    return obs["firm.revenue"].mean() + act.sum()


def by_market(obs, act, info):
    return obs["market.price"].mean()


# -- observe and predict ------------------------------------------------------------------------------------


def test_observed_values_come_back_and_the_rest_is_filled_in(world):
    world.observe("firm.revenue", 3.5)
    world.observe("firm.staff", [[1, 2], [3, 4]])
    world.observe("firm.mood", 2)
    filled = world.predict()
    assert list(filled) == world.bound.field_names
    assert filled["firm.revenue"].tolist() == [3.5]
    assert filled["firm.staff"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert filled["firm.mood"].tolist() == [2.0]
    assert -2.0 <= float(filled["market.price"]) <= 2.0


def test_one_number_fills_a_whole_field(world):
    world.observe("firm.staff", 7.0)
    assert world.predict()["firm.staff"].tolist() == [7.0] * 4


def test_samples_are_independent_and_seeded(world):
    world.observe("firm.revenue", 1.0)
    many = world.predict(num_samples=5, seed=3)
    assert many["market.rate"].shape == (5, 1)
    assert len(many["market.rate"].unique()) == 5
    assert many["firm.revenue"].tolist() == [[1.0]] * 5
    torch.testing.assert_close(world.predict(num_samples=5, seed=3)["market.rate"], many["market.rate"])
    torch.testing.assert_close(world.predict(seed=4)["market.rate"], many["market.rate"][1], atol=1e-5, rtol=1e-5)


def test_observations_change_the_rest_until_they_are_cleared():
    made = firm()
    made.trained = True
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    prior = made.predict()["market.rate"]
    made.observe("firm.revenue", 4.0)
    given = made.predict()["market.rate"]
    assert not torch.equal(given, prior)
    made.clear_observations()
    assert torch.equal(made.predict()["market.rate"], prior)


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        ("firm.revenues", 1.0, UnknownFieldError, r"'firm\.revenues'\. Closest: firm\.revenue"),
        ("firm", 1.0, UnknownFieldError, "is a group; name one of its fields: firm.revenue"),
        ("firm.staff", [1.0, 2.0], ValueError, "observe: 'firm.staff' has 4 positions, got 2 values"),
        ("firm.revenue", np.nan, ValueError, "observe: 'firm.revenue' must be finite"),
        ("firm.revenue", np.inf, ValueError, "must be finite"),
        ("firm.mood", 3, ValueError, r"'firm.mood' takes classes from 0 to 2, got \[3.0\]"),
        ("firm.mood", 0.5, ValueError, "takes classes"),
        ("firm.mood", -1, ValueError, "takes classes"),
        ("firm.revenue", "abc", ValueError, "observe: 'firm.revenue' takes numbers, got 'abc'"),
        ("firm.revenue", None, ValueError, "observe: 'firm.revenue' takes numbers, got None"),
        ("firm.staff", [[1, 2], [3]], ValueError, "observe: 'firm.staff' takes numbers"),
    ],
)
def test_observations_that_cannot_be(world, path, value, error, message):
    before = world.predict()
    with pytest.raises(error, match=message):
        world.observe(path, value)
    after = world.predict()
    assert all(torch.equal(before[name], after[name]) for name in before), "no part of it was observed"


def test_tensors_in_a_graph_or_of_half_precision_can_be_observed(world):
    world.observe("firm.staff", torch.arange(4.0, requires_grad=True))
    world.observe("firm.revenue", torch.tensor(1.5, dtype=torch.bfloat16))
    assert world.predict()["firm.staff"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert world.predict()["firm.revenue"].tolist() == [1.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_an_accelerator_can_be_observed(world):
    world.observe("firm.staff", torch.arange(4.0, device="cuda"))
    assert world.predict()["firm.staff"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("steps", "message"),
    [(0, "of at least 1, got 0"), (-1, "of at least 1, got -1"), (2.5, "of at least 1, got 2.5"), (True, "")],
)
def test_predicting_takes_a_whole_number_of_steps(world, steps, message):
    with pytest.raises(ValueError, match=f"n_denoise_steps must be a whole number {message}"):
        world.predict(steps)


class RecordedRNG(CounterRNG):
    """Records the streams that normals are drawn from."""

    drawn = None

    def normal(self, num_normals, stream=STREAM_NOISE, dtype=torch.float32):
        self.drawn.append(stream)
        return super().normal(num_normals, stream, dtype)


def test_states_that_the_model_makes_share_no_noise_with_steps(world, monkeypatch):
    # An episode's first step draws at (seed, 0, 0) too: from one stream, starts and steps would have the same noise.
    monkeypatch.setattr(RecordedRNG, "drawn", [])
    monkeypatch.setattr("wm_vec.canvas_states.CounterRNG", RecordedRNG)
    world.predict()
    dynamics = world.to_vector_env(2, ["market.price"], ["market.rate"], by_market).engine.dynamics
    rng = RecordedRNG.from_seeds(torch.arange(2))
    state = dynamics.initial_state(rng, 2)
    assert RecordedRNG.drawn == [STREAM_BANK, STREAM_BANK]
    streams, draw = [], reference.philox_normal
    monkeypatch.setattr(reference, "philox_normal", lambda *args: (streams.append(args[-1]), draw(*args))[1])
    dynamics.step(state, torch.zeros(2, 1), rng)
    assert streams == [STREAM_NOISE]


# -- worlds -------------------------------------------------------------------------------------------------


def test_an_untrained_world_runs_and_warns_once():
    made = firm()
    with pytest.warns(UserWarning, match=r"untrained.*finetune\(\)") as warned:
        env = made.to_vector_env(3, ["market.price"], ["firm.revenue"], by_market)
    assert warned[0].filename == __file__, "it points at the caller's line"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.predict()
        made.to_vector_env(2, ["market.price"], ["firm.revenue"], by_market)
    env.reset(seed=0)
    for _ in range(50):
        observation, reward, terminated, *_ = env.step(env.sample_actions())
        assert bool(torch.isfinite(observation).all() & torch.isfinite(reward).all())
        assert not bool(terminated.any())


def test_a_world_of_an_environment_has_its_spaces():
    made = WorldModel.from_env("Pendulum-v1")
    made.trained = True
    real = gym.make("Pendulum-v1")
    env = made.to_vector_env(2)
    assert env.single_observation_space == real.observation_space
    assert env.single_action_space == real.action_space
    assert env.max_episode_steps == 200
    assert made.to_env().engine.config.max_episode_steps is None, "gym.make's TimeLimit owns the scalar horizon"
    assert "Pendulum-v1" in repr(made)
    assert "trained" in repr(made)


def test_environments_with_other_spaces_are_refused():
    class Pair(gym.Env):
        observation_space = gym.spaces.Dict({"said": gym.spaces.Text(3)})
        action_space = Discrete(2)

    gym.register("tests/Pair-v0", entry_point=Pair)
    with pytest.raises(UnsupportedSpaceError, match=r"The observation\.said space is Text.*Observe numbers"):
        WorldModel.from_env("tests/Pair-v0", env_kwargs={})
    with pytest.raises(gym.error.Error):
        WorldModel.from_env("NoSuch-v0")


def test_seeds_of_weights():
    one, same, other = firm(seed=1), firm(seed=1), firm(seed=2)
    assert torch.equal(one.model.codec.weight, same.model.codec.weight)
    assert not torch.equal(one.model.codec.weight, other.model.codec.weight)


def test_making_a_world_leaves_torchs_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    firm(seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_the_networks(dtype, tmp_path):
    made = firm(dtype=dtype, device="cpu")
    made.trained = True
    assert made.device == torch.device("cpu")
    env = made.to_vector_env(2, ["market.price"], ["firm.revenue"], by_market)
    assert env.device == torch.device("cpu")
    env.reset(seed=0)
    assert env.step(torch.zeros(2, 1))[1].dtype == dtype
    made.save(tmp_path / "w")
    assert WorldModel.load(tmp_path / "w", dtype=dtype).model.codec.mean.dtype == dtype


def test_a_world_moves_to_meta_where_every_host_read_raises():
    made = firm()
    made.trained = True
    made.to("meta")
    env = made.to_vector_env(4, ["market.price"], ["firm.revenue"], by_market)
    env.engine.reset(seed=0)
    result = env.engine.step(torch.zeros(4, 1, device="meta"))
    assert result.observation["agent"].device.type == "meta"
    assert result.observation["agent"].shape == (4, 1)


# -- learning -----------------------------------------------------------------------------------------------


def small(env_id):
    return WorldModel.from_env(env_id, config=ModelConfig(num_blocks=1))


def test_finetune_takes_transitions():
    made = small("CartPole-v1")
    report = made.finetune(collect_transitions("CartPole-v1", 300), config=QUICK)
    assert (report.steps, made.trained) == (5, True)
    assert bool((made.bank[:, :4].abs() <= 0.05).all()), "episodes start as the real ones do"
    assert made.bank[:, 4:].unique().tolist() == [0.0]


def test_finetune_takes_episodes_as_minari_gives_them():
    class Episode:
        observations = np.random.default_rng(0).uniform(-1, 1, (21, 3)).astype(np.float32)
        actions = np.zeros((20, 1), np.float32)
        rewards, terminations, truncations = np.zeros(20), np.zeros(20, bool), np.zeros(20, bool)

    made = small("Pendulum-v1")
    made.finetune([Episode(), Episode()], config=QUICK)
    np.testing.assert_array_equal(made.bank[0, :3].numpy(), Episode.observations[0])


def test_finetune_takes_a_mapping_and_fills_in_what_it_does_not_name(world):
    world.finetune({"firm.revenue": np.arange(50.0), "firm.mood": np.arange(50) % 3}, config=QUICK)
    assert world.bank.shape == (50, world.num_positions)
    assert sorted(world.bank[:, 0].tolist()) == list(range(50)), "what was observed starts episodes as it was"
    assert bool(torch.isfinite(world.bank).all())
    assert float(world.bank[:, 6].min()) >= -2.0


def test_finetune_takes_prepared_data(world):
    data = world.as_data({"firm.revenue": np.arange(20.0)})
    assert world.as_data(data).fingerprint() == data.fingerprint()
    world.finetune(data, config=QUICK)
    with pytest.raises(DataError, match="of a world of 8 positions, this one has 7"):
        small("CartPole-v1").finetune(data, config=QUICK)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3, TypeError, "cannot learn from a int; give a TensorDict"),
        (collect_transitions("CartPole-v1", 10), SchemaError, "schema, not from an environment.*mapping"),
        ([], SchemaError, "cannot learn from a list. Give a mapping .*, a DataFrame"),
        ({"firm.profit": [1, 2, 3]}, UnknownFieldError, "'firm.profit'"),
    ],
)
def test_data_that_a_schema_world_cannot_take(world, data, error, message):
    before = {name: t.clone() for name, t in world.model.state_dict().items()}
    with pytest.raises(error, match=message):
        world.finetune(data, config=QUICK)
    assert all(torch.equal(before[n], t) for n, t in world.model.state_dict().items())


def test_a_refused_resume_leaves_the_world_as_it_was(world, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, figures):
        raise Killed

    path = tmp_path / "run.resume"
    config = TrainConfig(n_steps=5, batch_size=16, checkpoint_every=1)
    data = {"firm.revenue": np.arange(30.0)}
    with pytest.raises(Killed):
        firm().finetune(data, config=config, resume_path=path, progress=lambda s, f: s == 2 and kill(s, f))
    before = {name: t.clone() for name, t in world.model.state_dict().items()}
    with pytest.raises(ValueError, match="another training run"):
        world.finetune({"firm.revenue": 1e6 * np.arange(30.0)}, config=config, resume_path=path)
    assert all(torch.equal(before[n], t) for n, t in world.model.state_dict().items())


@pytest.mark.parametrize(("width", "least", "most"), [(2, 1024, 1024), (300, 17, 1023), (2000, 16, 16)])
def test_a_bank_that_the_network_fills_in_is_smaller_on_a_large_canvas(width, least, most):
    made = WorldModel(compile_schema({"x": Field(w=width), "push": Field()}, d_model=32))
    filled = num_filled(made.model, 1024)
    assert least <= filled <= most
    assert num_filled(made.model, 10) == 10
    if width == 300:
        env = made.to_vector_env(2, ["x"], ["push"], lambda obs, act, info: 0.0)
        assert int(env.engine.world.resets.size) == filled
        calls = []
        start = made.to_env(["x"], ["push"], lambda o, a, i: 0.0, initial_obs_fn=lambda: calls.append(1) or {"x": 0.5})
        assert len(calls) == min(256, filled)
        assert (start.reset(seed=0)[0] == 0.5).all()


# -- weights and banks in place -----------------------------------------------------------------------------


def priced(price, num_states=3):
    """A world whose episodes start at a given price."""
    made = firm()
    made.trained = True
    made.bank = torch.full((num_states, made.num_positions), float(price))
    made.bank[:, made.bound["firm.mood"].start] = 0.0
    return made


def price_of(made):
    return made.bank[:, made.bound["market.price"].start].unique().tolist()


def test_environments_start_from_a_bank_that_was_loaded(tmp_path):
    made, fields = priced(1.0), (["market.price"], ["market.rate"], by_market)
    env = made.to_vector_env(2, *fields)
    own = made.to_vector_env(2, *fields, initial_obs_fn=lambda: {"market.price": 0.25})
    assert env.reset(seed=0)[0].tolist() == [[1.0]] * 2
    priced(-1.5, num_states=5).save(tmp_path / "other")
    made.load_weights(tmp_path / "other")
    assert env.reset(seed=0)[0].tolist() == [[-1.5]] * 2
    assert own.reset(seed=0)[0].tolist() == [[0.25]] * 2, "an env with an initial_obs_fn has a bank of its own"
    made.finetune({"market.price": np.full(20, 0.75)}, config=QUICK)
    assert env.reset(seed=0)[0].tolist() == [[0.75]] * 2


def test_environments_start_anew_from_weights_without_a_bank(tmp_path):
    made, bare = priced(1.0), firm(seed=1)
    env = made.to_vector_env(2, ["market.price"], ["market.rate"], by_market)
    bare.trained = True
    bare.save(tmp_path / "bare")
    made.load_weights(tmp_path / "bare")
    expected = bare.to_vector_env(2, ["market.price"], ["market.rate"], by_market)
    assert torch.equal(env.reset(seed=0)[0], expected.reset(seed=0)[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_of_a_world_leaves_the_originals_environments_alone(copied, tmp_path):
    made = priced(1.0)
    env = made.to_vector_env(2, ["market.price"], ["market.rate"], by_market)
    priced(-1.5).save(tmp_path / "other")
    other = copied(made)
    other.load_weights(tmp_path / "other")
    assert price_of(other) == [-1.5]
    assert env.reset(seed=0)[0].tolist() == [[1.0]] * 2


def spoil(tensors, config, how):
    last = max(name for name in tensors if name.startswith("model."))
    if how == "missing":
        del tensors[last]
    elif how == "unexpected":
        tensors["model.zzz"] = torch.zeros(1)
    elif how == "shape":
        tensors[last] = torch.zeros(1, 2, 3, 4)
    elif how == "bank":
        tensors["bank"] = torch.zeros(3, 2)
    else:
        del config["trained"]
    return "trained" if how == "trained" else {"unexpected": "zzz", "bank": "bank"}.get(how, last.split(".")[-1])


@pytest.mark.parametrize("how", ["missing", "unexpected", "shape", "bank", "trained"])
def test_weights_that_do_not_fit_leave_the_world_as_it_was(how, tmp_path):
    made = priced(1.0)
    before = {name: t.clone() for name, t in made.model.state_dict().items()}
    priced(-1.5).save(tmp_path / "w")
    tensors, config = read_checkpoint(tmp_path / "w")
    tensors = {name: t + 1 if t.is_floating_point() else t for name, t in tensors.items()}
    del config["format_version"]
    named = spoil(tensors, config, how)
    write_checkpoint(tmp_path / "w", tensors, config)
    with pytest.raises(CheckpointError, match=named):
        made.load_weights(tmp_path / "w")
    assert all(torch.equal(before[n], t) for n, t in made.model.state_dict().items())
    assert price_of(made) == [1.0]
    with pytest.raises(CheckpointError, match=named):
        WorldModel.load(tmp_path / "w")


def test_a_state_dict_carries_a_world_over_as_a_file_does(tmp_path):
    made, other = priced(1.0), firm(seed=1)
    fields = (["market.price"], ["market.rate"], by_market)
    other.trained = True
    env, expected = other.to_vector_env(2, *fields), made.to_vector_env(2, *fields)
    other.trained = False
    torch.save(made.state_dict(), tmp_path / "w.pt")
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert other.trained
    assert torch.equal(env.reset(seed=0)[0], expected.reset(seed=0)[0])
    action = torch.ones(2, 1)
    assert all(torch.equal(a, b) for a, b in zip(env.step(action)[:4], expected.step(action)[:4], strict=True))
    made.save(tmp_path / "w")
    tensors, _ = read_checkpoint(tmp_path / "w")
    assert tensors.keys() == made.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in other.state_dict().items())
    before = other.bank.clone()
    made.bank += 1.0
    assert torch.equal(other.bank, before), "a world shares no bank with the one that it took over"


@pytest.mark.parametrize(
    "how", ["missing", "unexpected", "shape", "bank", "foreign", "network", "dtype", "nan", "path", "numbers", "keys"]
)
def test_a_state_dict_that_does_not_fit_leaves_the_world_as_it_was(how):
    made = priced(1.0)
    before = {name: t.clone() for name, t in made.state_dict().items()}
    state = {name: t + 1 if t.is_floating_point() else t for name, t in priced(-1.5).state_dict().items()}
    if how == "foreign":
        state["optimizer.step"], named = torch.zeros(1), "optimizer.step"
    elif how == "network":
        state, named = made.model.state_dict(), "codec"
    elif how == "dtype":
        state["bank"], named = state["bank"].int(), "another shape or dtype: bank"
    elif how == "nan":
        state = {name: t.clone() for name, t in made.state_dict().items()}
        state["bank"][1, 2], named = np.nan, "broken numbers: 'bank'"
    elif how in ("path", "numbers", "keys"):
        wrong = {"path": "w.pt", "numbers": {"bank": [1.0]}, "keys": {3: torch.zeros(1)}}
        state, named = wrong[how], "takes names -> tensors"
    else:
        named = spoil(state, {}, how)
    with pytest.raises((CheckpointError, TypeError), match=named):
        made.load_state_dict(state)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


def test_what_torch_users_type_first(world):
    assert world.eval() is world.cpu() is world
    assert {id(p) for p in world.parameters()} == {id(p) for p in world.model.parameters()}
    torch.optim.SGD(world.parameters(), lr=0.1)
    assert world.device.type == "cpu"
    if torch.cuda.is_available():
        assert world.cuda().device.type == world.cuda(0).device.type == "cuda"
    else:
        with pytest.raises(ValueError, match=r"device must be a torch.device that is there .* got 'cuda'"):
            world.cuda()
        assert {p.device.type for p in world.parameters()} == {"cpu"}


def test_a_missing_folder_is_named_before_any_work(world, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'none'}"):
        world.save(tmp_path / "none" / "w")
    with pytest.raises(FileNotFoundError, match=f"no folder {tmp_path / 'none'}"):
        world.finetune({"firm.revenue": np.arange(9.0)}, config=QUICK, save_path=tmp_path / "none" / "w")
    assert world.bank is None, "refused before training"


# -- environments over fields -------------------------------------------------------------------------------


def test_spaces_of_chosen_fields(world):
    env = world.to_vector_env(
        3, ["market.price", "firm.mood", "firm.staff"], ["market.rate", "market.price"], by_market
    )
    space = env.single_observation_space
    assert isinstance(env, WorldModelVectorEnv)
    assert space.low.tolist() == [-2.0, 0.0] + [-np.inf] * 4
    assert space.high.tolist() == [2.0, 2.0] + [np.inf] * 4
    # The fields' own bounds where finite, else -1 and 1.
    assert env.single_action_space == Box(np.array([-1.0, -2.0], np.float32), np.array([5.0, 2.0], np.float32))
    observation, info = env.reset(seed=0)
    assert observation.shape == (3, 6)
    assert list(info["obs_dict"]) == ["market.price", "firm.mood", "firm.staff"]
    assert torch.equal(info["obs_dict"]["firm.staff"], observation[:, 2:])


def test_a_class_field_alone_is_a_discrete_action(world):
    env = world.to_vector_env(3, ["market.price"], ["firm.mood"], by_market)
    assert env.single_action_space == Discrete(3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"obs_fields": ["market.prise"]}, UnknownFieldError, r"'market\.prise'\. Closest: market\.price"),
        ({"act_fields": ["market"]}, UnknownFieldError, "is a group"),
        ({"act_fields": ["market.rate", "market.rate"]}, SchemaError, "act_fields overlap: market.rate"),
        ({"obs_fields": ["market.rate", "market.rate"]}, SchemaError, "obs_fields overlap"),
        ({"obs_fields": []}, SchemaError, "obs_fields must be a non-empty list"),
        ({"act_fields": "market.rate"}, SchemaError, "act_fields must be a non-empty list of field paths"),
        ({"act_fields": ["firm.mood", "market.rate"]}, SchemaError, "categorical field can be acted on alone"),
        ({"act_low": 1.0, "act_high": 1.0}, SchemaError, "act_low must be below act_high"),
        ({"act_low": 6.0}, SchemaError, "act_low must be below act_high"),
        ({"reward_fn": None}, SchemaError, "no learned reward: give reward_fn"),
        ({"obs_fields": None}, SchemaError, "both obs_fields and act_fields"),
        ({"obs_fields": None, "act_fields": None}, SchemaError, "without both obs_fields and act_fields"),
        ({"num_envs": 0}, ValueError, "num_envs"),
        ({"n_denoise_steps": 0}, ValueError, "n_denoise_steps must be a whole number of at least 1, got 0"),
        ({"num_envs": True}, ValueError, "num_envs must be a whole number"),
        ({"num_envs": 2.0}, ValueError, "num_envs must be a whole number"),
        (
            {"n_denoise_steps": 2.5},
            ValueError,
            r"n_denoise_steps must be a whole number of at least 1, got 2.5 \(float\)",
        ),
        ({"n_denoise_steps": True}, ValueError, "n_denoise_steps must be a whole number of at least 1, got True"),
        ({"max_steps": 2.5}, ValueError, "max_steps must be a whole number of at least 1, got 2.5"),
        ({"max_episode_steps": True}, ValueError, "max_episode_steps must be a whole number of at least 1, got True"),
        ({"reward_fn": None, "reward_state": torch.tensor(0.0)}, ValueError, "give reward_fn too"),
        ({"max_steps": 0}, ValueError, "max_steps must be a whole number of at least 1, got 0"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be a whole number of at least 1, got 0"),
        ({"max_steps": 5, "max_episode_steps": 6}, ValueError, "max_steps is an alias.*got 5 and 6"),
        ({"autoreset_mode": "never"}, ValueError, "autoreset_mode"),
        ({"render_mode": "ansi"}, ValueError, "render_mode must be None or 'rgb_array', got 'ansi'"),
        ({"initial_obs_fn": lambda: 3}, TypeError, "initial_obs_fn must return a mapping.*got int"),
        ({"initial_obs_fn": lambda: {"market.prise": 1}}, UnknownFieldError, "market.price"),
        ({"initial_obs_fn": lambda: {"firm.staff": [1, 2]}}, ValueError, "initial_obs_fn: 'firm.staff' has 4"),
        ({"initial_obs_fn": lambda: {"firm.mood": 3}}, ValueError, "initial_obs_fn: 'firm.mood' takes classes"),
        ({"initial_obs_fn": lambda: {"firm.revenue": np.nan}}, ValueError, "initial_obs_fn: 'firm.revenue' must be"),
    ],
)
def test_environments_that_cannot_be(world, options, error, message):
    given = {"num_envs": 2, "obs_fields": ["market.price"], "act_fields": ["market.rate"], "reward_fn": by_market}
    with pytest.raises(error, match=message):
        world.to_vector_env(**{**given, **options})


@pytest.mark.parametrize("device", [torch.float16, "nonsense", "cuda:77", -1, True, 2.5, "float32"])
def test_what_is_no_device_is_refused_and_changes_nothing(world, device):
    before = world.device, {name: tensor.clone() for name, tensor in world.model.state_dict().items()}
    acts = {"obs_fields": ["market.price"], "act_fields": ["market.rate"], "reward_fn": by_market}
    for move in (world.to, lambda device: world.to_vector_env(2, device=device, **acts)):
        with pytest.raises(ValueError, match=r"device must be a torch\.device that is there or its name"):
            move(device)
    assert world.device == before[0]
    for name, tensor in world.model.state_dict().items():
        assert tensor.dtype == before[1][name].dtype
        assert torch.equal(tensor, before[1][name])


def test_a_world_is_moved_only_if_the_rest_of_the_call_is_right(world, monkeypatch):
    moved = []
    monkeypatch.setattr(world, "to", moved.append)
    with pytest.raises(ValueError, match="autoreset_mode"):
        world.to_vector_env(2, device="cpu", autoreset_mode="never")
    assert not moved


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(
            ({"num_samples": n}, ValueError, "num_samples must be a whole number")
            for n in (-1, 0, 1.5, True, "2", None)
        ),
        *(({"n_steps": n}, ValueError, "n_denoise_steps must be a whole number") for n in (-1, 0, 1.5, True)),
        *(({"seed": s}, ValueError, "seeds must lie in") for s in (-1, 2**63)),
        *(({"seed": s}, TypeError, "seed must be an int") for s in (1.5, "x", None, True)),
    ],
)
def test_predictions_that_cannot_be(world, options, error, message):
    with pytest.raises(error, match=message):
        world.predict(**options)


@pytest.mark.parametrize(
    ("make", "unknown", "nearest"),
    [
        ("to_vector_env", "n_denoise_step", "n_denoise_steps"),
        ("to_vector_env", "max_episode_stepz", "max_episode_steps"),
        ("to_vector_env", "rewardfn", "reward_fn"),
        ("to_env", "obs_field", "obs_fields"),
        ("to_torchrl_env", "onehot", "one_hot"),
        ("to_engine", "act_field", "act_fields"),
    ],
)
def test_settings_that_there_are_not_are_named_with_the_nearest(cartpole, make, unknown, nearest):
    given = {"num_envs": 2} if make == "to_engine" else {}
    with pytest.raises(TypeError, match=rf"{make}\(\) got.*'{unknown}'\. Did you mean {nearest}\? It takes .*, seed"):
        getattr(cartpole, make)(**given, **{unknown: 1})


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        ("to_engine", {"num_envs": 2, "act_low": 0.0}),
        ("to_vector_env", {"bank_size": 3}),
        ("to_env", {"autoreset_mode": "disabled"}),
        ("to_torchrl_env", {"validate": True}),
    ],
)
def test_each_environment_takes_the_settings_that_mean_something_to_it(cartpole, make, refused):
    name = list(refused)[-1]
    with pytest.raises(TypeError, match=rf"^{make}\(\) got an unexpected keyword argument '{name}'") as raised:
        getattr(cartpole, make)(**refused)
    listed = str(raised.value).split(" It takes ")[1]
    assert {"exact_rows", "n_denoise_steps", "seed"} <= set(listed.rstrip(".").split(", "))


def test_an_engine_takes_perspectives_with_its_own_action(cartpole):
    action = ActionSpec("discrete", (), (0.0,), (1.0,))
    view = Perspective(action, obs_index=torch.tensor([2]), reward_fn=lambda o, a, i: 5.0)
    engine = cartpole.to_engine(3, [view])
    assert engine.reset(seed=0)["agent"].shape == (3, 1)
    assert engine.step(torch.zeros(3, dtype=torch.int64)).reward.tolist() == [[5.0]] * 3
    wide = Perspective(ActionSpec("box", (2,), (0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(SchemaError, match=r"actions have 2 numbers.*1 positions"):
        cartpole.to_engine(3, [wide])


def test_an_engine_without_perspectives_has_the_environments_own(cartpole):
    for engine in (cartpole.to_engine(3), cartpole.to_engine(3, act_fields=["action"])):
        assert engine.perspectives[0].action == ActionSpec("discrete", (), (0.0,), (1.0,))
        assert engine.reset(seed=0)["agent"].shape == (3, 4)


@pytest.mark.parametrize("perspectives", [None, [Perspective(ActionSpec("box", (1,), (0.0,), (1.0,)))]])
def test_an_engine_of_a_schema_world_needs_perspectives_and_act_fields(world, perspectives):
    with pytest.raises(SchemaError, match="from a schema, not from an environment: give perspectives and act_fields"):
        world.to_engine(3, perspectives)


@pytest.mark.parametrize(
    ("act_fields", "message"),
    [
        (["market.rate", "market.rate"], "act_fields overlap: market.rate"),
        ("market.rate", "act_fields must be a non-empty list of field paths, got 'market.rate'"),
    ],
)
def test_two_agents_do_not_act_on_one_field(world, act_fields, message):
    action = ActionSpec("box", (1,), (0.0,), (1.0,))
    views = [Perspective(action, name=name, reward_fn=by_market) for name in ("first", "second")]
    with pytest.raises(SchemaError, match=message):
        world.to_engine(3, views, act_fields=act_fields)


def test_numpys_whole_numbers_are_whole_numbers(world):
    env = world.to_vector_env(
        np.int64(4), ["market.price"], ["market.rate"], by_market, max_steps=np.int64(1), n_denoise_steps=np.int32(2)
    )
    env.reset(seed=0)
    assert env.step(torch.zeros(4, 1))[3].tolist() == [True] * 4
    assert type(env.engine.num_envs) is int


def spent(obs, action, info, so_far):
    """The sum of all actions since the episode began."""
    so_far = so_far + action.sum()
    return so_far, so_far


def test_a_reward_carries_its_state_per_env_and_starts_anew_with_each_episode(world):
    fields, start = (["market.price"], ["market.rate"], spent), torch.tensor(10.0)
    env = world.to_vector_env(2, *fields, max_steps=3, reward_state=start)
    env.reset(seed=0)
    rewards = [env.step(torch.tensor([[0.0], [1.0]]))[1].tolist() for _ in range(5)]
    assert rewards == [[10.0, 11.0], [10.0, 12.0], [10.0, 13.0], [10.0, 11.0], [10.0, 12.0]]
    one = world.to_env(*fields, reward_state=start)
    for _ in range(2):
        one.reset(seed=0)
        assert [one.step(np.ones(1, np.float32))[1] for _ in range(2)] == [11.0, 12.0]


def test_a_worlds_own_perspective_carries_a_reward_state_too(cartpole):
    env = cartpole.to_vector_env(
        2, reward_fn=lambda obs, action, info, steps: (steps, steps + 1), reward_state=torch.tensor(0.0)
    )
    env.reset(seed=0)
    assert [env.step(torch.zeros(2, dtype=torch.int64))[1].tolist() for _ in range(2)] == [[0.0] * 2, [1.0] * 2]


@pytest.mark.parametrize("make", ["to_vector_env", "to_env"])
def test_environments_take_a_number_of_passes(cartpole, make):
    def first(n_denoise_steps):
        env = getattr(cartpole, make)(seed=0, n_denoise_steps=n_denoise_steps)
        env.reset()
        action = torch.zeros(1, dtype=torch.int64)
        return torch.as_tensor(env.step(action if make == "to_vector_env" else 0)[0]).flatten()

    engine = cartpole.to_engine(1, seed=0, n_denoise_steps=3)
    engine.reset()
    assert torch.equal(first(3), engine.step(torch.zeros(1, dtype=torch.int64)).observation["agent"][0])
    assert torch.equal(first(None), first(4))
    assert not torch.equal(first(3), first(4))


def test_own_reward_and_termination_beside_chosen_fields(cartpole):
    env = cartpole.to_vector_env(4, obs_fields=["observation"], act_fields=["action"], n_denoise_steps=2)
    env.reset(seed=0)
    rewards = [env.step(torch.ones(4, dtype=torch.int64)) for _ in range(30)]
    assert bool(torch.stack([r[1] for r in rewards]).sub(1.0).abs().lt(0.2).all()), "CartPole pays 1 a step"
    assert any(bool(r[2].any()) for r in rewards), "pushed one way, a pole falls within 30 steps"


# -- the documented parameters ------------------------------------------------------------------------------


def test_to_openenv_has_the_documented_parameters():
    parameters = inspect.signature(WorldModel.to_openenv).parameters
    defaults = {
        "max_steps": 200,
        "n_denoise_steps": 10,
        "act_low": -1.0,
        "act_high": 1.0,
        "terminated_fn": None,
        "initial_obs_fn": None,
        "render_mode": None,
    }
    assert list(parameters)[1:4] == ["obs_fields", "act_fields", "reward_fn"]
    assert {name: parameters[name].default for name in defaults} == defaults


def test_to_openenv_is_a_gymnasium_env_with_flat_float32_observations(world):
    env = world.to_openenv(
        obs_fields=["firm.revenue", "market.price", "firm.staff"],
        act_fields=["market.rate"],
        reward_fn=by_field,
        terminated_fn=lambda obs, step, info: step >= 3,
        max_steps=5,
        n_denoise_steps=2,
        act_low=-0.5,
        act_high=0.5,
    )
    assert isinstance(env, WorldModelEnv)
    assert isinstance(env, gym.Env)
    assert env.engine.autoreset_mode is AutoresetMode.DISABLED
    assert env.action_space == Box(-0.5, 0.5, (1,))
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info["step"] == 0
    assert list(info["obs_dict"]) == ["firm.revenue", "market.price", "firm.staff"]
    np.testing.assert_array_equal(info["obs_dict"]["firm.staff"], observation[2:])
    assert set(info["predictions"]) == set(world.bound.field_names)
    for step in range(1, 4):
        observation, reward, terminated, truncated, info = env.step(np.array([0.25], np.float32))
        assert info["step"] == step
        assert reward == pytest.approx(float(observation[0]) + 0.25, abs=1e-5)
        assert terminated == (step >= 3)
        assert not truncated


def test_max_steps_truncates(world):
    env = world.to_openenv(["market.price"], ["market.rate"], by_market, max_steps=2)
    env.reset(seed=0)
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(2)]
    assert flags == [(False, False), (False, True)]


def test_initial_obs_fn_starts_every_episode(world):
    calls = []

    def start():
        calls.append(1)
        return {"market.price": 0.5 if len(calls) % 2 else -0.5, "firm.mood": 2}

    env = world.to_vector_env(200, ["market.price", "firm.mood", "market.rate"], ["market.rate"], by_market,
                              initial_obs_fn=start, max_steps=1)  # fmt: skip
    observation = env.reset(seed=0)[0]
    assert len(calls) == 256
    assert set(observation[:, 0].tolist()) == {0.5, -0.5}
    assert observation[:, 1].unique().tolist() == [2.0]
    assert len(observation[:, 2].unique()) > 20, "the rest is filled in by the model"
    again = env.step(torch.zeros(200, 1))[0]
    assert set(again[:, 0].tolist()) == {0.5, -0.5}


def test_the_signature_of_a_world_survives_without_its_environment():
    made = WorldModel.from_signature(EnvSignature(Box(-1, 1, (2, 2)), Discrete(3, start=1), 7))
    made.trained = True
    env = made.to_vector_env(3, terminated_fn=lambda obs, step, info: False)
    observation = env.reset(seed=0)[0]
    assert observation.shape == (3, 2, 2)
    for _ in range(7):
        *_, truncated, _ = env.step(torch.tensor([1, 2, 3]))
    assert truncated.tolist() == [True] * 3


def test_weights_whose_storage_is_replaced_in_the_denoiser_alone_are_seen(cartpole):
    model = copy.deepcopy(cartpole.model)
    before, parameters = model.packed(3).modulation.clone(), list(model.denoiser.parameters())
    vector = torch.nn.utils.parameters_to_vector(parameters).detach() * 1.1
    torch.nn.utils.vector_to_parameters(vector, parameters)  # by .data, which counts as no change
    assert not torch.equal(model.packed(3).modulation, before)


def test_the_first_data_with_few_ends_warn_once():
    world, steps = WorldModel.from_env("CartPole-v1"), collect_transitions("CartPole-v1", 2000, "random")
    ends = torch.nonzero(steps["next", "terminated"][:, 0])[:, 0]
    steps["next", "terminated"][ends[19:]] = False
    with pytest.warns(UserWarning, match=r"only 19 of 2,000 transitions end an episode: .*hardly learn.*'sticky'"):
        world.finetune(steps, config=QUICK)
    with warnings.catch_warnings(action="error"):
        world.finetune(steps, config=QUICK)
        fresh = WorldModel.from_env("CartPole-v1")
        steps["next", "terminated"][ends[19]] = True
        fresh.finetune(steps, config=QUICK)


SINGLE = [
    (Discrete(1), Discrete(1)),
    (Discrete(1, start=3), Discrete(2)),
    (MultiDiscrete([1, 1]), MultiDiscrete([1, 1])),
    (MultiDiscrete([1, 3]), MultiDiscrete([2, 1])),
    (Dict({"alone": Discrete(1), "x": Box(-1.0, 1.0, (1,))}), Box(-1.0, 1.0, (1,))),
]


@pytest.mark.filterwarnings("ignore:This world is untrained", "ignore:.* of 20 transitions")
@pytest.mark.parametrize("spaces", SINGLE, ids=str)
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_single_class_is_all_that_a_world_ever_shows_and_its_rollouts_are_data(spaces, one_hot, tmp_path):
    world = WorldModel.from_signature(EnvSignature(*spaces, 5), config=ModelConfig(num_blocks=1))
    scalar = world.to_env()
    scalar.reset(seed=0)
    for _ in range(2):  # before and after it has learned
        vector = world.to_vector_env(8, validate=True)
        vector.reset(seed=0)
        for _ in range(7):
            seen, *_ = vector.step(vector.sample_actions())
            assert vector.observation_space.contains(tree_map(np.asarray, seen))
            assert spaces[0].contains(scalar.step(scalar.action_space.sample())[0])
        if isinstance(spaces[0], Discrete) and spaces[0].start:
            return  # TorchRL counts from 0
        rollout = world.to_torchrl_env(4, one_hot=one_hot).rollout(5, break_when_any_done=False)
        data = world.as_data(rollout)
        assert len(data) == 20
        assert data.next_values[:, 0].unique().tolist() == [0.0]
        world.finetune(rollout, config=QUICK)
    world.save(tmp_path / "world")
    assert WorldModel.load(tmp_path / "world").bound == world.bound


BLIND = EnvSignature(gym.spaces.Dict(eye=Box(-9, 9, (5,)), mode=Discrete(3)), Box(-1, 1, (2,)))


def blind_steps(n=60):
    """Steps in which everything varies, and one in two ends an episode."""
    random = np.random.default_rng(0)
    flags = torch.arange(n)[:, None] % 2 == 0
    seen = [{"eye": torch.from_numpy(random.uniform(-9, 9, (n, 5))), "mode": torch.arange(n) % 3} for _ in range(2)]
    following = {"observation": seen[1], "reward": torch.arange(n)[:, None] * 1.0, "terminated": flags, "done": flags}
    actions = torch.from_numpy(random.uniform(-1, 1, (n, 2)))
    return TensorDict({"observation": seen[0], "action": actions, "next": following}, batch_size=[n])


@pytest.mark.parametrize(
    ("still", "words"),
    [
        ({}, []),
        ({("observation", "eye"): (1, 0)}, [r"1 of 6 numbers \(observation.eye\[0\]\) of the observation"]),
        ({("observation", "eye"): (5, 0)}, [r"5 of 6 numbers \(observation.eye\[0\], .*, ...\) of the observation"]),
        ({("observation", "mode"): (1, 0)}, [r"1 of 6 numbers \(observation.mode\) of the observation"]),
        ({"action": (2, 0)}, [r"2 of 2 numbers \(action\[0\], action\[1\]\) of the action"]),
        ({"reward": (1, -1)}, []),  # there are ends, which a policy can avoid or reach
        ({"reward": (1, 0)}, ["every transition is paid 0:"]),
        ({"reward": (1, -1), "terminated": (1, -1)}, ["none of 60 .* ends an episode", "is paid 59:"]),
    ],
    ids=str,
)
def test_first_data_in_which_something_never_varies_warn(still, words):
    steps = blind_steps()
    for key, (count, row) in still.items():
        column = (steps if key == "action" else steps["next"])[key].reshape(len(steps), -1)
        column[:, :count] = column[row, :count].clone()
    world = WorldModel.from_signature(BLIND)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world.finetune(steps, config=QUICK)
    said = [str(w.message) for w in caught if w.category is UserWarning]
    assert len(said) == len(words), said
    assert all(re.search(*pair) for pair in zip(words, said, strict=True)), said


def test_what_has_a_single_class_is_not_warned_of():
    steps, zeros = blind_steps(), torch.zeros(60, dtype=torch.int64)
    alone = steps.replace(observation=zeros, action=zeros, next={**steps["next"], "observation": zeros})
    with warnings.catch_warnings(action="error"):
        WorldModel.from_signature(EnvSignature(Discrete(1), Discrete(1))).finetune(alone, config=QUICK)


@pytest.mark.parametrize("logger", ["tensorboard", print, TensorboardLogger])
def test_what_is_no_logger_is_refused_before_the_first_step(world, logger):
    before = {name: tensor.clone() for name, tensor in world.state_dict().items()}
    with pytest.raises(TypeError, match=r"logger must be one of torchrl\.record\.loggers"):
        world.finetune({"market.price": np.linspace(-1, 1, 20)}, config=QUICK, logger=logger)
    assert all(torch.equal(before[name], tensor) for name, tensor in world.state_dict().items())


def test_training_writes_to_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorboardLogger("run", log_dir=str(tmp_path))
    report = firm().finetune({"market.price": np.linspace(-1, 1, 20)}, config=QUICK, logger=logger)
    logger.experiment.close()
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["held_out_loss", "learning_rate", "loss"]
    (event,) = events.Scalars("held_out_loss")
    assert event.step == 5
    assert event.value == pytest.approx(report.held_out_loss)
