"""Rollouts of the scalar view, TorchRL's envs, Stable-Baselines3's, and of an engine seen by two."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict

from tests.golden.log import Log, note_rollout, roll_scalar, roll_torchrl
from tests.golden.vector_cases import BUNDLED, FUNCTIONS, MODES, SCHEMAS, over, paid, schema_actions
from tests.golden.worlds import bundled, classes, numbers, port
from wm_vec.core import ActionSpec, Engine, Perspective
from wm_vec.envs.sb3 import SB3VecEnv


def own_actions(env_id: str, num_steps: int, *batch: int) -> np.ndarray:
    """Actions ``(T, *batch, ...)`` of a bundled world."""
    num_envs = int(np.prod(batch))
    if env_id == "CartPole-v1":
        return classes(num_steps, num_envs).reshape(num_steps, *batch)
    return numbers(num_steps, num_envs, high=2.5).reshape(num_steps, *batch, 1)


# -- one env -------------------------------------------------------------------------------------------------------


def scalar_of(env: gym.Env, actions: np.ndarray) -> Log:
    log, half = Log(), len(actions) // 2
    log.add(start=env.reset(seed=6)[0])
    roll_scalar(log, env, actions[:half])
    log.add(start=env.reset(seed=2**33)[0])
    roll_scalar(log, env, actions[half:])
    return log


def scalar(env_id: str) -> Log:
    return scalar_of(bundled(env_id).to_env(max_episode_steps=12), own_actions(env_id, 60, 1)[:, 0])


def scalar_by_gymnasium(env_id: str) -> Log:
    return scalar_of(gym.make(f"wm_vec/{env_id}", max_episode_steps=12), own_actions(env_id, 60, 1)[:, 0])


def scalar_exact() -> Log:
    env = bundled("CartPole-v1").to_env(max_episode_steps=12, exact_rows=True)
    return scalar_of(env, own_actions("CartPole-v1", 30, 1)[:, 0])


def scalar_functions(name: str) -> Log:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "loop" warns that it is slow
        env = bundled("CartPole-v1").to_env(["observation"], ["action"], **FUNCTIONS[name], max_episode_steps=12)
    return scalar_of(env, own_actions("CartPole-v1", 30, 1)[:, 0])


def scalar_schema(name: str) -> Log:
    seen, acted, options = SCHEMAS[name]
    env = port().to_env(seen, acted, paid, over, max_episode_steps=8, **options)
    return scalar_of(env, schema_actions(acted, 24, 1)[:, 0])


# -- TorchRL -------------------------------------------------------------------------------------------------------


def torchrl(env_id: str, expose_state: bool) -> Log:
    log, actions = Log(), torch.as_tensor(own_actions(env_id, 30, 7))
    env = bundled(env_id).to_torchrl_env(num_envs=7, max_episode_steps=12, expose_state=expose_state)
    env.set_seed(3)
    td = env.reset()
    log.add(start=td["observation"])
    td = roll_torchrl(log, env, td, actions[:20])
    if expose_state:
        saved = td.clone()
        roll_torchrl(log, env, td, actions[20:25])
        td = env.reset(saved, set_state=True)
        log.add(start=td["observation"])
    td = roll_torchrl(log, env, td, actions[20:], "later.")
    mask = torch.tensor([True, False, False, True, False, False, False])
    td = env.reset(td.set("_reset", mask.unsqueeze(-1)), set_state=False)
    log.add(start=td["observation"])
    for action in actions[:4]:  # without resets
        after = env.step(td.set("action", action))["next"]
        log.step("steps.", after["observation"], after["reward"], after["terminated"], after["truncated"])
    given = TensorDict({"observation": after["observation"]}, batch_size=[7])
    given["observation"][3, 1] = torch.nan  # not observed: filled in by the world
    td = env.reset(given)
    log.add(start=td["observation"])
    roll_torchrl(log, env, td, actions[:5], "given.")
    return log


def torchrl_functions() -> Log:
    log = Log()
    env = bundled("CartPole-v1").to_torchrl_env(
        7, ["observation"], ["action"], **FUNCTIONS["stateful"], max_episode_steps=12
    )
    env.set_seed(0)
    td = env.reset()
    log.add(start=td["observation"])
    roll_torchrl(log, env, td, own_actions("CartPole-v1", 20, 7))
    return log


def torchrl_imagined(env_id: str, grad: bool) -> Log:
    log = Log()
    env = bundled(env_id).to_torchrl_env(num_envs=5, max_episode_steps=9, seed=2)
    td = env.reset()
    log.add(start=td["observation"])
    roll_torchrl(log, env, td, own_actions(env_id, 4, 5))
    policy = _lean if env_id == "CartPole-v1" else _push
    note_rollout(log, env.imagine(_written(policy), 8, grad=grad), "imagined.")
    note_rollout(log, env.imagine(_written(policy), 3, grad=grad), "later.")
    return log


def _lean(observation: torch.Tensor) -> torch.Tensor:
    return (observation[..., 2] < 0).long()


def _push(observation: torch.Tensor) -> torch.Tensor:
    return 2.0 * torch.tanh(observation[..., 1:2] * 3)


def _written(policy: Any) -> Any:
    return lambda td: td.set("action", policy(td["observation"]))


def stateless(env_id: str, batch: tuple[int, ...]) -> Log:
    log, actions = Log(), torch.as_tensor(own_actions(env_id, 24, *batch))
    env = bundled(env_id).to_torchrl_env(num_envs=2, max_episode_steps=9).to_stateless()
    env.set_seed(8)
    td = env.reset(TensorDict({}, batch_size=batch))
    log.add(start=td["observation"])
    td = roll_torchrl(log, env, td, actions[:12])
    fresh, again = env.fork(td), env.fork(td)
    roll_torchrl(log, env, env.fork(td, rng="same"), actions[12:], "same.")
    roll_torchrl(log, env, fresh, actions[12:], "fresh.")
    roll_torchrl(log, env, again, actions[12:], "again.")
    log.add(random=env.rand_action(td.clone())["action"])
    log.add(start=env.reset(td, set_state=False)["observation"])
    log.add(start=env.reset(TensorDict({}, batch_size=batch))["observation"])
    return log


# -- Stable-Baselines3 ---------------------------------------------------------------------------------------------


def sb3(env_id: str) -> Log:
    log = Log()
    env = SB3VecEnv(bundled(env_id).to_vector_env(7, max_episode_steps=12))
    env.seed(4)
    log.add(start=env.reset())
    for action in own_actions(env_id, 30, 7):
        observation, reward, done, infos = env.step(action)
        nothing = np.zeros_like(observation[0])
        log.add(observation=observation, reward=reward, done=done)
        log.add(final_obs=np.stack([info.get("terminal_observation", nothing) for info in infos]))
        log.add(timed_out=np.array([info.get("TimeLimit.truncated", False) for info in infos]))
    return log


# -- two perspectives ----------------------------------------------------------------------------------------------

CAPTAIN, MATE = "captain", "mate"


def _of_agent(value: Any, name: str) -> torch.Tensor:
    """One agent's observation ``(B, n)``, reward or termination ``(B,)`` of what an engine gives of both."""
    return value[name]


