"""The engine over a dynamics that can be computed by hand: resets, seeds, actions, endings, perspectives."""

import math

import pytest
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict

from tests.core.walk import BOX, Walk, bank_of, constant, seen, started, tensors_of, walk_engine
from wm_vec import spawn_seeds
from wm_vec.core import ActionSpec, Engine, Perspective, Transition

CLASSES = ActionSpec("discrete", (), (0.0,), (2.0,), offset=5)


# -- construction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number of at least 1, got 0"),
        ({"num_envs": -3}, "num_envs"),
        ({"num_envs": 2.0}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number of at least 1, got 0"),
        ({"autoreset_mode": "sometimes"}, "'next_step'.*'same_step'.*'disabled'.*got 'sometimes'"),
        ({"autoreset_mode": None}, "autoreset_mode"),
        ({"max_episode_steps": 2.0}, r"max_episode_steps must be a whole number of at least 1, got 2.0 \(float\)"),
        ({"bank_size": 0}, "bank_size must be a whole number of at least 1, got 0"),
        ({"bank_size": True}, "bank_size must be a whole number"),
        ({"bank": bank_of([0.0, 0.0])[:0]}, r"bank must have batch size \(M,\)"),
        ({"bank": bank_of([0.0, 0.0])[0]}, r"bank must have batch size \(M,\)"),
    ],
)
def test_engines_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        walk_engine(**options)


def test_a_dynamics_is_a_subclass():
    class Alike:
        device, dtype = Walk.device, torch.float32
        initial_state, observe, step = Walk.initial_state, Walk.observe, Walk.step

    with pytest.raises(TypeError, match=r"must be a wm_vec\.core\.Dynamics, got Alike.*from_callables"):
        walk_engine(dynamics=Alike())


@pytest.mark.parametrize("mode", ["same_step", "SAME_STEP", "SameStep", "same-step", AutoresetMode.SAME_STEP])
def test_autoreset_modes_go_by_many_names(mode):
    assert walk_engine(autoreset_mode=mode).autoreset_mode is AutoresetMode.SAME_STEP


# -- before the first reset ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda e: e.step(constant(e)),
        lambda e: e.state(),
        lambda e: e.fork([0]),
        lambda e: e.imagine(lambda o: o[:, :1], 2),
        lambda e: e.sample_actions(),
        lambda e: e.predictions(),
    ],
)
def test_nothing_runs_before_the_first_reset(act):
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        act(walk_engine())


def test_a_reset_that_failed_is_no_reset():
    engine = walk_engine()
    with pytest.raises(TypeError):
        engine.reset(seed="zero")
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        engine.step(constant(engine))


def test_the_first_reset_is_of_all_envs():
    with pytest.raises(ValueError, match="first reset must be of all envs"):
        walk_engine().reset(mask=torch.ones(4, dtype=torch.bool))


# -- seeds --------------------------------------------------------------------------------------------------


def rollout(engine, steps=6, seed=None):
    rows = [seen(engine.reset(seed=seed))]
    rows += [seen(engine.step(constant(engine)).final_observation) for _ in range(steps)]
    return torch.stack(rows, 1)


def test_an_int_seeds_env_i_with_s_plus_i():
    all_four, last = rollout(walk_engine(4), seed=10), rollout(walk_engine(1), seed=13)
    assert torch.equal(all_four[3:], last)
    assert len({tuple(row.flatten().tolist()) for row in all_four}) == 4


def test_the_constructors_seed_is_that_of_the_first_reset_alone():
    given, own = walk_engine(seed=3), walk_engine()
    assert torch.equal(rollout(given), rollout(own, seed=3))
    assert not torch.equal(rollout(given), rollout(own, seed=3)), "the next reset goes on to the next episode"


def test_without_a_seed_entropy_decides():
    assert not torch.equal(rollout(walk_engine()), rollout(walk_engine()))


