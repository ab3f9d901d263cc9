"""What a world learns from, in each form that people have it in."""

import dataclasses
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from wm_vec import ModelConfig, WorldModel, compile_schema
from wm_vec.canvas import EnvSignature, Field, UnknownFieldError
from wm_vec.train import (
    collect_transitions,
    data_from_minari,
    data_from_sources,
    data_from_transitions,
    load_transitions,
    save_transitions,
)
from wm_vec.train.data import DataError

SIGNATURE = EnvSignature(Box(-10.0, 10.0, (2,)), Discrete(3, start=1))
BOUND = SIGNATURE.schema(32)  # observation 0 1, action 2, reward 3, terminated 4


def transitions(steps=6, **changes):
    """Steps t = 0, 1, ... with observation (t, -t), the episode ending after step 2."""
    t = torch.arange(steps)
    ends = (t == 2)[:, None]
    td = TensorDict(
        {
            "observation": torch.stack((t, -t), 1).float(),
            "action": t % 3 + 1,
            "next": {
                "observation": torch.stack((t + 1, -t - 1), 1).float(),
                "reward": (10.0 * t)[:, None],
                "terminated": ends,
                "truncated": torch.zeros_like(ends),
                "done": ends,
            },
        },
        batch_size=[steps],
    )
    for key, value in changes.items():
        td[tuple(key.split("__")) if "__" in key else key] = value
    return td


def convert(td, signature=SIGNATURE):
    return data_from_transitions(td, signature.schema(32), signature)


# -- transitions --------------------------------------------------------------------------------------------


def test_transitions_lie_where_the_layout_says():
    data = convert(transitions())
    assert len(data) == 6
    assert data.values[4].tolist() == [4.0, -4.0, 1.0, 0.0, 0.0]  # action 2 of {1, 2, 3} is class 1
    assert data.next_values[4].tolist() == [5.0, -5.0, 1.0, 40.0, 0.0]
    assert data.next_values[:, 4].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert data.known[4].tolist() == [True, True, True, False, False]
    assert bool(data.next_known.all())
    assert data.values.dtype == torch.float32


def test_starts_and_episodes_are_read_off_the_ends():
    data = convert(transitions())
    assert data.starts[:, 0].tolist() == [0.0, 3.0], "the first step, and the one after the end"
    assert data.starts_known.tolist() == [[True, True, False, False, False]] * 2
    assert data.starts[:, 2:].tolist() == [[0.0] * 3] * 2, "an action is no part of a start"
    assert data.episode.diff().tolist() == [0, 0, 1, 0, 0]


def test_truncation_ends_an_episode_too():
    ends = torch.tensor([0, 0, 0, 1, 0, 0]).bool()[:, None]
    data = convert(transitions(next__truncated=ends))
    assert data.starts[:, 0].tolist() == [0.0, 3.0, 4.0]


def test_every_row_of_a_batch_is_an_episode_of_its_own():
    data = convert(torch.stack([transitions(), transitions()]))  # TorchRL's (B, T)
    assert data.starts[:, 0].tolist() == [0.0, 3.0, 0.0, 3.0]
    assert len(data.episode.unique()) == 4


def test_marked_starts_and_episodes_are_taken_as_they_are():
    marked = torch.tensor([1, 0, 0, 0, 0, 1]).bool()[:, None]
    data = convert(transitions(is_init=marked, episode=torch.tensor([5, 5, 5, 6, 6, 7])))
    assert data.starts[:, 0].tolist() == [0.0, 5.0]
    assert data.episode.tolist() == [5, 5, 5, 6, 6, 7]


def test_one_hot_classes_are_read_as_torchrl_writes_them():
    hot = torch.nn.functional.one_hot(torch.arange(6) % 3, 3)
    assert torch.equal(convert(transitions(action=hot)).values, convert(transitions()).values)


