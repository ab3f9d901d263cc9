"""The adapters of the seeds, as they stand, over 2,048 envs; every env is what the model computes by itself."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_vec
from tests.seeds import blocks_000
from tests.seeds.models import PixelWorld, VectorWorld
from tests.seeds.test_001 import define
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

NUM_ENVS = 2048
BATCHINGS = ["batched", "vmap"]
PIXELS = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
PUSHES = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of small networks are run one after another here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pushes(steps: int) -> torch.Tensor:
    return torch.rand(steps, NUM_ENVS, 6, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("batching", BATCHINGS)
def test_seed_000(batching):
    model = PixelWorld()
    latent = model.initial_latent()
    names = {"trained_model": model, "initial_latent": latent}
    exec(blocks_000.BASIC_USAGE, names)
    envs = WorldModelVectorEnv.from_callables(
        model,
        observation_space=PIXELS,
        action_space=PUSHES,
        initial_state=latent,
        transition_fn=names["transition"],
        max_episode_steps=50,
        num_envs=NUM_ENVS,
        batching=batching,
        autoreset_mode="disabled",
    )
    obs, _ = envs.reset(seed=0)
    assert obs.shape == (NUM_ENVS, 3, 64, 64)
    assert (obs == model.decode(latent)).all()
    latents = latent.detach().expand(NUM_ENVS, 8)
    for action in pushes(2):
        obs, reward, terminated, truncated, _ = envs.step(action)
        with torch.no_grad():
            latents = model.imagine_step(latents, action)
            expected = model.decode(latents)
            # Rounding to whole numbers may fall to either side.
            assert ((obs.int() - expected.int()).abs() <= 1).all()
            assert (obs != expected).float().mean() < 1e-3
            torch.testing.assert_close(reward.float(), model.reward(latents), atol=1e-5, rtol=0)
        assert torch.equal(terminated, latents[:, 0] > 1.5)
        assert not truncated.any()
    assert reward.unique().numel() > NUM_ENVS // 2


@pytest.mark.parametrize("batching", BATCHINGS)
def test_seed_001(batching):
    """Its reset takes one seed: it fills the bank, and every episode starts from one of its resets."""
    model = VectorWorld()
    names = define({}, model)
    envs = WorldModelVectorEnv.from_callables(
        model,
        observation_space=names["obs_space"],
        action_space=names["action_space"],
        reset_fn=names["reset_world_model"],
        transition_fn=names["transition_world_model"],
        max_episode_steps=3,
        num_envs=NUM_ENVS,
        batching=batching,
    )
    _, info = envs.reset(seed=0)
    latents = info["model_state"]
    different = latents.unique(dim=0).shape[0]
    assert 700 < different <= 1024
    for step, action in enumerate(pushes(3), start=1):
        obs, reward, terminated, truncated, info = envs.step(action)
        with torch.no_grad():
            latents = model.predict_next_state(latents, action)
            expected = model.decode_observation(latents)
            expected_reward = model.predict_reward(latents, action)
        assert not terminated.any()
        assert truncated.tolist() == [step == 3] * NUM_ENVS
        torch.testing.assert_close(info["final_obs"], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(reward.float(), expected_reward, atol=1e-5, rtol=0)
    # The next episodes have begun, from the bank again.
    started = info["model_state"]
    torch.testing.assert_close(obs, model.decode_observation(started).detach(), atol=1e-5, rtol=0)
    assert 700 < started.unique(dim=0).shape[0] <= 1024
    assert (started != latents).any(-1).all()


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_seed_001_with_a_reset_of_all_seeds_at_once(batching):
    model = VectorWorld()
    names = define({}, model)

    @wm_vec.batched
    def reset_many(model, seeds):
        latents = torch.stack([model.sample_initial_state(seed) for seed in seeds.tolist()])
        return latents, model.decode_observation(latents)

    envs = WorldModelVectorEnv.from_callables(
        model,
        observation_space=names["obs_space"],
        action_space=names["action_space"],
        reset_fn=reset_many,
        transition_fn=names["transition_world_model"],
        num_envs=NUM_ENVS,
        batching=batching,
        autoreset_mode="disabled",
    )
    obs, info = envs.reset(seed=10)
    for row in (0, 1, NUM_ENVS - 1):
        torch.testing.assert_close(info["model_state"][row], model.sample_initial_state(10 + row))
        # The scalar env of the text, at the same seed.
        expected, _ = names["env"].reset(seed=10 + row)
        np.testing.assert_allclose(obs[row], expected, atol=1e-6)


def test_action_transforms_in_numpy_run_env_by_env():
    """`int(action)` takes one env's action: scalar envs take it, as many as there are, and batches say so."""
    model = PixelWorld()
    names = {"trained_model": model, "initial_latent": None, "obs_space": PIXELS}
    exec(blocks_000.BASIC_USAGE, names)
    exec(blocks_000.ACTION_ADAPTERS, names)
    options = {
        "observation_space": PIXELS,
        "action_space": gym.spaces.Discrete(6),
        "transition_fn": names["transition"],
        "action_transform_fn": names["action_transform"],
    }
    envs = gym.vector.SyncVectorEnv([lambda: WorldModelEnv(model, **options)] * 64)
    envs.reset(seed=0)
    latents = torch.stack([model.reset_state(seed)[0] for seed in range(64)])
    classes = torch.arange(64) % 6
    _, reward, *_ = envs.step(classes.numpy())
    with torch.no_grad():
        expected = model.reward(model.imagine_step(latents, torch.eye(6)[classes]))
    np.testing.assert_allclose(reward, expected, atol=1e-5)
    for batching in BATCHINGS:
        many = WorldModelVectorEnv.from_callables(model, batching=batching, bank_size=8, num_envs=64, **options)
        many.reset(seed=0)
        with pytest.raises((ValueError, RuntimeError), match=r"item\(\)|only one element") as caught:
            many.step(classes)
        assert any("action_transform_fn" in note for note in caught.value.__notes__)


def test_action_transforms_in_torch_run_at_once():
    model = PixelWorld()
    names = {"trained_model": model, "initial_latent": None}
    exec(blocks_000.BASIC_USAGE, names)
    classes = torch.arange(NUM_ENVS) % 6
    rewards = []
    for batching in ("batched", "vmap"):
        envs = WorldModelVectorEnv.from_callables(
            model,
            PIXELS,
            gym.spaces.Discrete(6),
            transition_fn=names["transition"],
            action_transform_fn=lambda model, action: torch.eye(model.num_actions)[action],
            initial_state=model.initial_latent(),
            num_envs=NUM_ENVS,
            batching=batching,
        )
        envs.reset(seed=0)
        rewards.append(envs.step(classes)[1])
    with torch.no_grad():
        latents = model.imagine_step(model.initial_latent().expand(NUM_ENVS, 8), torch.eye(6)[classes])
    for reward in rewards:
        torch.testing.assert_close(reward, model.reward(latents).detach(), atol=1e-5, rtol=0)
