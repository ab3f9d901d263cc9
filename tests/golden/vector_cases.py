"""Rollouts of the vector env over canvas worlds."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import torch

import wm_vec
from tests.golden.log import Log, note_rollout, roll_vector
from tests.golden.worlds import bundled, classes, numbers, port

MODES = "same_step", "next_step", "disabled"
BUNDLED = "CartPole-v1", "Pendulum-v1"
HORIZON = 12


def plain(env_id: str, num_envs: int, mode: str, exact_rows: bool = False) -> Log:
    log, num_steps = Log(), 20 if num_envs == 64 else 30
    env = bundled(env_id).to_vector_env(
        num_envs, max_episode_steps=HORIZON, autoreset_mode=mode, exact_rows=exact_rows, seed=3
    )
    log.add(start=env.reset()[0])
    own = classes(num_steps, num_envs) if env_id == "CartPole-v1" else numbers(num_steps, num_envs, high=2.5)
    roll_vector(log, env, own)
    return log


def reseeded(mode: str) -> Log:
    log, actions = Log(), classes(40, 5)
    env = bundled("CartPole-v1").to_vector_env(5, max_episode_steps=HORIZON, autoreset_mode=mode)
    log.add(start=env.reset(seed=[7, 7, 0, 2**40, 2**63 - 1])[0])
    roll_vector(log, env, actions[:10])
    log.add(start=env.reset(seed=[None, 7, None, 9, None])[0])
    roll_vector(log, env, actions[10:20])
    log.add(start=env.reset()[0])
    roll_vector(log, env, actions[20:30])
    mask = np.array([True, False, True, False, False])
    log.add(start=env.reset(seed=[1, 2, None, 4, None], options={"reset_mask": mask})[0])
    log.add(start=env.reset(options={"env_idx": [4]})[0])
    roll_vector(log, env, actions[30:])
    return log


def made_by_gymnasium(env_id: str) -> Log:
    log = Log()
    env = gym.make_vec(f"wm_vec/{env_id}", num_envs=7, max_episode_steps=9)
    log.add(start=env.reset(seed=0)[0])
    roll_vector(log, env, classes(20, 7) if env_id == "CartPole-v1" else numbers(20, 7, high=2.5))
    return log


def sampled(env_id: str, mode: str) -> Log:
    log = Log()
    env = bundled(env_id).to_vector_env(6, max_episode_steps=5, autoreset_mode=mode)
    log.add(start=env.reset(seed=4)[0])
    for _ in range(12):
        log.add(another=env.sample_actions(), sample=env.sample_actions())
        roll_vector(log, env, env.sample_actions()[None])
    return log


def broken(mode: str) -> Log:
    """NaN and infinite actions end their own envs."""
    log, actions = Log(), numbers(16, 4, high=2.5)
    actions[4, 1], actions[7, 0], actions[7, 3] = np.nan, np.inf, -np.inf
    actions[5, 1] = np.nan
    env = bundled("Pendulum-v1").to_vector_env(4, max_episode_steps=9, autoreset_mode=mode)
    log.add(start=env.reset(seed=0)[0])
    roll_vector(log, env, actions)
    return log


# -- users' functions ----------------------------------------------------------------------------------------------


def reward(obs, act, info):
    return 1.0 - obs["observation"][2].abs() + 0.1 * act + 0.01 * info["step"] + info["predictions"]["observation"][1]


def terminated(obs, step, info):
    return (obs["observation"][2].abs() > 0.12) | (obs["observation"][0] + 0.01 * step > 0.15)


def slow_reward(obs, act, info):
    return float(obs["observation"][1]) + (0.5 if int(act) else 0.0) + 0.01 * float(info["step"])


def slow_terminated(obs, step, info):
    return abs(float(obs["observation"][2])) > 0.12


@wm_vec.batched
def reward_of_all(obs, act, info):
    return obs["observation"][:, 1:3].sum(-1) + 0.25 * act + 0.01 * info["step"]


@wm_vec.batched
def terminated_of_all(obs, step, info):
    return obs["observation"][:, 2].abs() > 0.12


def sum_reward(obs, act, info, state):
    state = 0.9 * state + obs["observation"][:2]
    return state.sum() + 0.1 * act, state


FUNCTIONS = {
    "vmap": {"reward_fn": reward, "terminated_fn": terminated},
    "loop": {"reward_fn": slow_reward, "terminated_fn": slow_terminated},
    "batched": {"reward_fn": reward_of_all, "terminated_fn": terminated_of_all},
    "stateful": {"reward_fn": sum_reward, "terminated_fn": terminated, "reward_state": torch.tensor([1.0, -0.5])},
    "reward_only": {"reward_fn": reward_of_all},
    "terminated_only": {"terminated_fn": terminated},
}


def functions(name: str, mode: str) -> Log:
    log = Log()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "loop" warns that it is slow
        env = bundled("CartPole-v1").to_vector_env(
            7, ["observation"], ["action"], **FUNCTIONS[name], max_episode_steps=HORIZON, autoreset_mode=mode
        )
    log.add(start=env.reset(seed=5)[0])
    roll_vector(log, env, classes(30, 7))
    return log


# -- schema worlds -------------------------------------------------------------------------------------------------


def paid(obs, act, info):
    return obs["fast"][0] - 0.2 * obs["slow"].sum() + 0.1 * act.sum() if act.dim() else obs["fast"][0] + act


def over(obs, step, info):
    return info["predictions"]["gear"][0] + info["predictions"]["mode"][0] > 4


SCHEMAS = {
    "set": (["fast", "slow", "mode", "gear"], ["push", "steer"], {}),
    "set_three": (["slow", "fast", "mode"], ["steer"], {"n_denoise_steps": 3}),
    "set_number": (["gear", "fast", "slow"], ["fast"], {"act_low": -0.7, "act_high": 0.4, "n_denoise_steps": 1}),
    "hold_number": (["slow", "fast", "mode"], ["slow"], {"act_mode": "hold"}),
    "hold_numbers": (["mode", "fast", "slow"], ["fast", "push"], {"act_mode": "hold"}),
    "set_class": (["mode", "fast", "slow"], ["gear"], {}),
    "hold_class": (["gear", "mode", "fast", "slow"], ["mode"], {"act_mode": "hold", "exact_rows": True}),
}
WIDTHS = {"push": 1, "steer": 2, "fast": 1, "slow": 2}
CLASSES = {"gear": 3, "mode": 4}


def schema_actions(acted: list[str], num_steps: int, num_envs: int) -> np.ndarray:
    if acted[0] in CLASSES:
        return classes(num_steps, num_envs, CLASSES[acted[0]])
    return numbers(num_steps, num_envs, sum(WIDTHS[name] for name in acted))


def schema(name: str, mode: str) -> Log:
    log, (seen, acted, options) = Log(), SCHEMAS[name]
    env = port().to_vector_env(5, seen, acted, paid, over, autoreset_mode=mode, max_episode_steps=8, **options)
    log.add(start=env.reset(seed=0)[0])
    roll_vector(log, env, schema_actions(acted, 20, 5))
    return log


def schema_starts() -> Log:
    """Starts from a user's function, the rest filled in."""
    log, draw = Log(), np.random.default_rng(0)
    env = port().to_vector_env(
        5,
        ["fast", "slow", "mode", "gear"],
        ["push"],
        paid,
        initial_obs_fn=lambda: {"fast": draw.normal(), "mode": int(draw.integers(4))},
        max_episode_steps=3,
    )
    log.add(start=env.reset(seed=0)[0])
    roll_vector(log, env, numbers(9, 5))
    return log


