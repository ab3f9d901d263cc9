"""What the calls are made on: small worlds and environments, made afresh for every input, and how they go on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict

from wm_vec import (
    AgentSpec,
    Field,
    ModelConfig,
    TrainConfig,
    WorldModel,
    WorldModelEnv,
    WorldModelVectorEnv,
    compile_schema,
)
from wm_vec.canvas import EnvSignature
from wm_vec.envs import SB3VecEnv

NUM_ENVS = 4
PLANE, PUSH = Box(-10.0, 10.0, (3,)), Discrete(2)
FORCE = Box(-1.0, 1.0, (2,))
AGENTS = {
    "one": AgentSpec(["speed"], ["push"], lambda obs, action, info: obs["speed"].sum()),
    "two": AgentSpec(["mode"], ["push"], lambda obs, action, info: action.sum()),
}
FIELDS = {"speed": Field(w=2), "mode": Field(num_classes=3), "push": Field(is_output=False, low=-1.0, high=1.0)}


@dataclass(frozen=True)
class Target:
    """What a call is made on.

    Attributes:
        make: Makes it; twice the same.
        go_on: What it does afterwards, so that a change shows.
    """

    make: Callable[[], Any]
    go_on: Callable[[Any], Any]


NOTHING = Target(lambda: None, lambda _: None)


@cache
def folder() -> Path:
    """A folder of this process, with a text file and the worlds' files."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (made / "text.txt").write_text("no world")
    return made


def transitions(action_space: Any = PUSH, n: int = 40) -> TensorDict:
    """Steps ``(n,)`` of four episodes of ten."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(n + 1, 3)).astype(np.float32)
    discrete = isinstance(action_space, Discrete)
    action = rng.integers(0, 2, n) if discrete else rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    ends = np.arange(1, n + 1) % 10 == 0
    flags = dict.fromkeys(("terminated", "done"), ends[:, None])
    following = {"observation": seen[1:], "reward": rng.normal(size=(n, 1)).astype(np.float32), **flags}
    columns = {
        "observation": seen[:-1],
        "action": action,
        "is_init": np.roll(ends, 1)[:, None],
        "next": {**following, "truncated": np.zeros((n, 1), bool)},
    }
    return TensorDict(columns, batch_size=[n])


@cache
def _saved(kind: str) -> Path:
    path, config = folder() / f"{kind}.safetensors", ModelConfig(num_blocks=1, n_denoise_steps=2)
    if kind == "fields":
        world = WorldModel(compile_schema(FIELDS, d_model=32), config=config)
        rng = np.random.default_rng(0)
        data: Any = {"speed": rng.normal(size=(30, 2)), "mode": rng.integers(0, 3, 30), "push": rng.uniform(-1, 1, 30)}
    else:
        space = {"classes": PUSH, "numbers": FORCE}[kind]
        world = WorldModel.from_signature(EnvSignature(PLANE, space, 20), d_model=32, config=config)
        data = transitions(space)
    world.finetune(data, config=TrainConfig(n_steps=1, batch_size=16))
    world.save(path)
    return path


def world_file() -> Path:
    """A saved world of a plane with two actions."""
    return _saved("classes")


def world_of(kind: str = "classes") -> WorldModel:
    """A small trained world: ``"classes"`` and ``"numbers"`` of an environment, ``"fields"`` of a schema."""
    return WorldModel.load(_saved(kind))


def actions(kind: str = "classes") -> torch.Tensor:
    """One step's actions of all envs."""
    return torch.tensor([0, 1, 1, 0]) if kind == "classes" else torch.linspace(-1, 1, 8).reshape(4, 2)


def vector(kind: str = "classes", **settings: Any) -> WorldModelVectorEnv:
    """A started vector env that checks values."""
    env = world_of(kind).to_vector_env(NUM_ENVS, seed=0, validate=True, **settings)
    env.reset()
    return env


def rollout(env: Any, num_steps: int = 2) -> list[Any]:
    """What a fresh vector env shows: its first observations and some steps."""
    shown = [env.reset(seed=3)[0]]
    for _ in range(num_steps):
        shown += env.step(env.sample_actions())[:4]
    return shown


def agents_vector(num_envs: int = NUM_ENVS) -> Any:
    """A started Gymnasium vector env of two agents that checks values."""
    options: dict[str, Any] = {"perspectives": AGENTS, "combine": "sum", "seed": 0, "validate": True}
    env = world_of("fields").to_vector_env(num_envs, **options)
    env.reset()
    return env


def agents_env(num_envs: int = NUM_ENVS) -> Any:
    """The same with TensorDicts."""
    env = world_of("fields").to_multi_vector_env(AGENTS, num_envs, combine="sum", seed=0, validate=True)
    env.reset()
    return env


def agents_rollout(env: Any) -> list[Any]:
    """What a fresh env of many agents with TensorDicts shows."""
    return [env.reset(seed=3), env.step(env.sample_actions()), env.step(env.sample_actions())]


