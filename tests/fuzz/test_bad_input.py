"""Bad values for every argument of every public call: refused clearly, or taken for what they mean."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest

from tests.fuzz.calls import calls
from tests.fuzz.judge import Verdicts, judge
from wm_vec.world_envs import WorldEnvs

PACKAGES = (
    "wm_vec",
    *(f"wm_vec.{name}" for name in ("adapters", "canvas", "core", "envs", "plan", "render", "train", "workers")),
)
WITH_METHODS = (
    *("Engine", "MultiAgentTensorDictEnv", "MultiAgentVectorEnv", "StatelessTorchRLEnv", "TorchRLEnv", "WorldModel"),
    *("WorldModelEnv", "WorldModelVectorEnv"),
)
NOT_CALLED = {
    # abstract, or made by the package itself and checked where they are taken
    *("BoundField", "CanvasDynamics", "CanvasLayout", "BatchedFunction", "CounterRNG", "DataReport", "Dynamics"),
    *(
        "EnvState",
        "Finding",
        "GivenStart",
        "RolloutBand",
        "StepOutput",
        "Tiles",
        "TrainReport",
        "Transition",
        "TransformedEnv",
        "World",
        "WorldData",
        "step",
    ),
    # theirs are the arguments of a call that is tried
    *("CallableDynamics", "EnvMaker", "PessimisticReward", "RandomActions", "WorkerEnv", "make_world_model_env"),
    # need a library or a module of their own: tests/adapters and tests/train try bad input
    *("TorchRLDynamics", "data_from_minari"),
    *("as_field", "is_field", "write_checkpoint", "Engine.only_perspective", "WorldModel.cuda"),
    # TorchRL calls them with what it has itself checked
    *("TorchRLEnv.append_transform", "TorchRLEnv.compile", "TorchRLEnv.maybe_reset", "TorchRLEnv.restarted"),
    *("StatelessTorchRLEnv.maybe_reset", "ImaginationCollector"),
    "Engine.replayed",  # the faces' own
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
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 24))])
def test_bad_input_is_refused_or_taken_for_what_it_means(seed):
    n = 500
    verdicts = verdicts_of(n, seed)
    print(dict(verdicts.counts), *verdicts.faults, sep="\n")
    assert not [fault for fault in verdicts.faults if not fault.startswith("internal")]
    assert verdicts.counts["internal"] <= n / 100


def test_every_public_call_is_tried_ten_times():
    tried = {name for call in calls() for name in (call.name.split(" ")[0], call.name.split(".")[0].split(" ")[0])}
    public = {
        name: getattr(module, name) for module in map(importlib.import_module, PACKAGES) for name in module.__all__
    }
    made = {name for name, made in public.items() if not (inspect.isclass(made) and issubclass(made, Exception))}
    methods = {f"{name}.{method}" for name in WITH_METHODS for method in _taking_arguments(public[name])}
    assert (made | methods) - NOT_CALLED - tried == set()
    assert 2_000 / len(calls()) >= 10


def _taking_arguments(owner: type) -> list[str]:
    """A class's own public methods that take more than the object; a world's environments are its own."""
    kinds = [owner, WorldEnvs] if issubclass(owner, WorldEnvs) else [owner]
    own = {name: getattr(owner, name) for kind in kinds for name in vars(kind) if not name.startswith("_")}
    return [
        name
        for name, method in own.items()
        if callable(method) and set(inspect.signature(method).parameters) - {"self", "kwargs"}
    ]
