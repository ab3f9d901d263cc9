"""Real observations become states: what was seen comes back, and what was not is filled in, each row by its seed."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import WorldModel as TorchRLWorldModel
from torchrl.modules import WorldModelWrapper

import wm_vec
from wm_vec.adapters import CallableDynamics, CanvasDynamics, TorchRLDynamics
from wm_vec.adapters.errors import AdapterError
from wm_vec.canvas import EnvSignature, Field, compile_schema
from wm_vec.core import CounterRNG, Dynamics, Engine, EngineConfig, GivenStart
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.model import CanvasModel
from wm_vec.perspectives import view_of
from wm_vec.settings import CanvasConfig
from wm_vec.world_model import WorldModel

PLANE = Box(-np.inf, np.inf, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)


def counters(num_states, seed=0):
    return CounterRNG.from_seeds(torch.arange(seed, seed + num_states))


def encoded(engine, seen, rng=None):
    """States of observations; those of an engine's only perspective go without its name."""
    return engine.encode(seen if len(engine.perspectives) > 1 else {"agent": seen}, rng)


def reset(engine, seed=None, mask=None, start=None, start_mask=None):
    """What the only perspective sees of episodes that start from given states."""
    return engine.reset(seed, mask, given=None if start is None else GivenStart(start, start_mask))["agent"]


def real_cartpole(steps=80, seed=4):
    """Observations ``(steps, 4)`` of random play, as the environment gives them."""
    env = gym.make("CartPole-v1")
    env.action_space.seed(seed)
    seen = [env.reset(seed=seed)[0]]
    while len(seen) < steps:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append(observation if not (terminated or truncated) else env.reset()[0])
    return torch.from_numpy(np.stack(seen))


# -- the canvas -----------------------------------------------------------------------------------------------------


def test_a_real_cartpole_comes_back_bit_by_bit(cartpole):
    engine, real = cartpole.to_vector_env(3).engine, real_cartpole()
    state = encoded(engine, real)
    assert state.batch_size == (80,)
    seen = engine.perspectives[0].observe(engine.dynamics.observe(state))
    assert seen.dtype == torch.float32
    assert torch.equal(seen, real)


def test_where_all_is_seen_the_network_is_not_asked(monkeypatch):
    engine = WorldModel.bundled("CartPole-v1").to_vector_env(3).engine
    monkeypatch.setattr(engine.dynamics.model, "fill_in", None)
    encoded(engine, real_cartpole())


def test_a_state_is_what_the_bank_of_a_trained_world_would_hold(cartpole):
    """`WorldModel._bank_from` puts nothing where action, reward and termination stand."""
    engine = cartpole.to_vector_env(3).engine
    bank = engine.dynamics.bank
    real = engine.perspectives[0].observe(engine.dynamics.observe(bank))
    state = encoded(engine, real)
    assert torch.equal(state["values"], bank["values"])
    assert not bool(state["values"][:, 4:].any())


def test_imagination_from_a_real_state_follows_the_real_cartpole(cartpole):
    """One step ahead from 80 real states, against the simulator set to the same ones."""
    real, action = real_cartpole(), torch.arange(80) % 2
    vector = cartpole.to_vector_env(80)
    reset(vector.engine, seed=0, start=encoded(vector.engine, real))
    imagined = vector.step(action)[4]["final_obs"]
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    truth = []
    for state, push in zip(real.double().tolist(), action.tolist(), strict=True):
        env.state, env.steps_beyond_terminated = tuple(state), None
        truth.append(env.step(push)[0])
    truth = torch.from_numpy(np.stack(truth))
    assert (imagined - truth).square().mean() < 0.02 * (truth - real).square().mean()


