"""The tensor-first Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict
from torch import Tensor

from wm_vec.core import Engine, EnvState, StepResult
from wm_vec.core.trees import map_tree
from wm_vec.envs.info import LazyInfo
from wm_vec.render.frames import value_frame


class WorldModelVectorEnv(VectorEnv):
    """Thousands of imagined environments as one Gymnasium vector environment, torch tensors in and out.

    Observations, rewards and flags are tensors on `device`, new ones at every step. ``info`` holds at every step
    ``episode`` (``r``: return so far, ``l``: length so far) with the mask ``_episode`` of those that ended,
    ``diverged`` ``(B,)`` bool, and, made when read, ``obs_dict``, ``predictions`` and ``model_state`` of the state that
    the next step starts from. In SAME_STEP mode also ``final_obs`` and ``final_info``, of the state before the resets,
    with their masks, a full batch each; in the other two modes the observation itself is the last one.

    Args:
        engine: The engine with one perspective.
        single_observation_space: One env's observations.
        single_action_space: One env's actions.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self,
        engine: Engine,
        single_observation_space: gym.Space,
        single_action_space: gym.Space,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        self.engine = engine
        self.num_envs = engine.num_envs
        self.single_observation_space = single_observation_space
        self.single_action_space = single_action_space
        self.observation_space = batch_space(single_observation_space, engine.num_envs)
        self.action_space = batch_space(single_action_space, engine.num_envs)
        self.render_mode = render_mode
        self.metadata = {"autoreset_mode": engine.autoreset_mode, "render_modes": ["rgb_array"], "render_fps": 30}
        self._perspective = engine.perspectives[0]
        self._draws = 0

    @property
    def device(self) -> torch.device:
        """Where all tensors live."""
        return self.engine.device

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """Gymnasium's autoreset mode, also in ``metadata``."""
        return self.engine.autoreset_mode

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is truncated."""
        return self.engine.max_episode_steps

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``, as SyncVectorEnv does; a sequence gives one each. None goes on
                to the next episodes, with entropy from the operating system at the very first reset.
            options: ``reset_mask``, bool ``(B,)``, NumPy or torch: the envs to reset. ``env_idx`` names them instead.

        Returns:
            Observations ``(B, ...)`` and info.

        Raises:
            ValueError: Unknown options, or a mask or index that does not fit.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        observation = self.engine.reset(seed, self._reset_mask(options))
        self._draws = 0
        return observation, LazyInfo({}, self._lazy(self.engine.model_state()))

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all envs; no host sync.

        Args:
            actions: ``(B, ...)`` tensor on `device`; integers for a Discrete space, floats for a Box, clipped to its
                bounds.

        Returns:
            Observations ``(B, ...)``, rewards ``(B,)`` float, terminated and truncated ``(B,)`` bool, info.
        """
        result = self.engine.step(actions)
        self._draws = 0
        return result.observation, result.reward, result.terminated, result.truncated, self._info(result)

    def sample_actions(self) -> Tensor:
        """Random actions ``(B, ...)`` made on the device.

        They depend on each env's seed, episode and step, and on how often this was called since the last step.
        """
        self._draws += 1
        return self.engine.sample_actions(self._draws - 1)

    def state(self) -> EnvState:
        """The state of all envs; see `Engine.state`."""
        return self.engine.state()

    def set_state(self, state: EnvState) -> Tensor:
        """Go on from `state`; returns the observations. See `Engine.set_state`."""
        return self.engine.set_state(state)

    def fork(self, indices: Tensor | Sequence[int], rng: str = "fresh") -> WorldModelVectorEnv:
        """A new environment whose env j continues env ``indices[j]``; see `Engine.fork`."""
        forked = WorldModelVectorEnv(
            self.engine.fork(indices, rng), self.single_observation_space, self.single_action_space, self.render_mode
        )
        forked.spec = self.spec
        return forked

    def imagine(self, policy: Callable[..., Any], horizon: int, grad: bool = False) -> TensorDict:
        """Run policy and world together; see `Engine.imagine`."""
        return self.engine.imagine(policy, horizon, grad)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per env, ``(H, W, 3)`` uint8; reads the host."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without render_mode='rgb_array'.")
            return None
        observation = self._perspective.observe(self.engine.predictions())
        named = {k: v.cpu().numpy() for k, v in self._perspective.named(observation).items()}
        return tuple(value_frame({k: v[i] for k, v in named.items()}) for i in range(self.num_envs))

    def _info(self, result: StepResult) -> dict[str, Any]:
        episode = {"r": result.episode_return, "l": result.episode_length}
        info: dict[str, Any] = {
            **result.info,
            "episode": episode,
            "_episode": result.finished,
            "diverged": result.diverged,
        }
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            info["final_obs"] = result.final_observation
            info["_final_obs"] = result.finished.clone()
            final = {"episode": dict(episode), "_episode": result.finished.clone()}
            info["final_info"] = LazyInfo(final, self._lazy(result.model_state))
            info["_final_info"] = result.finished.clone()
        return LazyInfo(info, self._lazy(self.engine.model_state()))

    def _lazy(self, state: TensorDict) -> dict[str, Callable[[], Any]]:
        """What is made of a dynamics state when it is read, as copies."""
        perspective, observe = self._perspective, self.engine.dynamics.observe
        return {
            "obs_dict": lambda: perspective.named(perspective.observe(observe(state))),
            "predictions": lambda: dict(perspective.everything(map_tree(Tensor.clone, observe(state)))),
            "model_state": lambda: state.clone(),
        }

    def _reset_mask(self, options: Mapping[str, Any] | None) -> Tensor | None:
        if not options:
            return None
        unknown = set(options) - {"reset_mask", "env_idx"}
        if unknown:
            raise ValueError(f"reset: unknown options {sorted(unknown)}; it takes 'reset_mask' or 'env_idx'.")
        if "reset_mask" in options:
            mask = torch.as_tensor(options["reset_mask"])
            if mask.dtype != torch.bool or tuple(mask.shape) != (self.num_envs,):
                raise ValueError(
                    f"reset: options['reset_mask'] must be bool of shape ({self.num_envs},), "
                    f"got {mask.dtype}, {tuple(mask.shape)}."
                )
            return mask.to(self.device)
        index = torch.as_tensor(options["env_idx"], dtype=torch.int64).reshape(-1)
        if bool(((index < 0) | (index >= self.num_envs)).any()):
            raise ValueError(f"reset: options['env_idx'] must lie in [0, {self.num_envs}), got {index.tolist()}.")
        return torch.zeros(self.num_envs, dtype=torch.bool).index_fill_(0, index, True).to(self.device)
