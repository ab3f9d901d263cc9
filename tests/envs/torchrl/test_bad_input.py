"""What does not fit is refused with what was expected and what came; what is only extra rides along."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv
from torchrl.envs import transforms as T
from torchrl.envs.utils import check_env_specs

from tests.envs.torchrl.kinds import ACTIONS, BY_NAME, PLANE, SEEN, STARTS, seen, walk
from wm_vec import WorldModel
from wm_vec.adapters import CallableDynamics
from wm_vec.canvas import EnvSignature
from wm_vec.core import CounterRNG, Dynamics, Transition
from wm_vec.envs import TorchRLEnv, WorldModelVectorEnv

B = 3


def ready(kind, **options):
    """An environment and the TensorDict of its first step."""
    env = BY_NAME[kind].torchrl(B, seed=0, **options)
    return env, env.rand_action(env.reset())


# -- actions -------------------------------------------------------------------------------------------------------


def test_a_missing_action_is_named_with_what_there_is():
    env, td = ready("pendulum")
    with pytest.raises(KeyError, match=r"no 'action', only \['done', 'observation', 'terminated', 'truncated'\]"):
        env.step(td.exclude("action"))
    with pytest.raises(KeyError, match=r"no 'action', only .*'act'"):
        env.step(td.exclude("action").set("act", td["action"]))


def test_an_action_that_is_no_tensor_is_refused():
    env, td = ready("pendulum")
    with pytest.raises(TypeError, match=r"must be a tensor \(3, 1\), got TensorDict"):
        env.step(td.set("action", TensorDict({"torque": td["action"]}, batch_size=[B])))


SHAPES = {
    "no axis of its own": ("pendulum", {}, torch.zeros(B), r"must have shape \(3, 1\), got \(3,\)\.$"),
    "too many numbers": ("pendulum", {}, torch.zeros(B, 2), r"must have shape \(3, 1\), got \(3, 2\)\.$"),
    "one-hot for classes": ("cartpole", {}, torch.eye(2).bool()[[0, 1, 0]], r"\(3,\), got \(3, 2\).*one_hot=True"),
    "classes for one-hot": ("cartpole", {"one_hot": True}, torch.zeros(B).long(), r"\(3, 2\), got \(3,\).*one_hot=Fa"),
    "several one-hot for classes": ("classes", {}, torch.zeros(B, 7), r"\(3, 2\), got \(3, 7\).*look one-hot"),
    "several classes for one-hot": (
        "classes",
        {"one_hot": True},
        torch.zeros(B, 2).long(),
        r"\(3, 7\), got \(3, 2\).*look like class indices",
    ),
    "an axis too many": ("cartpole", {}, torch.zeros(B, 1).long(), r"must have shape \(3,\), got \(3, 1\)\.$"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_actions_of_another_shape_are_refused(name):
    kind, options, action, message = SHAPES[name]
    env, td = ready(kind, **options)
    before = env.engine.state()
    with pytest.raises(ValueError, match=message):
        env.step(td.set("action", action))
    assert (env.engine.state() == before).all(), "nothing has happened"


DTYPES = {
    "classes as floats": ("cartpole", torch.zeros(B), r"whole numbers \(torch.int64\) for Discrete\(2\), got torch.fl"),
    "classes as flags": ("cartpole", torch.zeros(B).bool(), r"whole numbers .*got torch.bool"),
    "torques as integers": ("pendulum", torch.zeros(B, 1).long(), r"floating point \(torch.float32\) for Box.*int64"),
    "switches as flags": ("switches", torch.zeros(B, 2).bool(), r"whole numbers .*MultiBinary.*torch.bool"),
}


@pytest.mark.parametrize("name", DTYPES)
def test_actions_of_another_kind_of_dtype_are_refused(name):
    kind, action, message = DTYPES[name]
    env, td = ready(kind)
    with pytest.raises(TypeError, match=message):
        env.step(td.set("action", action))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8])
def test_narrower_integers_are_classes_too(dtype):
    env, td = ready("cartpole")
    action = torch.tensor([0, 1, 1])
    expected = env.step(td.clone().set("action", action))["next", "observation"]
    env.set_seed(0)
    again = env.reset().set("action", action.to(dtype))
    assert torch.equal(env.step(again)["next", "observation"], expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_one_hot_actions_may_have_any_dtype(dtype):
    env, td = ready("cartpole", one_hot=True)
    classes = BY_NAME["cartpole"].torchrl(B, seed=0)
    expected = classes.step(classes.reset().set("action", torch.tensor([0, 1, 1])))["next", "observation"]
    hot = torch.eye(2)[[0, 1, 1]].to(dtype)
    assert torch.equal(env.step(td.set("action", hot))["next", "observation"], expected)


def test_actions_elsewhere_are_refused():
    env, td = ready("pendulum")
    td.clear_device_()
    with pytest.raises(ValueError, match="'action' is on meta, the environment on cpu"):
        env.step(td.set("action", torch.zeros(B, 1, device="meta")))


def test_what_a_collectors_policy_writes_is_checked_too():
    env, _ = ready("cartpole")

    def stray(td):
        return td.set("action", torch.zeros(B, 1, dtype=torch.int64))

    with pytest.raises(ValueError, match=r"'action' must have shape \(3,\), got \(3, 1\)"):
        next(iter(Collector(env, stray, frames_per_batch=B, total_frames=B)))


# -- TensorDicts ---------------------------------------------------------------------------------------------------


def test_another_batch_size_is_refused():
    env, td = ready("pendulum")
    for call in (env.step, env.reset):
        with pytest.raises(RuntimeError, match=r"got torch.Size\(\[2\]\) and torch.Size\(\[3\]\)"):
            call(td[:2].clone())
    with pytest.raises(RuntimeError, match=r"shape==env\.batch_size"):
        env.step(td.unsqueeze(0))


def test_extra_entries_are_nobodys_business():
    env, td = ready("pendulum")
    plain = env.step(td.clone())["next", "observation"]
    env.set_seed(0)
    here = env.reset(TensorDict({"note": torch.arange(B)}, batch_size=[B]))
    assert here["note"].tolist() == [0, 1, 2], "as TorchRL resets: into what it was given"
    here.set("action", td["action"]).set(("far", "away"), torch.zeros(B, 7))
    out = env.step(here)
    assert torch.equal(out["next", "observation"], plain)
    assert out["far", "away"].shape == (B, 7)


def test_only_the_action_is_needed_for_a_step():
    env, td = ready("pendulum")
    out = env.step(td.select("action"))
    assert torch.isfinite(out["next", "observation"]).all()


def test_a_tensordict_without_flags_resets_nothing():
    env, td = ready("pendulum")
    kept = td.exclude("done", "terminated", "truncated")
    assert env.maybe_reset(kept.clone()).keys() == kept.keys()
    assert not env.engine.state().episode.any()


# -- masks ---------------------------------------------------------------------------------------------------------

MASKS = {
    "two columns": (torch.ones(B, 2, dtype=torch.bool), ValueError, r"must have shape \(3, 1\), got \(3, 2\)"),
    "an axis too many": (
        torch.ones(B, 1, 1, dtype=torch.bool),
        ValueError,
        r"must have shape \(3, 1\), got \(3, 1, 1\)",
    ),
    "numbers": (torch.ones(B, 1), TypeError, r"must be a bool tensor of shape \(3, 1\), got torch.float32"),
    "indices": (torch.tensor([0, 1, 2]), TypeError, "got torch.int64"),
}


@pytest.mark.parametrize("key", ["_reset", "_step"])
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_another_shape_or_dtype_are_refused(key, name):
    mask, error, message = MASKS[name]
    env, td = ready("pendulum")
    before = env.engine.state()
    with pytest.raises(error, match=f"'{key}' {message}" if error is ValueError else message):
        (env._reset if key == "_reset" else env._step)(td.set(key, mask))
    assert (env.engine.state() == before).all()


@pytest.mark.parametrize("rows", [(), (1,)])
def test_masks_with_and_without_the_last_axis_are_the_same(rows):
    env, td = ready("pendulum")
    mask = torch.tensor([False, True, False])
    env.step(td)
    env.reset(env.step_mdp(td).set("_reset", mask.view(B, *rows)))
    assert env.engine.state().elapsed.tolist() == [1, 0, 1]


# -- states --------------------------------------------------------------------------------------------------------


def states_of_another_world():
    _, other = ready("latent", expose_state=True)
    _, own = ready("pendulum", expose_state=True)
    state = own["world_state"]
    return {
        "another world": (
            other["world_state"],
            r"it has \['observation', 'state'\] under 'dynamics', not \['values'\]",
        ),
        "a part missing": (state.exclude("elapsed"), r"not \['dynamics', 'elapsed', .*'world'\]"),
        "a part too many": (state.clone().set("more", torch.zeros(B)), r"it has .*'more'"),
        "another shape": (
            state.clone().set(("dynamics", "values"), torch.zeros(B, 2)),
            r"'dynamics.values' must be torch.float32 \(3, 6\) on cpu, got torch.float32 \(3, 2\) on cpu",
        ),
        "another dtype": (state.clone().set("elapsed", torch.zeros(B)), r"'elapsed' must be torch.int64 \(3,\) on cpu"),
        "a tensor": (torch.zeros(B, 5), "must be a TensorDict with the state, got Tensor"),
        "a part that is no tensor": (
            state.clone().set("elapsed", TensorDict({"a": torch.zeros(B)}, [B])),
            r"'elapsed' must be torch.int64 \(3,\) on cpu, got a TensorDict with \['a'\]",
        ),
    }


@pytest.mark.parametrize("name", states_of_another_world())
def test_states_of_another_world_are_refused(name):
    env, td = ready("pendulum", expose_state=True)
    state, message = states_of_another_world()[name]
    before = env.engine.state()
    with pytest.raises(ValueError, match=message):
        env.reset(td.exclude("world_state").set("world_state", state), set_state=True)
    assert (env.engine.state() == before).all()


def world_of(low, **options):
    """An untrained world; those of other bounds have states of the same keys and shapes."""
    world = WorldModel.from_signature(EnvSignature(Box(low, 2.0, (3,)), Discrete(2)), **options)
    world.trained = True  # so that it does not warn
    return world


def stateless_of(world):
    env = world.to_torchrl_env(B, seed=0).to_stateless()
    return env, env.rand_action(env.reset(TensorDict(batch_size=[B])))


def exposed_of(world):
    env = world.to_torchrl_env(B, seed=0, expose_state=True)
    return env, env.rand_action(env.reset())


@pytest.mark.parametrize("kind", [exposed_of, stateless_of])
def test_a_state_whose_shapes_fit_by_chance_is_refused(kind):
    env, _ = kind(world_of(-1.0))
    _, other = kind(world_of(-2.0))
    with pytest.raises(ValueError, match="another world: its keys and shapes are those of this one"):
        env.reset(other, set_state=True)
    if not env.batch_locked:
        with pytest.raises(ValueError, match="another world: its keys and shapes"):
            env.step(other)


def test_a_world_with_other_weights_is_the_same_world(tmp_path):
    world = world_of(-1.0)
    world.save(tmp_path / "world.safetensors")
    for same in (world_of(-1.0, seed=1, d_model=64), WorldModel.load(tmp_path / "world.safetensors")):
        env, _ = exposed_of(same)
        _, td = exposed_of(world)
        assert torch.equal(env.reset(td, set_state=True)["observation"], td["observation"])


def test_states_elsewhere_are_refused():
    env, td = ready("pendulum", expose_state=True)
    away = TensorDict({"world_state": td["world_state"].to("meta")}, batch_size=[B])
    with pytest.raises(ValueError, match=r"got torch.* on meta"):
        env.reset(away, set_state=True)


def test_a_missing_state_is_named_with_what_there_is():
    env, td = ready("pendulum", expose_state=True)
    with pytest.raises(KeyError, match=r"needs 'world_state' in td, which has \['action', 'done', .*expose_state=True"):
        env.reset(td.exclude("world_state"), set_state=True)


# -- specs and models ----------------------------------------------------------------------------------------------


def dynamics(action_space=ACTIONS["box"], observation_space=SEEN):
    return CallableDynamics(
        walk, observation_space, action_space, initial_state=STARTS, initial_observation=seen(STARTS)
    )


def test_what_is_no_engine_and_no_dynamics_is_refused(pendulum):
    with pytest.raises(TypeError, match=r"takes an engine, got WorldModel. Make it by world.to_torchrl_env"):
        TorchRLEnv(pendulum, SEEN, ACTIONS["box"])
    with pytest.raises(
        TypeError, match=r"must be a wm_vec.core.Dynamics, got Linear.*WorldModelVectorEnv.from_callables"
    ):
        TorchRLEnv.from_dynamics(torch.nn.Linear(3, 3), SEEN, ACTIONS["box"], num_envs=2)


def test_it_says_what_it_is():
    env, _ = ready("pendulum")
    assert repr(env) == f"TorchRLEnv(CanvasDynamics, batch_size=[{B}], device=cpu)"


def test_spaces_that_the_model_was_not_declared_with_are_refused():
    with pytest.raises(ValueError, match=r"action space Discrete\(5\) is not the model's.*Discrete\(3\)"):
        TorchRLEnv.from_dynamics(dynamics(Discrete(3)), SEEN, Discrete(5), num_envs=B)
    with pytest.raises(ValueError, match=r"observation space Box\(-inf, inf, \(2,\), float32\) is not the model's"):
        TorchRLEnv.from_dynamics(dynamics(), PLANE, ACTIONS["box"], num_envs=B)


@pytest.mark.parametrize(
    "space", [Discrete(2), MultiDiscrete([3, 3]), Box(-1, 1, (2,), np.float32), Box(-1, 1, (1, 1), np.float32)]
)
def test_actions_that_the_engine_does_not_take_are_refused(space):
    engine = BY_NAME["pendulum"].disabled(B).engine
    with pytest.raises(
        ValueError, match=r"does not fit the engine, which takes box actions of shape \(1,\) from \[-2.0"
    ):
        TorchRLEnv(engine, BY_NAME["pendulum"].vector(1).single_observation_space, space)


class Counter(Dynamics):
    """A dynamics of somebody's own, which shows its count."""

    device, dtype = torch.device("cpu"), torch.float32

    def initial_state(self, rng, num_envs):
        return TensorDict({"count": torch.zeros(num_envs, 1)}, batch_size=[num_envs])

    def observe(self, state):
        return state["count"]

    def step(self, state, action, rng: CounterRNG):
        after = TensorDict({"count": state["count"] + action}, batch_size=state.batch_size)
        return Transition(after, after["count"], after["count"][:, 0])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            Box(-9, 9, (2,), np.float32),
            r"'observation' must be torch.float32 \(3, 2\) on cpu, got torch.float32 \(3, 1\)",
        ),
        (Box(-9, 9, (1,), np.float64), r"'observation' must be torch.float64 \(3, 1\) on cpu, got torch.float32"),
        (
            Dict(a=Box(-9, 9, (1,), np.float32)),
            r"do not fit the observation space: it has \['observation'\], not \['a'\]",
        ),
    ],
)
def test_observations_that_are_not_what_the_space_says_are_refused(space, message):
    """Of any dynamics, at the first reset."""
    env = TorchRLEnv.from_dynamics(Counter(), space, Box(-1, 1, (1,), np.float32), num_envs=B)
    with pytest.raises(ValueError, match=message):
        env.reset()


