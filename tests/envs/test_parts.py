"""Imagined environments whose observations have several parts: the real env's structure, dtypes and numbers."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict import TensorDict

from tests.envs import makers
from wm_vec import ModelConfig, TrainConfig, WorldModel, collect_transitions
from wm_vec.canvas import EnvSignature
from wm_vec.envs.sb3_spaces import face_keys
from wm_vec.train import data_from_minari

pytestmark = pytest.mark.filterwarnings("ignore:This world is untrained")

SPACES = {
    "tuple": Tuple((Box(-1.0, 1.0, (2,), np.float32), Discrete(3, start=2), MultiDiscrete([2, 5], start=[1, -3]))),
    "dict": Dict(
        switches=MultiBinary((2, 2)),
        eye=Dict(image=Box(0, 255, (2, 2), np.uint8), tags=Tuple((Discrete(4),))),
        observation=MultiDiscrete(np.array([3, 3], np.int32), dtype=np.int32),
    ),
    "classes": MultiDiscrete([2, 5]),
    "switches": MultiBinary(4),
}
ACTIONS = {
    "tuple": Discrete(2),
    "dict": MultiDiscrete([2, 3]),
    "classes": MultiBinary(2),
    "switches": Box(-1.0, 1.0, (2,), np.float32),
}


class Shuffled(gym.Env):
    """Shows an element of its space at random; episodes last five steps."""

    def __init__(self, kind: str) -> None:
        self.observation_space, self.action_space = copy.deepcopy((SPACES[kind], ACTIONS[kind]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.elapsed = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert action in self.action_space
        self.elapsed += 1
        return self.observation_space.sample(), float(self.elapsed), self.elapsed == 5, False, {}


def untrained(kind: str) -> WorldModel:
    return WorldModel.from_env(Shuffled(kind), config=ModelConfig(num_blocks=1))


@pytest.fixture(scope="module", params=SPACES)
def learned(request):
    """Kind, world after a few steps of training, and what it learned from."""
    world = untrained(request.param)
    transitions = collect_transitions(lambda: Shuffled(request.param), 120, num_envs=4)
    world.finetune(transitions, config=TrainConfig(n_steps=3, batch_size=32))
    return request.param, world, transitions


def test_it_has_the_spaces_of_the_real_one_and_keeps_to_them(learned):
    kind, world, _ = learned
    env, envs = world.to_env(), world.to_vector_env(5, max_episode_steps=3)
    assert (env.observation_space, env.action_space) == (SPACES[kind], ACTIONS[kind])
    check_env(env, skip_render_check=True)
    real = SyncVectorEnv([lambda: Shuffled(kind)] * 5)
    assert (envs.observation_space, envs.action_space) == (real.observation_space, real.action_space)
    observation, _ = envs.reset(seed=0)
    for _ in range(7):
        assert makers.as_numpy(observation) in real.observation_space
        action = envs.sample_actions()
        assert action.numpy().astype(real.action_space.dtype) in real.action_space
        observation, *_, info = envs.step(action)
        assert makers.as_numpy(info["final_obs"]) in real.observation_space


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_scalar_view_is_row_0_of_the_vector_env(learned, mode):
    _, world, _ = learned
    scalar, vector = world.to_env(max_episode_steps=4), world.to_vector_env(1, max_episode_steps=4, autoreset_mode=mode)
    mine, _ = scalar.reset(seed=3)
    rows, _ = vector.reset(seed=3)
    over = False
    for action in makers.sampled_actions(vector, 12):
        assert makers.same([mine], [first(rows, scalar.observation_space)])
        rows, _, terminated, truncated, info = vector.step(torch.as_tensor(action))
        if over and mode is AutoresetMode.NEXT_STEP:
            mine, over = scalar.reset()[0], False
            continue
        if over and mode is AutoresetMode.DISABLED:
            pytest.fail("an env that has ended was stepped")
        mine, _, ended, cut, scalar_info = scalar.step(action[0])
        over = ended or cut
        assert (ended, cut) == (bool(terminated), bool(truncated))
        if over and mode is AutoresetMode.SAME_STEP:
            assert makers.same([mine], [first(info["final_obs"], scalar.observation_space)])
            mine, over = scalar.reset()[0], False
        elif over and mode is AutoresetMode.DISABLED:
            rows, _ = vector.reset(options={"reset_mask": torch.ones(1, dtype=torch.bool)})
            mine, over = scalar.reset()[0], False
        else:
            for path, value in info["obs_dict"].items():
                np.testing.assert_array_equal(scalar_info["obs_dict"][path], value[0])


def first(rows, space):
    """The first env's part of a batch, with Gymnasium's own scalars of Discrete spaces."""
    if isinstance(space, Dict):
        return {key: first(rows[key], part) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(first(one, part) for one, part in zip(rows, space.spaces, strict=True))
    return np.int64(rows[0].item()) if isinstance(space, Discrete) else rows[0].numpy()


def test_a_saved_world_imagines_the_same(learned, tmp_path):
    _, world, _ = learned
    world.save(tmp_path / "world.safetensors")
    again = WorldModel.load(tmp_path / "world.safetensors")
    assert again.signature == world.signature
    envs = [w.to_vector_env(3, max_episode_steps=4) for w in (world, again)]
    actions = [torch.as_tensor(a) for a in makers.sampled_actions(envs[0], 6)]
    rolls = []
    for env in envs:
        env.reset(seed=1)
        rolls.append(makers.roll_vector(env, actions))
    assert makers.same(*rolls)


@pytest.mark.parametrize("layout", ["nested", "at the root"])
def test_episodes_start_from_real_observations(learned, layout):
    """Both as `collect_transitions` lays them out and as TorchRL does, where a Dict's keys stand at the root."""
    kind, world, transitions = learned
    chosen = transitions[7:8]
    if layout == "at the root" and kind == "dict":
        chosen = chosen.select("action").update(chosen["observation"])
    wanted = world.as_data(transitions[7:8]).values[0]
    vector, torchrl = world.to_vector_env(2), world.to_torchrl_env(2)
    for env in (vector, torchrl):
        env.start_from(chosen)
        env.reset()
        for path in world.signature.observation_fields:
            columns = world.bound[path].indices()
            assert torch.equal(env.engine.predictions()[:, columns], wanted[columns].expand(2, -1)), path
    real = torchrl.reset()
    started = torchrl.to_stateless().reset(real.clone())
    for key in torchrl.observation_spec.keys(True, True):
        assert torch.equal(started[key], real[key])


