"""Proximal policy optimisation (Schulman et al., 2017) in imagination, of TorchRL's parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from tensordict.nn import AddStateIndependentNormalScale, InteractionType, TensorDictModule, set_interaction_type
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from wm_vec.envs.vector import WorldModelVectorEnv
from wm_vec.world_model import WorldModel


@dataclass(frozen=True)
class PPOConfig:
    """How a policy is trained.

    Attributes:
        total_steps: Imagined env steps in all.
        rollout_steps: Steps of each env between two updates.
        num_epochs: Passes over each rollout.
        minibatch_size: Env steps of a gradient step.
        learning_rate: Of Adam, falling linearly to a tenth.
        gamma: Discount.
        entropy_coeff: Weight of the entropy bonus.
        reward_scale: Factor on rewards; returns of about 1 to 10 keep the critic's loss from drowning the actor's.
        seed: Seeds actions and minibatches.
    """

    total_steps: int = 500_000
    rollout_steps: int = 32
    num_epochs: int = 4
    minibatch_size: int = 512
    learning_rate: float = 1e-3
    gamma: float = 0.99
    entropy_coeff: float = 0.005
    reward_scale: float = 1.0
    seed: int = 0


class Policy(nn.Module):
    """Actor and critic over observations that are standardised as the world standardises them.

    A call takes observations ``(B, n)`` and returns actions ``(B, ...)``: the most likely ones, or samples.

    Args:
        world: Of an environment whose observations are a Box of one axis, and whose actions are that or Discrete.
        seed: Seeds the weights.

    Attributes:
        actor: TensorDict module ``"observation" -> "action"`` that samples.
        critic: TensorDict module ``"observation" -> "state_value"``.
        greedy: Whether calls take the most likely action.

    Raises:
        ValueError: A world with other spaces.
    """

    def __init__(self, world: WorldModel, seed: int = 0) -> None:
        super().__init__()
        self.greedy = True
        spaces: list[Any] = [getattr(world.signature, name, None) for name in ("observation_space", "action_space")]
        one_axis = [isinstance(space, Box) and len(space.shape) == 1 for space in spaces]
        if not (one_axis[0] and (one_axis[1] or isinstance(spaces[1], Discrete))):
            raise ValueError(f"Policy: a Box of one axis to observe, and another or Discrete to act; got {spaces}.")
        codec, index = world.model.codec, world.bound["observation"].indices()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            standardise = nn.Linear(len(index), len(index)).requires_grad_(False)
            standardise.weight.copy_(torch.diag(1 / codec.std[index]))
            standardise.bias.copy_(-codec.mean[index] / codec.std[index])
            if isinstance(spaces[1], Discrete):
                kind, keys = Categorical, ["logits"]
                head: nn.Module = mlp(len(index), int(spaces[1].n), 0.01)
            else:
                # A plain normal, whose excess the environment clips: squashed ones saturate and stop learning.
                kind, keys, size = IndependentNormal, ["loc", "scale"], spaces[1].shape[0]
                head = nn.Sequential(mlp(len(index), size, 0.01), AddStateIndependentNormalScale(size))
            self.critic = ValueOperator(nn.Sequential(standardise, mlp(len(index), 1, 1.0)), in_keys=["observation"])
        self.actor = ProbabilisticActor(
            TensorDictModule(nn.Sequential(standardise, head), ["observation"], keys),
            in_keys=keys,
            distribution_class=kind,
            return_log_prob=True,
            default_interaction_type=InteractionType.RANDOM,
        )
        self.to(codec.mean.device)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``(B, ...)`` for observations ``(B, n)``."""
        step = TensorDict({"observation": observation}, batch_size=observation.shape[:1])
        with set_interaction_type(InteractionType.DETERMINISTIC if self.greedy else InteractionType.RANDOM):
            return self.actor(step)["action"]


def mlp(inputs: int, outputs: int, gain: float) -> MLP:
    """Two hidden layers, with the orthogonal weights that PPO learns best from; `gain` is the last layer's."""
    network = MLP(inputs, outputs, depth=2, num_cells=64, activation_class=nn.Tanh)
    for linear in list(network)[::2]:
        nn.init.orthogonal_(linear.weight, gain if linear is network[-1] else 2**0.5)
        nn.init.zeros_(linear.bias)
    return network


def train_policy(
    policy: Policy, env: WorldModelVectorEnv, config: PPOConfig, progress: Callable[[int, float], None] | None = None
) -> None:
    """Train `policy` in place on rollouts of `env`, which must have been reset.

    Args:
        policy: Actor and critic.
        env: Imagined envs.
        config: How.
        progress: Called after every update with the env steps so far and the mean length of the rollout's episodes.
    """
    advantage = GAE(gamma=config.gamma, lmbda=0.95, value_network=policy.critic, shifted=False)
    options: dict[str, Any] = {"critic_coeff": 0.5, "normalize_advantage": True}
    loss_module = ClipPPOLoss(policy.actor, policy.critic, entropy_coeff=config.entropy_coeff, **options)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.learning_rate, eps=1e-5)
    steps_each = env.num_envs * config.rollout_steps
    num_updates = max(1, config.total_steps // steps_each)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=num_updates)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for update in range(num_updates):
            rollout = env.imagine(policy.actor, config.rollout_steps)
            rollout["next", "reward"] *= config.reward_scale
            with torch.no_grad():
                advantage(rollout)
            steps = rollout.reshape(-1)
            for _ in range(config.num_epochs):
                for chosen in torch.randperm(steps_each).split(config.minibatch_size):
                    losses = loss_module(steps[chosen])
                    optimizer.zero_grad()
                    (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                    nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                    optimizer.step()
            schedule.step()
            if progress is not None:
                progress((update + 1) * steps_each, steps_each / max(1, int(rollout["next", "done"].sum())))