def _outcome(engine: Engine, actions: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Step an engine; what each agent gets, by name and ``.agent``, and what the envs share."""
    result = engine.step(actions)
    shared = {"truncated": result.truncated, "ended": result.finished}
    kinds = {
        "observation": result.observation,
        "final_obs": result.final_observation,
        "reward": result.reward,
        "terminated": result.terminated,
    }
    return shared | {f"{kind}.{a}": _of_agent(value, a) for kind, value in kinds.items() for a in (CAPTAIN, MATE)}


def _agents(world: Any) -> list[Perspective]:
    everything = {
        field.path: slice(field.start, field.start + field.num_positions) for field in world.bound.bound_fields()
    }

    def agent(name: str, action: ActionSpec, seen: dict[str, slice], **functions: Any) -> Perspective:
        index = torch.tensor(world.bound.indices(list(seen)))
        return Perspective(action, name, obs_index=index, obs_fields=seen, all_fields=everything, **functions)

    return [
        agent(
            CAPTAIN,
            ActionSpec("box", (2,), (-0.5, -0.5), (0.5, 0.5)),
            {"slow": slice(0, 2), "gear": slice(2, 3), "fast": slice(3, 4)},
            reward_fn=lambda obs, act, info, state: (obs["fast"][0] + state + act.sum(), 0.5 * state + obs["slow"][1]),
            reward_state=torch.tensor(0.25),
            terminated_fn=lambda obs, step, info: obs["fast"][0] + obs["slow"][0] > 1.2,
        ),
        agent(
            MATE,
            ActionSpec("discrete", (), (0.0,), (3.0,)),
            {"mode": slice(0, 1), "fast": slice(1, 2)},
            reward_fn=lambda obs, act, info: obs["mode"][0] - info["predictions"]["slow"].sum() + 0.1 * act,
            terminated_fn=lambda obs, step, info: (obs["mode"][0] == 3) & (step > 2),
        ),
    ]


def two_agents(mode: str, act_mode: str) -> Log:
    log, world = Log(), port()
    engine = world.to_engine(
        6, _agents(world), act_fields=["steer", "mode"], max_episode_steps=6, act_mode=act_mode, autoreset_mode=mode
    )
    start = engine.reset(seed=0)
    log.add(**{f"start.{name}": _of_agent(start, name) for name in (CAPTAIN, MATE)})
    for steer, course in zip(numbers(18, 6, 2, 0.7), classes(18, 6, 4), strict=True):
        shown = _outcome(engine, {CAPTAIN: torch.as_tensor(steer), MATE: torch.as_tensor(course)})
        log.add(**shown)
        if mode == "disabled" and bool(shown["ended"].any()):
            again = engine.reset(mask=shown["ended"])
            log.add(**{f"restarted.{name}": _of_agent(again, name) for name in (CAPTAIN, MATE)})
    return log


CASES = {
    **{f"scalar/{env_id}": partial(scalar, env_id) for env_id in BUNDLED},
    **{f"scalar_make/{env_id}": partial(scalar_by_gymnasium, env_id) for env_id in BUNDLED},
    "scalar_exact": scalar_exact,
    **{f"scalar_functions/{name}": partial(scalar_functions, name) for name in FUNCTIONS},
    **{f"scalar_schema/{name}": partial(scalar_schema, name) for name in SCHEMAS},
    **{
        f"torchrl/{env_id}/{'state' if e else 'plain'}": partial(torchrl, env_id, e)
        for env_id in BUNDLED
        for e in (False, True)
    },
    "torchrl_functions": torchrl_functions,
    "torchrl_imagined/CartPole-v1": partial(torchrl_imagined, "CartPole-v1", False),
    "torchrl_imagined/Pendulum-v1": partial(torchrl_imagined, "Pendulum-v1", False),
    "torchrl_imagined/Pendulum-v1/grad": partial(torchrl_imagined, "Pendulum-v1", True),
    **{f"stateless/{env_id}/5": partial(stateless, env_id, (5,)) for env_id in BUNDLED},
    "stateless/CartPole-v1/2x3": partial(stateless, "CartPole-v1", (2, 3)),
    **{f"sb3/{env_id}": partial(sb3, env_id) for env_id in BUNDLED},
    **{
        f"two_agents/{mode}/{act_mode}": partial(two_agents, mode, act_mode)
        for mode in MODES
        for act_mode in ("set", "hold")
    },
}