def test_none_in_a_list_keeps_an_envs_own_seed():
    engine = walk_engine(3)
    engine.reset(seed=[7, 8, 9])
    engine.reset(seed=[7, None, 1])
    state = engine.state()
    assert state.seed.tolist() == [7, 8, 1]
    assert state.episode.tolist() == [0, 1, 0]


def test_none_in_the_first_list_takes_entropy():
    engine = walk_engine(4)
    rows = rollout(engine, seed=[5, None, None, None])
    seeds = engine.state().seed.tolist()
    assert seeds[0] == 5
    assert len(set(seeds)) == 4, "envs without a seed must not share one"
    assert not torch.equal(rows[1], rows[2])
    with_seed = walk_engine(3, seed=20)
    with_seed.reset(seed=[None, 1, None])
    assert with_seed.state().seed.tolist() == [20, 1, 22]


def test_big_and_spawned_seeds():
    big = 2**63 - 3
    assert torch.equal(rollout(walk_engine(2), seed=big)[1], rollout(walk_engine(1), seed=big + 1)[0])
    assert not torch.equal(rollout(walk_engine(1), seed=1), rollout(walk_engine(1), seed=1 + 2**32))
    roots = spawn_seeds(0, 4)
    assert torch.equal(rollout(walk_engine(4), seed=roots)[2], rollout(walk_engine(1), seed=roots[2])[0])


def test_later_episodes_differ_and_repeat_with_their_seed():
    engine = walk_engine(1)
    episodes = [rollout(engine, seed=0), rollout(engine), rollout(engine)]
    assert not torch.equal(episodes[0], episodes[1])
    assert not torch.equal(episodes[1], episodes[2])
    again = [rollout(engine, seed=0), rollout(engine), rollout(engine)]
    assert all(torch.equal(a, b) for a, b in zip(episodes, again, strict=True))


# -- actions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (torch.zeros(3, 1), ValueError, r"must have shape \(4, 1\), got \(3, 1\)"),
        (torch.zeros(4), ValueError, r"must have shape \(4, 1\), got \(4,\)"),
        (torch.zeros(4, 1, dtype=torch.int64), TypeError, "must be floating point, got torch.int64"),
        (torch.zeros(4, 1, device="meta"), ValueError, "is on meta, the environment on cpu"),
        ([[0.0]] * 4, TypeError, "must be a torch tensor on cpu, got list"),
        (torch.zeros(4, 1).numpy(), TypeError, "got ndarray.*torch.as_tensor"),
        ({"wrong": torch.zeros(4, 1)}, ValueError, "there is none for .'agent'., 'wrong' does not act"),
    ],
)
def test_actions_that_do_not_fit_a_box(action, error, message):
    engine = started(4)
    before = engine.state()
    with pytest.raises(error, match=message):
        engine.step(action)
    assert bool((engine.state() == before).all()), "a refused action changes nothing"


@pytest.mark.parametrize("action", [torch.zeros(2), torch.ones(2, dtype=torch.bool), torch.zeros(2, 1).long()])
def test_actions_that_do_not_fit_a_discrete_space(action):
    engine = started(2, [Perspective(CLASSES)])
    with pytest.raises((TypeError, ValueError), match=r"must be integers|must have shape"):
        engine.step(action)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_actions_count_from_the_spaces_start(dtype):
    engine = started(3, [Perspective(CLASSES)], dynamics=Walk(noise=0.0), bank=bank_of([0.0, 0.0]))
    result = engine.step(torch.tensor([5, 6, 7], dtype=dtype))
    assert seen(result.final_observation)[:, 0].tolist() == [0.0, 1.0, 2.0]


