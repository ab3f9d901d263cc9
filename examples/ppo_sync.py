"""PPO in an imagined CartPole, the familiar way: SyncVectorEnv over one environment per thunk, NumPy in the rollouts.

A single file to read and to change, and the twin of ppo_tensor.py: `diff` the two to see what tensors change. The
policy meets the real CartPole when it is evaluated, at the end, and never before.

    python examples/ppo_sync.py --num-envs 8 --total-timesteps 50_000
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import MLP

import wm_vec  # noqa: F401 - importing it registers the imagined worlds


@dataclass
class Args:
    """Settings; `ppo_sync.py --help` and `ppo_tensor.py --help` list the same ones.

    env-id, real-env-id  where to train, and where to evaluate
    num-envs, num-steps  an iteration plays this many envs for this many steps
    total-timesteps      env steps of the whole training
    learning-rate        of Adam, falling linearly to nothing
    gamma, gae-lambda    the discount, and how far advantages look ahead
    num-minibatches      gradient steps of an epoch
    update-epochs        passes over each rollout
    clip-coef            how far an update may move the ratio of probabilities from 1
    clip-value           how far it may move a value, in units of return
    ent-coef, vf-coef    weights of the entropy bonus and of the value loss
    max-grad-norm        longer gradients are shortened to this
    eval-episodes        real episodes at the end
    """

    env_id: str = "wm_vec/CartPole-v1"
    real_env_id: str = "CartPole-v1"
    seed: int = 1
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    num_envs: int = 64
    num_steps: int = 32
    total_timesteps: int = 100_000
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    num_minibatches: int = 4
    update_epochs: int = 4
    clip_coef: float = 0.2
    clip_value: float = 10.0
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    eval_episodes: int = 10


def parse_args() -> Args:
    """The command line."""
    parser = argparse.ArgumentParser(description=Args.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Args):
        kind: Any = field.type
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kind, default=field.default, help=f"default: {field.default}")
    return Args(**vars(parser.parse_args()))


def make_env(env_id: str) -> Callable[[], gym.Env]:
    """A thunk that makes one environment, which loads a world of its own."""

    def thunk() -> gym.Env:
        return gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))

    return thunk


def make_envs(args: Args) -> SyncVectorEnv:
    """All environments.

    SyncVectorEnv's default is NEXT_STEP, which ignores the action after an episode's end and would put steps that
    never happened into the rollout. (AsyncVectorEnv takes the same thunks, but give it ``context="spawn"``: a process
    that is forked after torch has run hangs.)
    """
    thunks = [make_env(args.env_id) for _ in range(args.num_envs)]
    return SyncVectorEnv(thunks, autoreset_mode=AutoresetMode.SAME_STEP)


def mlp(num_inputs: int, num_outputs: int, gain: float) -> MLP:
    """Two hidden layers, with the orthogonal weights that PPO starts best from; `gain` is the last layer's."""
    network = MLP(num_inputs, num_outputs, depth=2, num_cells=64, activation_class=nn.Tanh)
    for linear in list(network)[::2]:
        nn.init.orthogonal_(linear.weight, gain if linear is network[-1] else 2**0.5)
        nn.init.zeros_(linear.bias)
    return network


class Agent(nn.Module):
    """Actor and critic, for observations ``(..., n)`` float32 and discrete actions."""

    def __init__(self, obs_space: gym.Space, action_space: gym.Space) -> None:
        super().__init__()
        if not (isinstance(obs_space, Box) and len(obs_space.shape) == 1 and isinstance(action_space, Discrete)):
            raise ValueError(f"Agent takes a Box of one axis and Discrete actions, got {obs_space} and {action_space}.")
        num_inputs = obs_space.shape[0]
        self.actor = mlp(num_inputs, int(action_space.n), 0.01)  # near zero: all actions start out equally likely
        self.critic = mlp(num_inputs, 1, 1.0)

    def value(self, obs: Tensor) -> Tensor:
        """What is still to come, ``(...)``."""
        return self.critic(obs).squeeze(-1)

    def policy(self, obs: Tensor) -> Categorical:
        """How likely each action is; unchecked, since the check reads the host."""
        return Categorical(logits=self.actor(obs), validate_args=False)

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled action ``(...)`` int64 and its log-probability ``(...)``.

        An exponential race: as `Categorical.sample`, but without reading the probabilities on the host.
        """
        policy = self.policy(obs)
        action = (policy.logits - torch.empty_like(policy.logits).exponential_().log()).argmax(-1)
        return action, policy.log_prob(action)


@torch.no_grad()
def rollout(envs: SyncVectorEnv, agent: Agent, obs: Tensor, args: Args) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Play ``num_steps`` in all envs, one env after another, and to NumPy and back at every step.

    Returns:
        What happened, each ``(T, B, ...)``; the observations ``(B, ...)`` to go on from; and ``(2,)``: how many
        episodes ended, and the sum of their returns.
    """
    steps, finished = [], torch.zeros(2, device=obs.device)
    for _ in range(args.num_steps):
        action, log_prob = agent.act(obs)
        next_obs, reward, terminated, truncated, info = envs.step(action.cpu().numpy())
        # Where an episode ended, `next_obs` is the first of another. What the action led to is in `final_obs`, in
        # those envs alone.
        after, ended = next_obs.copy(), terminated | truncated
        if ended.any():
            after[ended] = np.stack(info["final_obs"][ended])
            finished += torch.tensor([ended.sum(), info["final_info"]["episode"]["r"][ended].sum()], device=obs.device)
        steps.append(
            {
                "obs": obs,
                "action": action,
                "log_prob": log_prob,
                "reward": torch.as_tensor(reward, dtype=torch.float32, device=obs.device),
                "after": torch.as_tensor(after, device=obs.device),
                "terminated": torch.as_tensor(terminated, device=obs.device),
                "ended": torch.as_tensor(ended, device=obs.device),
            }
        )
        obs = torch.as_tensor(next_obs, device=obs.device)
    return {key: torch.stack([step[key] for step in steps]) for key in steps[0]}, obs, finished


