"""From real data to imagination and back, in TorchRL's own pieces: a policy for CartPole, trained in a learned world.

In turns: a TorchRL collector plays some steps in the real environment, a world model learns from all of them, and PPO
(TorchRL's `ClipPPOLoss` and `GAE`) trains the policy in episodes that the model imagines from states in the replay
buffer. The policy never learns from a real step. A single file to read and to change:

    python examples/torchrl_cartpole.py --device cuda
    python -m examples.torchrl_cartpole --num-seeds 3 --out benchmarks/results/torchrl_cartpole.json
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase, GymEnv, InitTracker, SerialEnv, TransformedEnv, set_exploration_type
from torchrl.modules import MLP, EGreedyModule, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from wm_vec import TrainConfig, WorldModel


@dataclass
class Args:
    """Settings.

    env-id             the real environment, of discrete actions and observations of one axis
    seed, num-seeds    one run for each seed from the first on
    turns              turns of collecting, learning the world, and imagining
    real-steps         real steps of each turn, and of a last one that judges the policies
    real-envs          real environments side by side
    exploration        share of random actions among the real ones, so that the world sees what follows mistakes
    world-steps        gradient steps of the world: in the first turn, and in each later one half as many
    policy-steps       imagined steps of each turn
    num-envs           imagined environments side by side
    num-steps          steps of each between two updates of the policy
    epochs             passes over each rollout
    minibatch          rows of a gradient step
    learning-rate      of the policy in the first turn, falling to a tenth; later turns take half of it
    eval-episodes      real episodes that judge the policy at the end
    out                where the figures go, as JSON
    """

    env_id: str = "CartPole-v1"
    seed: int = 0
    num_seeds: int = 1
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    turns: int = 5
    real_steps: int = 6_000
    real_envs: int = 8
    exploration: float = 0.1
    world_steps: int = 1_500
    policy_steps: int = 250_000
    num_envs: int = 512
    num_steps: int = 32
    epochs: int = 4
    minibatch: int = 512
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.005
    max_grad_norm: float = 0.5
    eval_episodes: int = 20
    out: str = ""


def parse_args() -> Args:
    """The command line."""
    parser = argparse.ArgumentParser(description=Args.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Args):
        kind: Any = field.type
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kind, default=field.default, help=f"default: {field.default}")
    return Args(**vars(parser.parse_args()))


class Standardise(nn.Module):
    """Observations ``(..., n)`` to zero mean and unit variance, by the statistics of the first real ones."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, observations: Tensor) -> None:
        """Take the statistics of observations ``(..., n)``."""
        rows = observations.flatten(0, -2)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp(min=1e-4))

    def forward(self, observation: Tensor) -> Tensor:
        """The same, standardised."""
        return (observation - self.mean) / self.std


class Agent(nn.Module):
    """Actor and critic as TorchRL has them, over one standardisation."""

    def __init__(self, env: EnvBase) -> None:
        super().__init__()
        size, self.action_spec = env.observation_spec["observation"].shape[-1], env.action_spec
        self.standardise = Standardise(size)
        logits = nn.Sequential(self.standardise, mlp(size, int(self.action_spec.space.n), 0.01))
        self.actor = ProbabilisticActor(
            TensorDictModule(logits, in_keys=["observation"], out_keys=["logits"]),
            in_keys=["logits"],
            distribution_class=Categorical,
            distribution_kwargs={"validate_args": False},  # the check reads the device
            return_log_prob=True,
            default_interaction_type=InteractionType.RANDOM,  # TorchRL's own default is the most likely action
        )
        self.critic = ValueOperator(nn.Sequential(self.standardise, mlp(size, 1, 1.0)), in_keys=["observation"])

    def explorer(self, share: float) -> TensorDictSequential:
        """The actor with a share of random actions."""
        device = self.standardise.mean.device
        random = EGreedyModule(self.action_spec, eps_init=share, eps_end=share, device=device)
        return TensorDictSequential(self.actor, random)


def mlp(inputs: int, outputs: int, gain: float) -> MLP:
    """Two hidden layers, with the orthogonal weights that PPO starts best from; `gain` is the last layer's."""
    network = MLP(inputs, outputs, depth=2, num_cells=64, activation_class=nn.Tanh)
    for linear in list(network)[::2]:
        nn.init.orthogonal_(linear.weight, gain if linear is network[-1] else 2**0.5)
        nn.init.zeros_(linear.bias)
    return network


def real_collector(agent: Agent, args: Args, seed: int) -> Collector:
    """Plays the real environment, a turn's steps at a time, at first at random.

    The tracker marks where episodes start.
    """

    def one() -> EnvBase:
        return GymEnv(args.env_id, categorical_action_encoding=True)

    env = TransformedEnv(SerialEnv(args.real_envs, one), InitTracker())
    env.set_seed(1_000 * seed)
    frames = args.real_steps // args.real_envs * args.real_envs
    return Collector(
        env,
        agent.explorer(args.exploration),
        frames_per_batch=frames,
        total_frames=frames * (args.turns + 1),
        init_random_frames=frames,
        policy_device=args.device,
    )