def test_what_imagination_gives_can_be_learned_from(learned):
    _, world, _ = learned
    env = world.to_torchrl_env(3, max_episode_steps=4)
    env.set_seed(0)
    rollout = env.rollout(9, break_when_any_done=False)
    vector = world.to_vector_env(3)
    vector.reset(seed=0)
    imagined = vector.imagine(lambda observation: vector.sample_actions(), 4)
    for data in map(world.as_data, (rollout, imagined)):
        for path, field in world.signature.observation_fields.items():
            values = data.values[:, world.bound[path].indices()]
            if field.num_classes:
                assert bool(((values >= 0) & (values < field.num_classes)).all()), path


def test_a_world_from_the_specs_of_a_tuple_has_its_fields():
    world = makers.of_parts("hand")
    for one_hot in (False, True):
        made = WorldModel.from_torchrl_env(world.to_torchrl_env(2, one_hot=one_hot))
        assert made.bound == world.bound
        assert made.signature.action_space == world.signature.action_space


def test_a_float64_network_gives_float64_parts():
    world = WorldModel.from_env(Shuffled("tuple"), config=ModelConfig(num_blocks=1), dtype=torch.float64)
    env = world.to_vector_env(2)
    space = env.single_observation_space
    assert [part.dtype for part in space] == [np.float64, np.int64, np.int64]
    assert makers.as_numpy(env.reset(seed=0)[0]) in env.observation_space


def test_rewards_and_terminations_read_parts_by_name():
    world = untrained("tuple")

    def reward(obs, action, info):
        return obs["observation.0"].sum() + 10.0 * obs["observation.1"][0] + 100.0 * obs["observation.2.1"][0]

    env = world.to_vector_env(64, reward_fn=reward, terminated_fn=lambda obs, step, info: obs["observation.2.0"][0] > 1)
    env.reset(seed=0)
    *_, paid, ended, _, info = env.step(env.sample_actions())
    numbers, kind, (low, high) = (*info["final_obs"][:2], info["final_obs"][2].unbind(1))
    torch.testing.assert_close(paid, numbers.sum(1) + 10.0 * kind + 100.0 * high)
    assert torch.equal(ended, low > 1)
    assert 0 < int(ended.sum()) < 64, "classes differ between envs"


def test_named_fields_of_a_world_of_parts():
    world = untrained("dict")
    env = world.to_vector_env(3, obs_fields=["observation.eye.image", "observation.switches"])
    assert env.single_observation_space.shape == (8,)
    assert env.single_action_space == MultiDiscrete([2, 3])
    env.reset(seed=0)
    observation, *_ = env.step(env.sample_actions())
    assert makers.as_numpy(observation) in env.observation_space
    with pytest.raises(ValueError, match=r"'observation.eye'.*It is a group"):
        world.to_vector_env(3, obs_fields=["observation.eye"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([torch.zeros(2, 2)], ValueError, r"observations must be a tuple with the places \[0, 1, 2\], got a list"),
        ((torch.zeros(2, 2),), ValueError, r"must be a tuple with the places \[0, 1, 2\], got a tuple"),
        ((torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 2)), ValueError, r"observations\[0\] must have shape"),
    ],
)
def test_observations_of_another_structure(given, error, message):
    engine = untrained("tuple").to_vector_env(2).engine
    with pytest.raises(error, match=message):
        engine.encode({"agent": given})