class Echo(Walk):
    """Goes where the action says."""

    def step(self, state, action, rng):
        x = action.expand(-1, 2)
        return Transition(TensorDict({"x": x}, batch_size=x.shape[:1]), x, reward=x[:, 0], terminated=x[:, 0] < 0)


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("offset", [0, 5])
def test_class_indices_are_clipped_and_cast_to_the_worlds_dtype(default, dtype, kind, offset):
    spec = ActionSpec("discrete", (), (0.0,), (299.0,), offset=offset)
    engine = walk_engine(
        4, [Perspective(spec)], Echo(dtype=dtype), autoreset_mode="disabled", bank=bank_of([0, 0], dtype=dtype)
    )
    torch.set_default_dtype(default)
    try:
        engine.reset(0)
        if kind is torch.uint8:
            action = torch.tensor([0, 1, 255, 77], dtype=kind)
        else:
            action = torch.tensor([-(2**31), 257, 2**31 - 1, 299], dtype=kind)
        got = seen(engine.step(action).observation)[:, 0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype is dtype
    assert torch.equal(got, (action.to(torch.int64) - offset).clamp(0, 299).to(dtype))


def test_box_actions_are_clipped():
    engine = started(3, dynamics=Walk(noise=0.0), bank=bank_of([0.0, 0.0]))
    result = engine.step(torch.tensor([[0.5], [7.0], [-math.inf]]))
    assert seen(result.final_observation)[:2, 0].tolist() == [0.5, 1.0]


def test_values_are_checked_only_under_validate():
    nan = torch.tensor([[0.0], [math.nan], [0.0]])
    plain, strict = walk_engine(3), walk_engine(3, validate=True)
    for engine in (plain, strict):
        engine.reset(seed=0)
    assert plain.step(nan).diverged.tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"actions must be finite numbers; env 1 got \[nan\]"):
        strict.step(nan)
    classes = walk_engine(3, [Perspective(CLASSES)], validate=True)
    classes.reset(seed=0)
    with pytest.raises(ValueError, match="a class index from 5 to 7; env 2 got 8"):
        classes.step(torch.tensor([5, 7, 8]))
    classes.step(torch.tensor([5, 6, 7]))


def test_sampled_actions_are_of_the_space_and_depend_on_the_env_alone():
    engine = started(300)
    actions = engine.sample_actions()["agent"]
    assert actions.shape == (300, 1)
    assert float(actions.min()) >= -1
    assert float(actions.max()) <= 1
    assert abs(float(actions.mean())) < 0.12
    alone = started(1, seed=299)
    assert torch.equal(alone.sample_actions()["agent"], actions[299:])
    assert not torch.equal(engine.sample_actions(1)["agent"], actions)
    classes = started(300, [Perspective(CLASSES)])
    assert set(classes.sample_actions()["agent"].tolist()) == {5, 6, 7}


# -- endings ------------------------------------------------------------------------------------------------


def ending_engine(mode, **options):
    """Env 0 starts where action 1 ends the episode, env 1 does not."""
    start = bank_of([1.8, 0.0])
    engine = started(2, dynamics=Walk(noise=0.0), bank=start, autoreset_mode=mode, **options)
    return engine, torch.tensor([[1.0], [-1.0]])


def test_same_step_gives_the_last_and_the_first_observation():
    engine, action = ending_engine("same_step")
    result = engine.step(action)
    assert result.terminated[:, 0].tolist() == [True, False]
    torch.testing.assert_close(seen(result.final_observation)[:, 0], torch.tensor([2.62, 0.62]))
    torch.testing.assert_close(seen(result.observation)[:, 0], torch.tensor([1.8, 0.62]))
    torch.testing.assert_close(result.episode_return[:, 0], torch.tensor([2.62, 0.62]))
    assert result.episode_length.tolist() == [1, 1]
    assert engine.state().elapsed.tolist() == [0, 1]


def test_next_step_spends_a_step_on_the_reset():
    engine, action = ending_engine("next_step")
    first = engine.step(action)
    torch.testing.assert_close(seen(first.observation), seen(first.final_observation))
    second = engine.step(action)
    assert second.was_reset.tolist() == [True, False]
    assert float(seen(second.observation)[0, 0]) == pytest.approx(1.8)
    assert float(second.reward[0]) == 0.0
    assert not bool(second.terminated[0])


