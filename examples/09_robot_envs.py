"""Three robots, one planet: a logistics robot, a disaster response robot and a climate monitor share one learned world.

The world is made of ready-made domains. It learns from recordings of the few fields that the robots look at; of the
others it knows nothing, and says so. Each robot learns by Stable-Baselines3's PPO in imagination, where random actions
are the measure. What the climate monitor may do does not move the temperature, so there is nothing for it to learn.

    pip install 'wm_vec[plot,sb3]'
    python examples/09_robot_envs.py --out out/robots
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO

from wm_vec import AgentSpec, GeneralUnifiedWorldModel, TrainConfig
from wm_vec.envs.sb3 import SB3VecEnv
from wm_vec.render import plot_layout, record_video

ROBOTS = {
    "logistics": AgentSpec(
        obs_fields=[
            "physical.infrastructure.shipping_lane_capacity",
            "physical.infrastructure.port_congestion",
            "physical.infrastructure.rail_freight_network",
        ],
        act_fields=["physical.infrastructure.shipping_lane_capacity"],
        reward_fn=lambda obs, act, info: (
            obs["physical.infrastructure.shipping_lane_capacity"].mean()
            - 0.8 * obs["physical.infrastructure.port_congestion"].mean()
        ),
    ),
    "disaster": AgentSpec(
        obs_fields=[
            "physical.disasters.active_disaster_state",
            "physical.disasters.wildfire_state",
            "physical.disasters.pandemic_risk",
        ],
        act_fields=["physical.disasters.active_disaster_state"],
        reward_fn=lambda obs, act, info: -sum(abs(v.mean()) for v in obs.values()) + 1.0,
    ),
    "climate": AgentSpec(
        obs_fields=["physical.climate.global_temp_anomaly", "physical.climate.carbon_ppm"],
        act_fields=["physical.infrastructure.undersea_cable_topology"],
        reward_fn=lambda obs, act, info: -abs(obs["physical.climate.global_temp_anomaly"].mean()),
    ),
}


RECORDED = (
    "physical.infrastructure.shipping_lane_capacity",
    "physical.infrastructure.port_congestion",
    "physical.infrastructure.rail_freight_network",
    "physical.disasters.active_disaster_state",
    "physical.disasters.wildfire_state",
    "physical.disasters.pandemic_risk",
    "physical.climate.global_temp_anomaly",
    "physical.climate.carbon_ppm",
    "physical.infrastructure.undersea_cable_topology",
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/robots"), help="folder for the pictures")
    parser.add_argument("--episodes", type=int, default=300, help="recordings of 40 months that the world learns from")
    parser.add_argument("--n-steps", type=int, default=600, help="gradient steps of the world")
    parser.add_argument("--total-steps", type=int, default=20_000, help="imagined env steps of each robot")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--months", type=int, default=40, help="of an episode")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def recordings(episodes: int, months: int, seed: int) -> dict[str, np.ndarray]:
    """A made-up planet, month by month: field path -> ``(episodes * months, positions)``, and ``episode``.

    Free lanes empty the ports and storms fill them; heat feeds fires; disasters make trains late and pandemics
    likelier; carbon warms.
    """
    rng = np.random.default_rng(seed)

    def noise(size: int, scale: float) -> np.ndarray:
        return scale * rng.standard_normal((episodes, size))

    lanes, ports, rail = noise(6, 0.5), 0.4 + noise(6, 0.1), 0.8 + noise(5, 0.05)
    hazards, fires, pandemic = noise(5, 0.7), noise(5, 0.5), 0.05 + 0.05 * rng.random((episodes, 1))
    carbon = 420 + noise(1, 5.0)
    warmth, cables = 1.2 + noise(1, 0.2), noise(5, 0.3)
    rows = []
    for _ in range(months):
        lanes, ports = lanes.clip(-1, 1), ports.clip(0, 1)
        rail, pandemic, cables = rail.clip(0, 1), pandemic.clip(0, 1), cables.clip(-1)
        rows.append((lanes, ports, rail, hazards, fires, pandemic, warmth, carbon, cables))
        storm, heat = hazards[:, :1], hazards[:, 4:]
        lanes, ports, rail, hazards, fires, pandemic, warmth, carbon, cables = (
            0.7 * lanes + noise(6, 0.2),
            0.2 + 0.5 * ports - 0.15 * lanes + 0.05 * storm + noise(6, 0.05),
            0.4 + 0.5 * rail - 0.03 * hazards + noise(5, 0.03),
            0.6 * hazards + 0.2 * (warmth - 1.2) + noise(5, 0.4),
            0.7 * fires + 0.2 * heat + noise(5, 0.2),
            0.01 + 0.8 * pandemic + 0.01 * np.abs(hazards).mean(1, keepdims=True) + noise(1, 0.01),
            1.2 + 0.9 * (warmth - 1.2) + 0.002 * (carbon - 420) + noise(1, 0.05),
            carbon + 0.2 + noise(1, 0.3),
            0.8 * cables + noise(5, 0.1),
        )
    columns = [np.stack(values, 1).reshape(episodes * months, -1) for values in zip(*rows, strict=True)]
    return {**dict(zip(RECORDED, columns, strict=True)), "episode": np.arange(episodes).repeat(months)}


def main(args: argparse.Namespace) -> None:
    """Learn the world, train the robots in it, judge them against random actions, draw."""
    args.out.mkdir(parents=True, exist_ok=True)
    world = GeneralUnifiedWorldModel(
        include=["physical.infrastructure", "physical.disasters", "physical.climate"],
        d_model=32,
        n_layers=2,
        n_loops=2,  # from one group to another it takes four blocks
        seed=args.seed,
    )
    with warnings.catch_warnings(action="ignore"):  # that most of the planet's fields have no data
        config = TrainConfig(n_steps=args.n_steps, batch_size=64, seed=args.seed)
        world.finetune(recordings(args.episodes, 40, args.seed), config=config)
    covered = [path for path, share in world.coverage.items() if share > 0]
    print(f"{len(world.bound)} fields, of which the recordings cover {len(covered)}")

    for name, robot in ROBOTS.items():
        settings = {"max_episode_steps": args.months, "act_low": robot.act_low, "act_high": robot.act_high}
        view = robot.obs_fields, robot.act_fields, robot.reward_fn
        envs = SB3VecEnv(world.to_vector_env(args.num_envs, *view, **settings))
        policy = PPO("MlpPolicy", envs, n_steps=20, batch_size=160, gamma=0.95, seed=args.seed)
        policy.learn(args.total_steps)
        for who, trained in (("random", None), ("trained", policy)):
            test = world.to_vector_env(args.num_envs, *view, **settings, autoreset_mode="disabled")
            obs, _ = test.reset(seed=args.seed)
            total = 0.0
            for _ in range(args.months):
                action = test.sample_actions() if trained is None else torch.as_tensor(trained.predict(obs.numpy())[0])
                obs, reward, *_ = test.step(action)
                total += float(reward.mean())
            print(f"{name}, {who}: mean return {total:.2f} in imagination", flush=True)
        one = world.to_env(*view, **settings, render_mode="rgb_array")
        record_video(one, lambda obs, policy=policy: policy.predict(obs)[0], args.out / f"{name}.gif", num_steps=20)
    plot_layout(world.bound, args.out / "layout.png")
    print(f"Drew {', '.join(f'{name}.gif' for name in ROBOTS)} and layout.png.")


if __name__ == "__main__":
    main(parse_args())
