"""Training a policy inside imagined worlds: PPO with TorchRL's own loss and advantage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule
from tensordict.nn.distributions import AddStateIndependentNormalScale
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al., 2017), as TorchRL implements it.

    Attributes:
        total_steps: Imagined env steps in all.
        rollout_steps: Steps of each env between two updates.
        num_epochs: Passes over each rollout.
        minibatch_size: Rows of a gradient step.
        learning_rate: Of Adam, falling linearly to a tenth.
        gamma: Discount.
        gae_lambda: Of the generalised advantage estimate.
        clip_epsilon: Clip range of the probability ratio.
        entropy_coeff: Weight of the entropy bonus.
        grad_clip: Largest gradient norm.
        reward_scale: Factor on rewards; returns should come out at about 1 to 10, or the critic drowns the actor.
        hidden: Width of the two hidden layers.
        seed: Seeds weights, actions and minibatches.
    """

    total_steps: int = 500_000
    rollout_steps: int = 32
    num_epochs: int = 4
    minibatch_size: int = 512
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_epsilon: float = 0.2
    entropy_coeff: float = 0.005
    grad_clip: float = 0.5
    reward_scale: float = 1.0
    hidden: int = 64
    seed: int = 0


class Standardise(nn.Module):
    """Observations to zero mean and unit variance, by fixed statistics ``(n,)``; flattens and casts to float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp(min=1e-4))

    def forward(self, observation: Tensor) -> Tensor:
        """``(..., n)`` float -> ``(..., n)`` float32."""
        return (observation.float() - self.mean) / self.std


class OneHot(nn.Module):
    """Class indices to one-hot rows, ``(...)`` int -> ``(..., n)`` float32."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, observation: Tensor) -> Tensor:
        """One-hot rows of the indices."""
        return nn.functional.one_hot(observation.long(), self.num_classes).float()