def parallel_rollout(env: Any) -> list[Any]:
    """What a fresh PettingZoo env shows."""
    shown = [env.reset(seed=3)[0]]
    for space in env.action_spaces.values():
        space.seed(0)
    for _ in range(2):
        shown += env.step({name: env.action_space(name).sample() for name in env.agents})[:4]
    return shown


def torchrl_rollout(env: Any) -> Any:
    """What a fresh TorchRL env shows."""
    env.set_seed(3)
    return env.rollout(2)


def scalar_rollout(env: Any) -> list[Any]:
    """What a fresh scalar env shows."""
    shown = [env.reset(seed=3)[0]]
    env.action_space.seed(0)
    for _ in range(2):
        shown += env.step(env.action_space.sample())[:4]
    return shown


def push(state: Any, action: Any) -> Any:
    """A model of one's own, batched: the plane moves by the action."""
    after = 0.9 * state + action.reshape(-1, 1)
    return {"state": after, "observation": after, "reward": after.sum(-1)}


def shove(state: Any, action: Any) -> Any:
    """The same without a reward, which a function gives."""
    return {name: value for name, value in push(state, action).items() if name != "reward"}


def own(num_envs: int = NUM_ENVS, **settings: Any) -> WorldModelVectorEnv:
    """Many envs of a model of one's own."""
    options = {
        "initial_state": torch.zeros(3),
        "initial_observation": torch.zeros(3),
        "seed": 0,
        "validate": True,
        **settings,
    }
    model = options.pop("world_model", push)
    return WorldModelVectorEnv.from_callables(model, PLANE, PUSH, num_envs=num_envs, **options)


def own_scalar(**settings: Any) -> WorldModelEnv:
    """One env of a model of one's own."""

    def model(state: Any, action: Any) -> Any:
        after = 0.9 * state + float(action)
        return {"state": after, "observation": after, "reward": float(after.sum())}

    options = {"initial_state": torch.zeros(3), "initial_observation": torch.zeros(3), "seed": 0, **settings}
    spaces = options.pop("observation_space", PLANE), options.pop("action_space", PUSH)
    return WorldModelEnv(options.pop("world_model", model), *spaces, **options)


def _torchrl(one_hot: bool = False) -> Any:
    env = world_of().to_torchrl_env(NUM_ENVS, seed=0, one_hot=one_hot)
    return env, env.reset()


def _stateless() -> Any:
    env = world_of().to_torchrl_env(1, seed=0).to_stateless()
    env.set_seed(0)
    return env, env.reset(TensorDict({}, [NUM_ENVS]))


def _step_td(pair: Any) -> Any:
    env, td = pair
    return env.step(td.clone().set("action", actions()))["next"]


def _started(env: Any) -> Any:
    env.reset(seed=0)
    return env


def sb3() -> Any:
    """A started Stable-Baselines3 env."""
    env = SB3VecEnv(vector())
    env.reset()
    return env


WORLD = Target(world_of, lambda world: [rollout(world.to_vector_env(NUM_ENVS)), world.predict(seed=1)])
NUMBERS_WORLD = Target(lambda: world_of("numbers"), WORLD.go_on)
FIELDS_WORLD = Target(lambda: world_of("fields"), lambda world: world.predict(seed=1))
VECTOR = Target(vector, lambda env: env.step(actions())[:4])
AGENTS_VECTOR = Target(agents_vector, lambda env: env.step(env.sample_actions())[:4])
AGENTS_ENV = Target(agents_env, lambda env: env.step(env.sample_actions()))
RENDERED = Target(lambda: vector(render_mode="rgb_array"), VECTOR.go_on)
FRESH = Target(lambda: world_of().to_vector_env(2, seed=0), lambda _: None)
NEXT_STEP = Target(lambda: vector(autoreset_mode="next_step"), VECTOR.go_on)
NUMBERS_VECTOR = Target(lambda: vector("numbers"), lambda env: env.step(actions("numbers"))[:4])
ENGINE = Target(lambda: vector().engine, lambda engine: engine.step(actions()).observation)
SCALAR = Target(lambda: _started(world_of().to_env()), lambda env: env.step(1)[:4])
NUMBERS_SCALAR = Target(
    lambda: _started(world_of("numbers").to_env()), lambda env: env.step(np.ones(2, np.float32))[:4]
)
TORCHRL = Target(_torchrl, _step_td)
ONE_HOT = Target(
    lambda: _torchrl(True), lambda pair: pair[0].step(pair[1].clone().set("action", torch.eye(2)[actions()]))["next"]
)
STATELESS = Target(_stateless, _step_td)
SB3 = Target(sb3, lambda env: env.step(actions().numpy())[:3])
OWN = Target(lambda: _started(own()), lambda env: env.step(actions())[:4])
OWN_SCALAR = Target(lambda: _started(own_scalar()), lambda env: env.step(1)[:4])
