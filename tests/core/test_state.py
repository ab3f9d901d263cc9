"""State in and out: restore, fork, the pure transition."""

import pickle
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, Walk, constant, seen, started, stepped, tensors_of, walk_engine
from wm_vec import WorldModel
from wm_vec.core import AutoresetMode, EnvState, Perspective
from wm_vec.core.resets import fork_state, restart, start

MODES = ["same_step", "next_step", "disabled"]


def run(engine, steps=5):
    """All that a few steps give, as one table (steps, ...)."""
    results = [engine.step(constant(engine, 0.7)) for _ in range(steps)]
    return {name: torch.stack([column(r, name) for r in results]) for name in COLUMNS}


COLUMNS = ("observation", "final_observation", "reward", "terminated", "truncated", "episode_return", "episode_length")


def column(result, name):
    """A tensor of a step's output; the only perspective's where there is one for each."""
    return next(tensors_of([getattr(result, name)]))


def assert_same(one, two):
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exact_rows", [False, True])
def test_restoring_continues_bit_for_bit(mode, exact_rows):
    def carried(obs, act, info, last):
        return obs["observation"][0] - last, obs["observation"][0]

    view = Perspective(BOX, reward_fn=carried, reward_state=torch.tensor(0.0))
    engine = walk_engine(5, [view], autoreset_mode=mode, max_episode_steps=7, exact_rows=exact_rows)
    engine.reset(seed=3)
    run(engine, 4)
    saved = engine.state()
    expected = run(engine, 6)
    run(engine, 3)
    engine.set_state(saved)
    assert_same(run(engine, 6), expected)
    # In another engine of the same world too, one that has never been reset.
    other = walk_engine(5, [view], autoreset_mode=mode, max_episode_steps=7, exact_rows=exact_rows)
    assert torch.equal(seen(other.set_state(saved)), saved.dynamics["x"])
    assert_same(run(other, 6), expected)


def test_a_state_is_a_copy():
    engine = started(2)
    saved, kept = engine.state(), engine.state()
    saved.dynamics["x"].zero_()
    saved.elapsed.fill_(99)
    assert bool((engine.state() == kept).all())
    engine.set_state(saved)
    saved.dynamics["x"].fill_(7.0)
    assert engine.state().dynamics["x"].tolist() == [[0.0, 0.0]] * 2


def test_rows_of_a_state_can_be_mixed():
    engine = started(3)
    run(engine, 2)
    early = engine.state()
    expected = run(engine, 3)
    engine.set_state(early[torch.tensor([2, 2, 0])])
    got = run(engine, 3)
    assert torch.equal(got["observation"], expected["observation"][:, [2, 2, 0]])


def foreign(**changes):
    engine = started(2)
    state = engine.state()
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def older(name):
    """A state from before there was such an entry, as unpickling gives it."""
    state = foreign()
    state.pop(name)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: foreign()[:1], r"2 envs, the state \(1,\)"),
        (lambda: foreign(dynamics=TensorDict({"y": torch.zeros(2, 2)}, [2])), r"another world: it has \['y'\]"),
        (lambda: foreign(dynamics=TensorDict({"x": torch.zeros(2, 3)}, [2])), r"'x' must be \(2,\).*got \(3,\)"),
        (lambda: foreign(dynamics=TensorDict({"x": torch.zeros(2, 2).double()}, [2])), "got .*float64"),
        (lambda: foreign(dynamics=TensorDict({"x": torch.zeros(2, 2, device="meta")}, [2])), "on meta"),
        (lambda: foreign(reward_state=TensorDict({"agent": torch.zeros(2)}, [2])), "agent"),
        (lambda: foreign(returns=torch.zeros(2, 3)), r"another engine: its .returns. .*\(2, 1\), got .*\(2, 3\)"),
        (lambda: foreign(returns=torch.zeros(2, 1).double()), r"'returns' must be torch.float32 .*\(2, 1\), got t"),
        (lambda: foreign(elapsed=torch.zeros(2).int()), r"'elapsed' must be torch.int64 .*\(2,\), got torch.int32"),
        (lambda: foreign(episode=torch.zeros(2, 1).long()), r"'episode' must be .* of shape \(2,\), got .*\(2, 1\)"),
        (lambda: foreign(world=None), "'world' must be torch.int64 .*, got none"),
        (lambda: foreign(ended=None), "'ended' must be torch.bool of shape .*, got none"),
        (lambda: older("ended"), "'ended' must be torch.bool of shape .*, got none"),
        (lambda: foreign(ended=torch.zeros(2).bool()), r"'ended' must be torch.bool of shape \(2, 1\), got .*\(2,\)"),
        (lambda: foreign(returns=None), "'returns' must be torch.float32 .*, got none"),
        (lambda: foreign(returns=torch.zeros(2)), r"'returns' must be torch.float32 .*, got .*\(2,\)"),
    ],
)
def test_states_of_other_worlds_are_refused(state, message):
    engine = started(2)
    before = engine.state()
    with pytest.raises(ValueError, match=message):
        engine.set_state(state())
    assert bool((engine.state() == before).all())