@pytest.mark.parametrize(
    ("space", "observations"),
    [
        (Discrete(5, start=3), torch.tensor([3, 7, 5])),
        (Discrete(5, start=-2), torch.tensor([-2, 2, 0])),
        (Box(0, 255, (2, 3), np.uint8), torch.arange(18, dtype=torch.uint8).view(3, 2, 3) * 14),
        (Box(-9, 9, (2, 2), np.int64), torch.arange(-6, 6).view(3, 2, 2)),
        (Box(-1, 1, (), np.float32), torch.tensor([0.25, -1.0, 1 / 3])),
        (Box(-np.inf, np.inf, (3,), np.float64), torch.tensor([[1e-3, 2.0, -3.5]] * 3).double()),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_every_space_comes_back(space, observations):
    world = WorldModel.from_signature(EnvSignature(space, Discrete(2, start=1)))
    engine = world.to_vector_env(3).engine
    state = encoded(engine, observations)
    seen = reset(engine, seed=0, start=state)
    assert seen.dtype == observations.dtype
    assert torch.equal(seen, observations)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_precision_take_them(dtype):
    world = WorldModel.bundled("CartPole-v1", dtype=dtype)
    engine, real = world.to_vector_env(2).engine, real_cartpole(20)
    state = encoded(engine, real)
    assert state["values"].dtype == dtype
    seen = engine.perspectives[0].observe(engine.dynamics.observe(state))
    assert torch.equal(seen, real.to(dtype).to(seen.dtype)), "as exactly as the network can hold them"


def firm_engine(num_envs=4):
    """A schema world, seen in part: two of its three fields, in another order than they lie on the canvas."""
    bound = compile_schema(
        {
            "mood": Field(num_classes=3),
            "stock": Field(1, 2),
            "hidden": Field(),
            "price": Field(),
            "slow": Field(period=4),
        }
    )
    torch.manual_seed(0)
    model = CanvasModel(bound)
    canvas = CanvasConfig(["price", "stock"], ["price"], lambda *_: 0.0)
    perspective = view_of(bound, None, canvas, torch.device("cpu")).perspective
    return Engine(CanvasDynamics(model, ["price"]), num_envs, [perspective], EngineConfig(seed=0)), bound, model


def test_what_a_view_leaves_out_is_filled_in_by_the_model():
    """As `fill_in` does it when it is told the same positions and draws at the same counters."""
    engine, bound, model = firm_engine()
    seen = torch.tensor([[5.0, 1.0, 2.0], [6.0, 3.0, 4.0]])
    state = encoded(engine, seen, counters(2, 50))
    where = bound.indices(["price", "stock"])
    assert torch.equal(state["values"][:, where], seen)
    known = torch.zeros(2, 6, dtype=torch.bool)
    known[:, where] = True
    told = torch.zeros(2, 6)
    told[:, where] = seen
    noise = counters(2, 50).normal(model.noise_size, wm_vec.core.rng.STREAM_BANK)
    torch.testing.assert_close(state["values"], model.fill_in(told, known, noise, model.config.n_denoise_steps))
    assert set(state["values"][:, bound["mood"].start].tolist()) <= {0.0, 1.0, 2.0}
    assert state["tick"].tolist() == [0, 0], "periods count from here"


def test_a_row_is_filled_in_by_its_own_seed_whatever_its_neighbours_are():
    engine, _, _ = firm_engine()
    seen = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    whole = encoded(engine, seen, counters(6))["values"]
    assert torch.equal(encoded(engine, seen, counters(6))["values"], whole)
    torch.testing.assert_close(encoded(engine, seen[2:4], counters(2, 2))["values"], whole[2:4])
    assert not torch.isclose(encoded(engine, seen, counters(6, 9))["values"], whole).all()


def test_a_row_with_a_gap_leaves_the_others_as_they_were(cartpole):
    """NaN is what was not observed; only there does the model speak, and it speaks sense: its own kind of start."""
    engine, real = cartpole.to_vector_env(2).engine, real_cartpole()
    gappy = real.clone()
    gappy[5, 2] = torch.nan
    state = encoded(engine, gappy)
    others = torch.arange(80) != 5
    assert torch.equal(state["values"][others], encoded(engine, real)["values"][others])
    assert torch.equal(state["values"][5, [0, 1, 3]], real[5, [0, 1, 3]])
    assert state["values"][5, 2].abs() < 0.5, "the pole's angle, in radians"


def test_several_views_of_one_world_are_joined():
    bound = compile_schema({"a": Field(), "b": Field(), "c": Field()})
    views = [
        dataclasses.replace(
            view_of(bound, None, CanvasConfig([see], [act], lambda *_: 0.0), torch.device("cpu")).perspective, name=see
        )
        for see, act in (("a", "b"), ("c", "c"))
    ]
    engine = Engine(CanvasDynamics(CanvasModel(bound), ["b", "c"]), 2, views, EngineConfig(seed=0))
    state = encoded(engine, {"a": torch.tensor([[1.0], [2.0]]), "c": torch.tensor([[3.0], [4.0]])})
    assert state["values"][:, [0, 2]].tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize(
    ("observations", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"shape \('M', 4\), got \(2, 3\)"),
        (torch.zeros(4), ValueError, r"shape \('M', 4\), got \(4,\)"),
        (
            torch.tensor([[0.0, 0, 0, 0], [0, torch.inf, 0, 0]]),
            ValueError,
            "'observation' must be finite; observation 1",
        ),
        (np.zeros((2, 4)), TypeError, "torch tensors.*got ndarray"),
        ({"observation": torch.zeros(2, 4)}, TypeError, "must be a torch tensor, got dict"),
        ((), ValueError, "one leading size"),
    ],
)
def test_observations_of_another_world(cartpole, observations, error, message):
    with pytest.raises(error, match=message):
        encoded(cartpole.to_vector_env(2).engine, observations)


@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_classes_that_do_not_exist():
    engine = WorldModel.from_signature(EnvSignature(Discrete(5, start=3), Discrete(2))).to_vector_env(2).engine
    with pytest.raises(ValueError, match=r"'observation' must be classes below 5; observation 1 has 5\.0"):
        encoded(engine, torch.tensor([3, 8]))


def test_it_reads_nothing_where_there_is_nothing_to_read():
    engine = WorldModel.bundled("CartPole-v1", device="meta").to_vector_env(2).engine
    assert encoded(engine, torch.zeros(2, 4, device="meta"))["values"].device.type == "meta"


# -- any model's callables ------------------------------------------------------------------------------------------


def drift(state, action):
    after = state + 0.1 * action
    return after, after.sum(-1), after[..., 0] > 5, after[..., 0] > 9, {}


def latent_drift(state, action):
    latent = {"z": state["z"] + action, "age": state["age"] + 1}
    return {"state": latent, "observation": 2 * latent["z"], "reward": latent["z"].sum(-1)}


def halves(observation):
    return {"z": observation / 2, "age": torch.zeros(observation.shape[:-1])}


def vector_env(fn, batching="batched", num_envs=3, **options):
    return WorldModelVectorEnv.from_callables(
        None, PLANE, PUSH, num_envs=num_envs, transition_fn=fn, batching=batching, seed=0, **options
    )


SEEN = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-5.0, 6.0]])


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_a_users_encoder_makes_the_state(batching):
    """The state is half of what is seen; a step from it goes on from there, whatever way the model is run."""
    start = {"z": torch.zeros(2), "age": torch.tensor(0.0)}
    env = vector_env(latent_drift, batching, initial_state=start, initial_observation=torch.zeros(2), encode=halves)
    engine = env.engine
    assert torch.equal(reset(engine, seed=0, start=encoded(engine, SEEN)), SEEN)
    observation, reward, *_, info = env.step(torch.full((3, 2), 0.5))
    assert torch.equal(observation, SEEN + 1.0)
    assert torch.equal(reward.float(), (SEEN / 2 + 0.5).sum(1))
    assert info["model_state"]["age"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("source", ["initial_observation", "initial_state", "reset_fn"])
def test_where_the_state_is_the_observation_nothing_need_be_said(batching, source):
    given = {
        "initial_observation": torch.zeros(2),
        "initial_state": torch.zeros(2),
        "reset_fn": lambda model, seed: torch.zeros(2),
    }[source]
    env = vector_env(drift, batching, **{source: given})
    assert torch.equal(reset(env.engine, seed=0, start=encoded(env.engine, SEEN)), SEEN)
    assert torch.equal(env.step(torch.ones(3, 2))[0], SEEN + 0.1)


def test_a_state_has_the_dtype_that_episodes_start_with():
    """A float64 observation handed in as the start is a float64 state, whatever the space says."""
    env = vector_env(drift, initial_observation=np.zeros(2))
    state = encoded(env.engine, SEEN)
    assert state["state"].dtype == torch.float64
    assert torch.equal(reset(env.engine, seed=0, start=state), SEEN)


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_a_state_of_its_own_without_an_encoder_is_refused(batching):
    start = {"z": torch.zeros(2), "age": torch.tensor(0.0)}
    env = vector_env(latent_drift, batching, initial_state=start, initial_observation=torch.zeros(2))
    with pytest.raises(AdapterError, match=r"state of the model's own.*Give encode=\(model, observation\) -> state"):
        encoded(env.engine, SEEN)


def test_an_encoder_gets_the_model_and_may_draw_from_its_rows_counters():
    class Model:
        scale = 3.0

    def noisy(model, observation, rng):
        return {"z": model.scale * observation + rng.normal(2), "age": torch.zeros(observation.shape[0])}

    start = {"z": torch.zeros(4, 2), "age": torch.zeros(4)}
    dynamics = CallableDynamics(
        Model(),
        PLANE,
        PUSH,
        transition_fn=latent_drift,
        initial_state=start,
        initial_observation=torch.zeros(4, 2),
        encode=noisy,
    )
    state = dynamics.encode(SEEN, counters(3, 7))
    torch.testing.assert_close(state["state.z"], 3 * SEEN + counters(3, 7).normal(2))
    assert torch.equal(dynamics.observe(state), SEEN)


def test_one_envs_encoder_draws_at_its_own_counter():
    def noisy(observation, rng):
        return {"z": rng.normal(2)[0], "age": torch.tensor(0.0)}

    start = {"z": torch.zeros(2), "age": torch.tensor(0.0)}
    env = vector_env(latent_drift, "vmap", initial_state=start, initial_observation=torch.zeros(2), encode=noisy)
    reset(env.engine, seed=11, start=lambda rng: encoded(env.engine, SEEN, rng))
    z = env.engine.dynamics.model_state(env.engine.model_state())["z"]
    torch.testing.assert_close(z, counters(3, 11).normal(2))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_an_encoder_on_the_global_generator_disturbs_nobody_and_is_seeded(batching):
    def noisy(observation):
        return {"z": torch.randn_like(observation), "age": torch.zeros(observation.shape[:-1])}

    start = {"z": torch.zeros(2), "age": torch.tensor(0.0)}
    given = {"initial_state": start, "initial_observation": torch.zeros(2), "encode": noisy, "rng": "global"}
    found, outside = [], []
    for _ in range(2):
        env = vector_env(latent_drift, batching, **given)
        torch.manual_seed(5)
        env.reset(seed=1)
        state = encoded(env.engine, SEEN)
        outside.append(torch.rand(1))
        reset(env.engine, start=state)
        found.append(env.engine.dynamics.model_state(env.engine.model_state())["z"])
    assert torch.equal(*found)
    torch.manual_seed(5)
    assert outside[0] == outside[1] == torch.rand(1)


def test_an_undeclared_draw_is_told():
    def noisy(observation):
        return {"z": torch.randn_like(observation), "age": torch.zeros(observation.shape[:-1])}

    start = {"z": torch.zeros(4, 2), "age": torch.zeros(4)}
    env = vector_env(latent_drift, initial_state=start, initial_observation=torch.zeros(4, 2), encode=noisy)
    with pytest.warns(UserWarning, match="encode uses torch's global random generator"):
        encoded(env.engine, SEEN)


def test_nothing_of_the_callers_is_kept():
    env = vector_env(drift, initial_observation=torch.zeros(2))
    mine = SEEN.clone()
    env.engine.load_bank(encoded(env.engine, mine))
    mine.zero_()
    seen = env.reset(seed=0)[0]
    assert all(any(torch.equal(row, real) for real in SEEN) for row in seen)


@pytest.mark.parametrize(
    ("encode", "observations", "message"),
    [
        (halves, torch.zeros(3, 5), r"observation must have shape \(3, 2\), got \(3, 5\)"),
        (halves, torch.zeros(3, 2, dtype=torch.complex64), "dtype"),
        (halves, torch.full((3, 2), torch.nan), "NaN"),
        (lambda o: {"z": o}, SEEN, r"encode: state changed its structure.*mapping of \['age', 'z'\]"),
        (lambda o: {"z": o[:1], "age": o[:, 0]}, SEEN, r"encode: state.z must be \(3, 2\) float32.*Tensor\(1, 2\)"),
        (lambda o: {"z": o.double(), "age": o[:, 0]}, SEEN, "state.z must be .*got Tensor.* float64"),
        (lambda a, b, c, d: a, SEEN, "encode takes"),
        (3, SEEN, "encode must be callable"),
    ],
)
def test_what_does_not_fit_is_told(encode, observations, message):
    start = {"z": torch.zeros(4, 2), "age": torch.zeros(4)}
    with pytest.raises(AdapterError, match=message):
        encoded(
            vector_env(latent_drift, initial_state=start, initial_observation=torch.zeros(4, 2), encode=encode).engine,
            observations,
        )


def test_a_dynamics_that_cannot_encode_is_told_of():
    class Still(Dynamics):
        device, dtype = torch.device("cpu"), torch.float32

        def initial_state(self, rng, num_envs):
            return TensorDict({"x": torch.zeros(num_envs, 2)}, batch_size=[num_envs])

        def observe(self, state):
            return state["x"]

        def step(self, state, action, rng):
            return wm_vec.core.Transition(state, state["x"])

    env = WorldModelVectorEnv.from_dynamics(Still(), PLANE, PUSH, num_envs=2)
    with pytest.raises(TypeError, match=r"Still has no encode\(observation, rng\)"):
        encoded(env.engine, SEEN)


# -- TorchRL's modules ----------------------------------------------------------------------------------------------


class Push(nn.Module):
    def forward(self, latent, action):
        return latent + action, (latent + action).sum(-1, keepdim=True)


def latent_world(wrapped=True):
    step = TensorDictModule(Push(), in_keys=["latent", "action"], out_keys=[("next", "latent"), ("next", "reward")])
    see = TensorDictModule(lambda latent: 2 * latent, in_keys=["latent"], out_keys=["observation"])
    encoder = TensorDictModule(lambda observation: observation / 2, in_keys=["observation"], out_keys=["latent"])
    head = TensorDictModule(lambda latent: latent.sum(-1, keepdim=True), [("next", "latent")], [("next", "reward")])
    world = TorchRLWorldModel(encoder, step, head) if wrapped else WorldModelWrapper(step, head)
    return world, see, encoder


def torchrl_env(world, decoder, **options):
    dynamics = TorchRLDynamics(
        world,
        PLANE,
        PUSH,
        initial_state=TensorDict({"latent": torch.zeros(4, 2)}, batch_size=[4]),
        state_keys=["latent"],
        decoder=decoder,
        **options,
    )
    return WorldModelVectorEnv.from_dynamics(dynamics, PLANE, PUSH, num_envs=3, seed=0)


@pytest.mark.parametrize("given", [False, True], ids=["its own", "given"])
def test_a_torchrl_models_encoder_is_used(given):
    world, see, encoder = latent_world(wrapped=not given)
    env = torchrl_env(world, see, encoder=encoder if given else None)
    assert torch.equal(reset(env.engine, seed=0, start=encoded(env.engine, SEEN)), SEEN)
    assert torch.equal(env.step(torch.full((3, 2), 0.5))[0], SEEN + 1.0)


def test_a_torchrl_model_without_an_encoder_says_so():
    world, see, _ = latent_world(wrapped=False)
    with pytest.raises(AdapterError, match=r"no encoder.*Give encoder=, a TensorDict module"):
        encoded(torchrl_env(world, see).engine, SEEN)


def test_an_encoder_that_reads_or_writes_something_else_is_told():
    world, see, _ = latent_world(wrapped=False)
    blind = TensorDictModule(lambda x: x, in_keys=["pixels"], out_keys=["latent"])
    with pytest.raises(AdapterError, match=r"the encoder reads \['pixels'\]"):
        encoded(torchrl_env(world, see, encoder=blind).engine, SEEN)
    dumb = TensorDictModule(lambda x: x, in_keys=["observation"], out_keys=["thought"])
    with pytest.raises(AdapterError, match="the encoder's output must have a tensor 'latent'"):
        encoded(torchrl_env(world, see, encoder=dumb).engine, SEEN)
    with pytest.raises(AdapterError, match="encoder must be a TensorDict module"):
        torchrl_env(world, see, encoder=lambda x: x)


@pytest.mark.parametrize("nested", [False, True])
def test_a_torchrl_model_whose_state_is_what_it_observes_needs_none(nested):
    keys = ["place", "speed"]
    step = TensorDictModule(
        lambda p, s, a: (p + s, s + a, p.sum(-1)), [*keys, "action"], [*(("next", k) for k in keys), ("next", "reward")]
    )
    start = TensorDict({"place": torch.zeros(4, 2), "speed": torch.zeros(4, 2)}, batch_size=[4])
    space = Dict(place=PLANE, inner=Dict(fast=PLANE)) if nested else Dict(place=PLANE, speed=PLANE)
    where = {"place": "place", "inner": {"fast": "speed"}} if nested else None
    dynamics = TorchRLDynamics(TensorDictSequential(step), space, PUSH, initial_state=start, observation_key=where)
    env = WorldModelVectorEnv.from_dynamics(dynamics, space, PUSH, num_envs=3, seed=0)
    seen = {"place": SEEN, "inner": {"fast": 10 * SEEN}} if nested else {"place": SEEN, "speed": 10 * SEEN}
    reset(env.engine, seed=0, start=encoded(env.engine, seen))
    after = env.step(torch.ones(3, 2))[0]
    assert torch.equal(after["place"], 11 * SEEN)
    assert torch.equal(after["inner"]["fast"] if nested else after["speed"], 10 * SEEN + 1)


# -- the engine -----------------------------------------------------------------------------------------------------


def test_given_starts_count_like_any_episode(cartpole):
    """Seeds, episode numbers and steps are those of resets without them; so are the later episodes' own starts."""
    real = real_cartpole(6)
    with_start, plain = (cartpole.to_vector_env(6, autoreset_mode="disabled").engine for _ in range(2))
    for engine in (with_start, plain):
        reset(engine, seed=20)
    start = encoded(with_start, real)
    with_start.step(torch.zeros(6, dtype=torch.int64))
    plain.step(torch.zeros(6, dtype=torch.int64))
    assert torch.equal(reset(with_start, start=start), real)
    plain.reset()
    one, two = with_start.state(), plain.state()
    for name in ("seed", "episode", "elapsed", "returns", "pending"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert one.episode.tolist() == [1] * 6
    assert torch.equal(reset(with_start), reset(plain))


@pytest.mark.parametrize("started", [False, True])
def test_some_rows_start_from_given_states_and_the_others_as_ever(cartpole, started):
    real = real_cartpole(6)
    engine, plain = (cartpole.to_vector_env(6, autoreset_mode="disabled").engine for _ in range(2))
    if started:
        reset(engine, seed=3)
        reset(plain, seed=3)
    given = torch.tensor([True, False, True, False, False, True])
    seed = None if started else 3
    seen = reset(engine, seed, start=encoded(engine, real), start_mask=given)
    ordinary = reset(plain, seed)
    assert torch.equal(seen[given], real[given])
    assert torch.equal(seen[~given], ordinary[~given])
    assert torch.equal(engine.state().episode, plain.state().episode)


def test_under_a_mask_the_others_go_on(cartpole):
    real = real_cartpole(6)
    engine = cartpole.to_vector_env(6, autoreset_mode="disabled").engine
    before = reset(engine, seed=3)
    mask = torch.tensor([False, False, True, False, True, True])
    given = torch.tensor([True, True, False, True, True, True])
    seen = reset(engine, mask=mask, start=encoded(engine, real), start_mask=given)
    assert torch.equal(seen[~mask], before[~mask])
    assert torch.equal(seen[4:], real[4:])
    assert not torch.equal(seen[2], real[2])
    assert not torch.equal(seen[2], before[2])
    assert engine.state().episode.tolist() == [0, 0, 1, 0, 1, 1]


@wm_vec.batched
def reset_to_seed(seeds):
    return seeds[:, None].float().expand(-1, 2)


def test_a_model_that_starts_every_episode_afresh_takes_given_starts_too():
    env = vector_env(drift, reset_fn=reset_to_seed)
    engine = env.engine
    seen = reset(engine, seed=100, start=encoded(engine, SEEN), start_mask=torch.tensor([True, False, True]))
    assert seen.tolist() == [SEEN[0].tolist(), [101.0, 101.0], SEEN[2].tolist()]


def test_what_a_reward_function_carries_starts_afresh(pendulum):
    env = pendulum.to_vector_env(
        3,
        reward_fn=lambda obs, act, info, carried: (carried, carried + 1),
        reward_state=torch.tensor(7.0),
        autoreset_mode="disabled",
    )
    env.reset(seed=0)
    env.step(torch.zeros(3, 1))
    start = encoded(env.engine, torch.tensor([[1.0, 0.0, 0.0]]).expand(3, -1))
    reset(env.engine, start=start)
    assert env.step(torch.zeros(3, 1))[1].tolist() == [7.0] * 3


def test_starts_of_another_world_are_refused(cartpole, pendulum):
    engine = cartpole.to_vector_env(3).engine
    good = encoded(engine, real_cartpole(3))
    with pytest.raises(ValueError, match=r"has 3 envs, start \(2,\)"):
        reset(engine, start=good[:2])
    with pytest.raises(ValueError, match=r"reset: start belongs to another world.*\(7,\) per env.*got \(6,\)"):
        reset(engine, start=encoded(pendulum.to_vector_env(3).engine, torch.zeros(3, 3)))
    with pytest.raises(ValueError, match="reset: start belongs to another world: it has"):
        reset(engine, start=TensorDict({"x": torch.zeros(3)}, batch_size=[3]))
    with pytest.raises(ValueError, match="start is on meta"):
        reset(engine, start=good.to("meta"))
    with pytest.raises(ValueError, match=r"the start_mask must be bool of shape \(3,\)"):
        reset(engine, start=good, start_mask=torch.ones(3))
    with pytest.raises(ValueError, match="3 observations are needed, one for each state, got 2"):
        reset(engine, start=lambda rng: encoded(engine, real_cartpole(2), rng))
    assert not engine.started, "what was refused has started nothing"


def test_given_states_are_copied(cartpole):
    engine = cartpole.to_vector_env(3, autoreset_mode="disabled").engine
    start = encoded(engine, real_cartpole(3))
    reset(engine, seed=0, start=start)
    kept = engine.model_state()["values"].clone()
    start["values"].zero_()
    assert torch.equal(engine.model_state()["values"], kept)