@torch.no_grad()
def estimate_advantages(agent: Agent, batch: dict[str, Tensor], args: Args) -> None:
    """Add ``value``, ``advantage`` and ``target``, ``(T, B)``, to a rollout: generalised advantage estimation.

    A truncated episode would have gone on: what its last state is worth counts. A terminated one would not.
    """
    batch["value"] = agent.value(batch["obs"])
    to_come = args.gamma * agent.value(batch["after"]) * ~batch["terminated"]
    surprise = batch["reward"] + to_come - batch["value"]
    carry = args.gamma * args.gae_lambda * ~batch["ended"]
    advantages = [surprise[-1]]
    for t in range(len(surprise) - 2, -1, -1):
        advantages.append(surprise[t] + carry[t] * advantages[-1])
    batch["advantage"] = torch.stack(advantages[::-1])
    batch["target"] = batch["advantage"] + batch["value"]


def learn(agent: Agent, optimizer: torch.optim.Optimizer, args: Args, row: dict[str, Tensor]) -> None:
    """A gradient step on some rows of a rollout."""
    policy, value = agent.policy(row["obs"]), agent.value(row["obs"])
    advantage = (row["advantage"] - row["advantage"].mean()) / (row["advantage"].std() + 1e-8)
    ratio = (policy.log_prob(row["action"]) - row["log_prob"]).exp()
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(advantage * ratio, advantage * clipped_ratio).mean()
    clipped_value = row["value"] + (value - row["value"]).clamp(-args.clip_value, args.clip_value)
    errors = torch.max((value - row["target"]) ** 2, (clipped_value - row["target"]) ** 2)
    loss = policy_loss + args.vf_coef * 0.5 * errors.mean() - args.ent_coef * policy.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
    optimizer.step()


def update(step: Callable[[dict[str, Tensor]], None], batch: dict[str, Tensor], args: Args) -> None:
    """Several epochs of gradient steps on one rollout."""
    rows = {key: batch[key].flatten(0, 1) for key in ("obs", "action", "log_prob", "value", "advantage", "target")}
    count = len(rows["obs"])
    for _ in range(args.update_epochs):
        for chosen in torch.randperm(count, device=rows["obs"].device).chunk(args.num_minibatches):
            step({key: value[chosen] for key, value in rows.items()})


def train(envs: SyncVectorEnv, agent: Agent, args: Args) -> Iterator[dict[str, float]]:
    """Rollouts and updates in turn; yields figures after each iteration."""
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    steps_each = args.num_envs * args.num_steps
    num_iterations = max(1, args.total_timesteps // steps_each)
    obs = torch.as_tensor(envs.reset(seed=args.seed)[0], device=args.device)
    started = time.perf_counter()
    for iteration in range(num_iterations):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - iteration / num_iterations)
        batch, obs, finished = rollout(envs, agent, obs, args)
        estimate_advantages(agent, batch, args)
        update(partial(learn, agent, optimizer, args), batch, args)
        episodes, returns = finished.tolist()
        steps = (iteration + 1) * steps_each
        yield {
            "step": steps,
            "episodes": episodes,
            "mean_return": returns / episodes if episodes else float("nan"),
            "SPS": steps / (time.perf_counter() - started),
        }


@torch.no_grad()
def evaluate(agent: Agent, args: Args) -> list[float]:
    """Returns of whole episodes in the real environment, always with the likeliest action."""
    env, returns = gym.make(args.real_env_id), []
    for episode in range(args.eval_episodes):
        (obs, _), total, ended = env.reset(seed=args.seed + episode), 0.0, False
        while not ended:
            logits = agent.actor(torch.as_tensor(obs, dtype=torch.float32, device=args.device))
            obs, reward, terminated, truncated, _ = env.step(int(logits.argmax()))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    return returns


def main(args: Args) -> None:
    """Train, then evaluate."""
    torch.manual_seed(args.seed)
    envs = make_envs(args)
    agent = Agent(envs.single_observation_space, envs.single_action_space).to(args.device)
    for log in train(envs, agent, args):
        print(", ".join(f"{name}: {figure:,.0f}" for name, figure in log.items()), flush=True)
    returns = evaluate(agent, args)
    print(f"real {args.real_env_id}: mean return {sum(returns) / len(returns):.1f} over {len(returns)} episodes")
    envs.close()


if __name__ == "__main__":
    main(parse_args())
