"""Every kind of world in every configuration: TorchRL's own checker, and the numbers of the Gymnasium face."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import check_env_specs

from tests.envs.torchrl.kinds import BY_NAME, CLASSES, KINDS, one_point
from wm_vec import WorldModel

CONFIGURATIONS = {
    "a few": (3, {}),
    "one, with a horizon": (1, {"max_episode_steps": 2}),
    "the state in the TensorDict": (4, {"expose_state": True, "max_episode_steps": 2}),
    "exact rows": (3, {"exact_rows": True}),
    "thousands": (2048, {"max_episode_steps": 2}),
}
ONE_HOT = {
    "one-hot": (3, {"one_hot": True}),
    "one-hot, one, with the state": (1, {"one_hot": True, "expose_state": True, "max_episode_steps": 2}),
}


def cases():
    for kind in KINDS:
        for name, (num_envs, options) in {**CONFIGURATIONS, **(ONE_HOT if kind.name in CLASSES else {})}.items():
            yield pytest.param(kind.name, num_envs, options, id=f"{kind.name} - {name}")


@pytest.mark.parametrize(("kind", "num_envs", "options"), cases())
def test_torchrls_checker_passes(kind, num_envs, options):
    check_env_specs(BY_NAME[kind].torchrl(num_envs, seed=0, **options), break_when_any_done="both")


# -- the same numbers ----------------------------------------------------------------------------------------------


def one_hot(space, observation):
    """A Gymnasium observation with classes as the one-hot vectors that TorchRL's GymEnv shows."""
    if isinstance(space, gym.spaces.Dict):
        return {name: one_hot(part, observation[name]) for name, part in space.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(one_hot(part, one) for part, one in zip(space, observation, strict=True))
    if isinstance(space, gym.spaces.Discrete):
        return torch.nn.functional.one_hot(observation, int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        columns = zip(observation.unbind(-1), space.nvec.tolist(), strict=True)
        return torch.cat([torch.nn.functional.one_hot(column, n) for column, n in columns], -1)
    return observation


def entries(observation):
    """A Gymnasium observation as TorchRL's entries, by flat key."""
    if not isinstance(observation, dict):
        return entries({"observation": observation})
    found = {}
    for name, part in observation.items():
        if isinstance(part, torch.Tensor):
            found[name,] = part
            continue
        inner = part if isinstance(part, dict) else {str(place): one for place, one in enumerate(part)}
        found.update({(name, *key): value for key, value in entries(inner).items()})
    return found


def assert_seen(td: TensorDictBase, observation, when: str):
    """What `td` holds is what Gymnasium's face gave, and nothing else."""
    wanted = entries(observation)
    others = {"action", "reward", "done", "terminated", "truncated", "next"}
    held = {key if isinstance(key, tuple) else (key,) for key in td.keys(True, True)}
    assert {key for key in held if key[0] not in others} == set(wanted)
    for key, value in wanted.items():
        assert td[key].dtype is value.dtype, key
        assert torch.equal(td[key], value), f"{key} {when}"


def chosen(action, space, one_hot):
    """One-hot actions as the class indices that Gymnasium's face takes."""
    if not one_hot:
        return action
    if isinstance(space, gym.spaces.MultiDiscrete):
        parts = action.split(space.nvec.tolist(), -1)
        return torch.stack([part.nonzero()[:, -1] for part in parts], -1)
    return action.nonzero()[:, -1]


def parity_cases():
    for kind in KINDS:
        yield pytest.param(kind.name, {}, id=kind.name)
        yield pytest.param(kind.name, {"exact_rows": True}, id=f"{kind.name} - exact rows")
        if kind.name in CLASSES:
            yield pytest.param(kind.name, {"one_hot": True}, id=f"{kind.name} - one-hot")


@pytest.mark.parametrize(("kind", "options"), parity_cases())
def test_a_seeded_rollout_is_the_gymnasium_faces_number_for_number(kind, options):
    num_envs, steps, horizon = 5, 25, 6
    exact = {"exact_rows": options.get("exact_rows", False), "max_episode_steps": horizon}
    env = BY_NAME[kind].torchrl(num_envs, one_hot=options.get("one_hot", False), **exact)
    env.set_seed(11)
    rollout = env.rollout(steps, break_when_any_done=False)
    vector = BY_NAME[kind].disabled(num_envs, **exact)
    observation, _ = vector.reset(seed=11)
    ends = 0

    def shown(observation):
        return one_hot(vector.single_observation_space, observation) if env.one_hot else observation

    for t in range(steps):
        assert_seen(rollout[:, t].exclude("next"), shown(observation), f"before step {t}")
        action = chosen(rollout["action"][:, t], vector.single_action_space, env.one_hot)
        observation, reward, terminated, truncated, _ = vector.step(action)
        after = rollout[:, t]["next"]
        assert_seen(after, shown(observation), f"after step {t}")
        ended = terminated | truncated
        flags = {"reward": reward, "terminated": terminated, "truncated": truncated, "done": ended}
        for key, value in flags.items():
            assert torch.equal(after[key], value[:, None]), (key, t)
        if bool(ended.any()):
            ends += 1
            observation, _ = vector.reset(options={"reset_mask": ended})
    assert ends >= steps // horizon


def test_a_partial_reset_goes_on_as_the_gymnasium_faces():
    """Envs reset at different times, one of them in mid-episode, by TorchRL's mask and by Gymnasium's."""
    for kind in ("steered", "box", "painter", "board", "rssm with our noise"):
        env, vector = BY_NAME[kind].torchrl(3, max_episode_steps=9), BY_NAME[kind].disabled(3, max_episode_steps=9)
        env.set_seed(2)
        td = env.reset()
        vector.reset(seed=2)
        for t in range(12):
            td = env.rand_action(td)
            observation, _, terminated, truncated, _ = vector.step(td["action"])
            td = env.step_mdp(env.step(td))
            mask = terminated | truncated
            mask[t % 4 % 3] |= t % 4 < 3
            if mask.any():
                td = env.reset(td.set("_reset", mask[:, None]))
                observation, _ = vector.reset(options={"reset_mask": mask})
            assert_seen(td, observation, f"after step {t} of {kind}")


def test_random_actions_are_the_gymnasium_faces_in_the_specs_precision():
    for kind in ("cartpole", "pendulum", "float64", "bfloat16", "half bounded", "classes", "switches"):
        env, vector = BY_NAME[kind].torchrl(64), BY_NAME[kind].disabled(64)
        env.set_seed(3)
        td = env.rand_action(env.reset())
        vector.reset(seed=3)
        assert td["action"].dtype is env.action_spec.dtype
        assert env.action_spec.is_in(td["action"])
        torch.testing.assert_close(td["action"], vector.sample_actions().to(env.action_spec.dtype), rtol=0, atol=0)


def test_random_actions_of_a_coarse_world_stay_within_the_bounds():
    """0.3 is 0.30078 in bfloat16."""
    world = WorldModel.bundled("Pendulum-v1", dtype=torch.bfloat16)
    fields = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": one_point}
    env = world.to_torchrl_env(8192, **fields, act_low=-0.3, act_high=0.3)
    env.set_seed(0)
    action = env.rand_action(env.reset())["action"]
    assert action.abs().max() <= torch.tensor(0.3)
    assert action.abs().max() > 0.29