def test_disabled_goes_on_until_it_is_told():
    engine, action = ending_engine("disabled", max_episode_steps=2)
    assert engine.step(action).terminated[:, 0].tolist() == [True, False]
    second = engine.step(action)
    assert second.truncated.tolist() == [True, True]
    assert second.episode_length.tolist() == [2, 2]
    engine.reset(mask=second.finished)
    assert engine.state().elapsed.tolist() == [0, 0]


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_the_horizon_truncates_and_does_not_terminate(mode):
    engine = started(2, autoreset_mode=mode, max_episode_steps=3)
    flags = [engine.step(constant(engine, 0.0)) for _ in range(3)]
    assert [bool(f.truncated.any()) for f in flags] == [False, False, True]
    assert not any(bool(f.terminated.any()) for f in flags)


def test_the_dynamics_own_truncation_counts():
    engine = started(1, dynamics=Walk(noise=0.0, truncates=True), bank=bank_of([-1.9, 0.0]))
    result = engine.step(constant(engine, -1.0))
    assert result.truncated.tolist() == [True]
    assert result.terminated.tolist() == [[False]]


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("exact_rows", [False, True])
def test_a_diverged_env_is_ended_and_its_neighbours_never_notice(mode, exact_rows):
    def seen_finite(obs, act, info):
        return torch.where(torch.isfinite(obs["observation"]).all(), obs["observation"][0], math.nan)

    make = [Perspective(BOX, reward_fn=seen_finite)]
    engine, clean = (walk_engine(40, make, autoreset_mode=mode, exact_rows=exact_rows) for _ in range(2))
    for e in (engine, clean):
        e.reset(seed=0)
        e.step(constant(e))
    before = engine.state().dynamics["x"]
    bad = constant(engine)
    bad[3] = math.nan
    result, expected = engine.step(bad), clean.step(constant(clean))
    assert result.diverged.nonzero().flatten().tolist() == [3]
    assert bool(result.terminated[3])
    assert float(result.reward[3]) == 0.0
    assert torch.equal(seen(result.final_observation)[3], before[3])
    others = torch.arange(40) != 3
    for _ in range(3):
        for name in ("observation", "reward", "terminated", "episode_return", "final_observation"):
            got, wanted = (next(tensors_of([getattr(one, name)])) for one in (result, expected))
            assert torch.equal(got[others], wanted[others]), name
        assert bool(torch.isfinite(seen(result.observation)).all())
        result, expected = engine.step(constant(engine)), clean.step(constant(clean))


# -- perspectives -------------------------------------------------------------------------------------------


def two_views():
    return [
        Perspective(BOX, name="left", obs_index=torch.tensor([1, 0]), reward_fn=lambda o, a, i: a[0]),
        Perspective(
            ActionSpec("box", (2,), (0.0, 0.0), (1.0, 1.0)),
            name="right",
            obs_index=torch.tensor([0]),
            obs_fields={"first": slice(0, 1)},
            reward_fn=lambda o, a, i: o["first"][0] * 10,
            terminated_fn=lambda o, step, i: step >= 2,
        ),
    ]


def test_several_perspectives_share_one_predict():
    dynamics = Walk(noise=0.0)
    engine = walk_engine(2, two_views(), dynamics, bank=bank_of([0.0, 1.0]), autoreset_mode="disabled")
    observation = engine.reset(seed=0)
    assert observation["left"].tolist() == [[1.0, 0.0]] * 2
    assert observation["right"].tolist() == [[0.0]] * 2
    action = {"left": torch.full((2, 1), 0.25), "right": torch.tensor([[0.5, 0.0], [0.5, 9.0]])}
    result = engine.step(action)
    assert dynamics.calls == 1
    # The joint action's columns are summed: 0.25 + 0.5 + 0 and, clipped, 0.25 + 0.5 + 1.
    torch.testing.assert_close(result.observation["right"], torch.tensor([[0.75], [1.75]]))
    torch.testing.assert_close(result.observation["left"][:, 1], torch.tensor([0.75, 1.75]))
    torch.testing.assert_close(result.reward, torch.tensor([[0.25, 7.5], [0.25, 17.5]]))
    assert not bool(result.finished.any())
    result = engine.step(action)
    assert result.terminated.tolist() == [[False, True], [True, True]], "left has the dynamics' own: above 2"
    assert result.finished.tolist() == [False, True], "an env ends when all of its perspectives have"
    torch.testing.assert_close(result.episode_return[:, 0], torch.tensor([0.5, 0.5]))
    assert dynamics.calls == 2


