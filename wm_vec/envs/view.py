"""One env of an engine: NumPy in and out, infos that are made when they are read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.adapters.spaces import check_spaces
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.core import AutoresetMode, Engine, Perspective
from wm_vec.core.state import warn_of_divergence
from wm_vec.envs.info import ScalarInfo
from wm_vec.envs.numpy_io import ActionTensor, element_of, on_host, only_env, painter_of, value_names
from wm_vec.envs.transfer import Packed
from wm_vec.plain import check_type
from wm_vec.render.frames import FramePainter


class EngineView:
    """One env of an engine, NumPy in and out.

    Args:
        engine: An engine of one env and one perspective without autoreset.
        observation_space, action_space: The env's.

    Raises:
        ValueError: Another engine.

    Attributes:
        units: Field path -> unit of its values.
        has_series: Whether frames show the last steps of named values.
    """

    def __init__(self, engine: Engine, observation_space: gym.Space, action_space: gym.Space) -> None:
        check_type(engine, Engine, "WorldModelEnv.from_engine: engine")
        check_spaces(observation_space, action_space, "WorldModelEnv.from_engine")
        self._perspective = engine.only_perspective("WorldModelEnv")
        check_one_env(engine, "WorldModelEnv")
        self.engine = engine
        self._space = observation_space
        self._action = ActionTensor(action_space, self._perspective.action, engine)
        self._state: TensorDictBase | None = None
        self.units = self._perspective.units
        self.has_series = value_names(self._perspective, observation_space) is not None

    @property
    def state(self) -> Any:
        """The model's state in its own structure, as a copy; None before the first reset."""
        return None if self._state is None else self.engine.dynamics.model_state(self._state, 0)

    def reset(
        self, seed: int | None, options: dict[str, Any] | None, generator: np.random.Generator
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; seeds of later ones are the engine's own, `generator` is not drawn from."""
        observation = self.engine.reset(seed, options=options)[self._perspective.name]
        info = self._info(0, self.engine.model_state())
        info.update({key: only_env(value) for key, value in self.engine.start_info.items()})
        return element_of(observation, self._space), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; one transfer to the host."""
        out = self.engine.step({self._perspective.name: self._action(action)})
        observation = tree_map(packable, out.final_observation[self._perspective.name])
        leaves: dict[Hashable, Tensor] = dict(enumerate(tree_leaves(observation)))
        flags: dict[Hashable, Tensor] = {
            name: getattr(out, name) for name in ("reward", "terminated", "truncated", "diverged")
        }
        host = Packed.of({**leaves, **flags, "length": out.episode_length}).to_host()
        arrays = iter([torch.from_numpy(host[i]) for i in leaves])
        seen = element_of(tree_map(lambda _: next(arrays), observation), self._space)
        info = self._info(host["length"].item(), out.final_state)
        if host["diverged"].item():
            info["diverged"] = True
            warn_of_divergence()
        if out.info:
            info.update({key: only_env(value) for key, value in out.info.items()})
        return seen, float(host["reward"].item()), host["terminated"].item(), host["truncated"].item(), info

    def seen(self) -> Any:
        """The last observation; None before the first reset."""
        if self._state is None:
            return None
        return element_of(self._perspective.observe(self.engine.dynamics.observe(self._state)), self._space)

    def named(self) -> dict[str, np.ndarray]:
        """The last observation's values by field."""
        assert self._state is not None
        return named_arrays(self.engine, self._perspective, self._state)

    def painter(self) -> FramePainter:
        """What draws observations."""
        return painter_of(self._perspective, self._space, series=True)

    def _info(self, step: int, state: TensorDictBase) -> ScalarInfo:
        self._state = state
        return scalar_info(self.engine, self._perspective, step, state)


def check_one_env(engine: Engine, where: str) -> None:
    """Refuse another engine than one of one env without autoreset."""
    if engine.num_envs != 1 or engine.autoreset_mode is not AutoresetMode.DISABLED:
        raise ValueError(
            f"{where} needs an engine of one env with autoreset_mode='disabled', "
            f"got num_envs={engine.num_envs}, {engine.autoreset_mode}."
        )


def scalar_info(engine: Engine, perspective: Perspective, step: int, state: TensorDictBase) -> ScalarInfo:
    """An agent's info of a dynamics' state ``(1,)`` after so many steps."""
    dynamics = engine.dynamics
    lazy: dict[str, Callable[[], Any]] = {
        "obs_dict": lambda: named_arrays(engine, perspective, state),
        "predictions": lambda: _on_host(perspective.everything(dynamics.observe(state))),
        "model_state": lambda: dynamics.model_state(state, 0),
    }
    return ScalarInfo({"step": step, "elapsed_steps": step}, lazy)


def named_arrays(engine: Engine, perspective: Perspective, state: TensorDictBase) -> dict[str, np.ndarray]:
    """The observed values of a dynamics' state ``(1,)`` by field, as copies."""
    return _on_host(perspective.named(perspective.observe(engine.dynamics.observe(state))))


def _on_host(named: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {path: on_host(values) for path, values in named.items()}


def packable(leaf: Tensor) -> Tensor:
    """A tensor in a dtype that NumPy has."""
    return leaf.float() if leaf.dtype is torch.bfloat16 else leaf