def test_the_same_dynamics_runs_in_the_right_space():
    space = Box(-9, 9, (1,), np.float32)
    env = TorchRLEnv.from_dynamics(Counter(), space, Box(-1, 1, (1,), np.float32), num_envs=B)
    rollout = env.rollout(4)
    torch.testing.assert_close(rollout["next", "observation"], rollout["action"].cumsum(1))


@pytest.mark.parametrize("space", [gym.spaces.Text(3), gym.spaces.Sequence(Discrete(2)), gym.spaces.Graph(PLANE, None)])
def test_spaces_without_specs_are_refused(space):
    engine = BY_NAME["pendulum"].disabled(B).engine
    torques = BY_NAME["pendulum"].vector(1).single_action_space
    with pytest.raises(ValueError, match="there is no spec for observations of"):
        TorchRLEnv(engine, space, torques)


# -- devices -------------------------------------------------------------------------------------------------------


def test_an_environment_is_not_moved():
    env, td = ready("pendulum")
    assert env.to("cpu") is env
    for move in (lambda: env.to("meta"), lambda: TransformedEnv(env, T.RewardSum(), device="meta")):
        with pytest.raises(ValueError, match=r"world is on cpu .* cannot be moved to meta"):
            move()
    assert env.step(td)["next", "observation"].device.type == "cpu", "as it was"


