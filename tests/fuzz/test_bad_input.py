"""Bad values for every argument of every public call: refused clearly, or taken for what they mean."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest

from tests.fuzz.calls import calls
from tests.fuzz.judge import Verdicts, judge

PACKAGES = (
    "wm_vec",
    *(f"wm_vec.{name}" for name in ("adapters", "canvas", "core", "envs", "plan", "train", "workers")),
)
NOT_CALLED = {
    # abstract, or made by the package itself and checked where they are taken
    *("BoundField", "CanvasDynamics", "CanvasLayout", "BatchedFunction", "CounterRNG", "Dynamics", "EnvState"),
    *("GivenStart", "StepOutput", "TrainReport", "Transition", "TransformedEnv", "World", "WorldData", "step"),
    # theirs are the arguments of a call that is tried
    *("CallableDynamics", "EnvMaker", "PessimisticReward", "RandomActions", "WorkerEnv", "make_world_model_env"),
    # need a library or a module of their own: tests/adapters and tests/train try bad input
    *("TorchRLDynamics", "data_from_minari"),
    *("as_field", "is_field", "write_checkpoint"),
}


def verdicts_of(n: int, seed: int) -> Verdicts:
    """Try n inputs, the calls in turn."""
    rng, verdicts, made = np.random.default_rng(seed), Verdicts(), calls()
    for i in range(n):
        call = made[i % len(made)]
        names = list(call.domains)
        name = names[int(rng.integers(len(names)))]
        value, verdict, why = judge(call, name, rng)
        verdicts.add(call, name, value, verdict, why)
    return verdicts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 24))])
def test_bad_input_is_refused_or_taken_for_what_it_means(seed):
    n = 500
    verdicts = verdicts_of(n, seed)
    print(dict(verdicts.counts), *verdicts.faults, sep="\n")
    assert not [fault for fault in verdicts.faults if not fault.startswith("internal")]
    assert verdicts.counts["internal"] <= n / 100


def test_every_public_call_is_tried_ten_times():
    tried = {call.name.split(" ")[0].split(".")[0] for call in calls()}
    public = {name for package in PACKAGES for name in importlib.import_module(package).__all__}
    classes = {name for name in public if inspect.isclass(_public(name)) and issubclass(_public(name), Exception)}
    assert public - classes - NOT_CALLED - tried == set()
    assert 2_000 / len(calls()) >= 10


def _public(name: str) -> object:
    modules = map(importlib.import_module, PACKAGES)
    return next(getattr(module, name) for module in modules if name in module.__all__)
