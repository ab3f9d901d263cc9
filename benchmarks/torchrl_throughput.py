"""TorchRL environments over one world: ours, and what people would use instead, in env steps/s.

The bundled CartPole world, random actions, resets of what is done: TorchRL's GymWrapper over Gymnasium's SyncVectorEnv
of our scalar views; TorchRL's own WorldModelEnv around the same network, with a reset source and a time limit written
for it, since it has neither; and `TorchRLEnv`. All are called in turn, call by call, in one process; figures are
medians, overheads medians of differences within a turn, with their 95 % intervals. The network's own time differs from
call to call by more than what is around it takes, so that is also timed by a clock that stands still while the network
runs. Run: ``python -m benchmarks.torchrl_throughput``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase, GymWrapper
from torchrl.envs import TransformedEnv as StockTransformedEnv
from torchrl.envs.model_based import WorldModelEnv
from torchrl.envs.transforms import Compose, RewardSum, StepCounter
from torchrl.modules import WorldModel as TorchRLWorldModel

from benchmarks.machine import machine
from benchmarks.step_throughput import bare_network
from benchmarks.timing import figures, median_interval, time_in_turn
from wm_vec import WorldModel
from wm_vec.envs import TransformedEnv
from wm_vec.model import PackedWeights

SIZES = (64, 1024, 4096)
HORIZON = 500
BUDGET_SECONDS = 12.0
BARE, OURS, TRANSFORMED = "bare network", "TorchRLEnv", "TorchRLEnv, StepCounter and RewardSum"
THEIRS, SYNC = "torchrl's WorldModelEnv", "GymWrapper over SyncVectorEnv"


class ClockBesideNetwork:
    """Seconds like `time.perf_counter`'s that stand still while the network runs; a context in which it knows that."""

    def __init__(self) -> None:
        self._inside = 0.0
        self._network = PackedWeights.predict

    def __call__(self) -> float:
        """Now."""
        return time.perf_counter() - self._inside

    def __enter__(self) -> ClockBesideNetwork:
        def timed(*args: Any, **kwargs: Any) -> Tensor:
            before = time.perf_counter()
            out = self._network(*args, **kwargs)
            self._inside += time.perf_counter() - before
            return out

        PackedWeights.predict = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        PackedWeights.predict = self._network  # type: ignore[method-assign]


class Dynamics(nn.Module):
    """The network of a world as TorchRL's world models take it: latent and action in, latent and observation out."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self._predict = world.model.packed(world.model.config.n_denoise_steps).predict
        self._noise = world.model.noise_size
        places = (world.bound[path].indices() for path in ("action", "observation"))
        self._act, self._see = (torch.tensor(place, device=world.device) for place in places)

    def forward(self, latent: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Latent ``(B, N)`` and class index ``(B,)`` -> the next latent, its observation."""
        with torch.no_grad():
            values = latent.index_copy(1, self._act, action[:, None].to(latent.dtype))
            values = self._predict(values, torch.randn(len(values), self._noise, device=values.device))
            return values, values.index_select(1, self._see)


class WithResets(WorldModelEnv):
    """WorldModelEnv with the reset source that it lacks: a bank of latents, ``(M, N)``."""

    def __init__(self, model: nn.Module, base_env: EnvBase, spec: Composite, bank: Tensor, see: Tensor) -> None:
        super().__init__(model, base_env, observation_spec=spec)
        # It expands the specs of one env; these are a batch's already.
        self.reward_spec, self.done_spec = base_env.full_reward_spec.clone(), base_env.full_done_spec.clone()
        self.bank, self.see = bank, see

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        num_envs = self.batch_size[0]
        latent = self.bank[torch.randint(len(self.bank), (num_envs,), device=self.bank.device)]
        no = torch.zeros(num_envs, 1, dtype=torch.bool, device=latent.device)
        flags = {key: no.clone() for key in ("done", "terminated", "truncated")}
        entries = {"latent": latent, "observation": latent.index_select(1, self.see), **flags}
        return TensorDict(entries, batch_size=self.batch_size, device=self.device)


