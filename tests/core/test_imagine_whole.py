"""Imagination where envs break down, and where steps would only reset."""

import torch


def test_a_diverged_env_leaves_everybodys_gradient_alone(pendulum):
    def gradient(poisoned):
        env = pendulum.to_vector_env(4, seed=0, autoreset_mode="disabled")
        env.reset()
        if poisoned:
            state = env.state()
            state.dynamics["values"][0, 2] = 3e38
            env.set_state(state)
        gain = torch.tensor([[0.1], [0.2], [0.3]], requires_grad=True)
        rollout = env.imagine(lambda obs: obs @ gain, 3, grad=True)
        rollout["next", "reward"][1:].sum().backward()
        return gain.grad, rollout

    clean, _ = gradient(poisoned=False)
    after, rollout = gradient(poisoned=True)
    assert bool(rollout["next", "terminated"][0].any()), "env 0 must have broken down"
    torch.testing.assert_close(after, clean)


def test_imagination_under_next_step_holds_transitions_alone(cartpole):
    """Every step starts where the one before it ended, or at a start: a step that only resets is none."""
    env = cartpole.to_vector_env(8, seed=0, autoreset_mode="next_step", max_episode_steps=3)
    env.reset()
    rollout = env.imagine(lambda obs: (obs[:, 2] > 0).long(), 9)
    done = rollout["next", "done"][..., 0]
    assert done.int().sum(1).tolist() == [3] * 8
    assert bool((rollout["next", "reward"] > 0.9).all())
    same = (rollout["observation"][:, 1:] == rollout["next", "observation"][:, :-1]).all(-1)
    assert torch.equal(same, ~done[:, :-1])