def test_images_and_matrices_are_flattened_row_major():
    signature = EnvSignature(Box(0, 255, (2, 3), np.uint8), Box(-1.0, 1.0, ()))
    td = transitions()
    frames = torch.arange(36, dtype=torch.uint8).view(6, 2, 3)
    td["observation"], td["next", "observation"] = frames, frames + 100
    td["action"] = torch.linspace(-1, 1, 6)
    data = convert(td, signature)
    assert data.values[1, :6].tolist() == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert data.next_values[5, 5].tolist() == 135.0


def test_gradients_are_left_behind():
    td = transitions()
    td["next", "reward"] = td["next", "reward"].requires_grad_(True)
    assert not convert(td).next_values.requires_grad


ONE_HOT = torch.nn.functional.one_hot(torch.arange(6) % 3, 3)
SOFT = torch.tensor([[0.9, -0.4, 0.2]]).softmax(-1).expand(6, 3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_one_hot_classes_of_any_dtype_are_their_argmax(dtype):
    hot = ONE_HOT.to(dtype)
    if dtype.is_floating_point:  # as a straight-through estimator gives them
        hot = hot + SOFT.to(dtype) - SOFT.to(dtype)
    assert convert(transitions(action=hot)).values[:, 2].tolist() == [0, 1, 2, 0, 1, 2]


def test_one_hot_classes_of_several_parts_are_each_their_argmax():
    signature = EnvSignature(SIGNATURE.observation_space, MultiDiscrete([3, 2]))
    second = torch.nn.functional.one_hot(torch.arange(6) // 3, 2)
    hot = torch.cat((ONE_HOT, second), 1) * 0.9999999
    data = convert(transitions(action=hot), signature)
    assert data.values[:, 2:4].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    with pytest.raises(DataError, match=r"action in row 0 is \[1.0, 0.0, 0.0, 0.5, 0.5\], no one-hot"):
        convert(transitions(action=torch.cat((ONE_HOT, second * 0 + 0.5), 1)), signature)


@pytest.mark.parametrize(
    "bad", [[0.3, 0.3, 0.4], [0, 0, 0], [1, 1, 0], [1, 0, 0.01], [2, 0, 0], [0, -1, 0], [1, torch.nan, 0]], ids=str
)
@pytest.mark.parametrize("name", ["action", "observation", "next observation"])
def test_vectors_that_are_not_one_hot_are_refused(bad, name):
    signature = EnvSignature(Discrete(3), Discrete(3))
    td = transitions(action=ONE_HOT.float(), observation=ONE_HOT.float(), next__observation=ONE_HOT.float())
    td[("next", "observation") if name == "next observation" else name][4] = torch.tensor(bad)
    with pytest.raises(DataError, match=rf"The {name} in row 4 is \[.*\], no one-hot vector of Discrete\(3\)"):
        convert(td, signature)


@pytest.mark.parametrize("space", [Discrete(1), Discrete(1, start=4), MultiDiscrete([1, 1])])
@pytest.mark.parametrize("one_hot", [True, False])
def test_a_single_class_is_read_as_an_index_and_as_a_one_hot_vector(space, one_hot):
    width = int(np.prod(space.shape, dtype=int))
    first = int(np.ravel(space.start)[0])
    action = torch.full((6, width), 1 if one_hot else first)
    data = convert(transitions(action=action), EnvSignature(SIGNATURE.observation_space, space))
    assert data.values[:, 2 : 2 + width].unique().tolist() == [0.0]
    with pytest.raises(DataError, match="class index"):
        convert(transitions(action=action + 7), EnvSignature(SIGNATURE.observation_space, space))


# -- values outside their space ------------------------------------------------------------------------------------


class Episode:
    def __init__(self, observations, actions, **others):
        self.observations, self.actions = observations, actions
        self.rewards = self.terminations = self.truncations = np.zeros(len(actions))
        self.__dict__.update(others)


def as_episode(td):
    observations = torch.cat((td["observation"], td["next", "observation"][-1:])).numpy()
    others = {"rewards": td["next", "reward"][:, 0].numpy(), "terminations": td["next", "terminated"][:, 0].numpy()}
    return Episode(observations, td["action"].numpy(), **others)


def in_buffer(td):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(td)))
    buffer.extend(td)
    return buffer