def torchrl_world_model_env(world: WorldModel, num_envs: int) -> EnvBase:
    """TorchRL's own environment around the world's network, with a time limit."""
    reward, ended = world.bound["reward"].start, world.bound["terminated"].start
    following = ("next", "latent")
    model = TorchRLWorldModel(
        TensorDictModule(nn.Identity(), ["observation"], ["encoded"]),
        TensorDictModule(Dynamics(world), ["latent", "action"], [following, ("next", "observation")]),
        TensorDictModule(lambda latent: latent[:, reward, None], [following], [("next", "reward")]),
        done_head=TensorDictModule(
            lambda latent: (latent[:, ended, None] > 0.5,) * 2, [following], [("next", "done"), ("next", "terminated")]
        ),
    )
    ours = world.to_torchrl_env(num_envs)
    spec = ours.observation_spec.clone()
    spec["latent"] = Unbounded((num_envs, world.num_positions), device=world.device)
    assert world.bank is not None
    see = torch.tensor(world.bound["observation"].indices(), device=world.device)
    env = WithResets(model, ours, spec, world.bank, see)
    return StockTransformedEnv(env, StepCounter(max_steps=HORIZON))


def gym_wrapper(world: WorldModel, num_envs: int) -> EnvBase:
    """TorchRL's wrapper over Gymnasium's loop of scalar views."""
    makers = [lambda: world.to_env(max_episode_steps=HORIZON)] * num_envs
    envs = gym.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    return GymWrapper(envs, categorical_action_encoding=True)


def stepper(env: EnvBase, num_envs: int) -> Callable[[], Any]:
    """A call that steps all envs of `env` by random actions and resets what is done."""
    state = {"td": env.reset()}

    def step() -> None:
        td = state["td"].set("action", torch.randint(0, 2, (num_envs,), device=env.device))
        _, state["td"] = env.step_and_maybe_reset(td)

    return step


def subjects(world: WorldModel, num_envs: int) -> dict[str, Callable[[], Any]]:
    """What is timed at one size, by name; all draw their actions inside the timed call."""
    ours = world.to_torchrl_env(num_envs, max_episode_steps=HORIZON, seed=0)
    transformed = TransformedEnv(
        world.to_torchrl_env(num_envs, max_episode_steps=HORIZON, seed=0), Compose(StepCounter(), RewardSum())
    )
    return {
        BARE: bare_network(world, num_envs, HORIZON),
        OURS: stepper(ours, num_envs),
        TRANSFORMED: stepper(transformed, num_envs),
        THEIRS: stepper(torchrl_world_model_env(world, num_envs), num_envs),
    }


def measure(world: WorldModel, seconds: float) -> list[dict[str, Any]]:
    """A row per size and subject."""
    rows = []
    for num_envs in SIZES:
        named = subjects(world, num_envs)
        turns = time_in_turn(named, seconds)
        with ClockBesideNetwork() as clock:
            beside = time_in_turn(named, seconds / 4, clock)
        for row in figures(num_envs, turns, BARE):
            seconds_beside = [1e6 * second for second in beside[row["subject"]]]
            row["beside_network_us"] = statistics.median(seconds_beside)
            row["beside_network_us_interval"] = median_interval(seconds_beside)
            rows.append(row)
        behind = [theirs - ours for theirs, ours in zip(turns[THEIRS], turns[OURS], strict=True)]
        rows[-1] |= {
            "over_ours_us": statistics.median(behind) * 1e6,
            "over_ours_us_interval": [1e6 * bound for bound in median_interval(behind)],
        }
        # On its own: one of its calls lasts as long as thousands of the others.
        slow = {BARE: named[BARE], SYNC: stepper(gym_wrapper(world, num_envs), num_envs)}
        rows += figures(num_envs, time_in_turn(slow, seconds / 2), BARE)[1:]
    return rows


def main() -> None:
    """Measure, print a table and write benchmarks/results/torchrl_throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="time at each size")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/torchrl_throughput.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measure(WorldModel.bundled("CartPole-v1"), args.seconds)
    for row in rows:
        print(
            f"{row['num_envs']:5d} {row['subject']:<40} {row['env_steps_per_s']:10.0f} env steps/s "
            f"{row['over_bare_us']:+9.0f} us {row['over_bare_percent']:+6.1f} % over bare"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
