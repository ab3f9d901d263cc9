"""TorchRL's transforms over our environment, in TorchRL's own TransformedEnv, each against what it says by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Unbounded
from torchrl.envs import TransformedEnv
from torchrl.envs import transforms as T
from torchrl.envs.utils import check_env_specs

from tests.envs.torchrl.kinds import BY_NAME

# What TorchRL says of its own next versions.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Support of VecNormV2"),
]
B, STEPS = 5, 24


def transformed(kind, *transforms, num_envs=B, **options):
    env = TransformedEnv(BY_NAME[kind].torchrl(num_envs, **options), T.Compose(*transforms))
    env.set_seed(3)
    torch.manual_seed(0)
    return env


def replayed(kind, actions, **options):
    """The bare environment's rollout of the actions ``(B, T)``; TorchRL resets what is done."""
    env = BY_NAME[kind].torchrl(actions.shape[0], **options)
    env.set_seed(3)
    return env.rollout(actions.shape[1], actions=actions.unbind(1), break_when_any_done=False)


TABLE = {
    "StepCounter": ("cartpole", lambda: T.StepCounter(max_steps=3)),
    "RewardSum": ("cartpole", T.RewardSum),
    "InitTracker": ("cartpole", T.InitTracker),
    "TrajCounter": ("cartpole", T.TrajCounter),
    "ObservationNorm": ("cartpole", lambda: T.ObservationNorm(0.5, 2.0, in_keys=["observation"])),
    "VecNorm": ("cartpole", lambda: T.VecNorm(in_keys=["observation"])),
    "VecNormV2": ("cartpole", lambda: T.VecNormV2(in_keys=["observation", "reward"])),
    "CatFrames": ("cartpole", lambda: T.CatFrames(4, -1, in_keys=["observation"])),
    "TimeMaxPool": ("cartpole", lambda: T.TimeMaxPool(in_keys=["observation"], T=3)),
    "FrameSkip": ("cartpole", lambda: T.FrameSkipTransform(3)),
    "TargetReturn": ("cartpole", lambda: T.TargetReturn(10.0)),
    "TensorDictPrimer": ("cartpole", lambda: T.TensorDictPrimer(hidden=Unbounded((7,)), expand_specs=True)),
    "RandomTruncation": ("cartpole", lambda: T.Compose(T.StepCounter(), T.RandomTruncationTransform(2, 5))),
    "DoubleToFloat": ("float64", T.DoubleToFloat),
    "DTypeCast": ("pendulum", lambda: T.DTypeCastTransform(torch.float32, torch.float64, in_keys=["observation"])),
    "DeviceCast": ("pendulum", lambda: T.DeviceCastTransform("cpu")),
    "RewardScaling": ("pendulum", lambda: T.RewardScaling(0.5, 2.0)),
    "RewardClipping": ("pendulum", lambda: T.RewardClipping(-1, 1)),
    "ClipTransform": ("pendulum", lambda: T.ClipTransform(in_keys=["observation"], low=-1, high=1)),
    "ActionDiscretizer": ("pendulum", lambda: T.ActionDiscretizer(5)),
    "ActionScaling": ("pendulum", T.ActionScaling),
    "MultiAction": ("pendulum", T.MultiAction),
    "ToTensorImage": ("painter", lambda: T.ToTensorImage(in_keys=["image"])),
    "FlattenObservation": ("box", lambda: T.FlattenObservation(-3, -1, in_keys=[("eye", "image")])),
    "CatTensors": ("cartpole", lambda: T.CatTensors(in_keys=["observation"], out_key="all", del_keys=False)),
    "RenameTransform": ("box", lambda: T.RenameTransform(["place"], ["where"])),
    "ExcludeTransform": ("box", lambda: T.ExcludeTransform(("eye", "image"))),
    "a function": ("box", lambda: lambda td: td),
}
DYNAMIC = ("MultiAction",)
"""What leaves the length of a chunk open has no fixed specs to check, but rolls out."""


@pytest.mark.parametrize("name", [name for name in TABLE if name not in DYNAMIC])
@pytest.mark.parametrize("expose_state", [False, True])
def test_torchrls_checker_passes(name, expose_state):
    kind, make = TABLE[name]
    env = TransformedEnv(BY_NAME[kind].torchrl(3, max_episode_steps=4, seed=0, expose_state=expose_state), make())
    check_env_specs(env, break_when_any_done="both")


def test_steps_are_counted_and_cut_as_the_engine_counts_them():
    env = transformed("cartpole", T.StepCounter(max_steps=6))
    td, counts = env.reset(), []
    for _ in range(STEPS):
        assert td["step_count"][:, 0].tolist() == env.base_env.engine.state().elapsed.tolist()
        out, td = env.step_and_maybe_reset(env.rand_action(td))
        counts.append(out["next", "step_count"][:, 0])
        assert torch.equal(out["next", "truncated"], out["next", "step_count"] == 6)
    assert torch.stack(counts).max() == 6


