"""What `benchmarks.gpu` compiles, tests and measures. All calls of the packages are in here.

In host memory kernels run in Triton's interpreter, in float32 and without graphs: a dry run.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from benchmarks.gpu import Case
from benchmarks.gpu_targets import CARTPOLE, STEP
from benchmarks.machine import machine
from benchmarks.torchrl_throughput import stepper, torchrl_world_model_env
from examples.ppo_tensor import Agent, Args, mlp, train
from tests.kernels.canvases import random_model
from tests.kernels.test_gpu import CANVASES, canvas, of_kernels
from wm_vec import WorldModel
from wm_vec.canvas import Field
from wm_vec.canvas.signature import TERMINATED, EnvSignature
from wm_vec.core import Engine, step
from wm_vec.core.capture import CudaGraph

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS: Any = {"backend": "triton", "dtype": torch.bfloat16 if DEVICE == "cuda" else torch.float32}
BUNDLED = (CARTPOLE, "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1")
REFERENCE = {"tiny": (8, 64, 3, 3), "small": (64, 128, 6, 5)}
if DEVICE == "cpu":
    REFERENCE = {"tiny": (8, 64, 1, 2), "small": (16, 64, 1, 2)}
"""Positions, width, blocks and passes of the reference worlds."""
SIZES = (64, 1024, 4096, 16_384, 65_536, 1_048_576)
DTYPES, COPIES = ("bfloat16", "float32"), ("copy", "no copy")
ROLLOUT = 32
PPO_SECONDS = 3.0
TESTS = {
    "kernels": "tests/kernels/test_gpu.py",
    "worlds": "tests/test_worlds_on_gpu.py",
    "engine": "tests/core/test_gpu.py",
    "TorchRL": "tests/envs/torchrl",
}
"""Where tests are marked gpu that need nothing but the runtime dependencies."""
TESTS_OUT = Path("out") / "gpu_tests"


def cases(tiny: bool) -> list[Case]:
    """All cases in the order in which they run: what matters most comes first."""
    sizes = (2, 3) if tiny else SIZES
    compiling = [
        Case("compile", "machine", lambda: {"machine": machine()}, 60),
        Case("compile", "kernels", partial(compile_all, tiny), 110),
    ]
    gate = [Case("gate", f"tests of {name}", partial(tests, name), 150) for name in TESTS]
    if DEVICE == "cuda":
        gate.append(Case("gate", "machine code", machine_code, 90))
    return [*compiling, *gate, *figure_cases(sizes)]


def check_device() -> None:
    """Raise where the CUDA context is broken."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- compilation and the gate -----------------------------------------------------------------------------------