def imagine(env: EnvBase, agent: Agent, args: Args, first: bool) -> float:
    """PPO in imagination; returns the mean length of the last rollout's episodes."""
    advantage = GAE(
        gamma=args.gamma, lmbda=args.gae_lambda, value_network=agent.critic, average_gae=False, shifted=False
    )
    loss_module = ClipPPOLoss(
        agent.actor,
        agent.critic,
        clip_epsilon=args.clip,
        entropy_coeff=args.entropy,
        critic_coeff=0.5,
        normalize_advantage=True,
    )
    learning_rate = args.learning_rate if first else args.learning_rate / 2  # a good policy wanders off if pushed
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=learning_rate, eps=1e-5)
    frames = args.num_envs * args.num_steps
    num_updates = max(1, args.policy_steps // frames)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=num_updates)
    collector = Collector(
        env,
        agent.actor,
        frames_per_batch=frames,
        total_frames=frames * num_updates,
        track_traj_ids=False,
        auto_register_policy_transforms=False,  # of recurrent policies, which this is not
    )
    length = 0.0
    for rollout in collector:
        with torch.no_grad():
            advantage(rollout)
        rows = rollout.reshape(-1)
        for _ in range(args.epochs):
            for chosen in torch.randperm(frames, device=args.device).split(args.minibatch):
                losses = loss_module(rows[chosen])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), args.max_grad_norm)
                optimizer.step()
        schedule.step()
        length = frames / max(1, int(rollout["next", "done"].sum()))
    collector.shutdown()
    return length


@torch.no_grad()
def evaluate(agent: Agent, args: Args, seed: int) -> list[float]:
    """Returns of whole real episodes, always with the likeliest action."""
    env, returns = GymEnv(args.env_id, categorical_action_encoding=True), []
    with set_exploration_type(InteractionType.DETERMINISTIC):
        for episode in range(args.eval_episodes):
            env.set_seed(seed + episode)
            returns.append(float(env.rollout(100_000, agent.actor, auto_cast_to_device=True)["next", "reward"].sum()))
    env.close()
    return returns


def run(args: Args, seed: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """One seed of it all; returns its figures.

    The policy that is kept is the one that fell least often in the real steps of the turn after it; the episodes that
    evaluate it at the end choose nothing.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    single = GymEnv(args.env_id, categorical_action_encoding=True)
    world = WorldModel.from_torchrl_env(single, device=args.device, seed=seed)
    agent = Agent(single).to(args.device)
    collector = real_collector(agent, args, seed)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(collector.total_frames))
    best, kept = -1.0, agent.state_dict()
    turns: list[dict[str, float]] = []
    for turn, batch in enumerate(collector):
        buffer.extend(batch.cpu().reshape(-1))
        steps_per_fall = batch.numel() / max(1, int(batch["next", "terminated"].sum()))
        if turn == 0:
            agent.standardise.fit(batch["observation"].to(args.device))
        elif steps_per_fall > best:
            best, kept = steps_per_fall, copy.deepcopy(agent.state_dict())
        if turns:
            turns[-1]["steps_per_fall"] = steps_per_fall
            say(f"seed {seed}, turn {turn}: {turns[-1]}")
        if turn == args.turns:
            break
        steps, rate = (args.world_steps, 3e-3) if turn == 0 else (args.world_steps // 2, 1.5e-3)
        report = world.finetune(buffer, config=TrainConfig(n_steps=steps, learning_rate=rate, seed=seed + turn))
        if turn == 0:
            imagined = world.to_torchrl_env(args.num_envs, seed=seed)  # later turns' weights are its own, too
        imagined.start_from(starts_in(buffer), num_states=4_096)
        length = imagine(imagined, agent, args, first=turn == 0)
        figures = {"real_steps": len(buffer), "held_out_loss": report.held_out_loss, "imagined_length": length}
        figures["real_return"] = mean(evaluate(agent, args, 10_000 + 100 * seed))
        turns.append({**figures, "seconds": time.perf_counter() - started})
    collector.shutdown()
    agent.load_state_dict(kept)
    returns = evaluate(agent, args, 20_000 + 100 * seed)
    seconds = time.perf_counter() - started
    result = {"seed": seed, "real_return": mean(returns), "returns": returns}
    score = f"mean return {mean(returns):.1f} over {len(returns)} episodes"
    say(f"seed {seed}: real {args.env_id}: {score}, {seconds:.0f} s")
    return {**result, "real_steps": len(buffer), "seconds": seconds, "turns": turns}


def starts_in(buffer: TensorDictReplayBuffer) -> TensorDict:
    """What imagined episodes start from: half of them where real ones do, half in states on the way."""
    seen = buffer[:].select("observation", "is_init")
    first = seen[seen["is_init"][:, 0]]
    return torch.cat([some[torch.randint(len(some), (2_048,))] for some in (first, seen)])


def mean(numbers: list[float]) -> float:
    """Their mean."""
    return sum(numbers) / len(numbers)


def main(args: Args) -> None:
    """Run the seeds, and write what came out where `out` says, for which this is run as a module."""
    seeds = range(args.seed, args.seed + args.num_seeds)
    runs = [run(args, seed, lambda line: print(line, flush=True)) for seed in seeds]
    if args.out:
        from benchmarks.machine import machine

        returns = sorted(one["real_return"] for one in runs)
        figures = {
            "machine": machine(),
            "config": asdict(args),
            "real_steps": max(one["real_steps"] for one in runs),
            "median": returns[len(returns) // 2],
            "worst": returns[0],
            "runs": runs,
        }
        Path(args.out).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(parse_args())
