"""The Stable-Baselines3 face: a tensor vector environment as a `VecEnv`, one copy to the host per step."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from wm_vec.core.state import warn_of_divergence
from wm_vec.envs.sb3_spaces import check_leaf, checked_actions, face_keys
from wm_vec.envs.transfer import TORCH_DTYPES, Packed
from wm_vec.plain import check_type, seed_number
from wm_vec.spaces import leaves

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
except ImportError as error:
    raise ImportError(
        "SB3VecEnv needs Stable-Baselines3, which cannot be imported: pip install 'wm_vec[sb3]'"
    ) from error


class SB3VecEnv(VecEnv):
    """A vector environment that returns tensors, as Stable-Baselines3 wants its environments.

    NumPy in and out; arrays are new ones at every step and stay as they are. What a step returns leaves the device in
    one copy. Infos of envs whose episode goes on are empty dicts. The others hold ``terminal_observation``,
    ``TimeLimit.truncated``, ``episode`` (``r``, ``l``, ``t`` as `Monitor` gives them, so that no monitor is needed and
    ``env_is_wrapped(Monitor)`` is true) and, of a world that broke down, ``diverged``. ``r`` and ``l`` are
    those of the environment's own ``info["episode"]``, or counted here if it gives none.

    Observations of several parts become one flat Dict, whose keys have underscores where names have dots or nest;
    those of a Tuple are ``observation_0``, ``observation_1``, ... What one vector environment
    has only one of is shared by all envs: `get_attr` repeats it, `set_attr` takes no subset of envs, `env_method` calls
    it once.

    Args:
        vector_env: In SAME_STEP mode, with ``info["final_obs"]`` a full batch; `WorldModelVectorEnv`, any other whose
            observations, rewards and flags are torch tensors on one device, or one of these in wrappers.

    Raises:
        ValueError: Another autoreset mode, or spaces that Stable-Baselines3 has no policy for.
        TypeError: Not a vector environment.
    """

    def __init__(self, vector_env: VectorEnv) -> None:
        _check_vector_env(vector_env)
        observed, acted = vector_env.single_observation_space, vector_env.single_action_space
        check_leaf("the action space", acted)
        self.vector_env = vector_env
        self.spec = vector_env.spec
        self._keys = face_keys(observed)
        self._spaces: dict[str | None, gym.Space] = {self._keys[path]: space for path, space in leaves(observed)}
        # Normalisers of Stable-Baselines3 write into the space that they are given.
        face = (
            deepcopy(observed)
            if None in self._spaces
            else spaces.Dict({str(key): deepcopy(space) for key, space in self._spaces.items()})
        )
        self._device: torch.device | None = None
        self._pending: Packed | None = None
        self._returns = np.zeros(vector_env.num_envs)
        self._lengths = np.zeros(vector_env.num_envs, np.int64)
        self._start = time.time()
        super().__init__(vector_env.num_envs, face, deepcopy(acted))

    # -- episodes -------------------------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Start an episode in every env, with the seeds and options that were set since the last reset, if any.

        Returns:
            Observations ``(B, ...)``, or a dict of them.
        """
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, _ = self.vector_env.reset(seed=seeds, options=self._shared_options())  # type: ignore[arg-type]
        tensors = self._leaves("observation", observation, "reset")
        self._device = next(iter(tensors.values())).device
        self._pending = None
        self._returns[:], self._lengths[:] = 0, 0
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._joined("observation", Packed.of(tensors).to_host())

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed env i with ``seed + i`` at the next reset; None draws a seed."""
        return super().seed(None if seed is None else seed_number(seed, "SB3VecEnv.seed: seed"))

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step of all envs; nothing is read back yet.

        Args:
            actions: ``(B, ...)`` elements of the action space.

        Raises:
            ValueError: Actions of another shape, or with values that are no actions.
            RuntimeError: Before the first reset, or with a step already under way.
            TypeError: The environment returned something other than tensors.
        """
        if self._device is None:
            raise RuntimeError("SB3VecEnv.step: call reset() first; there is no episode yet.")
        if self._pending is not None:
            raise RuntimeError("SB3VecEnv.step_async: a step is under way; call step_wait() first.")
        # A copy: the environment may keep it, and the caller may write into theirs.
        taken = torch.from_numpy(checked_actions(actions, self.action_space, self.num_envs)).to(
            self._device, non_blocking=True
        )
        observation, reward, terminated, truncated, info = self.vector_env.step(taken)
        tensors = self._leaves("observation", observation, "step")
        for name, value in {"reward": reward, "terminated": terminated, "truncated": truncated}.items():
            dtype = torch.float32 if name == "reward" else torch.bool
            tensors[name] = _per_env(f"step: {name}", value, (self.num_envs,)).to(dtype)
        if "final_obs" in info:
            tensors |= self._leaves("final_obs", info["final_obs"], "step")
        if isinstance(info.get("diverged"), Tensor):
            tensors["diverged"] = info["diverged"]
        episode = info.get("episode")
        if episode is not None and all(isinstance(episode.get(key), Tensor) for key in ("r", "l")):
            tensors |= {"r": episode["r"], "l": episode["l"]}
        self._pending = Packed.of(tensors)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish the step; the one place where the host waits for the device.

        Returns:
            Observations ``(B, ...)`` or a dict of them, rewards ``(B,)`` float32, dones ``(B,)`` bool, B infos.

        Raises:
            RuntimeError: No step is under way, or an episode ended and the environment did not say with which
                observation.
        """
        if self._pending is None:
            raise RuntimeError("SB3VecEnv.step_wait: no step is under way; call step_async() first.")
        host, self._pending = self._pending.to_host(), None
        self._returns += host["reward"]
        self._lengths += 1
        host.setdefault("r", self._returns)
        host.setdefault("l", self._lengths)
        done = host["terminated"] | host["truncated"]
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        finished = np.flatnonzero(done)
        if finished.size:
            self._fill(infos, finished, host)
            self._returns[finished], self._lengths[finished] = 0, 0
        return self._joined("observation", host), host["reward"], done, infos

    def _fill(self, infos: list[dict[str, Any]], finished: np.ndarray, host: dict[Hashable, Any]) -> None:
        """Write what is known of the ended episodes into the infos of their envs."""
        if ("final_obs", next(iter(self._spaces))) not in host:
            raise RuntimeError(
                f"SB3VecEnv.step: the episodes of envs {finished[:8].tolist()} ended, but the environment's info has "
                "no 'final_obs'; it must hold the observations before the resets, a full batch."
            )
        seconds = round(time.time() - self._start, 6)
        # Copies of the few envs that ended, so that a kept info does not keep the whole batch.
        ends = {key: host["final_obs", key][finished] for key in self._spaces}
        truncated = (host["truncated"] & ~host["terminated"])[finished].tolist()
        returns, lengths = host["r"][finished].tolist(), host["l"][finished].tolist()
        for place, env in enumerate(finished.tolist()):
            terminal = {key: values[place] for key, values in ends.items()}
            infos[env] = {
                "terminal_observation": terminal.get(None, terminal),
                "TimeLimit.truncated": truncated[place],
                "episode": {"r": round(returns[place], 6), "l": lengths[place], "t": seconds},
            }
            if "diverged" in host and host["diverged"][env]:
                infos[env]["diverged"] = True
                warn_of_divergence()

    def _leaves(self, name: str, observation: Any, where: str) -> dict[Hashable, Tensor]:
        """The tensors of an observation by ``(name, face key)``, in the dtypes of their spaces."""
        found: dict[Hashable, Tensor] = {}
        for path, key in self._keys.items():
            space = self._spaces[key]
            what = f"{where}: {name}" + "".join(f"[{part!r}]" for part in path)
            leaf = reduce(operator.getitem, path, observation)
            leaf = _per_env(what, leaf, (self.num_envs, *(space.shape or ())))
            found[name, key] = leaf.to(TORCH_DTYPES[np.dtype(space.dtype)])
        return found

    def _joined(self, name: str, host: Mapping[Hashable, np.ndarray]) -> Any:
        if None in self._spaces:
            return host[name, None]
        return {key: host[name, key] for key in self._spaces}

    def _shared_options(self) -> dict[str, Any] | None:
        if not any(self._options):
            return None
        if any(options is not self._options[0] for options in self._options):
            raise ValueError(
                "SB3VecEnv.reset: the envs are one vector environment and share their options; "
                "call set_options() with one dict, not a list of them."
            )
        return self._options[0]

    # -- the environment behind it --------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The vector environment's attribute (of a wrapper, if one has it), once for each env.

        Spaces are those of one env. The value is one object, not copies.
        """
        name = f"single_{attr_name}" if attr_name in ("observation_space", "action_space") else attr_name
        return [getattr(self._layer_with(name), name)] * len(self._envs(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the vector environment's attribute, on the outermost layer that has it.

        Raises:
            ValueError: For some envs only; they share it.
        """
        if set(self._envs(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"SB3VecEnv.set_attr: all envs share one {attr_name!r}; leave indices out, got {indices!r}."
            )
        layer = self._layer_with(attr_name) if self.has_attr(attr_name) else self.vector_env
        setattr(layer, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """Call the vector environment's method, once, whatever `indices` are; they pick whose results come back.

        A tuple with an entry for each env, as `render` gives, is handed out entry by entry, anything else to everybody.

        Raises:
            ValueError: ``reset`` and ``step``, which this object has to know of.
        """
        if method_name in ("reset", "step"):
            raise ValueError(
                f"SB3VecEnv.env_method: all envs {method_name} together; call {method_name}() of the VecEnv."
            )
        result = getattr(self._layer_with(method_name), method_name)(*method_args, **method_kwargs)
        one_each = isinstance(result, tuple) and len(result) == self.num_envs
        return [result[env] if one_each else result for env in self._envs(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the vector environment is wrapped so; true of `Monitor`, whose statistics are in the infos."""
        found = wrapper_class is Monitor or any(isinstance(layer, wrapper_class) for layer in self._layers())
        return [found] * len(self._envs(indices))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One frame ``(H, W, 3)`` uint8 per env; None each, with a warning, without ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            mode = self.render_mode
            warnings.warn(f"get_images needs render_mode='rgb_array', this environment has {mode!r}.", stacklevel=2)
            return [None] * self.num_envs
        frames: Any = self.vector_env.render()
        return list(frames)

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def _envs(self, indices: VecEnvIndices) -> list[int]:
        if indices is None:
            return [*range(self.num_envs)]
        try:
            envs = np.atleast_1d(np.asarray(indices))
        except (ValueError, RuntimeError):  # nested lists of unequal lengths, TensorDicts
            envs = np.empty(0, object)
        if envs.ndim != 1 or envs.dtype.kind not in "iu" or not np.isin(envs, np.arange(self.num_envs)).all():
            raise ValueError(
                f"SB3VecEnv: indices must be numbers of envs from 0 to {self.num_envs - 1}, got {indices!r}."
            )
        return envs.tolist()

    def _layers(self) -> Iterator[VectorEnv]:
        """The vector environment from its outermost wrapper inwards; Gymnasium's wrappers hide what is inside."""
        layer = self.vector_env
        yield layer
        while isinstance(layer, VectorWrapper):
            layer = layer.env
            yield layer

    def _layer_with(self, name: str) -> VectorEnv:
        check_type(name, str, "SB3VecEnv: the name of an attribute")
        for layer in self._layers():
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"{self.vector_env} has no attribute {name!r}.")


def _check_vector_env(vector_env: Any) -> None:
    if not isinstance(vector_env, VectorEnv):
        raise TypeError(
            f"SB3VecEnv wraps a gymnasium.vector.VectorEnv, as WorldModel.to_vector_env() makes, got {vector_env!r}; "
            "scalar environments go to Stable-Baselines3 as they are."
        )
    mode = (vector_env.metadata or {}).get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(
            "SB3VecEnv needs a vector environment that resets in the step that ends an episode, got "
            f"autoreset_mode={mode}; make it with autoreset_mode='same_step'."
        )


def _per_env(what: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"SB3VecEnv.{what} must be a torch tensor, got {type(value).__name__}; environments that return NumPy "
            "arrays go into Stable-Baselines3's own DummyVecEnv."
        )
    if tuple(value.shape) != shape:
        raise ValueError(f"SB3VecEnv.{what} must have shape {shape}, got {tuple(value.shape)}.")
    return value
