"""Spaces, and the shapes, dtypes and values of everything that is returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, as_numpy, leaves, one_env, snapshot

DECLARATION, STRUCTURE = "declaration", "structure"


def check_declaration(env: VectorEnv, report: CheckReport) -> None:
    """What can be said without a step: number of envs, autoreset mode, spaces."""
    num_envs = getattr(env, "num_envs", None)
    if not isinstance(num_envs, int) or num_envs < 1:
        report.fail(DECLARATION, "num_envs", "a whole number of at least 1", repr(num_envs), "Set env.num_envs.")
        return
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        expected = "a member of gymnasium.vector.AutoresetMode"
        advice = "Declare it, for example metadata = {'autoreset_mode': AutoresetMode.SAME_STEP}."
        report.fail(DECLARATION, "metadata['autoreset_mode']", expected, repr(mode), advice)
    attribute = getattr(env, "autoreset_mode", mode)
    if attribute != mode:
        expected, advice = f"the mode of the metadata, {mode}", "Let both say the same: libraries read either."
        report.fail(DECLARATION, "attribute autoreset_mode", expected, repr(attribute), advice)
    for name in ("observation_space", "action_space"):
        single, batched = getattr(env, f"single_{name}", None), getattr(env, name, None)
        if not isinstance(single, gym.Space) or not isinstance(batched, gym.Space):
            seen = f"{type(single).__name__} and {type(batched).__name__}"
            report.fail(DECLARATION, name, f"spaces single_{name} and {name}", seen, "Set both in the constructor.")
        elif space_leaves(batched) != space_leaves(batch_space(single, num_envs)):
            expected = f"batch_space(single_{name}, {num_envs}): {batch_space(single, num_envs)}"
            report.fail(DECLARATION, name, expected, str(batched), "Make it with gymnasium.vector.utils.batch_space.")


def space_leaves(space: gym.Space, path: str = "") -> list[tuple[str, Any, Any]]:
    """(path, shape, dtype) of each part of a space."""
    if isinstance(space, gym.spaces.Dict):
        return [leaf for key, part in space.items() for leaf in space_leaves(part, f"{path}[{key!r}]")]
    if isinstance(space, gym.spaces.Tuple):
        return [leaf for i, part in enumerate(space) for leaf in space_leaves(part, f"{path}[{i}]")]
    return [(path, space.shape, space.dtype)]


class StructureWatch:
    """Looks at everything that comes back from reset and step; notes each kind of failure once."""

    def __init__(self, env: VectorEnv, report: CheckReport) -> None:
        self.env, self.report = env, report

    def __call__(self, where: str, returned: dict[str, Any]) -> None:
        """Look at what came back at `where`."""
        observation, info = returned["observation"], returned["info"]
        self.check_observation(where, observation)
        if not isinstance(info, Mapping):
            self._fail(where, "info", "a dict", type(info).__name__, "Return a dict.")
            info = {}
        first = next((leaf for _, leaf in leaves(observation)), None)
        if "reward" in returned:
            self._check_vector(where, "reward", returned["reward"], first)
            for name in ("terminated", "truncated"):
                self._check_vector(where, name, returned[name], first)
        for key, mask in info.items():
            is_mask = isinstance(key, str) and key.startswith("_") and isinstance(mask, (Tensor, np.ndarray))
            expected, advice = f"shape ({self.env.num_envs},), bool", "Masks in info are bool, one entry per env."
            if is_mask and _kind(mask) != expected:
                self._fail(where, f"info[{key!r}]", expected, _kind(mask), advice)
        everything = {name: value for name, value in returned.items() if name != "action"}
        for path, leaf in leaves(everything):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                advice = "Step under torch.no_grad(), or detach(): graphs that are kept fill the memory."
                self._fail(where, "gradients", "tensors without a graph", f"{path} requires grad", advice)

    def check_observation(self, where: str, observation: Tree) -> None:
        """Shapes, dtypes and membership of a batch of observations."""
        space = self.env.observation_space
        found = dict(leaves(observation))
        for path, shape, dtype in space_leaves(space):
            leaf = found.get(path)
            if dtype is None or (leaf is None and not isinstance(space, (gym.spaces.Dict, gym.spaces.Box))):
                continue
            expected = f"shape {shape}, {np.dtype(dtype).name}"
            if leaf is None:
                self._fail(where, f"observation{path}", expected, "nothing", "Return what the space declares.")
            elif tuple(leaf.shape) != shape or _dtype_name(leaf) != np.dtype(dtype).name:
                self._fail(where, f"observation{path}", expected, _kind(leaf), "Let space and observation agree.")
                return
        values, single = snapshot(observation), self.env.single_observation_space
        if not space.contains(values):
            envs = ((i, one_env(values, i)) for i in range(self.env.num_envs))
            strays = [f"env {i}: {one}" for i, one in envs if not single.contains(one)]
            if strays:
                what, advice = "membership of observations", "Clip what leaves the bounds, or widen the space."
                self._fail(where, what, f"elements of {single}", strays[0], advice)

    def _check_vector(self, where: str, name: str, value: Any, like: Any) -> None:
        """Reward or a flag: one entry per env, of the same kind and on the same device as the observation."""
        expected = f"shape ({self.env.num_envs},), " + ("floating point" if name == "reward" else "bool")
        if not isinstance(value, (Tensor, np.ndarray)):
            self._fail(where, name, expected, type(value).__name__, "Return a tensor or an array.")
            return
        kind = np.dtype(_dtype_name(value).replace("bfloat16", "float32")).kind
        if tuple(value.shape) != (self.env.num_envs,) or kind != ("f" if name == "reward" else "b"):
            self._fail(where, name, expected, _kind(value), "Masks and sums go wrong with anything else.")
            return
        if name == "reward" and not np.isfinite(as_numpy(value)).all():
            self._fail(where, "finite rewards", "finite numbers", str(as_numpy(value)), "End envs that diverge.")
        if isinstance(like, Tensor) != isinstance(value, Tensor):
            seen = f"{type(value).__name__} beside observations in {type(like).__name__}"
            self._fail(where, f"kind of {name}", "one kind of array", seen, "Return tensors throughout, or NumPy.")
        elif isinstance(like, Tensor) and like.device != value.device:
            seen = f"{value.device} beside observations on {like.device}"
            self._fail(where, f"device of {name}", "one device", seen, "Keep everything on the environment's device.")

    def _fail(self, where: str, what: str, expected: str, seen: str, advice: str) -> None:
        self.report.fail(STRUCTURE, what, expected, f"{where}: {seen}", advice)


def _kind(leaf: Any) -> str:
    return f"shape {tuple(leaf.shape)}, {_dtype_name(leaf)}"


def _dtype_name(leaf: Any) -> str:
    return str(leaf.dtype).removeprefix("torch.")