def test_a_state_whose_shapes_fit_by_chance_is_refused(tmp_path):
    class About(Walk):
        def __init__(self, signature):
            super().__init__()
            self.signature = signature

    heat, light, again = (started(2, dynamics=About(one)) for one in ("heat", "light", "heat"))
    assert (heat.state().world == again.state().world).all()
    again.set_state(heat.state())
    before = light.state()
    check = light.world.layout.check
    for call in (light.set_state, check):
        with pytest.raises(ValueError, match="another world: its keys and shapes are those of this one"):
            call(heat.state())
    padded = TensorDict.from_dict({"state": heat.state().to_tensordict()}).zero_()["state"]
    check(EnvState.from_tensordict(padded))
    mapped = EnvState.from_tensordict(heat.state().to_tensordict().memmap_(tmp_path))
    with pytest.raises(ValueError, match="another world"):
        check(mapped)
    mixed = torch.cat([heat.state()[:1], light.state()[:1]])
    with pytest.raises(ValueError, match="another world"):
        light.set_state(mixed)
    assert bool((light.state() == before).all())


@pytest.mark.parametrize("world", ["CartPole-v1", "walk"])
def test_an_engine_that_is_sent_to_another_process_shares_no_counters(world):
    """torch's pickler hands on the memory of tensors itself."""
    options = {"seed": 0, "max_episode_steps": 3}
    engine = walk_engine(4, **options) if world == "walk" else WorldModel.bundled(world).to_engine(4, **options)
    engine.reset()
    for _ in range(2):
        engine.step(engine.sample_actions())
    alone = deepcopy(engine)
    sent = pickle.loads(ForkingPickler.dumps(engine))
    action = engine.sample_actions()
    for _ in range(40):
        assert torch.equal(seen(engine.step(action).observation), seen(alone.step(action).observation))
    state, steps = sent.state(), [sent.step(action) for _ in range(3)]
    assert state.elapsed.max() == 2
    again = pickle.loads(pickle.dumps(sent))
    again.set_state(state)
    for step in steps:
        assert torch.equal(seen(again.step(action).observation), seen(step.observation))


# -- forks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_fork_with_the_same_numbers_is_the_future(mode):
    engine = started(4, autoreset_mode=mode, max_episode_steps=6)
    run(engine, 3)
    fork = engine.fork([2, 0, 2], rng="same")
    assert fork.num_envs == 3
    imagined, real = run(fork, 6), run(engine, 6)
    for name in real:
        assert torch.equal(imagined[name], real[name][:, [2, 0, 2]]), name


