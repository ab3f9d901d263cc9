"""States of every structure, in every way of running that takes them."""

from __future__ import annotations

import pickle
from collections import namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict, TensorDictBase

from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
BATCHINGS = ["batched", "vmap"]
NUM_ENVS = 4


class Pair(NamedTuple):
    """Two parts of a state: a sum of all pushes, and the number of steps."""

    total: torch.Tensor
    count: torch.Tensor


Nested = namedtuple("Nested", ["deep", "flat"])

# How two tensors are put together, and taken apart again.
STRUCTURES = {
    "tensor": (lambda total, count: torch.cat([total, count[..., None]], -1), lambda s: (s[..., :2], s[..., 2])),
    "TensorDict": (
        lambda total, count: TensorDict({"total": total, "in": {"count": count}}, batch_size=count.shape),
        lambda s: (s["total"], s["in", "count"]),
    ),
    "nested dict": (
        lambda total, count: {"total": total, "in": {"count": count}},
        lambda s: (s["total"], s["in"]["count"]),
    ),
    "tuple": (lambda total, count: (total, count), lambda s: (s[0], s[1])),
    "named tuple": (Pair, lambda s: (s.total, s.count)),
    "list": (lambda total, count: [total, count], lambda s: (s[0], s[1])),
    "all of them": (
        lambda total, count: Nested({"a": [total, None]}, (TensorDict({"n": count}, batch_size=count.shape),)),
        lambda s: (s.deep["a"][0], s.flat[0]["n"]),
    ),
    "keys that are no words": (lambda total, count: {0: total, ("a", 1): count}, lambda s: (s[0], s["a", 1])),
}


def same_structure(a, b):
    """Types, keys and lengths all the way down."""
    assert type(a) is type(b)
    if isinstance(a, (dict, TensorDictBase)):
        assert set(a.keys()) == set(b.keys())
        for key in a.keys():  # noqa: SIM118 - a TensorDict iterates over rows
            same_structure(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same_structure(one, other)


def world(structure):
    """Reset and transition of a state of this structure; the transition asserts that it gets no other."""
    make, take = STRUCTURES[structure]
    example = make(torch.zeros(2), torch.zeros(()))

    def reset():
        return make(torch.tensor([1.0, 2.0]), torch.zeros(())), torch.tensor([1.0, 2.0])

    def transition(state, action):
        same_structure(state, example)
        total, count = take(state)
        total, count = total + action, count + 1
        return make(total, count), total, count

    return {"reset_fn": reset, "transition_fn": transition}, take


def pushes(steps: int, num_envs: int = NUM_ENVS) -> torch.Tensor:
    return torch.rand(steps, num_envs, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_in_vector_envs(structure, batching):
    """Sums by hand; then the same through states taken out, put back, forked and pickled."""
    callables, take = world(structure)
    env = WorldModelVectorEnv.from_callables(
        None, PLANE, PUSH, num_envs=NUM_ENVS, batching=batching, bank_size=3, **callables
    )
    env.reset(seed=0)
    actions = pushes(6)
    for step in range(3):
        observation, reward, *_, info = env.step(actions[step])
    expected = torch.tensor([1.0, 2.0]) + actions[:3].sum(0)
    torch.testing.assert_close(observation, expected)
    assert reward.tolist() == [3] * NUM_ENVS
    state = info["model_state"]
    rows = list(zip(*take(state), strict=True))
    torch.testing.assert_close(torch.stack([total for total, _ in rows]), expected)
    assert [int(count) for _, count in rows] == [3] * NUM_ENVS

    saved, fork = env.state(), env.fork([2, 0])
    loaded = pickle.loads(pickle.dumps(saved))
    continued = [env.step(action)[0] for action in actions[3:]]
    torch.testing.assert_close(continued[-1], expected + actions[3:].sum(0))
    for back in (saved, loaded):
        env.set_state(back)
        again = [env.step(action)[0] for action in actions[3:]]
        assert all(torch.equal(a, b) for a, b in zip(continued, again, strict=True))
    forked = [fork.step(action[[2, 0]])[0] for action in actions[3:]]
    assert all(torch.equal(a[[2, 0]], b) for a, b in zip(continued, forked, strict=True))


@pytest.mark.parametrize("batching", [None, *BATCHINGS])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_in_scalar_envs(structure, batching):
    callables, take = world(structure)
    env = WorldModelEnv(None, PLANE, PUSH, batching=batching, **callables)
    env.reset(seed=0)
    actions = pushes(3, 1)[:, 0].numpy()
    for action in actions:
        observation, reward, *_, info = env.step(action)
    expected = actions.sum(0) + np.array([1.0, 2.0])
    np.testing.assert_allclose(observation, expected, atol=1e-6)
    assert reward == 3.0
    for state in (info["model_state"], env.state):
        total, count = take(state)
        np.testing.assert_allclose(total, expected, atol=1e-6)
        assert count == 3


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_given_starts_of_any_structure(structure, batching):
    """One start, and several, which episodes draw from."""
    callables, _ = world(structure)
    make, _ = STRUCTURES[structure]
    arguments = {"transition_fn": callables["transition_fn"], "num_envs": 64, "batching": batching}
    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        initial_state=make(torch.tensor([5.0, 6.0]), torch.zeros(())),
        initial_observation=torch.tensor([5.0, 6.0]),
        **arguments,
    )
    assert env.reset(seed=0)[0].tolist() == [[5, 6]] * 64
    assert env.step(torch.ones(64, 2))[0].tolist() == [[6, 7]] * 64
    places = torch.arange(6.0).reshape(3, 2)
    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        initial_state=make(places, torch.zeros(3)),
        initial_observation=places,
        **arguments,
    )
    first, _ = env.reset(seed=0)
    assert sorted(first.unique(dim=0).tolist()) == places.tolist()
    assert torch.equal(env.step(torch.ones(64, 2))[0], first + 1)


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_arrays_become_tensors(batching):
    """Resets in NumPy are common; the model gets tensors all the same."""

    def transition(state, action):
        assert isinstance(state, torch.Tensor)
        return state + action, (state + action).float(), 0.0

    def reset(seed):
        start = np.random.default_rng(seed).normal(size=2)
        return start, start.astype(np.float32)

    env = WorldModelVectorEnv.from_callables(
        None, PLANE, PUSH, num_envs=2, batching=batching, bank_size=2, reset_fn=reset, transition_fn=transition
    )
    first, info = env.reset(seed=0)
    assert info["model_state"].dtype is torch.float64
    torch.testing.assert_close(env.step(torch.ones(2, 2))[0], first + 1)
    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=2,
        batching=batching,
        initial_observation=np.ones(2, np.float32),
        transition_fn=lambda state, action: state + action,
    )
    env.reset(seed=0)
    assert env.step(torch.ones(2, 2))[0].tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize(("shape", "batching"), [("scalar", None), ("scalar", "vmap"), ("vector", "batched")])
