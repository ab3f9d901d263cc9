"""A firm as its employee, its CEO and its HR director live it: an environment for each, and all at once.

The world learns from recordings of a synthetic economy, whose equations nobody sees. In it each agent learns by
Stable-Baselines3's PPO; then all of them play in the true economy, where random actions are the measure.

    pip install 'wm_vec[plot,sb3]'
    python examples/08_corporate_envs.py --out out/corporate
"""

import argparse
from pathlib import Path

import torch
from stable_baselines3 import PPO

from wm_vec import AgentSpec, WorldModel
from wm_vec.economy_env import economy_env
from wm_vec.envs.sb3 import SB3VecEnv
from wm_vec.render import animate_rollout, plot_layout, plot_topology
from wm_vec.schema import synthetic_economy

AGENTS = {
    "employee": AgentSpec(
        obs_fields=[
            "firm_acme.operations.employee_satisfaction",
            "person_employee.state.stress",
            "person_employee.state.confidence",
            "person_employee.incentives.career_incentives",
        ],
        act_fields=["person_employee.state.current_focus", "person_employee.cognitive.risk_appetite"],
        reward_fn=lambda obs, act, info: (
            obs["person_employee.state.confidence"].mean() - 0.5 * obs["person_employee.state.stress"].mean()
        ),
    ),
    "ceo": AgentSpec(
        obs_fields=[
            "firm_acme.financials.revenue_growth",
            "firm_acme.financials.operating_margin",
            "firm_acme.market.equity_price",
            "firm_acme.latent_health",
            "regime.growth_regime",
        ],
        act_fields=["firm_acme.strategy.capital_allocation", "firm_acme.strategy.capex_plan"],
        reward_fn=lambda obs, act, info: (
            obs["firm_acme.financials.revenue_growth"].mean() + 0.3 * obs["firm_acme.market.equity_price"].mean()
        ),
    ),
    "hr": AgentSpec(
        obs_fields=[
            "firm_acme.operations.employee_satisfaction",
            "firm_acme.financials.operating_margin",
            "person_employee.state.stress",
        ],
        act_fields=["firm_acme.operations.training"],
        reward_fn=lambda obs, act, info: (
            obs["firm_acme.operations.employee_satisfaction"].mean()
            + 0.3 * obs["firm_acme.financials.operating_margin"].mean()
        ),
    ),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/corporate"), help="folder for the pictures")
    parser.add_argument("--episodes", type=int, default=300, help="recordings of 60 months that the world learns from")
    parser.add_argument("--n-steps", type=int, default=1500, help="gradient steps of the world")
    parser.add_argument("--total-steps", type=int, default=40_000, help="imagined env steps of each agent")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--months", type=int, default=40, help="of an episode")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def act(policy: PPO | None, obs: torch.Tensor, spec: AgentSpec) -> torch.Tensor:
    """The policy's likeliest actions ``(B, A)``; random ones from -1 to 1 where there is none."""
    if policy is None:
        return torch.rand(len(obs), len(spec.act_fields)) * 2 - 1
    return torch.as_tensor(policy.predict(obs.numpy(), deterministic=True)[0])


def main(args: argparse.Namespace) -> None:
    """Learn the world, train the agents in it, judge them in the true economy, draw."""
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    economy = synthetic_economy()
    world = WorldModel(economy.bound, ticks_per_step=economy.ticks_per_step, seed=args.seed)
    world.finetune(economy.series(args.episodes, seed=args.seed), n_steps=args.n_steps)
    world.describe()

    # One world, an environment for each agent.
    policies = {}
    for name, spec in AGENTS.items():
        view = spec.obs_fields, spec.act_fields, spec.reward_fn
        envs = world.to_vector_env(args.num_envs, *view, max_episode_steps=args.months)
        policies[name] = PPO("MlpPolicy", SB3VecEnv(envs), n_steps=20, batch_size=320, gamma=0.95, seed=args.seed)
        policies[name].learn(args.total_steps)
        for who, policy in (("random", None), ("trained", policies[name])):
            real = economy_env(economy, 256, *view, max_episode_steps=args.months, autoreset_mode="disabled")
            obs, _ = real.reset(seed=args.seed)
            total = torch.zeros(256)
            for _ in range(args.months):
                obs, reward, *_ = real.step(act(policy, obs, spec))
                total += reward
            print(f"{name}, {who}: mean return {total.mean():.2f} in the true economy", flush=True)

    # All at once: everybody's actions go into one prediction.
    multi = world.to_multi_vector_env(AGENTS, args.num_envs, max_steps=args.months)
    td = multi.reset(seed=args.seed)
    totals = dict.fromkeys(AGENTS, 0.0)
    for _ in range(args.months):
        td = multi.step({name: act(policies[name], td[name, "observation"], AGENTS[name]) for name in AGENTS})
        totals = {name: total + float(td[name, "reward"].mean()) for name, total in totals.items()}
    for name, total in totals.items():
        print(f"{name}, trained, all at once: mean return {total:.2f} in imagination", flush=True)

    # What the CEO's plan may lead to: from one start, many futures.
    ceo = AGENTS["ceo"]
    envs = world.to_vector_env(1, ceo.obs_fields, ceo.act_fields, ceo.reward_fn, max_episode_steps=args.months)
    plan = args.out / "ceo.gif"
    animate_rollout(envs, lambda obs: act(policies["ceo"], obs, ceo), plan, num_steps=min(24, args.months - 1))
    plot_layout(world.bound, args.out / "layout.png")
    plot_topology(world.bound, args.out / "topology.png")
    world.save(args.out / "world.safetensors")
    print(f"Drew {plan.name}, layout.png and topology.png; saved world.safetensors.")


if __name__ == "__main__":
    main(parse_args())
