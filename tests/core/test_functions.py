"""Users' functions, written for one env, over a batch."""

import random
import warnings

import numpy as np
import pytest
import torch

from wm_vec import batched
from wm_vec.core.functions import BatchedFunction
from wm_vec.core.perspective import Fields

ROWS = torch.tensor([[1.0, 2.0], [3.0, -4.0], [5.0, 6.0]])


def reward(fn, dtype=torch.float32):
    return BatchedFunction(fn, "reward_fn", dtype, lambda f, *tensors: f(*tensors))


def probed(fn, *tensors, expect=None):
    """The function after its probe, which must warn just if it falls back to the loop."""
    function = reward(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function.probe(*(tensors or (ROWS,)))
    told = [str(w.message) for w in caught if "env by env" in str(w.message)]
    assert len(told) == (1 if function.path == "loop" else 0)
    if expect is not None:
        assert function.path == expect
    return function


# -- which path ---------------------------------------------------------------------------------------------

VMAPPED = {
    "mean": lambda x: x.mean(),
    "an element": lambda x: x[1],
    "one element kept as a vector": lambda x: x[:1],
    "where": lambda x: torch.where(x[0] > 2, 1.0, -1.0),
    "python sum and abs": lambda x: -sum(abs(v) for v in x) + 1.0,
    "a comparison": lambda x: x.sum() > 4,
    "an integer": lambda x: x.argmax(),
}
LOOPED = {
    "float": lambda x: float(x.mean()),
    "item": lambda x: x[0].item() * 2,
    "if": lambda x: x[0] if x[0] > 2 else -x[0],
    "numpy": lambda x: np.sqrt(np.abs(x.numpy())).sum(),
    "numpy scalar": lambda x: np.float64(x.tolist()[0]),
    "max of python": lambda x: max(x[0], x[1]),
    "bool": lambda x: bool(x[0] > 2),
}


@pytest.mark.parametrize("name", VMAPPED)
def test_torch_functions_run_under_vmap_and_equal_env_by_env(name):
    function = probed(VMAPPED[name], expect="vmap")
    (got,) = function(ROWS)
    assert got.tolist() == pytest.approx([float(VMAPPED[name](row)) for row in ROWS])
    assert (got.shape, got.dtype) == ((3,), torch.float32)


@pytest.mark.parametrize("name", LOOPED)
def test_what_vmap_cannot_take_runs_env_by_env(name):
    function = probed(LOOPED[name], expect="loop")
    (got,) = function(ROWS)
    assert got.tolist() == pytest.approx([float(LOOPED[name](row)) for row in ROWS])
    assert (got.shape, got.dtype) == ((3,), torch.float32)


def test_random_draws_differ_between_envs_and_leave_the_generator_alone_while_probing():
    before = torch.get_rng_state()
    function = probed(lambda x: x[0] + torch.rand(()), expect="loop")
    assert torch.equal(torch.get_rng_state(), before)
    same = torch.ones(50, 2)
    assert len(function(same)[0].unique()) > 40


def test_python_random_is_seen_by_the_comparison_with_the_loop():
    probed(lambda x: x[0] + random.random(), expect="loop")


def test_the_warning_says_why_and_what_to_do():
    with pytest.warns(UserWarning, match=r"reward_fn runs env by env.*vmap cannot take it.*@wm_vec\.batched"):
        reward(lambda x: float(x[0])).probe(ROWS)


def test_a_batch_of_one_is_probed_too():
    assert probed(lambda x: x.mean(), ROWS[:1], expect="vmap")(ROWS)[0].tolist() == [1.5, -0.5, 5.5]


def test_means_stay_per_env_means():
    (got,) = probed(lambda x: x.mean())(ROWS)
    assert got.tolist() == [1.5, -0.5, 5.5]


def test_batched_functions_get_all_envs_at_once():
    seen = []

    @batched
    def fn(x):
        seen.append(tuple(x.shape))
        return x.mean(-1)

    function = probed(fn, expect="batched")
    assert function(ROWS)[0].tolist() == [1.5, -0.5, 5.5]
    assert seen == [(3, 2)]


@pytest.mark.parametrize("result", [2, 2.0, True, np.float32(2), torch.tensor(2.0)])
@pytest.mark.parametrize("mark", [batched, lambda fn: fn])
def test_constants_are_broadcast(result, mark):
    def fn(x):
        return result

    function = probed(mark(fn))
    if mark is batched and not isinstance(result, int | float):
        with pytest.raises(ValueError, match=r"shape \(3,\), got \(\)"):  # mostly a mean over all envs
            function(ROWS)
        return
    assert function(ROWS)[0].tolist() == [float(result)] * 3


OVER_ALL = {
    "mean": lambda x: x.mean(),
    "max": lambda x: x.amax(),
    "numpy": lambda x: x.numpy().mean(),
    "numpy in double": lambda x: x.double().numpy().mean(),
}


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("name", OVER_ALL)
def test_what_a_batched_function_makes_of_all_envs_together_is_refused(name, dtype, num_envs):
    function = BatchedFunction(batched(OVER_ALL[name]), "fn", dtype, lambda fn, *tensors: fn(*tensors))
    with pytest.raises(ValueError, match=rf"one number per env, shape \({num_envs},\)"):
        function(torch.zeros(num_envs, 2))


@pytest.mark.parametrize("fn", [lambda x: x.mean(-1)[None], lambda x: x[:2].T @ x[:2], lambda x: x.mean(0)])
def test_what_a_batched_function_gives_is_not_reshaped_to_the_envs(fn):
    function = probed(batched(fn))
    with pytest.raises(ValueError, match=r"one number per env, shape \(4,\)"):
        function(torch.zeros(4, 2))


def test_a_carried_state_is_not_reshaped_into_its_shape():
    function = carrying(batched(lambda x, s: (x[:, 0], s.T)))
    with pytest.raises(ValueError, match=r"reward_state of shape \(3, 2\), as it was declared, got \(2, 3\)"):
        function(ROWS, torch.zeros(3, 2))


def test_terminations_are_flags():
    function = BatchedFunction(lambda x: x[0] > 2, "terminated_fn", torch.bool, lambda f, *t: f(*t))
    function.probe(ROWS)
    assert function(ROWS)[0].tolist() == [False, True, True]
    number = BatchedFunction(lambda x: 0, "terminated_fn", torch.bool, lambda f, *t: f(*t))
    number.probe(ROWS)
    assert number(ROWS)[0].tolist() == [False] * 3


# -- what functions may do to what they get -----------------------------------------------------------------


@pytest.mark.parametrize("mark", [batched, lambda fn: fn])
@pytest.mark.parametrize("python", [False, True])
def test_writing_into_observations_hurts_nobody(mark, python):
    def fn(x):
        x.mul_(0.0)
        if python and x.dim() == 1:
            x[0] = float(x[1])
        return x.sum(-1)

    tensor = ROWS.clone()
    function = probed(mark(fn), tensor)
    function(tensor)
    assert torch.equal(tensor, ROWS)


def test_names_are_read_as_from_a_dict():
    fields = Fields(ROWS, {"a": slice(0, 1), "b.c": [1, 0]})
    assert list(fields) == ["a", "b.c"]
    assert len(fields) == 2
    assert fields["b.c"].tolist() == [[2.0, 1.0], [-4.0, 3.0], [6.0, 5.0]]
    assert fields.get("nothing", [0])[0] == 0
    assert "a" in fields
    with pytest.raises(KeyError):
        fields["nothing"]


def carrying(fn):
    return BatchedFunction(fn, "reward_fn", torch.float32, lambda f, *tensors: f(*tensors), stateful=True)


@pytest.mark.parametrize(
    ("fn", "path"),
    [
        (lambda x, s: (x[0] - s, x[0]), "vmap"),
        (lambda x, s: (x[:1] - s, x[:1]), "vmap"),
        (lambda x, s: (float(x[0] - s), float(x[0])), "loop"),
        (batched(lambda x, s: (x[:, 0] - s, x[:, :1])), "batched"),
    ],
)
def test_a_carried_state_keeps_its_shape_and_dtype(fn, path):
    before = torch.tensor([10.0, 20.0, 30.0])
    function = carrying(fn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function.probe(ROWS, before)
    assert function.path == path
    value, state = function(ROWS, before)
    assert value.tolist() == [-9.0, -17.0, -25.0]
    assert (state.tolist(), state.dtype) == ([1.0, 3.0, 5.0], torch.float32)
    assert before.tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x, s: x[0], r"must return \(reward, reward_state\), got Tensor"),
        (lambda x, s: (x[0], s, s), r"must return \(reward, reward_state\), got tuple"),
        (lambda x, s: (x[0], x), r"reward_state of shape \(\), as it was declared, got \(2,\)"),
    ],
)
def test_a_carried_state_that_does_not_fit_is_an_error(fn, message):
    with pytest.raises(ValueError, match=message):
        carrying(fn).probe(ROWS, torch.zeros(3))


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [lambda x: x, lambda x: x * 1.0, lambda x: [1.0, 2.0], lambda x: np.ones(3)])
def test_more_than_one_number_per_env_is_an_error(fn):
    with pytest.raises(ValueError, match=r"reward_fn must return one number per env.*\(\d,\).*\.mean\(\)"):
        probed(fn)


