"""Training: it learns, stops, logs, and goes on after a kill as if nothing had been."""

import functools
import json
import math
import signal

import numpy as np
import pytest
import torch

from wm_vec import ModelConfig, TrainConfig, WorldModel, compile_schema
from wm_vec.canvas import Field
from wm_vec.train import CheckpointError, data_from_sources, read_checkpoint, train_model, write_checkpoint
from wm_vec.train.loop import EMA_DECAY, _Run, learning_rate_schedule
from wm_vec.train.normalise import fit_normalisers

SCHEMA = {"x": Field(), "y": Field(w=2), "mood": Field(num_classes=3)}
SMALL = TrainConfig(n_steps=24, batch_size=32, eval_every=5, checkpoint_every=8, patience=None, context_dropout=0.3)


def recording(length=200, seed=0):
    """A rotation in y that x follows, and a class that counts."""
    t = np.arange(length)
    noise = np.random.default_rng(seed).normal(0, 0.01, length)
    y = np.stack((np.cos(0.3 * t), np.sin(0.3 * t)), 1)
    return {"x": np.roll(y[:, 0], 1) + noise, "y": y, "mood": t % 3}


def world(schema=SCHEMA, **options):
    return WorldModel(compile_schema(schema, d_model=32), config=ModelConfig(num_blocks=1), **options)


def trained(config=SMALL, data=None, **options):
    """A world and its report after training."""
    made = world()
    return made, made.finetune(recording() if data is None else data, config=config, **options)