def test_a_fresh_fork_starts_there_and_has_noise_of_its_own():
    engine = started(4)
    run(engine, 2)
    forks = [engine.fork([1, 1, 1]), engine.fork([1, 1, 1])]
    futures = [run(f, 1)["final_observation"][0] for f in forks]
    real = run(engine, 1)["final_observation"][0, 1]
    everything = torch.cat([*futures, real[None]])[:, 0]
    assert len(everything.unique()) == 7, "no two share noise, and none sees the future's own"
    assert float((everything - real[0]).abs().max()) < 1.0, "all from the same state"


def test_forking_leaves_the_parent_as_it_would_have_been():
    engine, alone = walk_engine(2), walk_engine(2)
    for e in (engine, alone):
        e.reset(seed=0)
    fork = engine.fork([0, 1], rng="fresh")
    run(fork, 3)
    fork.reset(seed=9)
    assert_same(run(engine), run(alone))


def test_fresh_forks_repeat_with_their_parent():
    futures = []
    for _ in range(2):
        engine = walk_engine(2)
        engine.reset(seed=0)
        futures.append(run(engine.fork([0, 1])))
    assert_same(*futures)


def test_a_tensor_of_indices_is_taken_too():
    engine = started(3)
    assert torch.equal(engine.fork(torch.tensor([2])).state().dynamics["x"], engine.state().dynamics["x"][2:])


@pytest.mark.parametrize(
    ("indices", "rng", "message"),
    [
        ([3], "fresh", r"must lie in \[0, 3\), got \[3\]"),
        ([-1], "fresh", r"must lie in \[0, 3\)"),
        ([], "fresh", "non-empty"),
        (1, "fresh", "non-empty list"),
        ([[0, 1]], "fresh", "non-empty list"),
        (torch.tensor([True, False, True]), "fresh", r"env numbers, got tensor\(\[ True"),
        ([0.0], "fresh", r"env numbers, got \[0.0\]"),
        ([0], "new", "'fresh' or 'same', got 'new'"),
    ],
)
def test_forks_that_cannot_be(indices, rng, message):
    engine = started(3)
    with pytest.raises(ValueError, match=message):
        engine.fork(indices, rng=rng)


# -- steps and starts of any state --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_engine_steps_by_the_pure_function_which_touches_nothing(mode):
    engine = started(3, autoreset_mode=mode, max_episode_steps=2)
    state = engine.state()
    for _ in range(5):
        kept = state.clone()
        after, result = stepped(engine, state, constant(engine, 0.7))
        again, _ = stepped(engine, state, constant(engine, 0.7))
        assert bool((state == kept).all())
        assert bool((after == again).all())
        assert bool((engine.state() == state).all()), "the engine's own state has not moved"
        by_engine = engine.step(constant(engine, 0.7))
        for name in COLUMNS:
            assert torch.equal(column(by_engine, name), column(result, name)), name
        state = after
    assert isinstance(state, EnvState)


def test_the_pure_step_takes_any_number_of_envs():
    engine = started(3, max_episode_steps=1)
    after, result = stepped(engine, engine.state()[torch.tensor([0, 0, 1, 2, 1])], torch.zeros(5, 1))
    assert torch.equal(after.dynamics["x"][0], after.dynamics["x"][1])
    assert after.batch_size == (5,)
    assert result.reward.shape == (5, 1)
    after, result = stepped(engine, engine.state()[:0], torch.zeros(0, 1))
    assert after.batch_size == (0,)
    assert seen(result.observation).shape == (0, 2)


def test_a_step_may_have_a_mode_of_its_own():
    engine = started(2, max_episode_steps=1)
    assert engine.step(constant(engine), AutoresetMode.DISABLED).was_reset.tolist() == [False, False]
    assert engine.state().elapsed.tolist() == [1, 1]
    assert engine.step(constant(engine)).was_reset.tolist() == [True, True]