def test_batched_functions_must_give_one_number_per_env():
    function = probed(batched(lambda x: x))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(3, 2\).*\.mean\(-1\)"):
        function(ROWS)


@pytest.mark.parametrize("nothing", [None, "reward", {"r": 1.0}, object()])
def test_what_is_no_number_is_an_error_that_names_the_function(nothing):
    with pytest.raises((TypeError, ValueError), match="reward_fn"):
        probed(lambda x: nothing)


@pytest.mark.parametrize("error", [KeyError, ZeroDivisionError, RuntimeError, AttributeError])
def test_the_functions_own_exceptions_come_through(error):
    def fn(x):
        raise error("mine")

    with pytest.raises(error, match="mine"):
        probed(fn)


def test_exceptions_after_the_probe_come_through():
    calls = []

    def fn(x):
        calls.append(1)
        if len(calls) > 10:
            raise OSError("later")
        return float(x[0])

    function = probed(fn)
    many = ROWS.repeat(5, 1)
    with pytest.raises(OSError, match="later"):
        function(many)


@pytest.mark.parametrize(
    ("fn", "place"),
    [
        (lambda x: 1 / 0 if fail else x.sum(), "called for all 3 envs at once, in step 7 of the first"),
        (batched(lambda x: 1 / 0 if fail else x.sum(-1)), "called for all 3 envs at once, in step 7 of the first"),
        (lambda x: 1 / 0 if fail and x[0] == 5 else float(x[0]), "called for env 2, in step 9"),
    ],
)
def test_exceptions_say_of_which_env_and_step_they_are(fn, place):
    fail.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = probed(fn)
    fail.append(True)
    with pytest.raises(ZeroDivisionError) as caught:
        function(ROWS, step=torch.tensor([7, 8, 9]))
    assert caught.value.__notes__ == [f"Raised in reward_fn, {place}."]
    if function.path != "batched":
        with pytest.raises(ZeroDivisionError) as caught:
            probed(fn)
        assert "on initial states, where it is tried first" in caught.value.__notes__[0]