def test_what_was_not_observed_of_a_part_is_filled_in():
    """NaN stands for it, in classes that count from elsewhere too."""
    engine = untrained("tuple").to_vector_env(2).engine
    kinds = torch.tensor([2.0, torch.nan])
    state = engine.encode({"agent": (torch.zeros(2, 2), kinds, torch.tensor([[1, -3], [2, 1]]))})
    assert state["values"][0, :5].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0]
    assert state["values"][1, 2].item() in (0.0, 1.0, 2.0)
    assert state["values"][1, 3:5].tolist() == [1.0, 4.0]


# -- Stable-Baselines3 ----------------------------------------------------------------------------------------------


def test_stable_baselines_names_parts_without_dots():
    assert face_keys(makers.HAND) == {(i,): f"observation_{i}" for i in range(4)} | {}
    assert list(face_keys(makers.CAMERA).values()) == ["eye_image", "eye_lids", "place_0", "place_1"]
    assert face_keys(MultiDiscrete([2, 3])) == {(): None}


@pytest.mark.parametrize("name", ["hand", "camera"])
def test_stable_baselines_learns_from_parts(name):
    sb3 = pytest.importorskip("stable_baselines3")
    from wm_vec.envs import SB3VecEnv

    venv = SB3VecEnv(makers.of_parts(name).to_vector_env(4, max_episode_steps=3))
    space = gym.spaces.flatten_space(makers.of_parts(name).signature.observation_space)
    model = sb3.PPO("MultiInputPolicy", venv, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    observation = venv.reset()
    assert all(one in venv.observation_space for one in rows_of(observation))
    ends = []
    for _ in range(3):
        observation, _, _, infos = venv.step(model.predict(observation)[0])
        ends += [info["terminal_observation"] for info in infos if info]
    assert len(ends) >= 4, "cut after three steps"
    assert all(end in venv.observation_space for end in ends)
    features = gym.spaces.flatten_space(venv.observation_space)
    assert features.shape == space.shape, "no part is lost"


def rows_of(observation):
    return [{key: value[i] for key, value in observation.items()} for i in range(4)]


@pytest.mark.parametrize("kind", ["classes", "switches"])
def test_stable_baselines_checker_passes(kind):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(untrained(kind).to_env(max_episode_steps=5))


# -- learning from other people's recordings ------------------------------------------------------------------------


class Recording:
    """An episode as Minari has it."""

    def __init__(self, transitions: TensorDict, space: gym.Space) -> None:
        def parts(space, now, last):
            if isinstance(space, Dict):
                return {key: parts(part, now[key], last[key]) for key, part in space.spaces.items()}
            if isinstance(space, Tuple):
                return tuple(parts(part, now[str(i)], last[str(i)]) for i, part in enumerate(space.spaces))
            return torch.cat([now, last[-1:]]).numpy()

        self.observations = parts(space, transitions["observation"], transitions["next", "observation"])
        self.actions = transitions["action"].numpy()
        self.rewards = transitions["next", "reward"][:, 0].numpy()
        self.terminations = transitions["next", "terminated"][:, 0].numpy()


def test_an_episode_of_minari_is_the_same_data(learned):
    kind, world, transitions = learned
    steps = transitions[transitions["episode"] == transitions["episode"][0]]
    data = data_from_minari([Recording(steps, SPACES[kind])], world.bound, world.signature)
    wanted = world.as_data(steps)
    for name in ("values", "next_values", "starts"):
        assert torch.equal(getattr(data, name), getattr(wanted, name)), name


@pytest.mark.parametrize("categorical", [False, True])
def test_a_rollout_of_torchrls_own_wrapper(categorical):
    """Of a Dict its parts stand at the root, classes as one-hot vectors or as indices."""
    from torchrl.envs import GymWrapper

    space = Dict(a=MultiDiscrete([2, 3]), b=Dict(c=MultiBinary(2), d=Discrete(3)), e=Box(-1.0, 1.0, (1,), np.float32))
    env = Shuffled("classes")
    env.observation_space, env.action_space = space, Discrete(2)
    world = WorldModel.from_signature(EnvSignature(space, Discrete(2)))
    rollout = GymWrapper(env, categorical_action_encoding=categorical).rollout(12, break_when_any_done=False)
    data = world.as_data(rollout)
    index = (lambda part, *n: torch.stack([p.argmax(1) for p in part.split(n, 1)], 1)) if not categorical else None
    first = rollout["a"] if index is None else index(rollout["a"], 2, 3)
    last = rollout["b", "d"].reshape(12, 1) if index is None else index(rollout["b", "d"], 3)
    wanted = torch.cat([first, rollout["b", "c"], last, rollout["e"]], 1).float()
    assert torch.equal(data.values[:, :6], wanted)


def test_transitions_that_lack_a_part(learned):
    kind, world, transitions = learned
    if kind not in ("tuple", "dict"):
        pytest.skip("one part")
    part = next(iter(transitions["observation"].keys()))
    with pytest.raises(ValueError, match=f"lack .*'{part}'"):
        world.as_data(transitions.exclude(("next", "observation", part)))
