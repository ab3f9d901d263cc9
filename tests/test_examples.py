"""The single-file PPO scripts: they run, learn, agree with each other, and the tensor one reads nothing on the host."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from examples import ppo_sync, ppo_tensor, torchrl_cartpole
from wm_vec import WorldModel, WorldModelVectorEnv

ROOT = Path(__file__).resolve().parents[1]
WORLD = "wm_vec/CartPole-v1"
SHARED = ("Args", "parse_args", "mlp", "Agent", "estimate_advantages", "learn", "update", "evaluate")


def run(script, *options):
    """The lines that a script prints, its SPS left out, and all of it."""
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        f"examples/{script}.py",
        "--device",
        "cpu",
        *map(str, options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [re.sub(r", SPS: [\d,]+$", "", line) for line in done.stdout.splitlines()], done.stdout


def real_return(printed):
    return float(
        re.search(r"^real CartPole-v1: mean return ([\d.]+) over 10 episodes$", printed, re.MULTILINE).group(1)
    )


def played(module, envs, steps):
    """A rollout of a fixed agent, and what is made of it."""
    args = module.Args(num_envs=envs.num_envs, num_steps=steps, device="cpu")
    torch.manual_seed(3)
    agent = module.Agent(envs.single_observation_space, envs.single_action_space)
    obs = torch.as_tensor(envs.reset(seed=11)[0])
    batch, obs, finished = module.rollout(envs, agent, obs, args)
    module.estimate_advantages(agent, batch, args)
    return batch, obs, finished


@pytest.fixture(scope="module")
def rollouts():
    """Both scripts' rollouts of the same envs, with a horizon short enough for episodes to end either way."""

    def thunk():
        return gym.wrappers.RecordEpisodeStatistics(gym.make(WORLD, max_episode_steps=25))

    sync = SyncVectorEnv([thunk] * 6, autoreset_mode=AutoresetMode.SAME_STEP)
    tensor = gym.make_vec(WORLD, num_envs=6, max_episode_steps=25)
    return played(ppo_sync, sync, 60), played(ppo_tensor, tensor, 60)


@pytest.mark.long
def test_a_policy_from_the_tensor_script_balances_the_real_pole():
    """A random policy's mean return there is about 22."""
    lines, printed = run("ppo_tensor", "--total-timesteps", 65_536)
    assert len(lines) == 32 + 1
    assert real_return(printed) > 100


@pytest.mark.long
def test_both_scripts_print_the_same_training():
    """Same worlds, same seeds, same draws: but for their speed the two are one training."""
    options = ("--num-envs", 8, "--num-steps", 64, "--total-timesteps", 1536)
    sync, printed = run("ppo_sync", *options)
    tensor, _ = run("ppo_tensor", *options)
    assert sync == tensor
    assert len(sync) == 3 + 1
    assert re.search(r"^step: 1,536, episodes: \d+, mean_return: \d+, SPS: [\d,]+$", printed, re.MULTILINE)
    assert real_return(printed) > 0


@pytest.mark.parametrize("name", SHARED)
def test_what_the_scripts_share_is_the_same_text(name):
    """So that a diff of the two shows what tensors change, and nothing else."""
    assert inspect.getsource(getattr(ppo_sync, name)) == inspect.getsource(getattr(ppo_tensor, name))