def test_a_world_on_another_device_takes_actions_there_alone():
    env = WorldModel.bundled("Pendulum-v1", device="meta").to_torchrl_env(B)
    td = env.reset().clear_device_()
    with pytest.raises(ValueError, match="'action' is on cpu, the environment on meta"):
        env.step(td.set("action", torch.zeros(B, 1)))


# -- names ----------------------------------------------------------------------------------------------------------

KEPT = ("action", "next", "reward", "done", "terminated", "truncated", "collector", "world_state")
KEPT_ANYWHERE = ("", "_reset", "_step", "device", "dtype", "shape", "space")


def named(*path):
    """A vector environment whose Dict observations have a part there."""

    def shown(place):
        part = place
        for name in reversed(path):
            part = {name: part}
        return {**part, "place": place}

    def step(state, action):
        return {"state": state + 1, "observation": shown(state + 1), "reward": state.sum(-1)}

    observed = PLANE
    for name in reversed(path):
        observed = Dict({name: observed})
    observed = Dict({**observed, "place": PLANE})
    start = {"initial_state": torch.zeros(2), "initial_observation": shown(torch.zeros(2))}
    return WorldModelVectorEnv.from_callables(step, observed, Box(-1, 1, (2,)), num_envs=B, **start)


@pytest.mark.parametrize("path", [*[(name,) for name in (*KEPT, *KEPT_ANYWHERE)], *[("eye", n) for n in KEPT_ANYWHERE]])
def test_observations_by_names_that_torchrl_keeps_are_refused_at_construction(path):
    with pytest.raises(ValueError, match=f"has a part '{path[-1]}', a name that TorchRL keeps for itself. Rename it"):
        named(*path).to_torchrl()


TAKEN = [*[("eye", name) for name in KEPT], *[(name,) for name in ("observation", "state", "batch_size", "keys")]]


@pytest.mark.parametrize("path", TAKEN)
def test_other_names_lose_nothing(path):
    env = named(*path).to_torchrl(expose_state=True)
    check_env_specs(env)
    rollout = env.rollout(3)
    key = path if len(path) > 1 else path[0]
    assert torch.equal(rollout[key], rollout["place"])
    assert torch.equal(rollout["next"][key], rollout["next", "place"])
