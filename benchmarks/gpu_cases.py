"""What `benchmarks.gpu` compiles, holds to its gate, and measures. All calls of the packages are in here.

In host memory everything runs in Triton's interpreter, in float32 and without graphs: a dry run.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from benchmarks.gpu import Case
from benchmarks.gpu_targets import CARTPOLE, STEP
from benchmarks.machine import machine
from benchmarks.torchrl_throughput import stepper, torchrl_world_model_env
from benchmarks.truth_figures import ks_figure, residual_r2
from examples.ppo_tensor import Agent, Args, mlp, train
from tests.kernels.canvases import (
    ATARI,
    END,
    KINDS,
    TOLERANCE,
    case_of,
    fused,
    named,
    random_model,
    reference,
    unsure_envs,
)
from wm_kernels import canvas_step, kernel_tables, philox_normal, philox_words, use_backend
from wm_vec import WorldModel, collect_transitions
from wm_vec.canvas import Field
from wm_vec.canvas.signature import TERMINATED, EnvSignature
from wm_vec.core import Engine, step
from wm_vec.train.collect import RandomActions
from wm_vec.train.episodes import Imagination, imagined_episodes, real_episodes

BUNDLED = (CARTPOLE, "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1")
REFERENCE = {"tiny": (8, 64, 3, 3), "small": (64, 128, 6, 5)}
"""Positions, width, blocks and passes of the reference worlds."""
MODES = ("same_step", "next_step", "disabled")
SIZES = (64, 1024, 4096, 16_384, 65_536, 1_048_576)
HALF_AND_FULL = ("bfloat16", "float32")
ROLLOUT = 32
R2_BAR = 0.999
"""Of the residual, in every dimension of the bundled worlds."""
OTHER_CLASS = 0.25
"""Numbers that differ by more, relatively, follow from another class."""
LEAST_SURE = 0.9
"""Share of envs that do not draw within rounding of another class."""
PPO_SECONDS = 3.0
TESTS = ["tests/core/test_gpu.py", "tests/envs/torchrl"]
"""What holds the tests that are marked gpu and need nothing but the runtime dependencies."""
TESTS_OUT = Path("out") / "gpu_tests"


def cases(device: str, tiny: bool) -> list[Case]:
    """All cases in the order in which they run: what matters most comes first."""
    sizes = (2, 3) if tiny else SIZES
    figures = [*target_cases(device, sizes), *comparison_cases(device, sizes), *other_cases(device, sizes)]
    found = [*compile_cases(device, tiny), *gate_cases(device, tiny), *figures]
    return list({case.name: case for case in reversed(found)}.values())[::-1]


def check_device() -> None:
    """Raise where the CUDA context is broken."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- worlds -----------------------------------------------------------------------------------------------------


@cache
def world_of(name: str, device: str, dtype: str = "float32") -> WorldModel:
    """A bundled world, or a reference world of random weights."""
    size, _, kind = name.partition(" ")
    world = WorldModel.bundled(name) if name in BUNDLED else reference_world(*REFERENCE[size], kind)
    world.model.to(getattr(torch, dtype))
    return world.to(device)


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
    return world


def engine_of(world: WorldModel, num_envs: int, k: int | None = None, **settings: Any) -> Engine:
    """A started engine."""
    engine = world.to_engine(num_envs, n_denoise_steps=k, **{"max_episode_steps": 500, "seed": 0, **settings})
    engine.reset()
    return engine