def weights(made):
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def assert_same_weights(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


# -- learning -----------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_world_learns_to_step():
    made = world()
    reported = []
    config = TrainConfig(n_steps=300, batch_size=128, eval_every=50, context_dropout=0.1)
    report = made.finetune(recording(), config=config, progress=lambda step, metrics: reported.append(metrics))
    held_out = [f["held_out_loss"] for f in reported if math.isfinite(f["held_out_loss"])]
    assert report.held_out_loss == min(held_out)
    assert report.held_out_loss < 0.4 * held_out[0]
    assert report.steps == 300
    # One step of the rotation, from a phase that no recorded step has: better than standing still, by far.
    for path, value in (("x", np.cos(0.7)), ("y", [np.cos(1.0), np.sin(1.0)]), ("mood", 1)):
        made.observe(path, value)
    env = made.to_vector_env(
        64,
        ["y"],
        ["mood"],
        lambda obs, act, info: 0.0,
        initial_obs_fn=lambda: {"x": np.cos(0.7), "y": [np.cos(1.0), np.sin(1.0)], "mood": 1},
    )
    start = env.reset(seed=0)[0]
    following = env.step(torch.ones(64, dtype=torch.int64))[0]
    expected = torch.tensor([math.cos(1.3), math.sin(1.3)])
    assert float((following - expected).abs().mean()) < 0.25 * float((start - expected).abs().mean())


def test_two_runs_of_one_seed_are_equal_and_of_two_are_not():
    one, two = trained()[0], trained()[0]
    assert_same_weights(weights(one), weights(two))
    other = trained(TrainConfig(**{**SMALL.__dict__, "seed": 1}))[0]
    assert not torch.equal(weights(one)["denoiser.head_weight"], weights(other)["denoiser.head_weight"])


def test_training_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_kept_weights_are_an_average_of_those_trained():
    """EMA by hand over the live weights that the progress callback sees."""
    made = world()
    seen = []
    config = TrainConfig(**{**SMALL.__dict__, "n_steps": 10, "eval_every": 10})
    made.finetune(
        recording(),
        config=config,
        progress=lambda step, _: seen.append(made.model.denoiser.head_weight.detach().clone()),
    )
    average = seen[0].double()
    for step, live in enumerate(seen[1:], 2):
        decay = min(EMA_DECAY, step / (step + 9))
        average = decay * average + (1 - decay) * live.double()
    torch.testing.assert_close(made.model.denoiser.head_weight.detach().double(), average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(seen[0], seen[-1]), "the callback sees the live weights"


def test_early_stopping_keeps_the_best_weights():
    # Noise cannot be learned: the held-out loss is best early, and patience runs out.
    noise = {"x": np.random.default_rng(0).normal(size=60)}
    made = world({"x": Field()})
    losses = {}
    config = TrainConfig(n_steps=3000, batch_size=32, eval_every=10, patience=3, learning_rate=3e-2)
    report = made.finetune(noise, config=config, progress=lambda s, f: losses.setdefault(s, f["held_out_loss"]))
    assert report.stopped_early
    assert report.steps < 3000
    assert report.steps == report.best_step + 30
    evaluated = {step: loss for step, loss in losses.items() if step % 10 == 0}
    assert report.held_out_loss == min(evaluated.values()) == evaluated[report.best_step]


def test_fields_without_weight_are_not_learned():
    schema = {"x": Field(), "y": Field(w=2, loss_weight=0.0), "mood": Field(num_classes=3)}
    made = world(schema)
    before = made.model.denoiser.head_weight[1:3].detach().clone()
    made.finetune(recording(), config=TrainConfig(**{**SMALL.__dict__, "weight_decay": 0.0}))
    assert torch.equal(made.model.denoiser.head_weight[1:3].detach(), before)
    assert bool((made.model.denoiser.head_weight[0] != 0).any())


def test_a_diverged_run_says_so_and_leaves_the_world_as_it_was():
    made = world()
    made.finetune(recording(), config=SMALL)
    kept = weights(made)
    with pytest.raises(FloatingPointError, match=r"diverged by step \d+.*Lower `learning_rate`"):
        made.finetune(recording(), config=TrainConfig(**{**SMALL.__dict__, "learning_rate": 1e38, "grad_clip": 1e38}))
    assert_same_weights(weights(made), kept)


# -- ends and classes ---------------------------------------------------------------------------------------

ENDING = {"x": Field(), "reward": Field(is_input=False), "end": Field(is_input=False, num_classes=2, leads=True)}


def run_with_ends(every, length=4000):
    """A run over data of which one step in `every` ends; their x is their own number."""
    made = world(ENDING)
    t = np.arange(length)
    end = np.zeros(length) if every is None else (t % every == 0).astype(float)
    data = data_from_sources({"x": t, "reward": np.sin(t), "end": end}, made.bound)
    fit_normalisers(made.model.codec, data, keep_fitted=False)
    return _Run(made.model, data, SMALL)


@pytest.mark.parametrize(("every", "share"), [(200, 1 / 16), (1000, 1 / 16), (16, 1 / 16), (5, 1 / 5)])
def test_rare_ends_are_drawn_oftener_and_weigh_less(every, share):
    run = run_with_ends(every)
    size, draws = len(run.training), 200_000
    index, importance = run._sample(draws)
    ended = run.training.next_values[:, 2] > 0.5
    drawn = ended[index]
    even = float(ended.double().mean())
    share = share if every > 16 else even
    assert float(drawn.double().mean()) == pytest.approx(max(even, share), abs=4 * (share / draws) ** 0.5)
    # The weighted mean of a function is that of an even draw: of the share of ends, and of what differs between steps.
    assert float((importance * drawn).double().mean()) == pytest.approx(even, rel=0.05)
    of_step = torch.sin(torch.arange(size) / size * 3) + 5.0 * ended
    got = (importance * of_step[index]).double()
    assert float(got.mean()) == pytest.approx(float(of_step.double().mean()), abs=5 * float(got.std()) / draws**0.5)
    assert float(importance.double().mean()) == pytest.approx(1.0, abs=0.01)


def test_without_ends_every_step_is_drawn_alike():
    index, importance = run_with_ends(None)._sample(1000)
    assert importance.unique().tolist() == [1.0]
    assert len(index.unique()) > 800


CELLS = {
    "cell": Field(h=8, w=8, num_classes=3),
    "number": Field(w=2),
    "paid": Field(is_input=False, num_classes=4),
    "end": Field(is_input=False, num_classes=2, leads=True),
}


def loss_of(schema, first=None, weight=None, batch=24, num_first=8):
    """The model, and the loss of random states; `first` leaves weight only on one part of the batch."""
    made = world(schema)
    model, codec = made.model, made.model.codec
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    n = made.num_positions
    numbers = torch.randn(2, batch, n, generator=generator)
    classes = (torch.rand(2, batch, n, generator=generator) * codec.num_classes).floor()
    values, following = torch.where(codec.num_classes > 0, classes, numbers)
    weight = torch.ones(batch, n) if weight is None else weight
    part = torch.arange(batch)[:, None] < num_first
    weight = weight if first is None else weight * (part if first else ~part)
    known = codec.is_input.expand(batch, n)
    told, same_tick = torch.ones(batch, n, dtype=torch.bool), torch.zeros(batch, dtype=torch.bool)
    level, noise = torch.randn(batch, generator=generator), torch.randn(batch, n, generator=generator)
    loss = model.loss(values, following, known, same_tick, told, weight, level, noise, num_first)
    return model, loss


def moved(model, name):
    return getattr(model.denoiser, name).grad.abs().sum(1)


def test_each_class_learns_in_the_pass_that_draws_it_and_numbers_in_all():
    for first in (True, False):
        model, loss = loss_of(CELLS, first)
        loss.backward()
        codec = model.codec
        assert [c.position for c in codec.classes[:1]] == [67]
        assert codec.num_first == 65
        rows = moved(model, "class_weight") > 0
        for place in codec.classes:
            late = place.position == 66  # what is paid
            assert bool((rows[place.rows] == (first != late)).all()), place
        assert bool((moved(model, "head_weight") > 0)[64:66].all())
        assert not bool((moved(model, "head_weight") > 0)[codec.is_class].any())
        assert (float(moved(model, "noise_weight").sum()) > 0) is not first
        assert (float(model.denoiser.first_embedding.grad.abs().sum()) > 0) is first


def test_a_class_reads_those_drawn_before_it_and_no_other():
    model, loss = loss_of(CELLS)
    loss.backward()
    peers = moved(model, "peer") > 0
    first, last = model.codec.classes[0], model.codec.classes[-1]
    assert bool(peers[first.rows].any())
    assert not bool(peers[last.rows].any()), "nothing is drawn after it"
    told = moved(model, "told") > 0
    assert bool(told[first.rows].any())
    assert not bool(told[last.rows].any()), "nor denoised"


def test_many_cells_weigh_as_much_as_one():
    """The mean over a group's classes, whatever their number: an untrained head's is ln(3)."""
    made = world({"cell": Field(h=8, w=8, num_classes=3)})
    n = made.num_positions
    yes, zeros = torch.ones(6, n, dtype=torch.bool), torch.zeros(6, n)
    loss = made.model.loss(zeros, zeros, yes, yes[:, 0] & False, yes, yes.float(), zeros[:, 0], zeros, 6)
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"x": Field(w=2)}, "x"),
        ({"mood": Field(num_classes=3), "end": Field(is_input=False, num_classes=2, leads=True)}, "mood"),
    ],
)
def test_worlds_without_classes_or_without_numbers_learn_and_step(schema, path):
    made = world(schema)
    t = np.arange(300)
    data = {"x": np.stack((np.sin(t), np.cos(t)), 1)} if path == "x" else {"mood": t % 3, "end": t % 7 == 0}
    report = made.finetune(data, config=TrainConfig(**{**SMALL.__dict__, "n_steps": 100, "eval_every": 20}))
    assert report.best_step > 20, "the loss falls"
    env = made.to_vector_env(64, [path], [path], lambda obs, act, info: 0.0, act_mode="set", seed=0)
    seen = env.reset()[0]
    action = torch.zeros(64, dtype=torch.int64) if path == "mood" else torch.zeros(64, 2)
    following = env.step(action)[0]
    assert bool(torch.isfinite(following).all())
    if path == "mood":
        assert float((following == 1).double().mean()) > 0.9
    assert seen.shape == following.shape