def test_the_reward_sum_is_the_episodes_own():
    env = transformed("pendulum", T.RewardSum(), max_episode_steps=7)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    total = torch.zeros(B, 1)
    for t in range(STEPS):
        total = total + rollout["next", "reward"][:, t]
        torch.testing.assert_close(rollout["next", "episode_reward"][:, t], total)
        total = torch.where(rollout["next", "done"][:, t], 0.0, total)


def test_observations_are_normalised_by_the_statistics_of_a_rollout():
    env = transformed("pendulum", T.ObservationNorm(in_keys=["observation"], standard_normal=True), num_envs=16)
    env.transform[0].init_stats(num_iter=100, reduce_dim=(0, 1), cat_dim=1)
    env.set_seed(3)
    rollout = env.rollout(100, break_when_any_done=False)
    bare = replayed("pendulum", rollout["action"])
    loc, scale = env.transform[0].loc, env.transform[0].scale
    torch.testing.assert_close(rollout["observation"], (bare["observation"] - loc) / scale, msg="of the same world")
    assert loc.shape == (3,)
    assert rollout["observation"].mean((0, 1)).abs().max() < 0.3
    torch.testing.assert_close(rollout["observation"].std((0, 1)), torch.ones(3), rtol=0, atol=0.3)


@pytest.mark.parametrize(
    "make", [partial(T.VecNorm, decay=0.999999), partial(T.VecNormV2, decay=1.0, reduce_batch_dims=True)]
)
def test_running_statistics_are_those_of_what_was_seen(make):
    """With a memory this long they are nearly the plain ones of all observations, resets included."""
    env = transformed("pendulum", make(in_keys=["observation"], out_keys=["normed"]), num_envs=64)
    rollout = env.rollout(50, break_when_any_done=False)
    raw = torch.cat([rollout["observation"][:, :1], rollout["next", "observation"]], 1)
    expected = (raw[:, -1] - raw.mean((0, 1))) / raw.std((0, 1))
    torch.testing.assert_close(rollout["next", "normed"][:, -1], expected, rtol=0.02, atol=0.02)


def test_frames_are_the_last_of_the_episode():
    """By hand: the first observation of an episode stands in for what came before it, in the envs that reset alone."""
    steps = 60
    env = transformed("cartpole", T.CatFrames(3, -1, in_keys=["observation"], out_keys=["frames"]))
    rollout = env.rollout(steps, break_when_any_done=False)
    starts = torch.cat([torch.ones(B, 1, 1).bool(), rollout["next", "done"][:, :-1]], 1)[..., 0]
    assert len({tuple(row.tolist()) for row in starts}) > 1, "the test needs envs that reset at different times"
    for row in range(B):
        for t in range(steps):
            seen = rollout["observation"][row]
            begin = int(starts[row, : t + 1].nonzero().max())
            expected = torch.cat([seen[max(begin, t - back)] for back in (2, 1, 0)])
            assert torch.equal(rollout["frames"][row, t], expected), (row, t)


def test_a_double_world_in_floats():
    env = transformed("float64", T.DoubleToFloat(), max_episode_steps=6)
    rollout = env.rollout(STEPS, break_when_any_done=False)
    bare = replayed("float64", rollout["action"], max_episode_steps=6)
    for key in ("observation", ("next", "observation"), ("next", "reward")):
        assert bare[key].dtype is torch.float64
        assert torch.equal(rollout[key], bare[key].float()), key


def test_parts_become_one_vector():
    env = transformed(
        "box",
        T.DTypeCastTransform(torch.int64, torch.float32, in_keys=[("eye", "right")]),
        T.UnsqueezeTransform(-1, in_keys=[("eye", "right")]),
        T.CatTensors(in_keys=["place", ("eye", "right")], out_key="all", del_keys=False),
    )
    rollout = env.rollout(STEPS, break_when_any_done=False)
    place = rollout["place"]
    assert torch.equal(rollout["all"], torch.cat([(place[..., :1] > 0).float(), place], -1)), "in the order of keys"


def test_images_become_floats_between_0_and_1():
    env = transformed("painter", T.ToTensorImage(in_keys=["image"], shape_tolerant=True, from_int=True))
    rollout = env.rollout(4)
    assert rollout["image"].dtype is torch.float32
    assert rollout["image"].shape[-3:] in ((3, 40, 40), (40, 3, 40))
    assert 0 <= rollout["image"].min() < rollout["image"].max() <= 1


# -- transforms that change actions --------------------------------------------------------------------------------