def test_starts_are_those_of_a_reset():
    engine, big = started(3, seed=11), 2**63 - 3
    world = engine.world
    state = start(world, 11, 3)
    assert bool((state == engine.state()).all())
    assert torch.equal(seen(world.observe(state)), state.dynamics["x"])
    assert bool((start(world, [big, 5], 2)[1] == start(world, 5, 1)[0]).all())
    with pytest.raises(ValueError, match="2 envs need 2 seeds, got 3"):
        start(world, [1, 2, 3], 2)
    engine.reset(seed=[None, 4, None], mask=torch.tensor([True, True, False]))
    kept = state.clone()
    again, _ = restart(world, state, seeds=[None, 4, None], mask=torch.tensor([True, True, False]))
    assert bool((again == engine.state()).all())
    assert bool((state == kept).all())
    assert again.episode.tolist() == [1, 0, 0]


def test_forked_states_are_those_of_a_fork():
    engine = started(3)
    engine.step(constant(engine))
    picked = engine.state()[torch.tensor([2, 0])]
    kept = picked.clone()
    assert bool((engine.fork([2, 0]).state() == fork_state(picked, 1)).all())
    assert bool((engine.fork([2, 0]).state() == fork_state(picked, 2)).all())
    assert bool((picked == kept).all())
    assert not set(fork_state(picked, 1).seed.tolist()) & {*picked.seed.tolist(), *fork_state(picked, 2).seed.tolist()}


@pytest.mark.parametrize("mode", MODES)
def test_what_a_step_gave_stays_and_may_be_written_to(mode):
    engine, clean = (walk_engine(3, autoreset_mode=mode, max_episode_steps=2) for _ in range(2))
    given = [(observation := seen(engine.reset(seed=0)), observation.clone())]
    clean.reset(seed=0)
    for _ in range(5):
        result, expected = engine.step(constant(engine, 0.7)), clean.step(constant(clean, 0.7))
        assert torch.equal(seen(result.observation), seen(expected.observation))
        for kept, copy in given:
            assert torch.equal(kept, copy)
        before = engine.state()
        written = [*COLUMNS, "finished", "was_reset", "diverged"]
        for tensor in tensors_of([getattr(result, name) for name in written]):
            tensor.fill_(True)
        assert bool((engine.state() == before).all()), "writing into a result must not move the engine"
        given += [(t, t.clone()) for t in tensors_of(result)]


def test_the_dynamics_is_called_once_a_step():
    dynamics = Walk()
    engine = started(3, dynamics=dynamics)
    run(engine, 4)
    assert dynamics.calls == 4


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_steps_flags_may_be_written_to(mode, grad):
    """No flag is another one, or the state that the step began with."""
    engine = started(3, autoreset_mode=mode, max_episode_steps=1)
    engine.step(constant(engine))
    state = engine.state()
    before = state.clone()
    with torch.set_grad_enabled(grad):
        _, result = stepped(engine, state, constant(engine))
    flags = [result.truncated, result.finished, result.diverged, result.terminated]
    if mode != "same_step":  # where envs are reset if and only if they are finished
        flags.append(result.was_reset)
    for i, flag in enumerate(flags):
        flag.fill_(i % 2 == 0)
    assert [flag.flatten()[0].item() for flag in flags] == [True, False, True, False, True][: len(flags)]
    assert bool((state == before).all())


def test_engines_are_copied_and_pickled_with_their_bank():
    bank = TensorDict({"x": torch.rand(1000, 2)}, batch_size=[1000])
    engine = started(3, bank=bank, max_episode_steps=2, bank_size=1000)
    copies = [deepcopy(engine), pickle.loads(pickle.dumps(engine))]
    engine.load_bank(bank[:1] + 1)
    for again in copies:
        own, theirs = again.world.resets, engine.world.resets
        assert torch.equal(own.buffer[0], bank["x"])
        assert own.buffer[0].data_ptr() != theirs.buffer[0].data_ptr()
        assert own.size.data_ptr() != theirs.size.data_ptr()
    assert torch.equal(*(seen(again.reset()) for again in copies))