def through_file(td, folder):
    save_transitions(td, folder / "steps.safetensors")
    return load_transitions(folder / "steps.safetensors")


WAYS = {
    "TensorDict": lambda td, _: td,
    "list of batches": lambda td, _: [td, td],
    "batches of rows": lambda td, _: torch.stack([td, td]),
    "replay buffer": lambda td, _: in_buffer(td),
    "file": through_file,
    "episodes": lambda td, _: [as_episode(td)],
}
BOXES = EnvSignature(Box(np.float32([0, -5]), np.float32([9, -5]), dtype=np.float32), Box(-2.0, 2.0, (1,)))
"""The second number is always -5."""


def in_boxes(**changes):
    """Steps that fit `BOXES`, but for `changes`: a row, a column and what stands there."""
    seen = torch.stack((torch.arange(7.0), torch.full((7,), -5.0)), 1)
    acted = torch.linspace(-2, 2, 6)[:, None]
    for name, (row, column, value) in changes.items():
        {"seen": seen, "acted": acted}[name][row, column] = value
    return transitions(observation=seen[:-1], action=acted, next__observation=seen[1:])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": (3, 0, 300.0)}, "'observation[0]' is 300 in row {}; it takes finite numbers from 0 to 9."),
        ({"seen": (3, 0, -3.0)}, "'observation[0]' is -3 in row {}; it takes finite numbers from 0 to 9."),
        ({"seen": (6, 0, 9.01)}, "next_values: 'observation[0]' is 9.01000023 in row {}"),
        ({"seen": (3, 1, 7.0)}, "'observation[1]' is 7 in row {}; it takes finite numbers from -5 to -5."),
        ({"seen": (3, 0, torch.nan)}, "'observation[0]' is nan in row {}"),
        ({"seen": (3, 0, -torch.inf)}, "'observation[0]' is -inf in row {}"),
        ({"acted": (3, 0, 1e6)}, "'action' is 1000000 in row {}; it takes finite numbers from -2 to 2."),
        ({"acted": (3, 0, -2.1)}, "'action' is -2.0999999 in row {}"),
    ],
)
def test_values_beyond_their_box_are_refused_however_they_come(way, change, message, tmp_path):
    world = WorldModel.from_signature(BOXES, config=ModelConfig(num_blocks=1))
    assert len(world.as_data(WAYS[way](in_boxes(), tmp_path))) in (6, 12)
    with pytest.raises(DataError, match=re.escape(message.format(3 if "next" not in message else 5))):
        world.as_data(WAYS[way](in_boxes(**change), tmp_path))


@pytest.mark.parametrize("way", WAYS)
def test_rounding_beyond_a_box_is_clipped(way, tmp_path):
    world = WorldModel.from_signature(BOXES, config=ModelConfig(num_blocks=1))
    td = in_boxes(seen=(0, 0, -1e-7), acted=(5, 0, 2.0000002))
    td["next", "observation"][5, 0] = 9.000001
    td["next", "observation"][5, 1] = -5.0000005
    data = world.as_data(WAYS[way](td, tmp_path))
    assert data.starts[0, 0] == data.values[0, 0] == 0.0
    assert data.values[5, 2] == data.next_values[5, 2] == 2.0
    assert data.next_values[5, :2].tolist() == [9.0, -5.0]
    assert td["observation"][0, 0] < 0.0, "what was given is left as it is"


def test_values_of_canvas_states_are_checked_too():
    world = WorldModel.from_signature(BOXES, config=ModelConfig(num_blocks=1))
    data = world.as_data(in_boxes())
    assert world.as_data(data).fingerprint() == data.fingerprint()
    for name, column, bad in (("values", 0, 9.5), ("next_values", 3, torch.nan), ("starts", 1, 0.0)):
        table = getattr(data, name).clone()
        table[-1, column] = bad
        with pytest.raises(DataError, match=rf"{name}: '.*' is {bad:g} in row {len(table) - 1}"):
            world.as_data(dataclasses.replace(data, **{name: table}))