def test_discretised_actions_push_the_world_as_their_intervals_say():
    env = transformed("pendulum", T.ActionDiscretizer(5, sampling=T.ActionDiscretizer.SamplingStrategy.MEDIAN))
    rollout = env.rollout(STEPS, break_when_any_done=False)
    choices = rollout["action"]
    assert choices.dtype is torch.int64
    assert set(choices.unique().tolist()) == set(range(5)), "random actions are drawn from the transformed spec"
    torques = -2 + 0.8 * (choices + 0.5)
    bare = replayed("pendulum", torques.view(B, STEPS, 1))
    torch.testing.assert_close(rollout["next", "observation"], bare["next", "observation"])


def test_scaled_actions_push_the_world_by_their_torque():
    env = transformed("pendulum", T.ActionScaling())
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert 0.9 < rollout["action"].abs().max() <= 1
    bare = replayed("pendulum", 2 * rollout["action"])
    torch.testing.assert_close(rollout["next", "observation"], bare["next", "observation"])


def test_random_frames_of_a_collector_take_transformed_actions():
    env = transformed("pendulum", T.ActionDiscretizer(5))
    still = TensorDictModule(Still(), in_keys=["observation"], out_keys=["action"])
    collector = Collector(env, still, frames_per_batch=B * 10, total_frames=B * 20, init_random_frames=B * 10)
    random, chosen = list(collector)
    collector.shutdown()
    assert len(random["action"].unique()) == 5
    assert (chosen["action"] == 2).all()


class Still(nn.Module):
    def forward(self, observation):
        return torch.full((*observation.shape[:-1], 1), 2)


# -- transforms that hold envs back --------------------------------------------------------------------------------


def test_skipped_envs_stay_and_earn_nothing():
    skip = T.ConditionalSkip(lambda td: torch.tensor([False, True, False, True, True]))
    env = transformed("pendulum", skip)
    td = env.rand_action(env.reset())
    still = [1, 3, 4]
    out = env.step(td.clone())["next"]
    assert torch.equal(out["observation"][still], td["observation"][still])
    assert not out["reward"][still].any()
    assert env.base_env.engine.state().elapsed.tolist() == [1, 0, 1, 0, 0]
    bare = replayed("pendulum", td["action"][:, None])[:, 0]["next"]
    assert torch.equal(out["observation"][[0, 2]], bare["observation"][[0, 2]])
    assert torch.equal(out["reward"][[0, 2]], bare["reward"][[0, 2]])


@pytest.mark.parametrize("kind", ["pendulum", "steered", "box", "board", "rssm with our noise"])
def test_envs_that_end_within_a_chunk_of_actions_wait_for_its_end(kind):
    """Three actions at a time; the horizon of four ends the second chunk after one action."""
    env = transformed(kind, T.MultiAction(), max_episode_steps=4)
    torch.manual_seed(1)
    actions = torch.stack([BY_NAME[kind].torchrl(B).action_spec.rand() for _ in range(6)], 1)
    td = env.reset()
    chunks, waiting = [], []
    for part in (actions[:, :3], actions[:, 3:]):
        out = env.step(td.set("action", part))
        chunks.append(out["next"])
        waiting.append(env.base_env.engine.state().elapsed)
        td = env.step_mdp(out)
    assert [elapsed.tolist() for elapsed in waiting] == [[3] * B, [4] * B]
    bare = replayed(kind, actions[:, :4], max_episode_steps=4)["next"]
    assert chunks[1]["truncated"].all()
    assert torch.equal(chunks[0]["reward"], bare["reward"][:, :3])
    assert torch.equal(chunks[1]["reward"][:, 0], bare["reward"][:, 3])
    assert not chunks[1]["reward"][:, 1:].any(), "what waits earns nothing"


def test_skipped_frames_add_up():
    env = transformed("pendulum", T.FrameSkipTransform(3))
    rollout = env.rollout(5, break_when_any_done=False)
    bare = replayed("pendulum", rollout["action"].repeat_interleave(3, 1))["next"]
    assert torch.equal(rollout["next", "observation"], bare["observation"][:, 2::3])
    torch.testing.assert_close(rollout["next", "reward"], bare["reward"].unflatten(1, (5, 3)).sum(2))


# -- what comes and goes with episodes -----------------------------------------------------------------------------


def test_hidden_states_are_primed_where_episodes_start():
    """A recurrent policy's state is zero again in the envs that reset, and is carried on in the others."""
    env = transformed(
        "cartpole",
        T.InitTracker(),
        T.TensorDictPrimer(hidden=Unbounded((2,)), expand_specs=True),
        max_episode_steps=9,
    )

    def count(td):
        return td.set(("next", "hidden"), td["hidden"] + 1).set("action", env.action_spec.rand())

    rollout = env.rollout(STEPS, count, break_when_any_done=False)
    elapsed = torch.zeros(B)
    for t in range(STEPS):
        assert rollout["hidden"][:, t, 0].tolist() == elapsed.tolist()
        assert torch.equal(rollout["is_init"][:, t, 0], elapsed == 0)
        elapsed = torch.where(rollout["next", "done"][:, t, 0], 0.0, elapsed + 1)
