"""What a world learns from, in each form that people have it in."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict

from wm_vec import compile_schema
from wm_vec.canvas import EnvSignature, Field, UnknownFieldError
from wm_vec.train import collect_transitions, data_from_mapping, data_from_minari, data_from_transitions
from wm_vec.train.data import DataError

SIGNATURE = EnvSignature(Box(-1.0, 1.0, (2,)), Discrete(3, start=1))
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
            "current values are not finite at step 0",
        ),
        (
            lambda: transitions(next__reward=torch.full((6, 1), torch.inf)),
            "next values are not finite at step 0",
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


class Episode:
    def __init__(self, observations, actions):
        self.observations, self.actions = observations, actions
        self.rewards = self.terminations = self.truncations = np.zeros(len(actions))


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        (
            [Episode(np.zeros((3, 2)), np.ones(3, int))],
            "Episode 0 has 3 actions and 3 observations; expected 4",
        ),
        ([Episode({"a": np.zeros((4, 2))}, np.ones(3, int))], "must be one tensor.*got a TensorDict of several"),
        ([Episode(np.zeros((4, 2)), {"a": np.ones(3, int)})], "Episode 0 has actions of several parts.*dict"),
        ([Episode({"a": np.zeros((4, 2)), "b": np.zeros(3)}, np.ones(3, int))], "3 actions and 3 observations"),
    ],
)
def test_datasets_that_do_not_fit(episodes, message):
    with pytest.raises(DataError, match=message):
        data_from_minari(episodes, BOUND, SIGNATURE)


# -- mappings -----------------------------------------------------------------------------------------------

FIRM = compile_schema({"revenue": Field(), "grid": Field(2, 2), "mood": Field(num_classes=3), "unseen": Field()})


def test_a_mapping_with_gaps():
    nan = np.nan
    data = data_from_mapping(
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
    assert data.starts.shape == (4, 7)
    assert data.starts_known[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("convert_array", [list, np.asarray, torch.as_tensor])
def test_a_mapping_takes_lists_arrays_and_tensors(convert_array):
    assert data_from_mapping({"revenue": convert_array([1.0, 2.0, 3.0])}, FIRM).values[1, 0] == 2.0


@pytest.mark.parametrize(
    ("series", "error", "message"),
    [
        ({}, DataError, "empty"),
        ({"revenues": [1, 2, 3]}, UnknownFieldError, r"'revenues'\. Closest: revenue"),
        ({"revenue": [1, 2]}, DataError, "at least 3 time steps, got {'revenue': 2}"),
        ({"revenue": 1.0}, DataError, "at least 3 time steps"),
        ({"revenue": [1, 2, 3], "mood": [0, 1, 2, 0]}, DataError, "one common length"),
        ({"grid": np.zeros((3, 5))}, DataError, r"'grid' has 4 positions.*3 x 4 numbers, got shape \(3, 5\)"),
        ({"revenue": [1, np.inf, 2]}, DataError, "'revenue' holds infinities"),
        ({"revenue": [1, 1e300, 2]}, DataError, "'revenue' holds infinities"),
        ({"mood": [0, 1, 3]}, DataError, "'mood' is categorical: .* from 0 to 2"),
        ({"mood": [0, 1.5, 2]}, DataError, "'mood' is categorical"),
        ({"mood": [0, -1, 2]}, DataError, "'mood' is categorical"),
        ({"revenue": ["a", "b", "c"]}, DataError, "'revenue'.*numbers"),
        ({"revenue": [[1], [1, 2], [3]]}, DataError, "'revenue'.*numbers"),
    ],
)
def test_mappings_that_do_not_fit(series, error, message):
    with pytest.raises(error, match=message):
        data_from_mapping(series, FIRM)


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
    data = data_from_mapping({"revenue": np.arange(21.0)}, FIRM)
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
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        collect_transitions("CartPole-v1", n)