def test_float64_bounds_hold_for_what_float32_makes_of_the_data():
    signature = EnvSignature(Box(0.0, 0.1, (1,), np.float64), Discrete(3, start=1))
    seen = torch.full((6, 1), 0.1, dtype=torch.float64)
    data = convert(transitions(observation=seen, next__observation=seen), signature)
    assert 0.0999999 < float(data.values[0, 0]) <= 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
@pytest.mark.parametrize("bad", [300, -200, 1.5])
def test_whole_number_boxes_take_whole_numbers_within_their_bounds(dtype, bad):
    low, high = (0, 100) if dtype == np.uint8 else (-100, 100)
    signature = EnvSignature(Box(low, high, (2,), dtype), Discrete(3, start=1))
    seen = torch.arange(12, dtype=torch.float32).view(6, 2)
    assert len(convert(transitions(observation=seen, next__observation=seen), signature)) == 6
    following = seen.clone()
    following[2, 1] = bad
    with pytest.raises(DataError, match=rf"row 2.*takes whole|is {bad} in row 2; it takes finite numbers from {low}"):
        convert(transitions(observation=seen, next__observation=following), signature)


def test_values_beyond_are_named_by_their_part():
    space = Dict({"arm": Tuple((Box(-1.0, 1.0, (2,)), MultiBinary(2))), "leg": Box(0.0, 2.0, ())})
    part = {"arm": {"0": torch.zeros(6, 2), "1": torch.ones(6, 2)}, "leg": torch.ones(6)}
    td = transitions(observation=TensorDict(part, [6]), next__observation=TensorDict(part, [6]).clone())
    assert len(convert(td, EnvSignature(space, Discrete(3, start=1)))) == 6
    td["next", "observation", "arm", "0"][4, 1] = -1.5
    with pytest.raises(DataError, match=r"next_values: 'observation.arm.0\[1\]' is -1.5 in row 4"):
        convert(td, EnvSignature(space, Discrete(3, start=1)))


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        ("observation", torch.ones(6, 2, dtype=torch.complex64), "Each observation must be real numbers"),
        ("action", torch.ones(6, dtype=torch.complex64), "Each action must be real numbers"),
        ("next__observation", torch.ones(6, 2, dtype=torch.complex128), "Each next observation must be real numbers"),
        ("next__reward", torch.ones(6, 1, dtype=torch.complex64), "'reward'.* must be one real number per step"),
        ("next__reward", torch.zeros(6, 2), r"'reward'.* must be one real number per step, got shape \(2,\)"),
        ("next__reward", torch.full((6, 1), torch.nan), "'reward' is nan in row 0"),
        ("next__reward", torch.full((6, 1), 1e300, dtype=torch.float64), "'reward' is inf in row 0"),
        ("next__terminated", torch.full((6, 1), torch.nan), "'terminated' is nan in row 0; it takes whole"),
        ("next__terminated", torch.full((6, 1), 0.5), "'terminated' is 0.5 in row 0; it takes whole numbers from 0"),
        ("next__terminated", torch.full((6, 1), 7), "'terminated' is 7 in row 0"),
        ("next__terminated", torch.zeros(6, 3).bool(), r"'terminated'.* must be one real number per step"),
        ("next__done", torch.zeros(6, 3).bool(), r"'done'.* must be one real number per step"),
        ("is_init", torch.zeros(6, 3).bool(), r"'is_init' must be one real number per step"),
        ("step_count", torch.zeros(6, 3), r"'step_count' must be one real number per step"),
        ("episode", torch.zeros(6, 2), r"'episode' must be one real number per step"),
    ],
)
def test_entries_that_are_no_real_number_per_step_are_refused(key, bad, message):
    with pytest.raises(DataError, match=message):
        convert(transitions(**{key: bad}))