def test_starts_that_hang_on_a_graph(shape, batching):
    """An encoder's output, not detached: as people hand it in."""
    encoder = torch.nn.Linear(2, 2)
    latent = encoder(torch.ones(2))
    arguments = {
        "batching": batching,
        "initial_state": {"latent": latent},
        "initial_observation": latent,
        "transition_fn": lambda state, action: (state, state["latent"] + action, 0.0),
    }
    if shape == "scalar":
        env, action = WorldModelEnv(encoder, PLANE, PUSH, **arguments), np.ones(2, np.float32)
    else:
        env = WorldModelVectorEnv.from_callables(encoder, PLANE, PUSH, num_envs=2, **arguments)
        action = torch.ones(2, 2)
    for _ in range(2):
        env.reset(seed=0)
        observation, *_ = env.step(action)
        rows = np.asarray(observation)
        np.testing.assert_allclose(rows, np.broadcast_to(latent.detach() + 1, rows.shape), atol=1e-6)


def make_env(shape, **arguments):
    if shape == "scalar":
        return WorldModelEnv(None, PLANE, PUSH, **arguments)
    return WorldModelVectorEnv.from_callables(None, PLANE, PUSH, num_envs=2, bank_size=2, **arguments)


class Board:
    """No tensor, and nothing made of tensors."""


@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("shape", ["scalar", "vector"])
@pytest.mark.parametrize(
    ("state", "what"),
    [
        (Board(), "state is Board"),
        ({"board": Board()}, "state.board is Board"),
        ((torch.zeros(2), [3]), "state.1.0 is 3"),
        ("start", "state is str"),
    ],
    ids=["object", "in a dict", "a number", "a string"],
)
def test_batches_of_objects_are_refused(shape, batching, state, what):
    arguments = {"batching": batching, "reset_fn": lambda: (state, torch.zeros(2)), "transition_fn": lambda s, a: s}
    with pytest.raises(AdapterError) as caught:
        make_env(shape, **arguments).reset(seed=0)
    message = str(caught.value)
    assert message.startswith(f"CallableDynamics(batching={batching!r}), reset_fn")
    assert what in message
    assert "WorldModelEnv" in message
    assert "SyncVectorEnv" in message


@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize(
    ("later", "what"),
    [
        (lambda s: {"h": s["h"]}, r"began as a mapping of \['c', 'h'\], now it is \{'h': Tensor\("),
        (lambda s: s["h"], "began as a mapping"),
        (lambda s: {"h": s["h"], "c": (s["c"],)}, r"state\.c changed its structure: it began as a tensor"),
        (lambda s: {"h": s["h"], "c": None}, r"state\.c changed its structure.*now it is None"),
    ],
)
def test_states_that_change_their_structure_are_refused(batching, later, what):
    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=2,
        batching=batching,
        initial_state={"h": torch.zeros(2), "c": torch.zeros(2)},
        initial_observation=torch.zeros(2),
        transition_fn=lambda state, action: (later(state), state["h"], 0.0),
    )
    env.reset(seed=0)
    with pytest.raises(
        AdapterError, match=rf"CallableDynamics\(batching='{batching}'\), transition_fn.*{what}.*WorldModelEnv"
    ):
        env.step(torch.zeros(2, 2))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_what_one_writes_into_a_state_from_info_changes_nothing(shape, batching):
    callables, _ = world("nested dict")
    env = make_env(shape, batching=batching, **callables)
    action = np.zeros(2, np.float32) if shape == "scalar" else torch.zeros(2, 2)
    env.reset(seed=0)
    *_, info = env.step(action)
    info["model_state"]["total"].fill_(99.0)
    rows = np.asarray(env.step(action)[0])
    np.testing.assert_array_equal(rows, np.broadcast_to([1, 2], rows.shape))
