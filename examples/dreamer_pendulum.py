"""A policy for Pendulum, trained in Dreamer's way: through the gradients of an imagined world.

A single file to read and to change. The world is the bundled Pendulum, learned from real steps beforehand and fixed
here. In every iteration all envs are imagined 15 steps further with the graph kept. The actor climbs the lambda returns
of these steps: their gradients reach its actions through rewards, values and the world's own steps. The critic then
regresses on the same returns, as numbers. The policy meets the real Pendulum-v1 when it is evaluated, at the end.

The returns are TorchRL's; its DreamerActorLoss is not used. That loss imagines by itself, from an RSSM's "state", stops
where any env's episode ends, and takes every step for one without an end. On a world that never ends it can be made to
give the very same returns and gradients (tests/envs/torchrl/test_dreamer_loss.py); with `env.imagine`, episodes may end
anywhere and the returns see where.

    python examples/dreamer_pendulum.py --seed 2
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import LossModule, SoftUpdate
from torchrl.objectives.value.functional import vec_td_lambda_return_estimate

from wm_vec import WorldModel
from wm_vec.envs import TorchRLEnv


@dataclass
class Args:
    """Settings.

    env-id           the bundled world to train in, and the real environment to evaluate in
    num-envs         imagined envs
    horizon          steps that gradients flow back through
    episode-steps    steps of an imagined episode; the next one starts from the world's bank
    num-iterations   rollouts, each with one gradient step of the actor
    learning-rate    of Adam, for actor and critic, falling linearly to nothing
    gamma, lmbda     the discount, and how far returns trust rewards before values
    ent-coef         weight of the entropy bonus, falling linearly to nothing
    reward-scale     factor on rewards; returns should come out at about 1 to 10
    critic-steps     gradient steps of the critic in each iteration
    target-tau       how far its target follows it in each iteration
    max-grad-norm    longer gradients are shortened to this
    width            of the hidden layers
    eval-episodes    real episodes at the end
    """

    env_id: str = "Pendulum-v1"
    seed: int = 1
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    num_envs: int = 64
    horizon: int = 15
    episode_steps: int = 100
    num_iterations: int = 400
    learning_rate: float = 3e-3
    gamma: float = 0.98
    lmbda: float = 0.95
    ent_coef: float = 0.02
    reward_scale: float = 0.02
    critic_steps: int = 4
    target_tau: float = 0.05
    max_grad_norm: float = 1.0
    width: int = 64
    eval_episodes: int = 20


def parse_args() -> Args:
    """The command line."""
    parser = argparse.ArgumentParser(description=Args.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Args):
        kind: Any = field.type
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kind, default=field.default, help=f"default: {field.default}")
    return Args(**vars(parser.parse_args()))


def make_env(world: WorldModel, args: Args) -> TorchRLEnv:
    """The imagined envs, each as if it were somewhere in its first episode, so that not all end at once."""
    env = world.to_torchrl_env(args.num_envs, max_episode_steps=args.episode_steps, seed=args.seed)
    env.reset()
    state = env.engine.state()
    state.elapsed = torch.randint_like(state.elapsed, args.episode_steps)
    env.engine.set_state(state)
    return env


class Network(nn.Module):
    """Two hidden layers over observations ``(..., n)`` in units of the largest that there are."""

    largest: Tensor

    def __init__(self, observation_space: gym.Space, outputs: int, width: int) -> None:
        super().__init__()
        assert isinstance(observation_space, gym.spaces.Box)
        self.register_buffer("largest", torch.as_tensor(observation_space.high))
        self.layers = MLP(observation_space.shape[0], outputs, depth=2, num_cells=width, activation_class=nn.ELU)

    def forward(self, observation: Tensor) -> Tensor:
        """``(..., n)`` -> ``(..., outputs)``."""
        return self.layers(observation / self.largest)


def make_actor(args: Args) -> ProbabilisticActor:
    """A normal squashed into the bounds of the actions; its samples pass gradients on to its parameters."""
    real = gym.make(args.env_id)
    space = real.action_space
    assert isinstance(space, gym.spaces.Box)
    network = Network(real.observation_space, 2 * space.shape[0], args.width)
    # `upscale` keeps the mean where squashing still passes gradients on.
    bounds = {"low": torch.as_tensor(space.low), "high": torch.as_tensor(space.high), "upscale": torch.tensor(2.0)}
    return ProbabilisticActor(
        TensorDictModule(nn.Sequential(network, NormalParamExtractor()), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={name: bound.to(args.device) for name, bound in bounds.items()},
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True,
    ).to(args.device)


class CriticLoss(LossModule):
    """The critic's loss on an imagined rollout, and the returns that both networks learn from.

    The steps' worth beyond the rollout comes from a copy that follows the critic slowly, the target: else the critic
    would chase its own changes.
    """

    critic: TensorDictModule
    critic_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(self, args: Args) -> None:
        super().__init__()
        network = Network(gym.make(args.env_id).observation_space, 1, args.width).to(args.device)
        critic = ValueOperator(network, in_keys=["observation"])
        self.convert_to_functional(critic, "critic", create_target_params=True)
        self.args = args

    def lambda_returns(self, rollout: TensorDictBase) -> Tensor:
        """What each step leads to, ``(B, T, 1)``; its gradients flow to the actions, none to the critic."""
        after = rollout["next"]
        with self.target_critic_params.to_module(self.critic):
            value = self.critic(after.select("observation"))["state_value"]
        reward = after["reward"] * self.args.reward_scale
        return vec_td_lambda_return_estimate(
            self.args.gamma, self.args.lmbda, value, reward, after["done"], after["terminated"]
        )

    def forward(self, rollout: TensorDictBase) -> TensorDict:
        """How far the critic is from the rollout's ``"lambda_return"``."""
        with self.critic_params.to_module(self.critic):
            value = self.critic(rollout.select("observation"))["state_value"]
        return TensorDict({"loss_critic": nn.functional.mse_loss(value, rollout["lambda_return"])})


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, args: Args) -> None:
    """One gradient step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], args.max_grad_norm)
    optimizer.step()


def train(env: TorchRLEnv, actor: ProbabilisticActor, args: Args) -> Iterator[dict[str, float]]:
    """Imagination and gradient steps in turn; yields figures after each iteration."""
    critic_loss = CriticLoss(args)
    target_updater = SoftUpdate(critic_loss, tau=args.target_tau)
    actor_optimizer = torch.optim.Adam(actor.parameters())
    critic_optimizer = torch.optim.Adam(critic_loss.critic_params.parameters())
    started = time.perf_counter()
    for iteration in range(args.num_iterations):
        to_go = 1 - iteration / args.num_iterations
        for optimizer in (actor_optimizer, critic_optimizer):
            optimizer.param_groups[0]["lr"] = args.learning_rate * to_go
        rollout = env.imagine(actor, args.horizon, grad=True)
        returns = critic_loss.lambda_returns(rollout)
        entropy = -rollout["action_log_prob"].mean()
        descend(actor_optimizer, -returns.mean() - args.ent_coef * to_go * entropy, args)
        rollout = rollout.set("lambda_return", returns).detach()
        for _ in range(args.critic_steps):
            losses = critic_loss(rollout)
            descend(critic_optimizer, losses["loss_critic"], args)
        target_updater.step()
        yield {
            "iteration": iteration + 1,
            "reward": rollout["next", "reward"].mean().item(),
            "entropy": entropy.item(),
            "critic_loss": losses["loss_critic"].item(),
            "seconds": time.perf_counter() - started,
        }


@torch.no_grad()
def evaluate(actor: ProbabilisticActor, args: Args) -> list[float]:
    """Returns of whole episodes in the real environment, without the actor's noise."""
    envs = gym.make_vec(args.env_id, num_envs=args.eval_episodes, vectorization_mode="sync")
    obs, _ = envs.reset(seed=args.seed)
    returns, running = torch.zeros(args.eval_episodes), torch.ones(args.eval_episodes, dtype=torch.bool)
    while running.any():
        seen = torch.as_tensor(obs, dtype=torch.float32, device=args.device)
        policy = actor.get_dist(TensorDict({"observation": seen}, batch_size=[args.eval_episodes]))
        obs, reward, terminated, truncated, _ = envs.step(policy.deterministic_sample.cpu().numpy())
        returns += torch.as_tensor(reward).float() * running
        running &= ~torch.as_tensor(terminated | truncated)
    envs.close()
    return returns.tolist()


def main(args: Args) -> None:
    """Train, then evaluate."""
    torch.manual_seed(args.seed)
    env = make_env(WorldModel.bundled(args.env_id, device=args.device), args)
    actor = make_actor(args)
    for log in train(env, actor, args):
        if log["iteration"] % 20 == 0:
            print(", ".join(f"{name}: {figure:,.4g}" for name, figure in log.items()), flush=True)
    returns = evaluate(actor, args)
    print(f"real {args.env_id}: mean return {sum(returns) / len(returns):.1f} over {len(returns)} episodes")


if __name__ == "__main__":
    main(parse_args())