@pytest.mark.parametrize(
    ("td", "message"),
    [
        (lambda: transitions().exclude("action"), r"lack \['action'\]"),
        (lambda: transitions().exclude(("next", "reward")), r"lack \[\('next', 'reward'\)\]"),
        (lambda: transitions()[:0], "empty"),
        (
            lambda: transitions(observation=torch.zeros(6, 3)),
            r"Each observation must have 2 numbers.*got shape \(3,\)",
        ),
        (lambda: transitions(next__observation=torch.zeros(6, 1)), "Each next observation must have 2"),
        (
            lambda: transitions(action=torch.arange(6)),
            r"Each action must be a class index of Discrete\(3.*got 0",
        ),
        (lambda: transitions(action=torch.full((6,), 4)), "class index.*got 4"),
        (lambda: transitions(action=torch.full((6,), 1.5)), r"class index.*got 1\.5"),
        (lambda: transitions(action=torch.ones(6, 2)), "Each action must"),
        (
            lambda: transitions(observation=torch.full((6, 2), torch.nan)),
            r"values: 'observation\[0\]' is nan in row 0",
        ),
        (
            lambda: transitions(next__reward=torch.full((6, 1), torch.inf)),
            "next_values: 'reward' is inf in row 0",
        ),
    ],
)
def test_transitions_that_do_not_fit(td, message):
    with pytest.raises(DataError, match=message):
        convert(td())


def test_collected_steps_are_the_environments_own():
    td = collect_transitions("CartPole-v1", 500, seed=3, num_envs=4)
    data = data_from_transitions(td, *(s := EnvSignature.of_env("CartPole-v1"), s.schema(32))[::-1])
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    for row in (0, 123, 499):
        env.state = tuple(td["observation"][row].double().tolist())
        env.steps_beyond_terminated = None
        following, reward, terminated, _, _ = env.step(int(td["action"][row]))
        np.testing.assert_allclose(data.next_values[row, :4].numpy(), following, atol=1e-5)
        assert data.next_values[row, 5:].tolist() == [reward, float(terminated)]
    assert bool((data.starts[:, :4].abs() <= 0.05).all()), "CartPole starts within 0.05"
    # An episode's steps follow one another, up to and without its last.
    for number in td["episode"].unique()[:5]:
        rows = (td["episode"] == number).nonzero().flatten()
        assert torch.equal(td["next", "observation"][rows[:-1]], td["observation"][rows[1:]])
        assert not bool(td["next", "done"][rows[:-1]].any())


# -- Minari -------------------------------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari")


def cartpole_episode(seed):
    """A random episode of CartPole as Minari records it."""
    from minari.data_collector import EpisodeBuffer

    env = gym.make("CartPole-v1")
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    buffer = EpisodeBuffer(observations=[observation], actions=[], infos=None)
    over = False
    while not over:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        buffer.observations.append(observation)
        buffer.actions.append(action)
        buffer.rewards.append(reward)
        buffer.terminations.append(terminated)
        buffer.truncations.append(truncated)
    return buffer


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_of_cartpole_through_minaris_own_files(minari):
    dataset = minari.create_dataset_from_buffers(
        "cartpole/random-v0", [cartpole_episode(seed) for seed in range(3)], env=gym.make("CartPole-v1")
    )
    signature = EnvSignature.of_env("CartPole-v1")
    data = data_from_minari(minari.load_dataset("cartpole/random-v0"), signature.schema(32), signature)
    assert len(data) == dataset.total_steps
    assert data.episode.unique().tolist() == [0, 1, 2]
    assert len(data.starts) == 3
    for number, episode in enumerate(dataset):
        rows = data.episode == number
        np.testing.assert_array_equal(data.values[rows, :4].numpy(), episode.observations[:-1])
        np.testing.assert_array_equal(data.next_values[rows, :4].numpy(), episode.observations[1:])
        np.testing.assert_array_equal(data.values[rows, 4].numpy(), episode.actions)
        np.testing.assert_array_equal(data.starts[number, :4].numpy(), episode.observations[0])
        assert data.next_values[rows, 6].tolist() == [0.0] * (int(rows.sum()) - 1) + [1.0]
    training, held_out = data.split(0.3)
    assert len(training.episode.unique()) == 2
    assert len(held_out.episode.unique()) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_from_buffers_with_continuous_actions(minari):
    from minari.data_collector import EpisodeBuffer

    space, steps = Box(-1.0, 1.0, (2,)), 5
    buffers = [
        EpisodeBuffer(
            observations=[np.full(2, (t + n) / 10, np.float32) for t in range(steps + 1)],
            actions=[np.array([t / 10], np.float32) for t in range(steps)],
            rewards=[float(t) for t in range(steps)],
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
        )
        for n in range(2)
    ]
    actions = Box(-1.0, 1.0, (1,))
    dataset = minari.create_dataset_from_buffers("made/up-v0", buffers, observation_space=space, action_space=actions)
    signature = EnvSignature(space, actions)
    data = data_from_minari(dataset, signature.schema(32), signature)
    torch.testing.assert_close(data.values[6], torch.tensor([0.2, 0.2, 0.1, 0.0, 0.0]))
    torch.testing.assert_close(data.next_values[6], torch.tensor([0.3, 0.3, 0.1, 1.0, 0.0]))
    cartpole = EnvSignature.of_env("CartPole-v1")
    with pytest.raises(DataError, match="Each observation must have 4 numbers"):
        data_from_minari(dataset, cartpole.schema(32), cartpole)