class Policy(nn.Module):
    """Actor and critic with one hidden trunk each.

    Calling it gives greedy actions for a batch of observations, on tensors of any dtype: what `collect_transitions`
    and evaluation take.

    Args:
        observation_space: Box of one axis, or Discrete.
        action_space: Box of one axis, or Discrete.
        mean: ``(n,)`` mean of the observations; ignored for Discrete.
        std: ``(n,)`` their standard deviation.
        hidden: Width of the hidden layers.

    Attributes:
        actor: TensorDict module ``"observation" -> "action"`` that samples.
        critic: TensorDict module ``"observation" -> "state_value"``.
        greedy: Whether calls take the most likely action, or sample.
    """

    def __init__(
        self, observation_space: gym.Space, action_space: gym.Space, mean: Tensor, std: Tensor, hidden: int = 64
    ) -> None:
        super().__init__()
        self.greedy = True
        self.actor: ProbabilisticActor
        discrete = isinstance(action_space, Discrete)
        if isinstance(observation_space, Discrete):
            width = int(observation_space.n)
            prepare: nn.Module = OneHot(width)
        elif isinstance(observation_space, Box) and len(observation_space.shape) == 1:
            width, prepare = observation_space.shape[0], Standardise(mean, std)
        else:
            raise ValueError(f"Policy: observations must be Discrete or a Box of one axis, got {observation_space}.")
        if not discrete and not (isinstance(action_space, Box) and len(action_space.shape) == 1):
            raise ValueError(f"Policy: actions must be Discrete or a Box of one axis, got {action_space}.")
        outputs = int(action_space.n) if discrete else action_space.shape[0]  # type: ignore[attr-defined,index]
        actor = [prepare, *_trunk(width, hidden), _linear(hidden, outputs, 0.01)]
        if discrete:
            module = TensorDictModule(nn.Sequential(*actor), ["observation"], ["logits"])
            self.actor = ProbabilisticActor(
                module,
                in_keys=["logits"],
                distribution_class=Categorical,
                return_log_prob=True,
                default_interaction_type=InteractionType.RANDOM,
            )
        else:
            # A plain normal, whose excess the environment clips: squashed ones saturate and stop learning.
            scale = AddStateIndependentNormalScale(outputs, scale_mapping="softplus")
            module = TensorDictModule(nn.Sequential(*actor, scale), ["observation"], ["loc", "scale"])
            self.actor = ProbabilisticActor(
                module,
                in_keys=["loc", "scale"],
                distribution_class=IndependentNormal,
                return_log_prob=True,
                default_interaction_type=InteractionType.RANDOM,
            )
        critic = nn.Sequential(prepare, *_trunk(width, hidden), _linear(hidden, 1, 1.0))
        self.critic = ValueOperator(critic, in_keys=["observation"])

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``(B, ...)`` for observations ``(B, ...)``."""
        step = TensorDict({"observation": observation}, batch_size=observation.shape[:1])
        distribution = self.actor.get_dist(step)
        if not self.greedy:
            return distribution.sample()
        if isinstance(distribution, Categorical):
            return distribution.logits.argmax(-1)
        return distribution.deterministic_sample


def train_policy(
    policy: Policy, env: Any, config: PPOConfig, progress: Callable[[int, float, float], None] | None = None
) -> None:
    """Train `policy` in place on rollouts of `env`.

    Args:
        policy: Actor and critic.
        env: Anything with ``imagine(policy, horizon) -> (B, T) TensorDict`` and ``num_envs``; it must have been
            reset.
        config: How.
        progress: Called after every update with the steps so far, the rollout's mean reward per step, and the length
            of its episodes (its steps over its ends).
    """
    generator = torch.Generator().manual_seed(config.seed)
    advantage = GAE(
        gamma=config.gamma, lmbda=config.gae_lambda, value_network=policy.critic, average_gae=False, shifted=False
    )
    loss_module = ClipPPOLoss(
        policy.actor,
        policy.critic,
        clip_epsilon=config.clip_epsilon,
        entropy_coeff=config.entropy_coeff,
        critic_coeff=0.5,
        normalize_advantage=True,
    )
    parameters = list(loss_module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    per_update = env.num_envs * config.rollout_steps
    num_updates = max(1, config.total_steps // per_update)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for update in range(num_updates):
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - 0.9 * update / num_updates)
            rollout = env.imagine(policy.actor, config.rollout_steps)
            reward_per_step = float(rollout["next", "reward"].mean())
            rollout["next", "reward"] *= config.reward_scale
            with torch.no_grad():
                advantage(rollout)
            rows = rollout.reshape(-1)
            for _ in range(config.num_epochs):
                order = torch.randperm(len(rows), generator=generator)
                for chosen in order.split(config.minibatch_size):
                    losses = loss_module(rows[chosen])
                    loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(parameters, config.grad_clip)
                    optimizer.step()
            if progress is not None:
                ends = int(rollout["next", "done"].sum())
                progress((update + 1) * per_update, reward_per_step, per_update / max(1, ends))


def episode_returns(
    env_id: str, policy: Callable[[Any], Any] | None, num_episodes: int, *, seed: int = 0
) -> list[float]:
    """Undiscounted returns of whole episodes in the real environment.

    Args:
        env_id: A registered Gymnasium id.
        policy: As `collect_transitions` takes it; None draws random actions.
        num_episodes: Episodes, one in each of as many environments.
        seed: Seeds the environments and random actions.
    """
    from wm_vec.train.collect import act

    envs = gym.make_vec(env_id, num_envs=num_episodes, vectorization_mode="sync")
    try:
        envs.action_space.seed(seed)
        observation, _ = envs.reset(seed=seed)
        returns, running = torch.zeros(num_episodes), torch.ones(num_episodes, dtype=torch.bool)
        while bool(running.any()):
            action = envs.action_space.sample() if policy is None else act(policy, observation, envs.action_space)
            observation, reward, terminated, truncated, _ = envs.step(action)
            returns += torch.as_tensor(reward).float() * running
            running &= ~torch.as_tensor(terminated | truncated)
    finally:
        envs.close()
    return returns.tolist()


def _trunk(width: int, hidden: int) -> list[nn.Module]:
    return [_linear(width, hidden, 2**0.5), nn.Tanh(), _linear(hidden, hidden, 2**0.5), nn.Tanh()]


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Orthogonal weights, zero biases: what PPO is used to."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