def kernels(device: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """The settings of an engine that runs kernels; the interpreter knows float32 alone."""
    return {"backend": "triton", "dtype": torch.float32 if device == "cpu" else dtype}


# -- timing -----------------------------------------------------------------------------------------------------


def seconds_of(call: Callable[[], Any], device: str, target: float = 0.15) -> float:
    """The median of as many calls as take `target` seconds, by CUDA's events; at least 3, at most 50."""
    call()
    if device == "cpu":
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


def graphed(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """`call` as the replay of a CUDA graph; in host memory `call`."""
    if device == "cpu":
        return call
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


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


# -- compilation ------------------------------------------------------------------------------------------------


def compile_cases(device: str, tiny: bool) -> list[Case]:
    """What the others find in the disk cache; and the tests, which begin meanwhile."""
    about = Case("compile", "machine", lambda: {"machine": machine()})
    return [about, Case("compile", "kernels", partial(compile_all, device, tiny), seconds=110)]


def compile_all(device: str, tiny: bool) -> dict[str, Any]:
    """Run everything once on few envs, in a process for every core."""
    start_tests()
    dtypes = {kernels(device, dtype)["dtype"] for dtype in (torch.bfloat16, torch.float32)}
    jobs: dict[str, Callable[[], Any]] = {}
    for name, dtype in product(["small"] if tiny else canvases(), dtypes):
        jobs[f"canvas {name}, {dtype}"] = partial(compile_canvas, name, dtype)
    for name, k in [] if tiny else worlds():
        for mode, dtype in product(MODES if name == CARTPOLE else MODES[:1], dtypes):
            jobs[f"{name}, K = {k}, {mode}, {dtype}"] = partial(compile_world, name, k, mode, dtype, device)
    for case in [] if tiny else comparison_cases(device, SIZES):
        if "compiled" in case.name:
            jobs[case.name] = case.run
    failed = {}
    with ProcessPoolExecutor(min(len(jobs), 16), multiprocessing.get_context("spawn")) as pool:
        waiting = {name: pool.submit(job) for name, job in jobs.items()}
        for name, future in waiting.items():
            if (error := future.exception()) is not None:
                failed[name] = f"{type(error).__name__}: {str(error)[-300:]}"
    return {"ok": not failed, "jobs": len(jobs), "failed": failed}


def compile_canvas(name: str, dtype: torch.dtype) -> None:
    """A canvas's kernels: the whole step, and predict alone."""
    case = canvas(name, 2, dtype)
    fused(case)
    with use_backend("triton"):
        canvas_step(*predict_arguments(case))


def compile_world(name: str, k: int, mode: str, dtype: torch.dtype, device: str) -> None:
    """A world's kernel in one of the autoreset modes."""
    engine = engine_of(world_of(name, device), 2, k, autoreset_mode=mode, backend="triton", dtype=dtype)
    steps_of(engine, 1)()


def worlds() -> list[tuple[str, int]]:
    """Worlds and passes that are measured."""
    others = [*REFERENCE, "tiny of numbers", "tiny of classes"]
    return [
        *((name, k) for name in BUNDLED for k in (3, own_passes(name))),
        *((name, own_passes(name)) for name in others),
    ]


# -- the gate ---------------------------------------------------------------------------------------------------


def gate_cases(device: str, tiny: bool) -> list[Case]:
    """What must be right before anything is measured."""
    few, many = (3, 3) if tiny else (1031, 4096)
    names = ["small"] if tiny else list(canvases())
    dtypes = ["float32"] if device == "cpu" else ["float32", "bfloat16"]
    worlds = BUNDLED[3:] if tiny else BUNDLED
    size = (24, 2, 3) if tiny else (4000, 300, 4096)  # transitions, episodes, envs

    def each(what: str, check: Callable[..., Any], *args: Any) -> Iterator[Case]:
        for name, dtype in product(names, dtypes):
            call = partial(check, name, getattr(torch, dtype), *args)
            yield Case("gate", f"{what}: {name}, {dtype}", call, 60 if tiny else 20)

    return [
        Case("gate", "Philox", partial(philox, device)),
        *each("fp64", against_fp64, few),
        *each("slots", slots, many),
        *each("containment", containment),
        Case("gate", "waits", partial(waits, device, worlds[0]), 60),
        *(Case("gate", f"bf16: {name}", partial(half_precision, name, device, size[2]), 30) for name in worlds),
        *(Case("gate", f"truth: {name}", partial(truth, name, device, *size[:2]), 60) for name in worlds),
        Case("gate", "tests marked gpu", partial(tests, device), 180),
        *([] if device == "cpu" else [Case("gate", "machine code", machine_code, 40)]),
    ]


def _sized(n: int, d: int, **more: Any) -> dict[str, Any]:
    fields = {"x": Field(w=n - 3), "act": Field(), "end": END, "paid": Field(is_input=False)}
    return {"fields": fields, "acts": [["act"]], "d_model": d, "num_blocks": 1, **more}


def canvases() -> dict[str, dict[str, Any]]:
    """Arguments of `case_of` by name: all kinds of fields, several perspectives, all modes, all sizes of tiles."""
    mixed = {**KINDS, "act0": Field(), "act1": KINDS["given"], "end": END, "paid": Field(is_input=False)}
    return {
        "small": {"fields": ATARI, "acts": [["act"]], "n_denoise_steps": 2},
        "mixed": {"fields": mixed, "acts": [["act0"], ["act1"]], "mode": "next_step", "whole": True, "hold": True},
        "mixed, one agent": {"fields": mixed, "acts": [["act0", "act1"]], "mode": "disabled", "d_model": 64},
        "4 x 128": _sized(4, 128, mode="disabled"),
        "17 x 64": _sized(17, 64, mode="next_step"),
        "33 x 32": _sized(33, 32),
        "64 x 128": _sized(64, 128),
        "65 x 64": _sized(65, 64),
        "128 x 64": _sized(128, 64, mode="next_step"),
    }


def canvas(name: str, num_envs: int, dtype: torch.dtype) -> Any:
    """A case of that canvas. In bfloat16 only the kernels' network is; float64 has none."""
    made = case_of(**canvases()[name], num_envs=num_envs, dtype=torch.float32 if dtype is torch.bfloat16 else dtype)
    if dtype is torch.bfloat16:
        made.packed = made.packed._replace(kernel=kernel_tables(made.packed, dtype))
    return made


def predict_arguments(case: Any) -> tuple[Any, ...]:
    """The arguments of `canvas_step`."""
    state, like = case.state, case.state.values
    action = torch.cat([action.to(like).clamp(-0.75, 1.25) for action in case.actions], 1)
    return case.packed, case.controls, like, action, state.seed, state.episode, state.elapsed, state.tick


def of_kernels(case: Any) -> dict[str, Tensor]:
    """Everything that the step's kernel and predict's give, by name."""
    with use_backend("triton"):
        return named(fused(case)) | {"predicted": canvas_step(*predict_arguments(case))}


def of_reference(case: Any) -> dict[str, Tensor]:
    """The same in torch."""
    return named(reference(case)) | {"predicted": canvas_step.reference(*predict_arguments(case))}


def differences(got: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """For each env the largest relative difference of its numbers, and whether anything whole differs."""
    count = len(expected["predicted"])
    error, unequal = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    for name, tensor in expected.items():
        ours, theirs = (x.cpu().double().reshape(count, -1) for x in (got[name], tensor))
        if tensor.is_floating_point():
            error = torch.maximum(error, ((ours - theirs).abs() / (1 + theirs.abs())).nan_to_num(torch.inf).amax(1))
        else:
            unequal |= (ours != theirs).any(1)
    return error, unequal


@torch.no_grad()
def against_fp64(name: str, dtype: torch.dtype, num_envs: int) -> dict[str, Any]:
    """Whole steps and predicts beside the reference in float64.

    In float32 all envs must be equal to rounding but those that draw within rounding of another class. In bfloat16
    numbers may be no further off than the reference's in bfloat16, and not many more envs may draw other classes.
    """
    case, exact = canvas(name, num_envs, dtype), canvas(name, num_envs, torch.float64)
    expected = of_reference(exact)
    error, unequal = differences(of_kernels(case), expected)
    if dtype is torch.float32:
        sure = ~unsure_envs(exact, of_reference).cpu()
        worst, wrong = float(error[sure].max()), int(unequal[sure].sum())
        verdict = worst < TOLERANCE and not wrong and float(sure.double().mean()) > LEAST_SURE
        return {"ok": verdict, "error": worst, "unequal": wrong, "unsure": int((~sure).sum())}
    half = case_of(**canvases()[name], num_envs=num_envs, dtype=dtype)
    sides = []
    for far, differs in ((error, unequal), differences(of_reference(half), expected)):
        redrawn = differs | (far > OTHER_CLASS)
        sides.append((float(far[~redrawn].median()), float(redrawn.double().mean())))
    (ours, other), (torchs, torchs_other) = sides
    verdict = ours <= torchs and other <= 1.5 * torchs_other + 0.01
    return {"ok": verdict, "error": ours, "torch_error": torchs, "other": other, "torch_other": torchs_other}


@torch.no_grad()
def slots(name: str, dtype: torch.dtype, num_envs: int) -> dict[str, Any]:
    """An env's bits are the same wherever it stands, among however many."""
    case = canvas(name, num_envs, dtype)
    whole, different = of_kernels(case), []
    for index in ([num_envs - 1], [i % num_envs for i in range(3, 10)], torch.randperm(num_envs).tolist()):
        for key, tensor in of_kernels(case.rows(index)).items():
            if not torch.equal(tensor, whole[key][index]):
                different.append(f"{key} of {len(index)} envs")
    return {"ok": not different, "different": different}


@torch.no_grad()
def containment(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """What breaks in one env, whichever of its tile, changes no bit of another."""
    positions = len(canvas(name, 1, dtype).state.values[0])
    num_envs = 64 // min(64, 1 << (positions - 1).bit_length()) + 1  # a whole tile, and an env of the next one
    sound, leaks = of_kernels(canvas(name, num_envs, dtype)), []
    for slot, value in product(range(num_envs), (math.nan, math.inf)):
        case = canvas(name, num_envs, dtype)
        case.state.values[slot, 0] = value
        broken, others = of_kernels(case), [i for i in range(num_envs) if i != slot]
        same = all(torch.equal(tensor[others], sound[key][others]) for key, tensor in broken.items())
        if not same or broken["diverged"].nonzero().flatten().tolist() != [slot]:
            leaks.append(f"{value} in slot {slot}")
    return {"ok": not leaks, "leaks": leaks}


def machine_code() -> dict[str, Any]:
    """Every kernel in the disk cache: none overwrites what a tensor core still reads."""
    raise NotImplementedError


def philox(device: str, num_envs: int = 257) -> dict[str, Any]:
    """Words bit by bit, and normals to 4e-6 of those in float64, at seeds of all 64 bits."""
    generator = torch.Generator().manual_seed(0)
    counters = torch.randint(-(2**63), 2**63 - 1, (3, num_envs), generator=generator)
    words = philox_words.reference(*counters, 34, 7)
    with use_backend("triton"):
        ours, normals = (op(*counters.to(device), 34, 7).cpu() for op in (philox_words, philox_normal))
    pairs = words.double().unflatten(-1, (-1, 2))
    radius = (pairs[..., 0] * 2.0**-32 + 2.0**-33).log().mul(-2.0).clamp_min(0).sqrt()
    exact = torch.view_as_real(torch.polar(radius, pairs[..., 1] * (2.0**-32 * 2.0 * math.pi))).flatten(-2)
    error = float(((normals - exact).abs() / exact.abs().clamp_min(1)).max())
    return {"ok": torch.equal(ours, words) and error < 4e-6, "error": error}


def waits(device: str, name: str) -> dict[str, Any]:
    """No step, rollout or batch of a collector waits for the device."""
    world, num_envs = world_of(name, device), 4
    engine, env = engine_of(world, num_envs), world.to_vector_env(num_envs, seed=0)
    torchrl, policy = stepper(world.to_torchrl_env(num_envs, seed=0), num_envs), actor(world, device)
    env.reset(seed=0)
    calls: dict[str, Callable[[], Any]] = {
        "engine": lambda: engine.step(engine.sample_actions()),
        "vector env": lambda: env.step(env.engine.sample_actions()["agent"]),
        "TorchRL env": torchrl,
        "imagine": lambda: engine.imagine(policy, 2),
    }
    waiting = {}
    for what, call in calls.items():
        call()
        call()
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            waiting[what] = str(error)[-300:]
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return {"ok": not waiting, "waiting": waiting}


@torch.no_grad()
def half_precision(name: str, device: str, num_envs: int, num_steps: int = 64) -> dict[str, Any]:
    """A bundled world in bfloat16 beside the same kernels in float32: step by step, and by the lengths of episodes."""
    world, horizon = world_of(name, device), 50
    num_steps = min(num_steps, num_envs)
    full, half = (
        engine_of(world, num_envs, max_episode_steps=horizon, **kernels(device, dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    errors, same, lengths = [], [], []
    for _ in range(num_steps):
        actions = full.sample_actions()
        _, at_half = step(half.world, full.state(), half.world.actions.check(actions, num_envs))
        at_full = full.step(actions)
        ours, theirs = (x.final_state["values"].double() for x in (at_half, at_full))
        equal = (at_half.terminated == at_full.terminated)[:, 0] & ((ours - theirs).abs() < OTHER_CLASS).all(1)
        moved = (theirs - theirs.mean(0))[equal].norm()
        errors.append((ours - theirs)[equal].norm() / moved.clamp_min(1e-9))
        same.append(equal.double().mean())
        free = half.step(half.sample_actions())
        lengths.append([x.episode_length[x.finished] for x in (at_full, free)])
    figures = {"error": float(torch.stack(errors).max()), "equal": float(torch.stack(same).mean())}
    both = [torch.cat(side).cpu().numpy() for side in zip(*lengths, strict=True)]
    ks = ks_figure("lengths", *both) if all(map(len, both)) else None
    return {
        "ok": figures["error"] < 5e-3 and figures["equal"] > 0.99 and (ks is None or ks["met"]),
        **figures,
        "ks": ks,
    }


@torch.no_grad()
def truth(name: str, device: str, num_transitions: int, num_episodes: int) -> dict[str, Any]:
    """A bundled world in bfloat16 against the environment itself: residuals of steps, and whole episodes."""
    world, env = world_of(name, device), gym.make(name)
    data = collect_transitions(name, num_transitions, "random", seed=40_000)
    now, action, after = (data[key].numpy() for key in ("observation", "action", ("next", "observation")))
    ended = data["next", "terminated"][:, 0].numpy()
    horizon, space = min(200, env.spec.max_episode_steps), env.action_space  # type: ignore[union-attr]
    policies = [RandomActions(space, num_episodes, seed, "random") for seed in (2, 3)]
    real = real_episodes(name, num_episodes, policies[0], max_steps=horizon, seed=50_000)
    result: dict[str, Any] = {"ok": True}
    for k in (3, None):
        engine = partial(world.to_engine, n_denoise_steps=k, autoreset_mode="disabled", **kernels(device))
        steps = Imagination(engine(1)).steps(now, action[None], 1)
        imagined = imagined_episodes(
            engine(num_episodes, max_episode_steps=horizon), space, policies[1], max_steps=horizon, seed=3
        )
        figures = {
            "r2": residual_r2(now, after, steps.observation[0]) if now.ndim > 1 else [],
            "ends": [float(ended.mean()), float(steps.terminated.mean())],
            "lengths": ks_figure("lengths", real.lengths, imagined.lengths),
            "returns": ks_figure("returns", real.returns, imagined.returns),
        }
        result[f"K = {k or world.model.config.n_denoise_steps}"] = figures
        result["ok"] &= all(r2 > R2_BAR for r2 in figures["r2"])
        result["ok"] &= figures["lengths"]["met"] and figures["returns"]["met"]
    return result


@cache
def start_tests() -> subprocess.Popen[bytes]:
    """Pytest on the tests that need a GPU, beside the cases of this process."""
    TESTS_OUT.mkdir(parents=True, exist_ok=True)
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={TESTS_OUT / 'report.xml'}"]
    with (TESTS_OUT / "output.txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *TESTS], stdout=output, stderr=subprocess.STDOUT
        )


def tests(device: str) -> dict[str, Any]:
    """How they went."""
    code = start_tests().wait()
    each = list(ElementTree.parse(TESTS_OUT / "report.xml").iter("testcase"))
    names = {
        kind: [t.get("name") for t in each if t.find(kind) is not None] for kind in ("failure", "error", "skipped")
    }
    failed, skipped = names["failure"] + names["error"], len(names["skipped"])
    passed = len(each) - len(failed) - skipped
    result = {"ok": code == 0 and (passed > 0 or device == "cpu"), "passed": passed, "skipped": skipped}
    return (
        result if code == 0 else {**result, "failed": failed, "output": (TESTS_OUT / "output.txt").read_text()[-4000:]}
    )


# -- figures ----------------------------------------------------------------------------------------------------


def target_cases(device: str, sizes: Sequence[int]) -> list[Case]:
    """What the targets need."""
    few, most = [size for size in sizes if size <= 65_536], sizes[-1]
    passes = {CARTPOLE: 3, **{name: size[-1] for name, size in REFERENCE.items()}}
    return [
        *(_case(in_a_graph, name, k, size, device) for name, k in passes.items() for size in few),
        _case(in_a_graph, CARTPOLE, 3, most, device),
        *(_case(rollout, CARTPOLE, 3, size, device) for size in sizes),
        *(_case(ppo, CARTPOLE, 3, size, device) for size in few),
        _case(memory, CARTPOLE, 3, most, device),
        _case(classes, "tiny", 3, few[-1], device),
    ]


def comparison_cases(device: str, sizes: Sequence[int]) -> list[Case]:
    """What people would use instead, with the same networks at their own number of passes."""
    chosen = [size for size in sizes if size in (64, 4096, 65_536) or device == "cpu"]
    found = []
    for name in (CARTPOLE, *REFERENCE):
        k, fitting = own_passes(name), chosen[:2] if name == "small" else chosen
        found += [_case(in_torch, name, k, size, device, dtype) for dtype in HALF_AND_FULL for size in fitting]
        found.append(_case(compiled, name, k, min(chosen[-1], 1024 if name == "small" else 4096), device))
    for size in chosen:
        found += [
            _case(torchrl_env, CARTPOLE, own_passes(CARTPOLE), size, device),
            _case(gymnax, CARTPOLE, 0, size, device),
        ]
    return found


def other_cases(device: str, sizes: Sequence[int]) -> list[Case]:
    """What users call, the other worlds, and all worlds at their own number of passes."""
    worlds = [(name, k) for k in (own_passes(CARTPOLE), 3) for name in BUNDLED]
    found = [_case(vector_env, CARTPOLE, own_passes(CARTPOLE), size, device) for size in sizes]
    found += [_case(in_a_graph, name, k, size, device) for name, k in worlds for size in sizes]
    found += [_case(rollout, name, own_passes(name), size, device) for name in (*BUNDLED, *REFERENCE) for size in sizes]
    found += [_case(ppo, CARTPOLE, own_passes(CARTPOLE), size, device) for size in sizes]
    found += [_case(refresh, name, own_passes(name), 64, device) for name in (CARTPOLE, *REFERENCE)]
    found += [_case(in_a_graph, name, own_passes(name), sizes[-1], device) for name in REFERENCE]
    found.append(_case(ppo, CARTPOLE, 3, sizes[-1], device))
    return found


def _case(run: Callable[..., dict[str, Any]], name: str, k: int, num_envs: int, device: str, *more: Any) -> Case:
    words = [run.__name__.replace("_", " "), name, f"K = {k}", f"{num_envs:,} envs", *map(str, more)]
    limit = 60.0 if run in (ppo, compiled) else 25.0
    return Case("figures", ", ".join(words), partial(run, name, k, num_envs, device, *more), limit)


def own_passes(name: str) -> int:
    """The passes that a world has of its own."""
    return world_of(name, "cpu").model.config.n_denoise_steps


def in_a_graph(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """Env alone: the step as a CUDA graph, several in one replay where they are short."""
    engine, count = (
        engine_of(world_of(name, device), num_envs, k, **kernels(device)),
        8 if 16 < num_envs < 10_000 else 1,
    )
    return row(STEP, name, k, num_envs, seconds_of(graphed(steps_of(engine, count), device), device) / count)


def vector_env(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """Env alone, as users call it, with the defaults."""
    env = world_of(name, device).to_vector_env(num_envs, n_denoise_steps=k, seed=0)
    env.reset(seed=0)
    (action,) = env.engine.sample_actions().values()
    return row("vector env", name, k, num_envs, seconds_of(lambda: env.step(action), device))


def actor(world: WorldModel, device: str) -> Callable[[Tensor], Tensor]:
    """A policy of two hidden layers of 64 that draws its actions."""
    assert world.signature is not None
    observed, acts = world.signature.observation_space, world.signature.action_space
    discrete = isinstance(acts, Discrete)
    size = int(acts.n) if isinstance(acts, Discrete) else math.prod(acts.shape or ())
    network = mlp(math.prod(observed.shape or ()), size, 0.01).to(device)

    @torch.no_grad()
    def act(observation: Tensor) -> Tensor:
        out = network(observation.reshape(len(observation), -1).float())
        noise = torch.empty_like(out)
        return (out - noise.exponential_().log()).argmax(-1) if discrete else out + noise.normal_()

    return act


def rollout(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """Policy and env: `imagine`."""
    world, horizon = world_of(name, device), 2 if device == "cpu" else ROLLOUT
    engine, policy = engine_of(world, num_envs, k, **kernels(device)), actor(world, device)
    seconds = seconds_of(lambda: engine.imagine(policy, horizon), device, 0.4) / horizon
    return row("policy and env", name, k, num_envs, seconds)


def ppo(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """Policy, env and learning: iterations of examples/ppo_tensor.py, without the first ones."""
    steps, least = (2, 2) if device == "cpu" else (ROLLOUT, 5)
    args = Args(device=device, num_envs=num_envs, num_steps=steps, total_timesteps=num_envs * steps * 10_000)
    envs = world_of(name, device).to_vector_env(num_envs, n_denoise_steps=k, seed=1)
    agent, stamps = Agent(envs.single_observation_space, envs.single_action_space).to(device), [time.perf_counter()]
    for _ in train(envs, agent, args):
        stamps.append(time.perf_counter())
        if len(stamps) > least and stamps[-1] - stamps[2] > (0 if device == "cpu" else PPO_SECONDS):
            break
    each = [after - before for before, after in pairwise(stamps[2:])]
    return row("PPO", name, k, num_envs, statistics.median(each) / steps, iterations=len(each))


def memory(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """The most device memory that a vector env takes."""
    if device == "cpu":
        return {"left_out": "there is no allocator to ask in host memory"}
    world_of(name, device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    env = world_of(name, device).to_vector_env(num_envs, n_denoise_steps=k, seed=0)
    env.reset(seed=0)
    (action,) = env.engine.sample_actions().values()
    start = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(4):
        env.step(action)
    torch.cuda.synchronize()
    gib = [(peak - before) / 2**30 for peak in (torch.cuda.max_memory_allocated(), start)]
    return {
        "rows": [{"subject": "memory", "world": name, "k": k, "num_envs": num_envs, "gib": gib[0], "start_gib": gib[1]}]
    }


def classes(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """What drawing classes costs: the same canvas of numbers alone, with an end, and with classes everywhere."""
    rows = []
    for kind in ("of numbers", "", "of classes"):
        rows += in_a_graph(f"{name} {kind}".strip(), k, num_envs, device)["rows"]
    plain, end, all_classes = (r["us"] for r in rows)
    more = {"share": end / plain - 1, "share_of_classes": all_classes / plain - 1}
    rows = [r | {"subject": "step by classes"} for r in rows]
    return {"rows": [*rows, {"subject": "cost of classes", "world": name, "k": k, "num_envs": num_envs, **more}]}


def refresh(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """The first step after parameters changed, less a step: packing and folding them in place."""
    world = world_of(name, device)
    engine = engine_of(world, num_envs, k, **kernels(device))
    parameter = next(world.parameters())

    def changed() -> None:
        with torch.no_grad():
            parameter.mul_(1.0)
        engine.dynamics.packed()  # type: ignore[attr-defined]

    return row("refresh of packed weights", name, k, num_envs, seconds_of(changed, device))


def in_torch(name: str, k: int, num_envs: int, device: str, dtype: str) -> dict[str, Any]:
    """The step in torch, eager and as a CUDA graph."""
    engine = engine_of(world_of(name, device, dtype), num_envs, k, backend="torch")
    call, rows = steps_of(engine, 1), []
    for subject, run in ((f"torch, eager, {dtype}", call), (f"torch, in a graph, {dtype}", graphed(call, device))):
        rows += row(subject, name, k, num_envs, seconds_of(run, device))["rows"]
    return {"rows": rows}


def compiled_network(name: str, k: int, num_envs: int, device: str) -> Callable[[], Any]:
    """The network alone, by torch.compile in bfloat16; compiled when it returns."""
    world = world_of(name, device, "bfloat16")
    packed = world.model.packed(k)
    values, noise = (torch.randn(num_envs, world.num_positions, device=device, dtype=torch.bfloat16) for _ in range(2))
    fast = torch.compile(packed.predict, dynamic=False, backend="eager" if device == "cpu" else "inductor")

    @torch.no_grad()
    def call() -> Tensor:
        return fast(values, noise)

    call()
    return call


def compiled(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """The compiled network in a CUDA graph."""
    call = graphed(compiled_network(name, k, num_envs, device), device)
    return row("torch.compile of the network, in a graph, bfloat16", name, k, num_envs, seconds_of(call, device))


def torchrl_env(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
    """TorchRL's own WorldModelEnv over the world's network."""
    env = torchrl_world_model_env(world_of(name, device), num_envs)
    return row("TorchRL's WorldModelEnv", name, k, num_envs, seconds_of(stepper(env, num_envs), device))


def gymnax(name: str, k: int, num_envs: int, device: str) -> dict[str, Any]:
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
    many = jax.jit(lambda state: jax.lax.scan(one, state, jax.random.split(key, 64)))
    jax.block_until_ready(many(state))
    times = []
    for _ in range(5):
        before = time.perf_counter()
        jax.block_until_ready(many(state))
        times.append(time.perf_counter() - before)
    return row("gymnax", name, k, num_envs, statistics.median(times) / 64)