SEEN, ACTED = np.zeros((4, 2), np.float32), np.ones(3, int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(4)}, "3 actions and 4 rewards; expected 3"),
        ({"rewards": np.zeros(2)}, "3 actions and 2 rewards; expected 3"),
        ({"rewards": 1.0}, "3 actions and no rewards"),
        ({"rewards": None}, "3 actions and no rewards"),
        ({"rewards": np.zeros((3, 2))}, "'reward'.* must be one real number per step"),
        ({"rewards": [1.0, np.nan, 0.0]}, "'reward' is nan in row 1"),
        ({"rewards": np.ones(3) * 1j}, "'rewards' must be an array of real numbers"),
        ({"rewards": ["a", "b", "c"]}, "'rewards' must be an array of real numbers"),
        ({"terminations": np.zeros(4, bool)}, "3 actions and 4 terminations; expected 3"),
        ({"terminations": [0, np.nan, 0]}, "'terminated' is nan in row 1"),
        ({"terminations": [0, 0.5, 0]}, "'terminated' is 0.5 in row 1"),
        ({"observations": np.zeros((3, 2))}, "3 actions and 3 observations; expected 4"),
        ({"observations": SEEN + 1j}, "'observations' must be an array of real numbers"),
        ({"observations": [[0.0, 0.0], [0.0], [0.0, 0.0], [0.0, 0.0]]}, "'observations' must be an array"),
        ({"observations": SEEN + 11}, r"'observation\[0\]' is 11 in row 0"),
        ({"actions": np.ones(2, int)}, "2 actions and 4 observations; expected 3"),
        ({"actions": [1, [1, 2], 1]}, "'actions' must be an array of real numbers"),
        ({"actions": np.ones((3, 2), int)}, r"Each action must have 1 numbers .* got shape \(2,\)"),
        ({"actions": np.full((3, 3), 0.3)}, r"action in row 0 is .*no one-hot vector"),
        ({"actions": 1}, "0 actions and 4 observations; expected 1"),
    ],
)
@pytest.mark.parametrize("number", [0, 2])
def test_an_episode_that_does_not_fit_is_named(change, message, number):
    episodes = [Episode(SEEN, ACTED) for _ in range(3)]
    episodes[number].__dict__.update(change)
    with pytest.raises(DataError, match=rf"Episode {number}: .*{message}"):
        data_from_minari(episodes, BOUND, SIGNATURE)


def test_lengths_that_agree_in_sum_alone_are_refused():
    """Rewards would be shifted from one episode into the other."""
    episodes = [Episode(SEEN, ACTED, rewards=np.zeros(4)), Episode(SEEN, ACTED, rewards=np.zeros(2))]
    with pytest.raises(DataError, match="Episode 0: It has 3 actions and 4 rewards"):
        data_from_minari(episodes, BOUND, SIGNATURE)