def test_rollouts_agree_row_by_row_through_both_kinds_of_ending(rollouts):
    (sync, sync_obs, sync_finished), (tensor, tensor_obs, tensor_finished) = rollouts
    assert sync.keys() == tensor.keys()
    for key, value in sync.items():
        torch.testing.assert_close(value, tensor[key], rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    torch.testing.assert_close(sync_obs, tensor_obs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sync_finished, tensor_finished)
    assert tensor["terminated"].any()
    assert (tensor["ended"] & ~tensor["terminated"]).any()


@pytest.mark.parametrize("which", [0, 1], ids=["sync", "tensor"])
def test_the_last_observation_of_an_episode_is_kept(rollouts, which):
    """Each step leads to where the next one starts, but at an end; there CartPole's pole has fallen or time is up."""
    batch, _, finished = rollouts[which]
    ended = batch["ended"][:-1]
    follows = (batch["after"][:-1] == batch["obs"][1:]).all(-1)
    assert (follows == ~ended).all()
    starts = batch["obs"][1:][ended]
    assert starts.abs().max() <= 0.06, "an episode starts within 0.05 of upright"
    fallen = batch["after"][batch["terminated"]]
    assert ((fallen[:, 2].abs() > 0.19) | (fallen[:, 0].abs() > 2.3)).all()
    assert finished[0] == batch["ended"].sum()
    # CartPole pays 1 a step, and the world learned that well: the returns are the steps up to each env's last end.
    last_end = torch.where(
        batch["ended"].any(0), batch["ended"].shape[0] - 1 - batch["ended"].flip(0).int().argmax(0), -1
    )
    assert finished[1].item() == pytest.approx((last_end + 1).sum().item(), rel=1e-4)


class OwnValue(torch.nn.Module):
    """A critic by which an observation is worth what it says."""

    def value(self, obs):
        return obs.squeeze(-1)


@pytest.mark.parametrize("module", [ppo_sync, ppo_tensor], ids=["sync", "tensor"])
def test_advantages_by_hand(module):
    """One env, discount 1/2, lambda 1/2, rewards of 1; it is truncated at t=1 and terminated at t=3.

    t=3: terminated, so nothing is to come: 1 - 6 = -5. t=2: 1 + 6/2 - 4 = 0, and -5/4 carried.
    t=1: truncated at a state worth 10, with nothing carried: 1 + 10/2 - 2 = 4. t=0: 1 + 2/2 - 8 = -6, and 4/4 carried.
    """
    args = module.Args(gamma=0.5, gae_lambda=0.5)
    batch = {
        "obs": torch.tensor([8.0, 2.0, 4.0, 6.0]).view(4, 1, 1),
        "after": torch.tensor([2.0, 10.0, 6.0, 99.0]).view(4, 1, 1),
        "reward": torch.ones(4, 1),
        "terminated": torch.tensor([[False], [False], [False], [True]]),
        "ended": torch.tensor([[False], [True], [False], [True]]),
    }
    module.estimate_advantages(OwnValue(), batch, args)
    assert batch["advantage"].flatten().tolist() == [-5.0, 4.0, -1.25, -5.0]
    assert batch["target"].flatten().tolist() == [3.0, 6.0, 2.75, 1.0]


def on_meta(agent_class=ppo_tensor.Agent):
    """The rollout on tensors without values, of which every host read raises."""
    envs = WorldModel.bundled("CartPole-v1", device="meta").to_vector_env(5, max_episode_steps=500)
    agent = agent_class(envs.single_observation_space, envs.single_action_space).to("meta")
    obs, _ = envs.reset(seed=0)
    return ppo_tensor.rollout(envs, agent, obs, ppo_tensor.Args(num_envs=5, num_steps=3, device="meta"))


def test_the_tensor_rollout_reads_nothing_on_the_host():
    batch, obs, finished = on_meta()
    assert {tensor.device.type for tensor in (*batch.values(), obs, finished)} == {"meta"}
    assert batch["obs"].shape == (3, 5, 4)
    assert batch["reward"].shape == batch["ended"].shape == (3, 5)


@pytest.mark.parametrize(
    "read",
    [torch.Tensor.item, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.tolist, bool],
    ids=lambda f: f.__name__,
)
def test_a_host_read_planted_in_the_rollout_raises(read):
    class Reads(ppo_tensor.Agent):
        def act(self, obs):
            read(obs.sum())
            return super().act(obs)

    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        on_meta(Reads)


@pytest.mark.parametrize("module", [ppo_sync, ppo_tensor], ids=["sync", "tensor"])
def test_an_action_that_the_agent_cannot_take_is_named(module):
    pendulum = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"Discrete actions, got Box.* and Box"):
        module.Agent(pendulum.observation_space, pendulum.action_space)