def test_a_finetune_of_a_slow_field_asks_where_several_ticks_make_it_due():
    bound = compile_schema({"x": Field(), "slow": Field(period=4)}, d_model=32)
    made = WorldModel(bound, config=ModelConfig(num_blocks=1, ticks_per_step=2))
    slow = np.repeat([0.0, 2.0, 8.0, 11.0, 19.0], 2)  # changes at every second step
    made.finetune({"x": np.arange(10.0), "slow": slow}, config=SMALL)
    assert float(made.model.codec.step_mean[0, 1]) == pytest.approx(np.mean([2, 6, 3, 8]))


# -- the log ------------------------------------------------------------------------------------------------


def test_the_log_is_json_a_line_per_evaluation(tmp_path):
    _, report = trained(log_path=tmp_path / "log.jsonl")

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 24]
    assert all(set(line) == {"step", "learning_rate", "loss", "held_out_loss"} for line in lines)
    assert min(line["held_out_loss"] for line in lines) == report.held_out_loss
    assert lines[-1]["loss"] == report.train_loss


@pytest.mark.parametrize(("n_steps", "warmup"), [(1000, 200), (60, 30)])
def test_the_learning_rate_warms_up_and_falls_as_a_cosine(n_steps, warmup):
    """Linear to the peak, half of it midway to the end, a hundredth at the end."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = learning_rate_schedule(optimizer, n_steps)
    rates = []
    for _ in range(n_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.5 / warmup)
    assert np.ptp(np.diff(rates[: warmup + 1])) < 1e-9, "a straight line"
    assert rates[warmup] == max(rates) == 0.5
    assert rates[(n_steps + warmup) // 2] == pytest.approx(0.5 * 0.505)
    assert rates[-1] == pytest.approx(0.5 * 0.01)
    assert np.all(np.diff(rates[warmup:]) < 0)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_the_shortest_runs_train(n_steps):
    made, report = trained(TrainConfig(**{**SMALL.__dict__, "n_steps": n_steps}))
    assert report.steps == n_steps
    assert all(bool(torch.isfinite(p).all()) for p in made.model.parameters())


# -- a killed run -------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.filterwarnings("ignore:This world is untrained")
@pytest.mark.parametrize(
    ("error", "step", "learned"),
    [(KeyboardInterrupt, 1, False), (KeyboardInterrupt, 7, True), (KeyboardInterrupt, 24, True), (Killed, 7, False)],
)
def test_an_interrupt_leaves_the_world_as_it_was(error, step, learned):
    """Before the first evaluation, after it and at the end: weights, normalisers, classes and bank; and its envs."""
    made = trained(TrainConfig(**{**SMALL.__dict__, "n_steps": 3}))[0] if learned else world()
    view = ["y"], ["mood"], lambda obs, act, info: 0.0

    def rolled():
        env = made.to_vector_env(2, *view, seed=0)
        return torch.stack([env.reset()[0], env.step(torch.ones(2, dtype=torch.int64))[0]])

    before, bank, numbers = weights(made), made.bank, rolled()
    counts = made.model.codec.counts

    def stop(now, metrics):
        if now == step:
            raise error("stop")

    other = {name: 50.0 * np.asarray(series) for name, series in recording().items() if name != "mood"}
    with pytest.raises(error) as raised:
        made.finetune(other, config=SMALL, progress=stop)
    assert_same_weights(weights(made), before)
    assert made.model.codec.counts == counts
    assert made.trained is learned
    assert made.bank is bank
    assert torch.equal(rolled(), numbers)
    notes = getattr(raised.value, "__notes__", [])
    assert bool(notes) is (error is KeyboardInterrupt)
    assert all("the world is as it was before. Give resume_path" in note for note in notes)


@functools.cache
def weights_of_the_whole_run():
    return weights(trained()[0])


@pytest.mark.parametrize("place", ["train_step", "evaluate", "measure_spread", "save"])
def test_ctrl_c_anywhere_leaves_a_run_that_the_same_call_finishes(place, tmp_path, monkeypatch):
    path = tmp_path / "run.resume"
    made, calls = world(), 0
    before, method = weights(made), getattr(_Run, place)

    def interrupted(run, *args):
        nonlocal calls
        calls += 1
        if calls == {"train_step": 19, "evaluate": 4, "measure_spread": 1, "save": 3}[place]:
            signal.raise_signal(signal.SIGINT)
        return method(run, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, place, interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:
            made.finetune(recording(), config=SMALL, resume_path=path, save_path=tmp_path / "world")
    assert f"Repeat the call to go on from {path}" in raised.value.__notes__[0]
    assert_same_weights(weights(made), before)
    assert [file.name for file in tmp_path.iterdir()] == ["run.resume"]
    report = made.finetune(recording(), config=SMALL, resume_path=path)
    assert report.resumed_from >= 16
    assert_same_weights(weights(made), weights_of_the_whole_run())


def test_data_that_cannot_be_split_leave_the_world_as_it_was():
    made = trained()[0]
    before, data = weights(made), made.as_data({"x": 1000.0 * np.arange(3)})
    with pytest.raises(ValueError, match="at least 2"):
        made.finetune(data[torch.tensor([0])], config=SMALL)
    assert_same_weights(weights(made), before)


def killed_at(step, made, path, config=SMALL, data=None):
    def stop(now, metrics):
        if now == step:
            raise Killed

    with pytest.raises(Killed):
        made.finetune(recording() if data is None else data, config=config, resume_path=path, progress=stop)


@pytest.mark.parametrize("step", [9, 17, 23])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(step, tmp_path):
    expected, whole = trained()
    path = tmp_path / "run.resume"
    killed_at(step, world(), path)
    assert path.exists()
    made = world()  # another process would start from the same untrained world
    report = made.finetune(recording(), config=SMALL, resume_path=path)
    assert report.resumed_from == step // 8 * 8
    assert_same_weights(weights(made), weights(expected))
    assert report.held_out_loss == whole.held_out_loss
    assert report.train_loss == whole.train_loss
    assert not path.exists(), "a finished run leaves nothing to resume"


def test_a_run_killed_twice_resumes_twice(tmp_path):
    expected = trained()[0]
    path = tmp_path / "run.resume"
    killed_at(10, world(), path)
    killed_at(20, world(), path)
    made = world()
    made.finetune(recording(), config=SMALL, resume_path=path)
    assert_same_weights(weights(made), weights(expected))


def test_a_run_killed_before_its_first_state_starts_afresh(tmp_path):
    path = tmp_path / "run.resume"
    killed_at(5, world(), path)
    assert not path.exists()
    made = world()
    report = made.finetune(recording(), config=SMALL, resume_path=path)
    assert report.resumed_from == 0
    assert_same_weights(weights(made), weights(trained()[0]))


def test_saving_states_changes_nothing(tmp_path):
    assert_same_weights(weights(trained(resume_path=tmp_path / "r")[0]), weights(trained()[0]))


@pytest.mark.parametrize("other", ["data", "settings", "schema", "field order"])
def test_the_state_of_another_run_is_refused(other, tmp_path):
    path = tmp_path / "run.resume"
    killed_at(9, world(), path)
    state = path.read_bytes()
    data, config, made = recording(), SMALL, world()
    if other == "data":
        data = recording(seed=1)
    elif other == "settings":
        config = TrainConfig(**{**SMALL.__dict__, "learning_rate": 1e-3})
    elif other == "schema":
        made = world({**SCHEMA, "more": Field()})
    else:
        made = world(dict(reversed(SCHEMA.items())))
    with pytest.raises(CheckpointError, match=r"state of another training run.*delete the file"):
        made.finetune(data, config=config, resume_path=path)
    assert path.read_bytes() == state, "nothing is lost"
    assert not made.trained


def test_a_resume_file_is_no_world(tmp_path):
    path = tmp_path / "run.resume"
    killed_at(9, world(), path)
    with pytest.raises(CheckpointError, match="unfinished training run"):
        WorldModel.load(path)


def test_a_resume_file_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "run.resume"
    killed_at(9, world(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut short.*Delete the file to start afresh"):
        trained(resume_path=path)


def test_settings_of_numpys_numbers_resume(tmp_path):
    settings = {**SMALL.__dict__, "seed": np.int64(SMALL.seed), "n_steps": np.int32(SMALL.n_steps)}
    path = tmp_path / "run.resume"
    killed_at(9, world(), path, config=TrainConfig(**settings))
    assert world().finetune(recording(), config=SMALL, resume_path=path).resumed_from == 8


BROKEN = {
    "no generator": lambda tensors, config: tensors.pop("generator"),
    "another generator": lambda tensors, config: tensors.update(generator=torch.zeros(9, dtype=torch.uint8)),
    "a generator of zeros": lambda tensors, config: tensors["generator"].zero_(),
    "step x": lambda tensors, config: config["numbers"].update(step="x"),
    "step -1": lambda tensors, config: config["numbers"].update(step="-1"),
    "step 10 ** 9": lambda tensors, config: config["numbers"].update(step=str(10**9)),
    "no best loss": lambda tensors, config: config["numbers"].update(best_loss="nan"),
    "no numbers": lambda tensors, config: config.pop("numbers"),
    "null numbers": lambda tensors, config: config.update(numbers=None),
    "a tensor less": lambda tensors, config: tensors.pop("adam0.exp_avg"),
    "a tensor more": lambda tensors, config: tensors.update(more=torch.zeros(2)),
    "another shape": lambda tensors, config: tensors.update({"adam1.exp_avg": torch.zeros(1)}),
    "NaN weights": lambda tensors, config: tensors["live.codec.weight"].fill_(math.nan),
    "NaN averages": lambda tensors, config: tensors["ema.module.codec.weight"].fill_(math.nan),
    "too many classes": lambda tensors, config: tensors["best.codec.num_classes"].fill_(99),
}


@pytest.fixture(scope="module")
def state_of_a_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.resume"
    killed_at(9, world(), path)
    return path


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_state_of_the_same_run_is_refused_and_changes_nothing(how, state_of_a_run, tmp_path):
    tensors, config = read_checkpoint(state_of_a_run)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    del config["format_version"]
    BROKEN[how](tensors, config)
    write_checkpoint(tmp_path / "r", tensors, config)
    made = world()
    before = weights(made)
    with pytest.raises(CheckpointError, match=r"broken state of a training run.*Delete the file"):
        made.finetune(recording(), config=SMALL, resume_path=tmp_path / "r")
    assert_same_weights(weights(made), before)
    assert not made.trained


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_steps", 0),
        ("batch_size", 0),
        ("eval_every", 0),
        ("checkpoint_every", -1),
        ("context_dropout", 1.0),
        ("context_dropout", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("weight_decay", -1.0),
        ("grad_clip", 0.0),
        ("patience", 0),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_settings_that_cannot_be(setting, value):
    with pytest.raises(ValueError, match=f"TrainConfig: `{setting}` must .* got {value}"):
        TrainConfig(**{setting: value})


WHOLE = ("n_steps", "batch_size", "eval_every", "checkpoint_every", "patience", "seed")
NUMBERS = ("learning_rate", "weight_decay", "grad_clip", "context_dropout")


@pytest.mark.parametrize("setting", [*WHOLE, *NUMBERS])
@pytest.mark.parametrize("value", [150.5, 3.0, True, np.True_, math.nan, math.inf, "3", None, [3], 1j, np.float32(2.5)])
def test_settings_are_whole_numbers_or_numbers(setting, value):
    real = isinstance(value, (float, np.floating)) and math.isfinite(value)
    if (setting == "patience" and value is None) or (setting in NUMBERS[:3] and real):
        assert getattr(TrainConfig(**{setting: value}), setting) == value
        return
    with pytest.raises(ValueError, match=f"TrainConfig: `{setting}` must"):
        TrainConfig(**{setting: value})


def test_numpys_numbers_become_plain_ones(tmp_path):
    """A checkpoint holds plain numbers, so they would fail when it is written."""
    config = {name: np.int64(getattr(SMALL, name) or 3) for name in WHOLE}
    config |= {name: np.float32(getattr(SMALL, name)) for name in NUMBERS}
    made = TrainConfig(**config)
    assert {type(getattr(made, name)) for name in WHOLE} == {int}
    assert {type(getattr(made, name)) for name in NUMBERS} == {float}
    assert trained(made, resume_path=tmp_path / "run.resume")[1].steps <= 24


@pytest.mark.parametrize("n_steps", [150.5, True, "3", math.nan, -1])
def test_a_number_of_steps_that_cannot_be_changes_nothing(n_steps):
    made = world()
    before = weights(made)
    with pytest.raises(ValueError, match="`n_steps` must be a whole number"):
        made.finetune(recording(), n_steps)
    assert_same_weights(weights(made), before)


def test_n_steps_of_finetune_overrides_the_settings():
    assert world().finetune(recording(), 3, config=SMALL).steps == 3
    with pytest.raises(ValueError, match="`n_steps` must be a whole number of at least 1, got 0"):
        world().finetune(recording(), 0)


def test_a_float64_world_trains_in_float64():
    made = world(dtype=torch.float64)
    made.finetune(recording(), config=SMALL)
    assert made.model.denoiser.head_weight.dtype == torch.float64
    single = trained()[0]
    for name, tensor in weights(made).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.float(), weights(single)[name], rtol=2e-2, atol=2e-3)


def test_train_model_alone_needs_no_world(tmp_path):
    made = world()
    data = data_from_sources(recording(), made.bound)
    fit_normalisers(made.model.codec, data, keep_fitted=False)
    report = train_model(made.model, data, SMALL)
    assert report.steps == 24
    assert_same_weights(weights(made), weights(trained()[0]))