def test_episodes_may_write_their_actions_in_different_forms():
    episodes = [Episode(SEEN, ACTED + 1), Episode(SEEN, np.eye(3)[[0, 1, 2]]), Episode(SEEN, ACTED[:, None])]
    data = data_from_minari(episodes, BOUND, SIGNATURE)
    assert data.values[:, 2].tolist() == [1, 1, 1, 0, 1, 2, 0, 0, 0]
    assert data.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_episode_of_no_steps_adds_nothing():
    episodes = [Episode(SEEN[:1], np.zeros((0, 3))), Episode(SEEN, ACTED)]
    assert len(data_from_minari(episodes, BOUND, SIGNATURE)) == 3


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        (
            [Episode(np.zeros((3, 2)), np.ones(3, int))],
            "Episode 0: It has 3 actions and 3 observations; expected 4",
        ),
        ([Episode({"a": np.zeros((4, 2))}, np.ones(3, int))], "must be one tensor.*got a TensorDict of several"),
        ([Episode(np.zeros((4, 2)), {"a": np.ones(3, int)})], "Episode 0: The actions have several parts.*dict"),
        ([Episode({"a": np.zeros((4, 2)), "b": np.zeros(3)}, np.ones(3, int))], "3 actions and 3 observations"),
    ],
)
def test_datasets_that_do_not_fit(episodes, message):
    with pytest.raises(DataError, match=message):
        data_from_minari(episodes, BOUND, SIGNATURE)


# -- mappings -----------------------------------------------------------------------------------------------

FIRM = compile_schema(
    {
        "revenue": Field(),
        "grid": Field(2, 2),
        "mood": Field(num_classes=3),
        "unseen": Field(),
        "share": Field(low=0.0, high=1.0),
    }
)


def test_a_mapping_with_gaps():
    nan = np.nan
    data = data_from_sources(
        {
            "revenue": [1.0, nan, 3.0, 4.0],
            "mood": np.array([0, 2, nan, 1]),
            "grid": np.arange(16).reshape(4, 2, 2),
        },
        FIRM,
    )
    assert len(data) == 3
    assert data.values[:, 0].tolist() == [1.0, 0.0, 3.0]
    assert data.known[:, 0].tolist() == [True, False, True]
    assert data.next_values[:, 0].tolist() == [0.0, 3.0, 4.0]
    assert data.next_known[:, 0].tolist() == [False, True, True]
    assert data.values[1, 1:5].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert data.values[:, 5].tolist() == [0.0, 2.0, 0.0]
    assert not bool(data.known[:, 6].any()), "what is left out is unknown throughout"
    assert bool(torch.isfinite(data.values).all() & torch.isfinite(data.next_values).all())
    assert data.tick.tolist() == [0, 1, 2]
    assert data.starts.shape == (4, 8)
    assert data.starts_known[:, 0].tolist() == [True, False, True, True]


def test_rounding_beyond_a_fields_bounds_is_clipped():
    data = data_from_sources({"share": [1.0000001, np.nan, -1e-8, 0.5]}, FIRM)
    assert data.starts[:, 7].tolist() == [1.0, 0.0, 0.0, 0.5]
    assert data.starts_known[:, 7].tolist() == [True, False, True, True]


@pytest.mark.parametrize("convert_array", [list, np.asarray, torch.as_tensor])
def test_a_mapping_takes_lists_arrays_and_tensors(convert_array):
    assert data_from_sources({"revenue": convert_array([1.0, 2.0, 3.0])}, FIRM).values[1, 0] == 2.0