@pytest.mark.long
def test_from_real_data_to_imagination_and_back_in_torchrl(tmp_path):
    """One turn at small size, PPO in imagination alone; a random policy's mean return in the real CartPole is 22."""
    torchrl_cartpole.main(
        torchrl_cartpole.Args(
            device="cpu",
            turns=1,
            real_steps=2_000,
            world_steps=350,
            policy_steps=50_000,
            num_envs=128,
            minibatch=256,
            eval_episodes=10,
            out=str(tmp_path / "figures.json"),
        )
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    (run,) = figures["runs"]
    assert run["real_steps"] == figures["real_steps"] == 4_000
    assert len(run["returns"]) == 10
    assert run["real_return"] == sum(run["returns"]) / 10
    assert figures["worst"] > 80
    assert {"torchrl", "commit", "cores"} <= set(figures["machine"])


def notebook():
    """The cells of the tutorial on RL libraries."""
    return json.loads((ROOT / "examples" / "rl_libraries.ipynb").read_text())


def test_the_notebook_is_stored_as_it_is_written():
    """No outputs, no counts: a diff of it shows what somebody wrote. Every cell has an id, as format 4.5 wants."""
    document = notebook()
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    cells = document["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 7
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.long
@pytest.mark.filterwarnings("error:.*:UserWarning:stable_baselines3")
def test_the_notebook_runs_from_top_to_bottom(capsys):
    pytest.importorskip("stable_baselines3")
    names = {"__name__": "__main__"}
    for cell in notebook()["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["agent"].num_timesteps == 2_048
    assert "mean return" in capsys.readouterr().out
    # One model behind all of them: 49 steps from one start give the same numbers in every library.
    model, seed = names["model"], 3
    actions = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent, expected = model.begin(seed), []
    with torch.no_grad():
        for action in actions:
            latent = model.advance(latent, action)
            expected.append(model.decoder(latent))
    env, envs = names["make_env"](), names["envs"]
    torchrl_env = names["torchrl_env"]
    env.reset(seed=seed)
    envs.reset(seed=[seed] * 4)
    td = torchrl_env.reset(seed=seed)
    batch = WorldModelVectorEnv.from_callables(
        model,
        names["observation_space"],
        names["action_space"],
        num_envs=4,
        initial_state=model.begin(seed),
        initial_observation=model.decoder(model.begin(seed)).detach(),
        transition_fn=names["transition"],
        max_episode_steps=51,
    )
    batch.reset(seed=0)
    for action, wanted in zip(actions[:49], expected, strict=False):
        td = torchrl_env.step_mdp(torchrl_env.step(td.set("action", action)))
        seen = [
            env.step(action.numpy())[0],
            envs.step(action.expand(4, 2).numpy())[0][2],
            td["observation"],
            batch.step(action.expand(4, 2))[0][1],
        ]
        for one in seen:
            torch.testing.assert_close(torch.as_tensor(one), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("script", "returns", "written"),
    [
        ("08_corporate_envs", 9, {"ceo.gif", "layout.png", "topology.png", "world.safetensors"}),
        ("09_robot_envs", 6, {"logistics.gif", "disaster.gif", "climate.gif", "layout.png"}),
    ],
)
def test_agents_of_one_world(script, returns, written, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / f"{script}.py"))["main"]
    main(Namespace(out=tmp_path, episodes=3, n_steps=2, total_steps=40, num_envs=2, months=4, seed=0))
    assert len(re.findall(r": mean return -?\d+\.\d\d in", capsys.readouterr().out)) == returns
    assert {path.name for path in tmp_path.iterdir()} == written
