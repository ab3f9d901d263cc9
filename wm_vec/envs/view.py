"""One env of an engine: NumPy in and out, infos that are made when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wm_vec.core import AutoresetMode, Engine
from wm_vec.core.trees import Tree, leaves_of, map_tree
from wm_vec.envs.info import ScalarInfo
from wm_vec.envs.numpy_io import ActionReader, element_of, only_env, only_row, painter_of
from wm_vec.envs.transfer import Packed
from wm_vec.render.frames import FramePainter


class EngineView:
    """One env of an engine, NumPy in and out.

    Args:
        engine: An engine of one env and one perspective without autoreset.
        observation_space, action_space: The env's.

    Raises:
        ValueError: Another engine.
    """

    def __init__(self, engine: Engine, observation_space: gym.Space, action_space: gym.Space) -> None:
        alone = engine.num_envs == len(engine.perspectives) == 1
        if not alone or engine.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "WorldModelEnv needs an engine of one env and one perspective with autoreset_mode='disabled', got "
                f"num_envs={engine.num_envs}, {len(engine.perspectives)} perspectives, {engine.autoreset_mode}."
            )
        self.engine = engine
        (self._perspective,) = engine.perspectives
        self._space, self._actions = observation_space, ActionReader(action_space)
        self._whole: Tree = None
        self._state: Any = None

    @property
    def state(self) -> Any:
        """The model's state in its own structure, as a copy; None before the first reset."""
        return None if self._whole is None else self.engine.present(self._state, 0)

    def reset(
        self, seed: int | None, options: dict[str, Any] | None, generator: np.random.Generator
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; seeds of later ones are the engine's own, `generator` is not drawn from."""
        observation, whole, state, reported = self._start_episode(seed, options)
        info = self._info(0, whole, state)
        info.update({key: only_env(value) for key, value in reported.items()})
        return element_of(observation, self._space), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; one transfer to the host."""
        taken = np.asarray(self._actions(action))[None]
        dtype = torch.int64 if self._perspective.action.kind == "discrete" else self.engine.dtype
        observation, numbers, whole, state, reported = self._advance(
            torch.as_tensor(taken).to(self.engine.device, dtype)
        )
        leaves = [_packable(leaf) for leaf in leaves_of(observation)]
        host = Packed.of(dict(enumerate(leaves)) | numbers).to_host()
        arrays = iter([torch.from_numpy(host[i]) for i in range(len(leaves))])
        observation = map_tree(lambda _: next(arrays), observation)
        info = self._info(int(host["elapsed"][0]), whole, state)
        if host["diverged"][0]:
            info["diverged"] = True
        info.update({key: only_env(value) for key, value in reported.items()})
        flags = bool(host["terminated"][0]), bool(host["truncated"][0])
        return element_of(observation, self._space), float(host["reward"][0]), *flags, info

    def _start_episode(self, seed: int | None, options: Any) -> tuple[Tree, Tree, Any, Any]:
        """The observation, the dynamics' whole observation, its state, and what it reports, of a reset."""
        observation = self.engine.reset(seed, options=options)
        return observation, self.engine.predictions(), self.engine.model_state(), self.engine.start_info

    def _advance(self, action: Tensor) -> tuple[Tree, dict[Any, Tensor], Tree, Any, Any]:
        """As `_start_episode` of a step, and its reward, flags and count by name, ``(1,)`` each."""
        out = self.engine.step(action)
        numbers: dict[Any, Tensor] = {"reward": out.reward, "terminated": out.terminated, "truncated": out.truncated}
        numbers |= {"diverged": out.diverged, "elapsed": out.episode_length}
        return out.final_observation, numbers, out.predictions, out.model_state, out.info

    def seen(self) -> Any:
        """The last observation; None before the first reset."""
        return None if self._whole is None else element_of(self._perspective.observe(self._whole), self._space)

    def named(self) -> dict[str, np.ndarray]:
        """The last observation's values by field."""
        return self._named(self._whole)

    def painter(self) -> FramePainter:
        """What draws observations."""
        return painter_of(self._perspective, self._space)

    def _info(self, step: int, whole: Tree, state: Any) -> ScalarInfo:
        self._whole, self._state = whole, state
        lazy: dict[str, Callable[[], Any]] = {
            "obs_dict": lambda: self._named(whole),
            "predictions": lambda: self._everything(whole),
            "model_state": lambda: self.engine.present(state, 0),
        }
        return ScalarInfo({"step": step, "elapsed_steps": step}, lazy)

    def _named(self, whole: Tree) -> dict[str, np.ndarray]:
        """The observed values of `whole` ``(1, ...)`` by field, as copies."""
        named = self._perspective.named(self._perspective.observe(whole))
        return {path: only_row(values) for path, values in named.items()}

    def _everything(self, whole: Tree) -> dict[str, np.ndarray]:
        """All values of `whole` ``(1, ...)`` by field, as copies."""
        named = self._perspective.everything(map_tree(Tensor.clone, whole))
        return {path: only_row(values) for path, values in named.items()}


def _packable(leaf: Tensor) -> Tensor:
    """A tensor in a dtype that NumPy has."""
    return leaf.float() if leaf.dtype is torch.bfloat16 else leaf