@pytest.mark.parametrize(
    ("series", "error", "message"),
    [
        ({}, DataError, "no series of a field"),
        ({"revenues": [1, 2, 3]}, UnknownFieldError, r"'revenues'\. Closest: revenue"),
        ({"revenue": [1, 2]}, DataError, "Of 2 rows, 1 have a row one step .* at least 3 rows"),
        ({"revenue": 1.0}, DataError, "must be a series over time, got 1.0"),
        ({"revenue": [1, 2, 3], "mood": [0, 1, 2, 0]}, DataError, r"different lengths: 3 \('revenue'\), 4 \('mood'\)"),
        ({"grid": np.zeros((3, 5))}, DataError, r"'grid' has 4 positions.*3 x 4 numbers, got shape \(3, 5\)"),
        ({"revenue": [1, np.inf, 2]}, DataError, "'revenue' is inf in row 1"),
        ({"revenue": [1, 1e300, 2]}, DataError, "'revenue' is inf in row 1"),
        ({"mood": [0, 1, 3]}, DataError, "'mood' is 3 in row .* takes whole numbers from 0 to 2"),
        ({"mood": [0, 1.5, 2]}, DataError, "'mood' is 1.5 in row 1"),
        ({"mood": [0, -1, 2]}, DataError, "'mood' is -1 in row 1"),
        ({"revenue": ["a", "b", "c"]}, DataError, "'revenue'.*numbers"),
        ({"revenue": [1j, 1, 2]}, DataError, "'revenue'.*real numbers over time: got complex128"),
        ({"share": [0.0, 0.5, 1.5]}, DataError, "'share' is 1.5 in row .* takes finite numbers from 0 to 1"),
        ({"share": [0.0, -2.0, 0.5]}, DataError, "'share' is -2 in row 1"),
        ({"revenue": [[1], [1, 2], [3]]}, DataError, "'revenue'.*numbers"),
    ],
)
def test_mappings_that_do_not_fit(series, error, message):
    with pytest.raises(error, match=message):
        data_from_sources(series, FIRM)


# -- splitting and joining ----------------------------------------------------------------------------------


def test_held_out_steps_are_whole_episodes():
    td = collect_transitions("CartPole-v1", 800, seed=0)
    data = convert(td, EnvSignature.of_env("CartPole-v1"))
    training, held_out = data.split(0.2, seed=1)
    assert len(training) + len(held_out) == 800
    assert not set(training.episode.tolist()) & set(held_out.episode.tolist())
    episodes = len(data.episode.unique())
    assert len(held_out.episode.unique()) == round(0.2 * episodes)
    again = data.split(0.2, seed=1)[1]
    assert torch.equal(again.values, held_out.values)
    assert not torch.equal(data.split(0.2, seed=2)[1].episode.unique(), held_out.episode.unique())


def test_steps_without_marks_are_held_out_by_episodes_too():
    bare = collect_transitions("CartPole-v1", 400, num_envs=1).exclude("episode", "is_init")
    data = convert(bare, EnvSignature.of_env("CartPole-v1"))
    training, held_out = data.split()
    assert not set(training.episode.tolist()) & set(held_out.episode.tolist())
    assert len(data.episode.unique()) == int(bare["next", "done"][:-1].sum()) + 1


def test_of_one_recording_the_end_is_held_out():
    data = data_from_sources({"revenue": np.arange(21.0)}, FIRM)
    training, held_out = data.split(0.25)
    assert training.values[:, 0].tolist() == list(range(15))
    assert held_out.values[:, 0].tolist() == list(range(15, 20))


def test_one_step_cannot_be_split():
    with pytest.raises(DataError, match="at least 2"):
        convert(transitions()[:1]).split()


def test_joined_episodes_stay_apart():
    one, two = convert(transitions()), convert(transitions())
    both = one.join(two)
    assert len(both) == 12
    assert len(both.starts) == 4
    assert not set(both.episode[:6].tolist()) & set(both.episode[6:].tolist())


def test_the_fingerprint_knows_every_value():
    data = convert(transitions())
    assert data.fingerprint() == convert(transitions()).fingerprint()
    for name in ("values", "next_known", "episode", "starts"):
        other = convert(transitions())
        tensor = getattr(other, name)
        tensor[1] = ~tensor[1] if tensor.dtype == torch.bool else tensor[1] + 1
        assert other.fingerprint() != data.fingerprint(), name


@pytest.mark.parametrize("n", [0, -1])
def test_collecting_nothing(n):
    with pytest.raises(ValueError, match=f"n must be a whole number of at least 1, got {n}"):
        collect_transitions("CartPole-v1", n)