# -- forks and imagination -----------------------------------------------------------------------------------------


def forked(env_id: str, mode: str) -> Log:
    log, own = Log(), env_id == "CartPole-v1"
    actions = classes(30, 6) if own else numbers(30, 6, high=2.5)
    env = bundled(env_id).to_vector_env(6, max_episode_steps=11, autoreset_mode=mode)
    log.add(start=env.reset(seed=1)[0])
    roll_vector(log, env, actions[:7])
    saved, index = env.state(), [0, 0, 5, 3, 0, 2]
    kinds = {"same.": "same", "fresh.": "fresh", "again.": "fresh"}
    forks = {prefix: env.fork(index, rng=rng) for prefix, rng in kinds.items()}
    roll_vector(log, env, actions[7:16])
    for prefix, fork in forks.items():
        roll_vector(log, fork, actions[7:16], prefix)
    grandchild = forks["fresh."].fork([1, 4], rng="fresh")
    roll_vector(log, grandchild, actions[16:22, :2], "grandchild.")
    log.add(start=env.set_state(saved))
    roll_vector(log, env, actions[7:18], "restored.")
    return log


def imagined(env_id: str, mode: str, grad: bool = False) -> Log:
    log = Log()
    if env_id == "CartPole-v1":
        policy, actions = (lambda observation: (observation[:, 2] < 0).long()), classes(10, 5)
    else:
        policy, actions = (lambda observation: 2.0 * torch.tanh(observation[:, 1:2] * 3)), numbers(10, 5, high=2.5)
    env = bundled(env_id).to_vector_env(5, max_episode_steps=9, autoreset_mode=mode)
    log.add(start=env.reset(seed=2)[0])
    roll_vector(log, env, actions[:6])
    note_rollout(log, env.imagine(policy, 8, grad=grad), "imagined.")
    roll_vector(log, env, actions[6:])
    note_rollout(log, env.imagine(policy, 3, grad=grad), "later.")
    return log


PLAIN = [(env_id, num_envs, mode) for env_id in BUNDLED for num_envs in (1, 7, 64) for mode in MODES]
CASES = {
    **{f"plain/{env_id}/{num_envs}/{mode}": partial(plain, env_id, num_envs, mode) for env_id, num_envs, mode in PLAIN},
    **{
        f"exact/{num_envs}/{mode}": partial(plain, "CartPole-v1", num_envs, mode, True)
        for _, num_envs, mode in PLAIN[:9]
    },
    **{f"reseeded/{mode}": partial(reseeded, mode) for mode in MODES},
    **{f"make_vec/{env_id}": partial(made_by_gymnasium, env_id) for env_id in BUNDLED},
    **{f"sampled/CartPole-v1/{mode}": partial(sampled, "CartPole-v1", mode) for mode in MODES},
    "sampled/Pendulum-v1/same_step": partial(sampled, "Pendulum-v1", "same_step"),
    **{f"broken/{mode}": partial(broken, mode) for mode in MODES},
    **{f"functions/{name}/{mode}": partial(functions, name, mode) for name in FUNCTIONS for mode in MODES},
    **{f"schema/{name}/{mode}": partial(schema, name, mode) for name in SCHEMAS for mode in MODES},
    "schema_starts": schema_starts,
    **{f"forked/CartPole-v1/{mode}": partial(forked, "CartPole-v1", mode) for mode in MODES},
    "forked/Pendulum-v1/same_step": partial(forked, "Pendulum-v1", "same_step"),
    **{f"imagined/CartPole-v1/{mode}": partial(imagined, "CartPole-v1", mode) for mode in MODES},
    "imagined/Pendulum-v1/same_step": partial(imagined, "Pendulum-v1", "same_step"),
    "imagined/Pendulum-v1/grad": partial(imagined, "Pendulum-v1", "same_step", grad=True),
}