def compile_all(tiny: bool) -> dict[str, Any]:
    """Run everything that is to be compiled on few envs, a process for every core."""
    dtypes = {torch.float32, KERNELS["dtype"]}
    jobs: dict[str, Callable[[], Any]] = {}
    for name in ["small"] if tiny else CANVASES:
        jobs |= {f"canvas {name}, {dtype}": partial(_compile_canvas, name, dtype) for dtype in dtypes}
    if not tiny:
        worlds = [(name, k) for name in BUNDLED for k in (3, own_passes(name))]
        others = [*REFERENCE, "tiny of numbers", "tiny of classes"]
        for name, k in [*worlds, *((name, own_passes(name)) for name in others)]:
            jobs[f"{name}, K = {k}"] = partial(in_a_graph, name, k, 2)
        jobs |= {case.name: case.run for case in figure_cases(SIZES) if case.name.startswith("compiled")}
    failed = {}
    with ProcessPoolExecutor(min(len(jobs), 16, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        for name, future in {name: pool.submit(job) for name, job in jobs.items()}.items():
            if (error := future.exception()) is not None:
                failed[name] = f"{type(error).__name__}: {str(error)[-300:]}"
    return {"ok": not failed, "jobs": len(jobs), "failed": failed}


def _compile_canvas(name: str, dtype: torch.dtype) -> None:
    of_kernels(canvas(name, 2, dtype))


@cache
def start_tests() -> dict[str, subprocess.Popen[bytes]]:
    """Pytest on the tests that need a GPU, a process for each of `TESTS`."""
    TESTS_OUT.mkdir(parents=True, exist_ok=True)
    pytest = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
    running = {}
    for name, path in TESTS.items():
        with (TESTS_OUT / f"{name}.txt").open("w") as output:
            command = [*pytest, f"--junitxml={TESTS_OUT / name}.xml", path]
            running[name] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    return running


def tests(name: str) -> dict[str, Any]:
    """How some of `TESTS` went, and what they recorded."""
    code = start_tests()[name].wait()
    each = {str(test.get("name")): test for test in ElementTree.parse(TESTS_OUT / f"{name}.xml").iter("testcase")}
    result: dict[str, Any] = {
        kind: [test for test, entry in each.items() if entry.find(kind) is not None]
        for kind in ("failure", "error", "skipped")
    }
    recorded = {test: {p.get("name"): p.get("value") for p in entry.iter("property")} for test, entry in each.items()}
    result["passed"] = len(each) - sum(map(len, result.values()))
    result["figures"] = {test: figures for test, figures in recorded.items() if figures}
    if code:
        result["output"] = (TESTS_OUT / f"{name}.txt").read_text()[-4000:]
    return {"ok": code == 0 and (result["passed"] > 0 or DEVICE == "cpu"), **result}


def machine_code() -> dict[str, Any]:
    """No kernel in the disk cache overwrites what a tensor-core product still reads."""
    from benchmarks.kernel_code import cuobjdump
    from benchmarks.sass_scan import scan

    def verdict(cubin: Path) -> Any:
        return scan(cuobjdump(cubin.read_bytes(), "-sass"), cubin.with_suffix(".ptx").read_text())

    ours = [*Path(os.environ["TRITON_CACHE_DIR"]).rglob("*_kernel.cubin")]  # and none of torch.compile's
    with ThreadPoolExecutor() as pool:
        verdicts = dict(zip(ours, pool.map(verdict, ours), strict=True))
    faults = {f"{cubin.parent.name}/{cubin.stem}": found.faults for cubin, found in verdicts.items() if found.faults}
    products = sum(found.products for found in verdicts.values())
    return {"ok": not faults and products > 0, "kernels": len(ours), "products": products, "faults": faults}


# -- worlds -----------------------------------------------------------------------------------------------------


@cache
def world_of(name: str, dtype: str = "float32") -> WorldModel:
    """A bundled world, or a reference world of random weights."""
    size, _, kind = name.partition(" ")
    world = WorldModel.bundled(name) if name in BUNDLED else reference_world(*REFERENCE[size], kind)
    world.model.to(getattr(torch, dtype))
    return world.to(DEVICE)


def reference_world(n: int, d: int, num_blocks: int, k: int, kind: str = "") -> WorldModel:
    """A world of N positions: an observation, a discrete action, a reward, and an end.

    Args:
        n, d, num_blocks, k: Positions, width, blocks and passes.
        kind: "of numbers": the end is one, too; "of classes": all that is observed are classes of 16.
    """
    observation = Box(-np.inf, np.inf, (n - 3,), np.float32)
    signature = EnvSignature(MultiDiscrete([16] * (n - 3)) if kind == "of classes" else observation, Discrete(2), 500)
    fields = {field.path: field.spec for field in signature.schema(d).bound_fields()}
    if kind == "of numbers":
        fields[TERMINATED] = Field(is_input=False)
    model = random_model(fields, d_model=d, num_blocks=num_blocks, n_denoise_steps=k)
    world = WorldModel(model.bound, config=model.config)
    world.model.load_state_dict(model.state_dict())
    world.signature, world.trained = signature, True
    world.bank = torch.randint(0, 2, (64, n)).float()  # classes, and numbers, too
    return world


def own_passes(name: str) -> int:
    """The passes that a world has of its own."""
    return world_of(name).model.config.n_denoise_steps


def engine_of(world: WorldModel, num_envs: int, k: int, **settings: Any) -> Engine:
    """A started engine."""
    engine = world.to_engine(num_envs, n_denoise_steps=k, max_episode_steps=500, seed=0, **settings)
    engine.reset()
    return engine


# -- timing -----------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], Any], target: float = 0.15) -> float:
    """The median of as many calls as take `target` seconds, by CUDA's events; at least 3, at most 50."""
    call()
    if DEVICE == "cpu":
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    def timed(count: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for start, end in events:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [1e-3 * start.elapsed_time(end) for start, end in events]

    return statistics.median(timed(min(50, max(3, int(target / max(timed(2)[-1], 1e-6))))))


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` as the replay of a CUDA graph; in host memory `call`."""
    return call if DEVICE == "cpu" else CudaGraph(call).replay


def steps_of(engine: Engine, count: int) -> Callable[[], Any]:
    """A call that takes so many pure steps from the engine's state under random actions."""
    actions = engine.world.actions.check(engine.sample_actions(), engine.num_envs)
    start = engine.state()

    @torch.no_grad()
    def call() -> Any:
        state, output = start, None
        for _ in range(count):
            state, output = step(engine.world, state, actions)
        return output

    return call


def row(subject: str, world: str, k: int, num_envs: int, seconds: float, **more: Any) -> dict[str, Any]:
    """The result of a figure: how long a step of all envs takes."""
    rate = {"us": 1e6 * seconds, "env_steps_per_s": num_envs / seconds}
    return {"rows": [{"subject": subject, "world": world, "k": k, "num_envs": num_envs, **rate, **more}]}


# -- figures ----------------------------------------------------------------------------------------------------


def figure_cases(sizes: Sequence[int]) -> list[Case]:
    """All figures: what the targets need, what people would use instead, all worlds at their own number of passes."""
    own = {name: own_passes(name) for name in (*BUNDLED, *REFERENCE)}
    all_but_most, most, k = sizes[:-1], sizes[-1:], own[CARTPOLE]
    few = all_but_most[::2]
    wanted: list[tuple[Any, ...]] = [
        (in_a_graph, CARTPOLE, 3, sizes),
        *((in_a_graph, name, own[name], all_but_most) for name in REFERENCE),
        (rollout, CARTPOLE, 3, sizes),
        (ppo, CARTPOLE, 3, all_but_most),
        *((vector_env, CARTPOLE, 3, most, copy) for copy in COPIES),
        (classes, "tiny", 3, few[-1:]),
        *((vector_env, CARTPOLE, k, sizes, copy) for copy in COPIES),
        *((in_torch, name, own[name], few, dtype) for name in (CARTPOLE, "tiny") for dtype in DTYPES),
        (in_torch, "small", own["small"], few[:2], "bfloat16"),
        (torchrl_env, CARTPOLE, k, few),
        (gymnax, CARTPOLE, 0, few),
        *((compiled, name, own[name], few[1:2] or few) for name in (CARTPOLE, *REFERENCE)),
        *((refresh, name, own[name], few[:1]) for name in (CARTPOLE, *REFERENCE)),
        *((in_a_graph, name, own[name], sizes) for name in BUNDLED),
        (ppo, CARTPOLE, k, sizes),
        *((rollout, name, own[name], few[:2] if name == "small" else sizes) for name in own),
        *((in_a_graph, name, 3, sizes) for name in BUNDLED),
        *((in_a_graph, name, own[name], most) for name in REFERENCE),
        (ppo, CARTPOLE, 3, most),
    ]
    found: dict[str, Case] = {}
    for run, name, passes, counts, *more in wanted:
        for size in counts:
            words = [run.__name__.replace("_", " "), name, f"K = {passes}", f"{size:,} envs", *more]
            call = partial(run, name, passes, size, *more)
            case = Case("figures", ", ".join(words), call, 60.0 if run in (ppo, compiled) else 25.0)
            found.setdefault(case.name, case)
    return [*found.values()]


def in_a_graph(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """Env alone: the step as a CUDA graph, several in one replay where they are short."""
    engine = engine_of(world_of(name), num_envs, k, **KERNELS)
    count = 8 if 16 < num_envs < 10_000 else 1
    return row(STEP, name, k, num_envs, seconds_of(graphed(steps_of(engine, count))) / count)


def vector_env(name: str, k: int, num_envs: int, copy: str) -> dict[str, Any]:
    """Env alone, as users call it, with and without a copy of what a step returns; and the most memory it takes."""
    before = torch.cuda.memory_allocated()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    env = world_of(name).to_vector_env(num_envs, n_denoise_steps=k, seed=0, copy=copy == "copy")
    env.reset(seed=0)
    (action,) = env.engine.sample_actions().values()
    seconds = seconds_of(lambda: env.step(action))
    gib = (torch.cuda.max_memory_allocated() - before) / 2**30
    return row(f"vector env, {copy}", name, k, num_envs, seconds, gib=gib)


def actor(world: WorldModel) -> Callable[[Tensor], Tensor]:
    """A policy of two hidden layers of 64 that draws its actions."""
    assert world.signature is not None
    observed, acts = world.signature.observation_space, world.signature.action_space
    discrete = isinstance(acts, Discrete)
    size = int(acts.n) if isinstance(acts, Discrete) else math.prod(acts.shape or ())
    network = mlp(math.prod(observed.shape or ()), size, 0.01).to(DEVICE)

    @torch.no_grad()
    def act(observation: Tensor) -> Tensor:
        out = network(observation.reshape(len(observation), -1).float())
        noise = torch.empty_like(out)
        return (out - noise.exponential_().log()).argmax(-1) if discrete else out + noise.normal_()

    return act


def rollout(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """Policy and env: `imagine`."""
    world, horizon = world_of(name), 2 if DEVICE == "cpu" else ROLLOUT
    engine, policy = engine_of(world, num_envs, k, **KERNELS), actor(world)
    seconds = seconds_of(lambda: engine.imagine(policy, horizon), 0.4) / horizon
    return row("policy and env", name, k, num_envs, seconds)


def ppo(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """Policy, env and learning: iterations of examples/ppo_tensor.py, without the first ones."""
    steps, least = (2, 2) if DEVICE == "cpu" else (ROLLOUT, 5)
    args = Args(device=DEVICE, num_envs=num_envs, num_steps=steps, total_timesteps=num_envs * steps * 10_000)
    envs = world_of(name).to_vector_env(num_envs, n_denoise_steps=k, seed=1)
    agent, stamps = Agent(envs.single_observation_space, envs.single_action_space).to(DEVICE), [time.perf_counter()]
    for _ in train(envs, agent, args):
        stamps.append(time.perf_counter())
        if len(stamps) > least and stamps[-1] - stamps[2] > (0 if DEVICE == "cpu" else PPO_SECONDS):
            break
    each = [after - before for before, after in pairwise(stamps[2:])]
    return row("PPO", name, k, num_envs, statistics.median(each) / steps, iterations=len(each))


def classes(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """What drawing classes costs: the same canvas of numbers alone, with an end, and with classes everywhere."""
    kinds = [f"{name} of numbers", name, f"{name} of classes"]
    plain, end, all_classes = (in_a_graph(kind, k, num_envs)["rows"][0]["us"] for kind in kinds)
    shares = {"share": end / plain - 1, "share_of_classes": all_classes / plain - 1}
    return {"rows": [{"subject": "cost of classes", "world": name, "k": k, "num_envs": num_envs, **shares}]}


def refresh(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """The first step after parameters changed, less a step: packing and folding them in place."""
    world = world_of(name)
    engine = engine_of(world, num_envs, k, **KERNELS)
    parameter = next(world.parameters())

    def changed() -> None:
        with torch.no_grad():
            parameter.mul_(1.0)
        engine.dynamics.packed()  # type: ignore[attr-defined]

    return row("refresh of packed weights", name, k, num_envs, seconds_of(changed))


def in_torch(name: str, k: int, num_envs: int, dtype: str) -> dict[str, Any]:
    """The step in torch, eager and as a CUDA graph."""
    engine = engine_of(world_of(name, dtype), num_envs, k, backend="torch")
    call, rows = steps_of(engine, 1), []
    for subject, run in ((f"torch, eager, {dtype}", call), (f"torch, in a graph, {dtype}", graphed(call))):
        rows += row(subject, name, k, num_envs, seconds_of(run))["rows"]
    return {"rows": rows}


def compiled(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """The network alone, by torch.compile in bfloat16, in a CUDA graph."""
    world = world_of(name, "bfloat16")
    values, noise = (torch.randn(num_envs, world.num_positions, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    predict = world.model.packed(k).predict
    fast = torch.compile(predict, dynamic=False, backend="eager" if DEVICE == "cpu" else "inductor")
    call = graphed(torch.no_grad()(lambda: fast(values, noise)))
    return row("torch.compile of the network, in a graph, bfloat16", name, k, num_envs, seconds_of(call))


def torchrl_env(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """TorchRL's own WorldModelEnv over the world's network."""
    env = torchrl_world_model_env(world_of(name), num_envs)
    return row("TorchRL's WorldModelEnv", name, k, num_envs, seconds_of(stepper(env, num_envs)))


def gymnax(name: str, k: int, num_envs: int) -> dict[str, Any]:
    """Hand-written physics compiled by XLA: gymnax's environment under random actions, 64 steps in a scan."""
    if find_spec("gymnax") is None:
        return {"left_out": "gymnax is not installed"}
    import gymnax as physics
    import jax

    env, params = physics.make(name)

    def one(state: Any, key: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, num_envs)
        actions = jax.vmap(lambda k: env.action_space(params).sample(k))(keys)
        _, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, actions, params)
        return state, reward

    key = jax.random.key(0)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(key, num_envs), params)
    scan = jax.jit(lambda state: jax.lax.scan(one, state, jax.random.split(key, 64)))
    times = timeit.repeat(lambda: jax.block_until_ready(scan(state)), number=1, repeat=8)
    return row("gymnax", name, k, num_envs, statistics.median(times[1:]) / 64)