fail: list[bool] = []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("keeps", [lambda x: x, lambda x: x.sum()])
def test_a_function_that_keeps_what_it_was_given_is_told_how_to_remember(keeps, dtype):
    last = []

    def fn(x):
        change = (x - last[-1]["x"]).sum() if last else x.sum()
        last.append({"x": keeps(x)})
        return change

    with pytest.raises(ValueError, match=r"keeps values from one call to the next.*reward_state"):
        BatchedFunction(fn, "reward_fn", dtype, lambda f, *tensors: f(*tensors)).probe(ROWS)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("fn", [lambda x, bad: x.sum() * bad, lambda x, bad: float(x.sum()) * bad])
def test_a_function_that_is_not_finite_from_the_start_warns(fn, bad):
    with pytest.warns(UserWarning, match=r"reward_fn gives \[.*(nan|inf).*\] on initial states.*info\['diverged'\]"):
        reward(lambda x: fn(x, bad)).probe(ROWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("fn", [lambda x: x.sum() * 1j, batched(lambda x: x.sum(-1) * 1j), lambda x: complex(x[0])])
def test_complex_numbers_are_refused(fn, dtype):
    function = BatchedFunction(fn, "reward_fn", dtype, lambda f, *tensors: f(*tensors))
    run = function if function.path == "batched" else function.probe
    with pytest.raises(ValueError, match=r"reward_fn must return one real number per env, got torch\.complex64"):
        run(ROWS)


# -- reward functions of the documents ----------------------------------------------------------------------


def documented_rewards():
    """Every reward function in the environment-extraction guide, as it stands there."""
    return {
        "revenue": (lambda obs, act, info: obs["firm_acme.financials.revenue"].mean()),
        "employee": (
            lambda obs, act, info: (
                obs["person_employee.state.confidence"].mean() - 0.5 * obs["person_employee.state.stress"].mean()
            )
        ),
        "ceo": (
            lambda obs, act, info: (
                obs["firm_acme.financials.revenue_growth"].mean() + 0.3 * obs["firm_acme.market.equity_price"].mean()
            )
        ),
        "employee in multi": (lambda obs, act, info: obs.get("firm_acme.operations.employee_satisfaction", [0])[0]),
        "ceo in multi": lambda obs, act, info: obs.get("firm_acme.financials.revenue_growth", [0])[0],
        "a field that is not observed": lambda obs, act, info: obs.get("nowhere", [0])[0],
        "logistics": (
            lambda obs, act, info: (
                obs["physical.infrastructure.shipping_lane_capacity"].mean()
                - 0.8 * obs["physical.infrastructure.port_congestion"].mean()
            )
        ),
        "disaster": lambda obs, act, info: -sum(abs(v.mean()) for v in obs.values()) + 1.0,
        "climate": lambda obs, act, info: -abs(obs["physical.climate.global_temp_anomaly"].mean()),
    }


NAMES = [
    "firm_acme.financials.revenue",
    "person_employee.state.confidence",
    "person_employee.state.stress",
    "firm_acme.financials.revenue_growth",
    "firm_acme.market.equity_price",
    "firm_acme.operations.employee_satisfaction",
    "physical.infrastructure.shipping_lane_capacity",
    "physical.infrastructure.port_congestion",
    "physical.climate.global_temp_anomaly",
]


@pytest.mark.parametrize("name", documented_rewards())
def test_every_documented_reward_runs_under_vmap(name):
    fn = documented_rewards()[name]
    where = {path: slice(3 * i, 3 * i + 3) for i, path in enumerate(NAMES)}
    flat = torch.randn(5, 27, generator=torch.Generator().manual_seed(0))

    def call(f, row):
        return f({path: row[..., w] for path, w in where.items()}, None, {"step": 1})

    function = BatchedFunction(fn, "reward_fn", torch.float32, call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function.probe(flat)
    assert function.path == "vmap"
    expected = [float(call(fn, row)) for row in flat.double()]
    assert function(flat)[0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
