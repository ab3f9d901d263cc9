"""Our vector environments as TorchRL's own `GymWrapper` reads them."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Dict
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor


class ForGymWrapper(VectorWrapper):
    """A vector environment to put between ours and `torchrl.envs.GymWrapper`: ``GymWrapper(ForGymWrapper(env))``.

    GymWrapper expects NumPy. It hands tensors on as they are, so its transforms would meet rewards ``(B,)`` where its
    spec says ``(B, 1)``, and `RewardSum` would make ``(B, B)`` of them; and its reader of the last observations under
    SAME_STEP takes no nested info. Here rewards are ``(B, 1)`` float32, as the spec says, info holds nothing but
    ``final_obs`` with its mask, and actions may be NumPy or on another device. `TorchRLEnv` needs none of this.

    Args:
        env: A `WorldModelVectorEnv`. Best under DISABLED: under SAME_STEP TorchRL resets once more whenever all envs
            end together.

    Raises:
        ValueError: NEXT_STEP, which TorchRL does not take; SAME_STEP with Dict observations, of which its reader loses
            the last ones of episodes.
    """

    env: Any

    def __init__(self, env: VectorEnv) -> None:
        several = isinstance(env.single_observation_space, Dict)
        mode = env.metadata["autoreset_mode"]
        if mode is AutoresetMode.NEXT_STEP or (several and mode is AutoresetMode.SAME_STEP):
            raise ValueError(
                f"ForGymWrapper: TorchRL's GymWrapper cannot take {mode}{' with Dict observations' * several}. Make "
                "the environment with autoreset_mode='disabled', or take to_torchrl()."
            )
        super().__init__(env)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """Which TorchRL asks for."""
        return self.env.metadata["autoreset_mode"]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's own, without info."""
        return self.env.reset(**options)[0], {}

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Observations ``(B, ...)``, rewards ``(B, 1)`` float32, flags ``(B,)`` bool, final observations in info."""
        taken = torch.as_tensor(actions, device=self.env.device)
        observation, reward, terminated, truncated, info = self.env.step(taken)
        final: dict[str, Any] = {key: info[key] for key in ("final_obs", "_final_obs") if key in info}
        return observation, reward.to(torch.float32).unsqueeze(1), terminated, truncated, final
