"""Proximal policy optimisation (Schulman et al., 2017) in imagination, of TorchRL's parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers.utils import RunningMeanStd
from tensordict import TensorDict
from tensordict.nn import AddStateIndependentNormalScale, InteractionType, TensorDictModule, set_interaction_type
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from wm_vec.envs.vector import WorldModelVectorEnv
from wm_vec.world_model import WorldModel

REWARD_LIMIT = 10.0
"""Scaled rewards are clipped to it, as is usual: where rewards are rare, the first is many deviations."""
KEPT_EPISODES = 100
"""Episodes whose mean length is reported."""


@dataclass(frozen=True)
class PPOConfig:
    """How a policy is trained. Rewards are scaled, so nothing here depends on their size.

    Attributes:
        total_steps: Imagined env steps in all.
        rollout_steps: Steps of each env between two updates.
        num_epochs: Passes over each rollout.
        minibatch_size: Env steps of a gradient step.
        learning_rate: Of Adam, falling linearly to a tenth.
        gamma: Discount.
        entropy_coeff: Weight of the entropy bonus; where rewards are rare (FrozenLake-v1) it takes .03, more but
            smaller rollouts (64 envs) and a gamma of .999 not to settle early.
        seed: Seeds actions and minibatches.
    """

    total_steps: int = 500_000
    rollout_steps: int = 32
    num_epochs: int = 4
    minibatch_size: int = 512
    learning_rate: float = 1e-3
    gamma: float = 0.99
    entropy_coeff: float = 0.005
    seed: int = 0


class Policy(nn.Module):
    """Actor and critic over observations that are standardised as the world standardises them, or one-hot classes.

    A call takes observations ``(B, n)``, or ``(B,)`` of classes, and returns actions ``(B, ...)``: the most likely
    ones, or samples.

    Args:
        world: Of an environment whose observations and actions are a Box of one axis or Discrete, each.
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
        if not all(isinstance(s, Discrete) or (isinstance(s, Box) and len(s.shape) == 1) for s in spaces):
            raise ValueError(f"Policy: a Box of one axis or Discrete to observe, and to act; got {spaces}.")
        if isinstance(spaces[1], Box) and spaces[1].dtype.kind != "f":
            raise ValueError(f"Policy: acts on a Box by fractions, got {spaces[1]}, which has none.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(spaces[0], Discrete):
                features: nn.Module = OneHot(spaces[0])
                inputs = int(spaces[0].n)
            else:
                codec, index = world.model.codec, world.bound["observation"].indices()
                std = codec.std[index]
                features, inputs = Standardise(codec.mean[index], torch.where(std > 0, std, 1.0)), len(index)
            if isinstance(spaces[1], Discrete):
                kind, keys = Categorical, ["logits"]
                head: nn.Module = mlp(inputs, int(spaces[1].n), 0.01)
            else:
                # A plain normal, whose excess the environment clips: squashed ones saturate and stop learning.
                kind, keys, size = IndependentNormal, ["loc", "scale"], spaces[1].shape[0]
                head = nn.Sequential(mlp(inputs, size, 0.01), AddStateIndependentNormalScale(size))
            self.critic = ValueOperator(nn.Sequential(features, mlp(inputs, 1, 1.0)), in_keys=["observation"])
        self.actor = ProbabilisticActor(
            TensorDictModule(nn.Sequential(features, head), ["observation"], keys),
            in_keys=keys,
            distribution_class=kind,
            return_log_prob=True,
            default_interaction_type=InteractionType.RANDOM,
        )
        self.to(world.device)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``(B, ...)`` for observations ``(B, n)`` or ``(B,)``."""
        step = TensorDict({"observation": observation}, batch_size=observation.shape[:1])
        with set_interaction_type(InteractionType.DETERMINISTIC if self.greedy else InteractionType.RANDOM):
            return self.actor(step)["action"]


class OneHot(nn.Module):
    """Classes ``(...)``, whole numbers of any dtype, as ``(..., n)`` float32."""

    classes: Tensor

    def __init__(self, space: Discrete) -> None:
        super().__init__()
        self.register_buffer("classes", torch.arange(int(space.start), int(space.start + space.n)))

    def forward(self, observation: Tensor) -> Tensor:
        """One 1 each."""
        return (observation.unsqueeze(-1) == self.classes).float()


class Standardise(nn.Module):
    """Numbers ``(..., n)`` of any dtype less `mean`, over `std` ``(n,)``, as float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, observation: Tensor) -> Tensor:
        """About normal, where the data were."""
        return ((observation - self.mean) / self.std).float()


