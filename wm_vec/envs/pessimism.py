"""Rewards less what the model does not know: wrappers that charge for the disagreement of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.envs.reset_options import reset_mask
from wm_vec.plain import real_number

PENALTY = "penalty"


class PessimisticReward(gym.Wrapper, RecordConstructorArgs):
    """``reward - coefficient * info[key]`` of one environment.

    A policy trained in a learned model goes where the model errs in its favour. What an ensemble's members say there
    differs, and this makes it cost. ``info["penalty"]`` holds what was taken off; 0 where the world broke down, since
    disagreement is no number there. `gymnasium.wrappers.RecordEpisodeStatistics` and Stable-Baselines3's `Monitor`
    count these rewards if they wrap this one, and the model's own if this wraps them.

    Args:
        env: Its info holds the key at every step.
        coefficient: Reward per unit of disagreement, 0 or more.
        key: What `env` calls the disagreement: one number.

    Raises:
        ValueError: The coefficient is negative or no number.
    """

    def __init__(self, env: gym.Env, coefficient: float, key: str = "disagreement") -> None:
        RecordConstructorArgs.__init__(self, coefficient=coefficient, key=key)
        super().__init__(env)
        self.coefficient, self.key = real_number(coefficient, f"{type(self).__name__}: coefficient", 0.0), key

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            AdapterError: Info lacks the key, or holds several numbers there.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        value = _found(info, self.key, type(self).__name__, "one number, such as float(members.std(0).mean())")
        number = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        if number.size != 1 or number.dtype.kind not in "fiub":
            raise AdapterError(
                f"PessimisticReward: info[{self.key!r}] must be one number, got {describe(value)}. Reduce it over the "
                "parts of the observation, for example with .mean()."
            )
        penalty = 0.0 if info.get("diverged", False) else self.coefficient * float(number.reshape(()))
        info[PENALTY] = penalty
        return observation, float(reward) - penalty, terminated, truncated, info


class PessimisticVectorReward(VectorWrapper):
    """``reward - coefficient * info[key]`` of every env of a vector environment that returns torch tensors.

    `PessimisticReward` for many; no host sync. ``info["episode"]["r"]``, and that of ``final_info``, are sums of the
    rewards that this returns, and ``info["episode"]["penalty"]`` is what was taken off in the episode so far: together
    they are the model's own return. ``info["penalty"]`` ``(B,)`` is what this step took off: nothing where the world
    broke down, and nothing in the step that resets under NEXT_STEP.

    The penalty belongs to this wrapper: what is reached through ``unwrapped`` (imagine, fork, state and set_state) has
    the model's own rewards, and sums of episodes do not follow a ``set_state``.

    Args:
        env: Its info holds the key at every step.
        coefficient: Reward per unit of disagreement, 0 or more.
        key: What `env` calls the disagreement: tensor ``(B,)`` or ``(B, 1)``.

    Raises:
        ValueError: The coefficient is negative or no number.
    """

    def __init__(self, env: VectorEnv, coefficient: float, key: str = "disagreement") -> None:
        super().__init__(env)
        self.coefficient, self.key = real_number(coefficient, f"{type(self).__name__}: coefficient", 0.0), key
        self._mode = (env.metadata or {}).get("autoreset_mode")
        # Made at the first step: only rewards show dtype and device.
        self._stepped = False
        self._returns, self._penalties, self._pending = torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool)

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start episodes, all or those that ``options`` name with ``reset_mask`` or ``env_idx``."""
        observation, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if self._stepped:
            mask = reset_mask(options, self.num_envs)
            fresh = torch.ones_like(self._pending) if mask is None else mask.to(self._returns.device)
            self._start_anew(fresh)
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all envs.

        Raises:
            AdapterError: Info lacks the key, or holds something else than a number per env there.
        """
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if not isinstance(reward, Tensor):
            raise AdapterError(
                f"PessimisticVectorReward: rewards must be torch tensors, got {describe(reward)}. Wrap the scalar "
                "environments in PessimisticReward instead."
            )
        if not self._stepped:
            self._stepped = True
            self._returns, self._penalties = torch.zeros_like(reward), torch.zeros_like(reward)
            self._pending = torch.zeros_like(reward, dtype=torch.bool)
        penalty = self._penalty(info, reward)
        # The step after an end is spent on the reset: it tells of the next episode.
        self._start_anew(self._pending)
        reward = reward - penalty
        returns, penalties = self._returns + reward, self._penalties + penalty
        self._report(info, penalty, {"r": returns, PENALTY: penalties})
        # Copies, since the others are handed out.
        self._returns, self._penalties = returns.clone(), penalties.clone()
        ended = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP:
            self._start_anew(ended)
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._pending = ended
        return observation, reward, terminated, truncated, info

    def _penalty(self, info: Mapping[str, Any], reward: Tensor) -> Tensor:
        """``(B,)``, what this step costs."""
        wanted = f"a number per env, shape {tuple(reward.shape)}, such as members.std(0).mean(-1)"
        value = _found(info, self.key, type(self).__name__, wanted)
        if not isinstance(value, Tensor) or value.shape not in (reward.shape, (*reward.shape, 1)):
            raise AdapterError(
                f"PessimisticVectorReward: info[{self.key!r}] must be a tensor of {wanted}, got {describe(value)}."
            )
        free = self._pending
        if isinstance(info.get("diverged"), Tensor):
            free = free | info["diverged"]
        return (self.coefficient * value.to(reward).reshape(reward.shape)).masked_fill(free, 0.0)

    def _report(self, info: dict[str, Any], penalty: Tensor, episode: dict[str, Tensor]) -> None:
        info[PENALTY] = penalty
        for place in (info, info.get("final_info")):
            if isinstance(place, dict) and isinstance(place.get("episode"), dict):
                place["episode"] = {**place["episode"], **episode}

    def _start_anew(self, fresh: Tensor) -> None:
        """Episodes begin where `fresh` ``(B,)`` says, with sums of 0 and no reset ahead."""
        self._returns = self._returns.masked_fill(fresh, 0.0)
        self._penalties = self._penalties.masked_fill(fresh, 0.0)
        self._pending = self._pending & ~fresh


def _found(info: Mapping[str, Any], key: str, where: str, wanted: str) -> Any:
    if key in info:
        return info[key]
    raise AdapterError(
        f"{where}: info has no {key!r}; it has {sorted(map(str, info))}. Have the model's transition return info with "
        f"{key!r}: {wanted}, over an ensemble's members; in TorchRLDynamics name it in info_keys. Or say which key "
        "holds it with key=."
    )
