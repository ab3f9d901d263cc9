"""The code blocks of "Plug TorchWM world models into RL libraries" run as they stand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.seeds import blocks_001
from tests.seeds.models import VectorWorld


def define(names, model, initial_latent=None):
    """Run the first block; its two `...` are the trained model and the initial state."""
    block = blocks_001.ADAPTER.replace("trained_model = ...", "trained_model = own_model")
    block = block.replace("initial_latent = ...", "initial_latent = own_latent")
    names.update(own_model=model, own_latent=initial_latent)
    exec(block, names)
    return names


@pytest.fixture(scope="module")
def model():
    return VectorWorld()


@pytest.fixture
def names(model):
    return define({}, model)


def bare_step(model, latent, action):
    """What the model itself says, without any environment."""
    with torch.no_grad():
        action = torch.as_tensor(action)
        latent = model.predict_next_state(latent, action)
        reward, done = model.predict_reward(latent, action).item(), model.predict_terminal(latent).item()
        return latent, model.decode_observation(latent).numpy(), reward, done


@pytest.mark.parametrize("initial_latent", [None, torch.full((16,), 9.0)], ids=["None", "a state"])
def test_one_adapter(model, initial_latent):
    """The given reset comes before the given initial state."""
    names = define({}, model, initial_latent)
    env = names["env"]
    latent = model.sample_initial_state(seed=7)
    obs, info = env.reset(seed=7)
    np.testing.assert_allclose(obs, model.decode_observation(latent).detach(), atol=1e-6)
    assert info == {"source": "world_model"}
    np.testing.assert_array_equal(env.state, latent)
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    for step, action in enumerate(actions, start=1):
        latent, *expected = bare_step(model, latent, action)
        obs, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(obs, expected[0], atol=1e-5)
        assert reward == pytest.approx(expected[1], abs=1e-5)
        assert terminated is expected[2]
        assert truncated is (step == 50)
        assert info["elapsed_steps"] == step
        np.testing.assert_allclose(info["model_state"], latent, atol=1e-5)
        assert info["model_state"] is env.state
        assert set(info) == {"model_state", "elapsed_steps"}
        assert not terminated


def test_the_contract(names):
    names["action"] = np.zeros(6, np.float32)
    exec(blocks_001.CONTRACT, names)
    assert names["obs"].shape == (64,)
    assert names["info"]["elapsed_steps"] == 1


def test_action_transform(model, names):
    exec(blocks_001.ACTION_TRANSFORM, names)
    env = names["env"]
    env.reset(seed=2)
    obs, reward, *_ = env.step(5)
    one_hot = np.array([0, 0, 0, 0, 0, 1], np.float32)
    _, expected, expected_reward, _ = bare_step(model, model.sample_initial_state(seed=2), one_hot)
    np.testing.assert_allclose(obs, expected, atol=1e-6)
    assert reward == pytest.approx(expected_reward, abs=1e-6)


@pytest.mark.long
def test_stable_baselines(names, capsys):
    pytest.importorskip("stable_baselines3")
    exec(blocks_001.STABLE_BASELINES, names)
    model, episodes = names["model"], names["sb3_env"].get_episode_lengths()
    # Whole rollouts of 2048 steps; the text's horizon ends every episode, since the model ends none.
    assert model.num_timesteps == 10_240
    assert len(episodes) == 10_240 // 50
    assert set(episodes) == {50}
    assert "ep_rew_mean" in capsys.readouterr().out


def test_stable_baselines_with_dictionary_observations(model, names):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env
    from stable_baselines3.common.monitor import Monitor

    def decode(latent):
        return {"sensors": model.decode_observation(latent), "late": (latent[0] > 0).long()}

    def transition(model, state, action):
        latent = model.predict_next_state(state, action)
        return latent, decode(latent), model.predict_reward(latent, action)

    env = names["WorldModelEnv"](
        model,
        observation_space=gym.spaces.Dict(sensors=names["obs_space"], late=gym.spaces.Discrete(2)),
        action_space=names["action_space"],
        reset_fn=lambda model, seed: (latent := model.sample_initial_state(seed), decode(latent)),
        transition_fn=transition,
        max_episode_steps=50,
    )
    check_env(env, warn=True)
    block = {"PPO": PPO, "sb3_env": Monitor(env)}
    exec(blocks_001.DICTIONARY_OBSERVATIONS.replace("verbose=1", "n_steps=256, verbose=0"), block)
    before = [p.detach().clone() for p in block["model"].policy.parameters()]
    block["model"].learn(total_timesteps=256)
    assert any((a != b).any() for a, b in zip(before, block["model"].policy.parameters(), strict=True))


def test_torchrl(model, names):
    from torchrl.envs import check_env_specs

    exec(blocks_001.TORCHRL, names)
    td, env = names["td"], names["torchrl_env"]
    assert td["next", "step_count"].item() == 1
    # What comes out of the wrappers is what the model says of the action that they sampled.
    env.set_seed(0)
    td = env.reset()
    latent = names["env"].state.clone()
    td = env.rand_step(td)
    _, expected, expected_reward, _ = bare_step(model, latent, td["action"])
    np.testing.assert_allclose(td["next", "observation"], expected, atol=1e-6)
    assert td["next", "reward"].item() == pytest.approx(expected_reward, abs=1e-6)
    check_env_specs(env)
    rollout = env.rollout(200, break_when_any_done=False)
    assert rollout["next", "truncated"].squeeze(-1).nonzero().squeeze(-1).tolist() == [49, 99, 149, 199]


def test_cleanrl(model, names):
    exec(blocks_001.CLEANRL, names)
    envs = names["envs"]
    latents = [model.sample_initial_state(seed=i) for i in range(4)]
    expected = torch.stack([model.decode_observation(latent) for latent in latents]).detach()
    np.testing.assert_allclose(names["obs"], expected, atol=1e-6)
    assert names["infos"]["source"].tolist() == ["world_model"] * 4
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 4, 6)).astype(np.float32)
    for step, action in enumerate(actions, start=1):
        steps = [bare_step(model, latent, one) for latent, one in zip(latents, action, strict=True)]
        latents = [latent for latent, *_ in steps]
        obs, reward, terminated, truncated, _ = envs.step(action)
        np.testing.assert_allclose(obs, [seen for _, seen, *_ in steps], atol=1e-5)
        np.testing.assert_allclose(reward, [paid for *_, paid, _ in steps], atol=1e-5)
        assert not terminated.any()
        assert truncated.tolist() == [step == 50] * 4
    envs.close()


def test_cleanrl_with_a_model_of_each_workers_own(names):
    """As the text advises: the model is made inside the thunk."""
    block = blocks_001.CLEANRL.replace("            trained_model,", "            VectorWorld(),")
    assert block != blocks_001.CLEANRL
    exec(blocks_001.CLEANRL, names)
    shared = names["envs"].step(np.zeros((4, 6), np.float32))
    names["VectorWorld"] = VectorWorld
    exec(block, names)
    own = names["envs"].step(np.zeros((4, 6), np.float32))
    np.testing.assert_array_equal(shared[0], own[0])
    models = {id(env.world_model) for env in names["envs"].envs}
    assert len(models) == 4