def mlp(inputs: int, outputs: int, gain: float) -> MLP:
    """Two hidden layers, with the orthogonal weights that PPO learns best from; `gain` is the last layer's."""
    network = MLP(inputs, outputs, depth=2, num_cells=64, activation_class=nn.Tanh)
    for linear in list(network)[::2]:
        nn.init.orthogonal_(linear.weight, gain if linear is network[-1] else 2**0.5)
        nn.init.zeros_(linear.bias)
    return network


class RolloutStatistics:
    """What is known of the rollouts so far: how returns spread, and how long episodes last.

    Args:
        num_envs: Envs B.
        gamma: Discount.

    Attributes:
        returns: Mean and variance of the discounted rewards that each episode has gathered up to each step; rewards are
            divided by their deviation, as Stable-Baselines3's VecNormalize does.
        lengths: Steps of the last `KEPT_EPISODES` episodes that ended.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.returns = RunningMeanStd()
        self.lengths: deque[int] = deque(maxlen=KEPT_EPISODES)
        self._gamma, self._return, self._length = gamma, np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def update(self, reward: np.ndarray, done: np.ndarray) -> None:
        """Count the next T steps in: rewards ``(T, B)`` and ends ``(T, B)`` bool."""
        for paid, ended in zip(reward, done, strict=True):
            self._return, self._length = self._gamma * self._return + paid, self._length + 1
            self.returns.update(self._return)
            self.lengths.extend(self._length[ended])
            self._return[ended] = self._length[ended] = 0


def train_policy(
    policy: Policy, env: WorldModelVectorEnv, config: PPOConfig, progress: Callable[[int, float], None] | None = None
) -> None:
    """Train `policy` in place on rollouts of `env`, which must have been reset.

    Args:
        policy: Actor and critic.
        env: Imagined envs.
        config: How.
        progress: Called after every update with the env steps so far and the mean length of the last episodes that
            ended, NaN before the first. (Steps over ends would mislead: envs that started together reach their horizon
            together.)
    """
    advantage = GAE(gamma=config.gamma, lmbda=0.95, value_network=policy.critic, shifted=False)
    options: dict[str, Any] = {"critic_coeff": 0.5, "normalize_advantage": True}
    loss_module = ClipPPOLoss(policy.actor, policy.critic, entropy_coeff=config.entropy_coeff, **options)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=config.learning_rate, eps=1e-5)
    steps_each = env.num_envs * config.rollout_steps
    num_updates = max(1, config.total_steps // steps_each)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=num_updates)
    statistics = RolloutStatistics(env.num_envs, config.gamma)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for update in range(num_updates):
            rollout = env.imagine(policy.actor, config.rollout_steps)
            reward = rollout["next", "reward"]
            statistics.update(*(rollout["next", key].squeeze(-1).T.cpu().numpy() for key in ("reward", "done")))
            deviation = float(np.sqrt(statistics.returns.var + 1e-8))
            rollout["next", "reward"] = (reward / deviation).clamp(-REWARD_LIMIT, REWARD_LIMIT)
            with torch.no_grad():
                advantage(rollout)
            steps = rollout.exclude("next").reshape(-1)
            for _ in range(config.num_epochs):
                for chosen in torch.randperm(steps_each).split(config.minibatch_size):
                    losses = loss_module(steps[chosen])
                    optimizer.zero_grad()
                    (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                    nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                    optimizer.step()
            schedule.step()
            if progress is not None:
                lengths = statistics.lengths
                progress((update + 1) * steps_each, float(np.mean(lengths)) if lengths else float("nan"))