@pytest.mark.parametrize("action", [torch.zeros(2, 3), {"left": torch.zeros(2, 1)}])
def test_every_perspective_needs_its_action(action):
    engine = started(2, two_views())
    with pytest.raises(ValueError, match="one action for each of"):
        engine.step(action)


def test_perspectives_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'agent'"):
        walk_engine(2, [Perspective(BOX), Perspective(BOX)])


def test_no_perspectives_are_refused():
    with pytest.raises(ValueError, match="perspective"):
        Engine(Walk(), 2, [])


def test_carried_reward_states_are_per_env_reset_and_forked():
    def progress(obs, act, info, last):
        return obs["observation"][0] - last, obs["observation"][0]

    view = Perspective(BOX, reward_fn=progress, reward_state=torch.tensor(0.0))
    engine = started(2, [view], Walk(noise=0.0), bank=bank_of([0.0, 0.0]), max_episode_steps=2)
    action = torch.tensor([[0.5], [1.0]])
    torch.testing.assert_close(engine.step(action).reward[:, 0], torch.tensor([0.5, 1.0]))
    fork = engine.fork([1, 0, 0])
    second = engine.step(action)
    torch.testing.assert_close(second.reward[:, 0], torch.tensor([0.45, 0.9]))  # 0.9 x + a - x
    torch.testing.assert_close(fork.step(action[[1, 0, 0]]).reward[:, 0], torch.tensor([0.9, 0.45, 0.45]))
    assert second.truncated.tolist() == [True, True]
    torch.testing.assert_close(
        engine.step(action).reward[:, 0], torch.tensor([0.5, 1.0]), msg="0 again after the reset"
    )


def test_a_reward_function_that_fails_at_a_step_changes_nothing():
    fail = [False]

    def reward(obs, act, info):
        if fail[0]:
            raise OSError("mine")
        return obs["observation"][0]

    engine, clean = (walk_engine(1, [Perspective(BOX, reward_fn=reward)], autoreset_mode="disabled") for _ in range(2))
    engine.reset(seed=0), clean.reset(seed=0)
    engine.step(constant(engine)), clean.step(constant(clean))
    fail[0] = True
    with pytest.raises(OSError, match="mine"):
        engine.step(constant(engine))
    fail[0] = False
    for _ in range(3):
        assert torch.equal(
            seen(engine.step(constant(engine)).observation), seen(clean.step(constant(clean)).observation)
        )


@pytest.mark.parametrize("num_envs", [1, 32, 40])
def test_exact_rows_call_the_dynamics_with_one_number_of_envs(num_envs):
    sizes = []

    class Watched(Walk):
        def step(self, state, action, rng):
            sizes.extend(len(t) for t in (state, action, rng.seed, rng.normal(2)))
            return super().step(state, action, rng)

    engine = started(num_envs, dynamics=Watched(), exact_rows=True)
    engine.step(constant(engine))
    assert sizes == [32] * (4 if num_envs <= 32 else 8)


def test_info_of_the_dynamics_comes_out():
    engine = started(40, dynamics=Walk(noise=0.0), bank=bank_of([0.5, -0.5]), exact_rows=True)
    result = engine.step(constant(engine, 0.0))
    torch.testing.assert_close(result.info["speed"], torch.full((40,), 0.9))
