"""Every public call of the package, with arguments that work and what each of them takes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict

import wm_kernels
import wm_vec
from tests.fuzz import targets as t
from tests.fuzz.domains import (
    REFUSED,
    choice,
    device,
    fields,
    flag,
    function,
    groups,
    indices,
    numbers,
    path,
    present,
    real,
    text,
    thing,
    thing_or_none,
    whole,
)
from tests.fuzz.judge import Call, NoInputError
from wm_vec import (
    AgentSpec,
    AutoresetMode,
    Engine,
    Field,
    GeneralUnifiedWorldModel,
    ModelConfig,
    TrainConfig,
    WorldModel,
    WorldModelEnv,
    WorldModelVectorEnv,
)
from wm_vec.canvas import BoundSchema, EnvSignature, Topology, compile_schema
from wm_vec.cli import main
from wm_vec.core import ActionSpec, EngineConfig, Perspective
from wm_vec.envs import (
    MultiAgentTensorDictEnv,
    MultiAgentTorchRLEnv,
    MultiAgentVectorEnv,
    PessimisticVectorReward,
    SB3VecEnv,
    StatelessTorchRLEnv,
    TorchRLEnv,
    check_vector_env,
)
from wm_vec.plan import CEM, MPPI
from wm_vec.render import (
    animate_rollout,
    plot_layout,
    plot_topology,
    record_video,
    render_grid,
    rollout_band,
)
from wm_vec.train import (
    collect_transitions,
    data_from_sources,
    data_from_transitions,
    load_transitions,
    read_checkpoint,
    save_transitions,
    train_model,
)
from wm_vec.train.evaluation import evaluate_world
from wm_vec.workers import WorkerEnvs

seed, seed_or_none, size = whole(0), whole(0, optional=True), whole(1)
horizon = whole(1, optional=True)
arity = function(
    lambda: 0, lambda *_: None, lambda *_: "text", lambda *_: 1j, lambda *_: torch.zeros(7), lambda *_: object()
)
answers = function(lambda *_: None, lambda *_: "text", lambda *_: 1j, lambda *_: torch.zeros(7), lambda *_: object())
"""Functions whose answers cannot be used; those that take nothing are called with nothing."""
SETTINGS: dict[str, tuple[Any, Any]] = {
    "max_episode_steps": (7, horizon),
    "seed": (3, seed_or_none),
    "autoreset_mode": ("same_step", choice),
    "exact_rows": (False, flag),
    "validate": (True, flag),
    "backend": ("torch", choice),
    "capture": (False, flag),
    "copy": (True, flag),
}
VIEW: dict[str, tuple[Any, Any]] = {
    "obs_fields": (["speed", "mode"], fields),
    "act_fields": (["push"], fields),
    "reward_fn": (lambda obs, action, info: obs["speed"].sum(), arity),
    "terminated_fn": (lambda obs, step, info: obs["speed"].sum() > 100.0, arity),
    "n_denoise_steps": (2, whole(1, optional=True)),
    "act_low": (-0.5, real(optional=True)),
    "act_high": (0.5, real(optional=True)),
    "act_mode": ("set", choice),
    "max_episode_steps": (7, horizon),
    "seed": (3, seed_or_none),
    "exact_rows": (False, flag),
    "backend": ("torch", choice),
    "copy": (True, flag),
}
RUN: dict[str, tuple[Any, Any]] = {**SETTINGS, "bank_size": (8, size)}
MANY: dict[str, tuple[Any, Any]] = {
    "agents": (t.AGENTS, thing),
    "num_envs": (2, size),
    "combine": ("sum", choice),
}
MODEL: dict[str, tuple[Any, Any]] = {
    "world_model": (t.shove, arity),
    "initial_observation": (torch.zeros(3), numbers()),
    "initial_state": (torch.zeros(3), thing),
    "transition_fn": (None, answers),
    "reward_fn": (lambda model, state: state.sum(-1), answers),
    "terminal_fn": (lambda model, state: state.sum(-1) > 99, answers),
    "device": ("cpu", device),
    "rng": ("counter", choice),
}


PHILOX = {name: (torch.arange(3), numbers()) for name in ("seed", "episode", "step")}


def agents_spaces(env: Any) -> dict[str, tuple[Any, Any]]:
    """What an env of many agents is made of."""
    made = t.agents_env(env.engine.num_envs)
    spaces = {"observation_spaces": made.observation_spaces, "action_spaces": made.action_spaces}
    return {"engine": (env.engine, thing), **{name: (part, thing) for name, part in spaces.items()}}


def call(name: str, run: Any, target: t.Target = t.NOTHING, /, **arguments: tuple[Any, Any]) -> Call:
    """A call whose arguments are given as ``(good value, domain)``."""
    good = {key: value for key, (value, _) in arguments.items()}
    return Call(name, run, good, {key: domain for key, (_, domain) in arguments.items() if domain}, target)


def of(method: str) -> Any:
    """Call a method of the target."""
    return lambda made, **kwargs: getattr(made, method)(**kwargs)


def masked(env: Any, **options: Any) -> Any:
    """A reset of some envs."""
    return env.reset(options=options)[0]


def forked(env: Any, **kwargs: Any) -> Any:
    """One step of a fork."""
    fork = env.fork(**kwargs)
    return fork.step(fork.sample_actions())[:4]


def with_graph(engine: Engine, grad: Any) -> Any:
    """A step inside `keep_graph`."""
    with engine.keep_graph(grad):
        return engine.step(t.actions()).observation


def finetuned(world: WorldModel, data: Any, n_steps: Any = 1, **config: Any) -> Any:
    """A step of training."""
    files = {key: config.pop(key) for key in ("log_path", "resume_path", "save_path") if key in config}
    report = world.finetune(data, n_steps, config=TrainConfig(**{"batch_size": 16, **config}), **files)
    return report.steps, world.predict(seed=1)


def by_column(column: Any) -> Any:
    """Training on transitions with one column in another form."""

    def run(world: WorldModel, values: Any) -> Any:
        data = t.transitions()
        columns = {**data.exclude("next"), "next": dict(data["next"].items())}
        where = columns["next"] if isinstance(column, tuple) else columns
        where[column[-1] if isinstance(column, tuple) else column] = values
        return world.as_data(entries(columns))

    return run


def stepped(pair: Any, action: Any) -> Any:
    """A TorchRL step with some action."""
    env, td = pair
    return env.step(entries({**td, "action": action}))["next"]


def entries(columns: dict[str, Any]) -> TensorDict:
    """A TensorDict, if one can be made of them."""
    try:
        return TensorDict(columns, batch_size=columns["observation"].shape[:1])
    except Exception as error:
        raise NoInputError from error


def series() -> dict[str, Any]:
    """Data of the world of fields."""
    rng = np.random.default_rng(1)
    return {"speed": rng.normal(size=(30, 2)), "mode": rng.integers(0, 3, 30), "push": rng.uniform(-1, 1, 30)}


def from_series(world: WorldModel, **changed: Any) -> Any:
    """Data from a mapping with one array changed."""
    return world.as_data({**series(), **changed})


def without_faults(*args: Any, **kwargs: Any) -> Any:
    """What `check_data` finds in data without faults; it reports them instead of raising."""
    report = wm_vec.check_data(*args, **kwargs)
    if not report.ok:
        raise ValueError(str(report))
    return report


def command(*words: Any) -> Any:
    """A command of the terminal with one word given; an error code is an error of the command."""

    def run(_: Any, word: Any) -> Any:
        code = main([str(word) if part is None else str(part) for part in words])
        if code:
            raise SystemExit(code)
        return None

    return run


def word(*wrong: Any) -> Any:
    """Any of these, none of which is taken."""
    return lambda rng, good: (wrong[int(rng.integers(len(wrong)))], REFUSED)


def calls() -> list[Call]:
    """All of them."""
    td, file, out = t.transitions(), t.world_file(), t.folder() / "out.safetensors"
    log, resume = t.folder() / "log.jsonl", t.folder() / "run.resume"
    schema = t.world_of("fields").bound
    data = t.world_of("fields").as_data(series())
    on_world = t.WORLD
    # fmt: off
    return [
        # -- schema -----------------------------------------------------------------------------------------------
        call("Field", lambda _, **k: Field(**k), h=(1, size), w=(2, size), period=(1, size), loss_weight=(1.0, real(0)),
            low=(-1.0, real()), high=(1.0, real())),
        call("Field (classes)", lambda _, **k: Field(**k), num_classes=(3, whole(1, optional=True, high=4096)),
            max_values=(0, whole(0, high=2)), is_output=(True, flag), is_input=(True, flag)),
        call("Field (words)", lambda _, **k: Field(**k).meaning, unit=("m/s", text), meaning=("Speed", text)),
        call("compile_schema", lambda _, **k: compile_schema(**k).to_dict(), root=(t.FIELDS, thing), include=(["speed",
            "mode"], groups), exclude=(["mode"], groups), entities=({"car": t.FIELDS}, thing_or_none),
            d_model=(32, whole(32))),
        call("BoundSchema", lambda _, **k: BoundSchema(**k).to_dict(), fields=(t.FIELDS, thing), d_model=(32,
            whole(32))),
        call("BoundSchema.indices", lambda _, paths: schema.indices(paths), paths=(["speed", "mode"], thing)),
        call("BoundSchema.from_dict", lambda _, data: BoundSchema.from_dict(data).to_dict(), data=(schema.to_dict(),
            thing)),
        call("BoundSchema[]", lambda _, path: schema[path].path, path=("speed", choice)),
        call("Topology", lambda _, bound: Topology.of(bound).groups, bound=(schema, thing)),
        call("EnvSignature", lambda _, **k: EnvSignature(**k).schema(32).to_dict(), observation_space=(t.PLANE, thing),
            action_space=(t.PUSH, thing), max_episode_steps=(20, horizon)),
        call("EnvSignature.of_env", lambda _, env: EnvSignature.of_env(env).to_dict(), env=("CartPole-v1", thing)),
        call("ModelConfig", lambda _, **k: WorldModel(schema, config=ModelConfig(**k)).predict(), num_blocks=(1, size),
            num_loops=(1, size), mlp_ratio=(2, size), n_denoise_steps=(2, size), ticks_per_step=(1, size),
            sigma_min=(0.1, real(1e-06)), sigma_max=(0.8, real(1e-06)), rho=(7.0, real(1e-06)), topology=("dense",
            choice), num_heads=(1, whole(1, optional=True))),
        call("ModelConfig (training)", lambda _, **k: ModelConfig(**k), noise_mean=(-0.9, real()), noise_std=(1.0,
            real(1e-09)), first_share=(0.25, real(0, 1))),
        call("TrainConfig", lambda _, **k: TrainConfig(**k), n_steps=(5, size), batch_size=(16, size),
            learning_rate=(0.001, real(1e-12)), weight_decay=(0.0, real(0)), grad_clip=(1.0, real(1e-12)),
            context_dropout=(0.1, real(0, 1)), eval_every=(5, size), patience=(3, whole(1, optional=True)),
            checkpoint_every=(5, size), seed=(0, seed)),
        # -- worlds -----------------------------------------------------------------------------------------------
        call("WorldModel", lambda _, **k: WorldModel(**k).predict(), schema=(t.FIELDS, thing), config=(None,
            thing_or_none), device=(None, device), dtype=(None, choice), seed=(0, seed), ticks_per_step=(None, whole(1,
            optional=True))),
        call("GeneralUnifiedWorldModel", lambda _, **k: GeneralUnifiedWorldModel(**k).predict(), include=(["regime",
            "sector_tech"], groups), exclude=(["sector_tech"], groups), entities=({"person": t.FIELDS}, thing_or_none),
            d_model=(32, whole(32)), n_layers=(1, size), n_heads=(1, whole(1, optional=True)), n_loops=(1, size),
            step=("week", choice), topology=("dense", choice), device=(None, device), dtype=(None, choice), seed=(0,
            seed)),
        call("WorldModel.describe", of("describe"), on_world, console=(None, thing_or_none)),
        call("WorldModel.from_env", lambda _, **k: WorldModel.from_env(**k).predict(), env=("CartPole-v1", thing),
            env_kwargs=(None, thing_or_none), d_model=(32, whole(32)), seed=(0, seed)),
        call("WorldModel.from_signature", lambda _, **k: WorldModel.from_signature(**k).predict(),
            signature=(EnvSignature(t.PLANE, t.PUSH, 20), thing), d_model=(32, whole(32))),
        call("WorldModel.from_torchrl_env", lambda _, **k: WorldModel.from_torchrl_env(**k).predict(),
            env=(t.world_of().to_torchrl_env(2), thing), max_episode_steps=(5, horizon), d_model=(32, whole(32))),
        call("WorldModel.bundled", lambda _, **k: WorldModel.bundled(**k).predict(), env_id=("CartPole-v1", choice),
            device=(None, device), dtype=(None, choice)),
        call("WorldModel.save", lambda world, path: world.save(path), on_world, path=(out, path)),
        call("WorldModel.load", lambda _, **k: WorldModel.load(**k).predict(), path=(file, path), device=(None, device),
            dtype=(None, choice)),
        call("WorldModel.load_weights", of("load_weights"), on_world, path=(file, path)),
        call("WorldModel.load_state_dict", of("load_state_dict"), on_world,
            state_dict=(t.world_of().state_dict(), thing)),
        call("WorldModel.finetune", finetuned, on_world, data=(td, thing),
            n_steps=(1, present(size)), batch_size=(16, size),
            learning_rate=(0.001, real(1e-12)), context_dropout=(0.1, real(0, 1)), patience=(3, whole(1,
            optional=True)), seed=(0, seed)),
        call("WorldModel.finetune (files)", finetuned, on_world, data=(td, None), log_path=(log, path),
            resume_path=(resume, path), save_path=(out, path)),
        call("WorldModel.finetune (progress)", lambda world, progress: world.finetune(td, 1, progress=progress).steps,
            on_world, progress=(lambda *_: None, function())),
        call("WorldModel.as_data", of("as_data"), on_world, data=(td, thing)),
        call("WorldModel.as_data (observation)", by_column("observation"), on_world, values=(td["observation"],
            numbers())),
        call("WorldModel.as_data (next observation)", by_column(("next", "observation")), on_world, values=(td["next",
            "observation"], numbers())),
        call("WorldModel.as_data (action)", by_column("action"), on_world, values=(td["action"], numbers(2))),
        call("WorldModel.as_data (reward)", by_column(("next", "reward")), on_world, values=(td["next", "reward"],
            numbers())),
        call("WorldModel.as_data (fields)", from_series, t.FIELDS_WORLD, speed=(series()["speed"], numbers(gaps=True)),
            push=(series()["push"], numbers(gaps=True))),
        call("data_from_sources", lambda _, **k: data_from_sources(bound=schema, **k), sources=(series(), thing),
            ticks_per_step=(1, size)),
        call("data_from_sources (marks)", lambda _, **k: data_from_sources([{**series(), **k}], schema),
            tick=(np.arange(30), numbers(gaps=True)), episode=(np.arange(30) // 10, numbers(gaps=True))),
        call("check_data", lambda _, **k: without_faults(**k), data=(series(), thing), world=(t.world_of("fields"),
            thing), act_fields=(["push"], present(fields))),
        call("check_data (fields)", lambda world, **k: without_faults({**series(), **k}, world), t.FIELDS_WORLD,
            speed=(series()["speed"], numbers(gaps=True)), push=(series()["push"], numbers(gaps=True))),
        call("data_from_transitions", lambda _, transitions: data_from_transitions(transitions, t.world_of().bound,
            EnvSignature(t.PLANE, t.PUSH, 20)), transitions=(td, thing)),
        call("WorldData.split", lambda _, **k: data.split(**k), fraction=(0.2, real(1e-09, 1 - 1e-09)), seed=(0, seed)),
        call("WorldModel.observe", lambda world, **k: (world.observe(**k), world.predict())[1], t.FIELDS_WORLD,
            path=("speed", choice), value=(np.zeros(2, np.float32), numbers())),
        call("WorldModel.predict", of("predict"), on_world, n_steps=(2, whole(1, optional=True)), num_samples=(2,
            size), seed=(0, seed)),
        call("WorldModel.to", lambda world, device: world.to(device).predict(), on_world, device=("cpu", device)),
        # -- environments of worlds -------------------------------------------------------------------------------
        call("WorldModel.to_engine", lambda world, **k: world.to_engine(**k).reset(seed=1), on_world, num_envs=(4,
            size), act_fields=(["action"], fields), **SETTINGS),
        call("WorldModel.to_vector_env", lambda world, **k: t.rollout(world.to_vector_env(**k)), on_world, num_envs=(4,
            size), max_steps=(5, horizon), device=(None, device), render_mode=(None, choice), **{k: v for k, v in
            SETTINGS.items() if k != "max_episode_steps"}),
        call("WorldModel.to_vector_env (fields)", lambda world, **k: t.rollout(world.to_vector_env(2, **k)),
            t.FIELDS_WORLD, **VIEW),
        call("WorldModel.to_torchrl_env", lambda world, **k: t.torchrl_rollout(world.to_torchrl_env(2, **k)),
            t.FIELDS_WORLD, one_hot=(False, flag), expose_state=(False, flag), **VIEW),
        call("WorldModel.to_env", lambda world, **k: t.scalar_rollout(world.to_env(**k)), t.FIELDS_WORLD,
            render_mode=(None, choice), **VIEW),
        call("WorldModel.to_openenv", lambda world, **k: t.scalar_rollout(world.to_openenv(**k)), t.FIELDS_WORLD, **{k:
            v for k, v in VIEW.items() if k not in (
                "seed", "exact_rows", "act_mode", "max_episode_steps", "backend", "copy")},
            max_steps=(7, horizon)),
        # -- many agents ------------------------------------------------------------------------------------------
        call("AgentSpec", lambda world, **k: t.agents_rollout(world.to_multi_vector_env({"me": AgentSpec(**k)}, 2)),
            t.FIELDS_WORLD, reward_state=(None, thing_or_none), **{k: v for k, v in VIEW.items() if k in (
                "obs_fields", "act_fields", "reward_fn", "terminated_fn", "act_low", "act_high")}),
        call("WorldModel.to_vector_env (agents)", lambda world, **k: t.rollout(world.to_vector_env(2, **k)),
            t.FIELDS_WORLD, perspectives=(t.AGENTS, thing), combine=("sum", choice)),
        call("WorldModel.to_multi_vector_env", lambda world, **k: t.agents_rollout(world.to_multi_vector_env(**k)),
            t.FIELDS_WORLD, max_steps=(5, horizon), **MANY, **{k: v for k, v in SETTINGS.items() if k !=
            "max_episode_steps"}),
        call("WorldModel.to_multi_torchrl_env", lambda world, **k: t.torchrl_rollout(world.to_multi_torchrl_env(**k)),
            t.FIELDS_WORLD, group_map=(None, thing_or_none), max_episode_steps=(7, horizon), **MANY),
        call("WorldModel.to_multi_openenv", lambda world, **k: t.parallel_rollout(world.to_multi_openenv(**k)),
            t.FIELDS_WORLD, max_steps=(5, horizon), n_denoise_steps=(2, whole(1, optional=True)), initial_obs_fn=(None,
            function()), render_mode=(None, choice), **{k: v for k, v in MANY.items() if k != "num_envs"}),
        call("MultiAgentVectorEnv", lambda _, **k: t.rollout(MultiAgentVectorEnv(**k)), render_mode=(None, choice),
            **agents_spaces(t.agents_vector())),
        call("MultiAgentVectorEnv.reset", lambda env, **k: env.reset(**k)[0], t.AGENTS_VECTOR, seed=(5, seed_or_none),
            options=(None, choice)),
        call("MultiAgentVectorEnv.step", lambda env, one: env.step({"one": one, "two": torch.zeros(4, 1)})[:4],
            t.AGENTS_VECTOR, one=(torch.zeros(4, 1), numbers())),
        call("MultiAgentVectorEnv.step (agents)", lambda env, actions: env.step(actions)[:4], t.AGENTS_VECTOR,
            actions=(t.agents_vector().sample_actions(), thing)),
        call("MultiAgentVectorEnv.set_state", of("set_state"), t.AGENTS_VECTOR, state=(t.agents_vector().state(),
            thing)),
        call("MultiAgentTensorDictEnv", lambda _, **k: t.agents_rollout(MultiAgentTensorDictEnv(**k)),
            **agents_spaces(t.agents_env())),
        call("MultiAgentTensorDictEnv.reset", of("reset"), t.AGENTS_ENV, seed=(5, seed_or_none), mask=(torch.tensor(
            [True, False, True, True]), present(numbers()))),
        call("MultiAgentTensorDictEnv.step", lambda env, one: env.step({"one": one, "two": torch.zeros(4, 1)}),
            t.AGENTS_ENV, one=(torch.zeros(4, 1), numbers())),
        call("MultiAgentTensorDictEnv.step (agents)", of("step"), t.AGENTS_ENV,
            actions=(t.agents_env().sample_actions(), thing)),
        call("MultiAgentTensorDictEnv.set_state", of("set_state"), t.AGENTS_ENV, state=(t.agents_env().state(),
            thing)),
        call("MultiAgentTorchRLEnv", lambda _, **k: t.torchrl_rollout(MultiAgentTorchRLEnv(**k)), group_map=(None,
            thing_or_none), **agents_spaces(t.world_of("fields").to_multi_torchrl_env(t.AGENTS, 2, combine="sum"))),
        call("make_env", lambda _, **k: t.rollout(wm_vec.make_env(**k)), model_or_id=(str(file), thing),
            backend=("world-model", choice), num_envs=(2, size)),
        call("gym.make_vec", lambda _, **k: t.rollout(gym.make_vec("wm_vec/CartPole-v1", **k)), num_envs=(2, size),
            seed=(0, seed_or_none), validate=(True, flag)),
        call("gym.make", lambda _, **k: t.scalar_rollout(gym.make("wm_vec/CartPole-v1", **k)), seed=(0, seed_or_none),
            n_denoise_steps=(2, whole(1, optional=True))),
        # -- vector env -------------------------------------------------------------------------------------------
        call("WorldModelVectorEnv", lambda _, **k: t.rollout(WorldModelVectorEnv(**k)),
            engine=(t.world_of().to_engine(2), thing), single_observation_space=(t.PLANE, thing),
            single_action_space=(t.PUSH, thing), render_mode=(None, choice)),
        call("WorldModelVectorEnv.reset", lambda env, **k: env.reset(**k)[0], t.VECTOR, seed=(5, seed_or_none),
            options=(None, choice)),
        call("WorldModelVectorEnv.reset (mask)", masked, t.VECTOR, reset_mask=(torch.tensor([True, False, True, True]),
            numbers())),
        call("WorldModelVectorEnv.reset (idx)", masked, t.VECTOR, env_idx=([0, 1], indices(t.NUM_ENVS))),
        call("WorldModelVectorEnv.step", lambda env, actions: env.step(actions)[:4], t.VECTOR, actions=(t.actions(),
            numbers(2))),
        call("WorldModelVectorEnv.step (next step)", lambda env, actions: env.step(actions)[:4], t.NEXT_STEP,
            actions=(t.actions(), numbers(2))),
        call("WorldModelVectorEnv.step (numbers)", lambda env, actions: env.step(actions)[:4], t.NUMBERS_VECTOR,
            actions=(t.actions("numbers"), numbers())),
        call("WorldModelVectorEnv.set_state", of("set_state"), t.VECTOR, state=(t.vector().state(), thing)),
        call("WorldModelVectorEnv.fork", forked, t.VECTOR, indices=(torch.tensor([0, 1]),
            numbers(t.NUM_ENVS, gaps=True)), rng=("fresh", choice)),
        call("WorldModelVectorEnv.to_torchrl", lambda env, **k: t.torchrl_rollout(env.to_torchrl(**k)), t.VECTOR,
            one_hot=(True, flag), expose_state=(True, flag)),
        call("WorldModelVectorEnv.start_from", lambda env, **k: (env.start_from(**k), env.reset(seed=1)[0])[1],
            t.VECTOR, source=(td, thing), num_states=(8, size)),
        call("WorldModelVectorEnv.imagine", of("imagine"), t.VECTOR, policy=(lambda obs: (obs[:, 0] > 0).long(),
            answers), horizon=(2, size), grad=(False, flag)),
        call("WorldModelVectorEnv.from_callables", lambda _, **k: t.rollout(t.own(**k)), num_envs=(4, size),
            batching=("batched", choice), **MODEL, **RUN),
        call("WorldModelVectorEnv.from_callables (spaces)", lambda _, **k: WorldModelVectorEnv.from_callables(t.push,
            initial_state=torch.zeros(3), initial_observation=torch.zeros(3), num_envs=2, **k).reset(seed=1)[0],
            observation_space=(t.PLANE, thing), action_space=(t.PUSH, thing)),
        call("WorldModelVectorEnv.from_dynamics", lambda _, **k: t.rollout(WorldModelVectorEnv.from_dynamics(**k)),
            dynamics=(t.own().engine.dynamics, thing), observation_space=(t.PLANE, thing), action_space=(t.PUSH, thing),
            num_envs=(2, size), **SETTINGS),
        call("WorldModelVectorEnv.step (own model)", lambda env, actions: env.step(actions)[:4], t.OWN,
            actions=(t.actions(), numbers(2))),
        call("check_vector_env", lambda env, **k: check_vector_env(env, **k) and None, t.FRESH, num_steps=(8, size),
            seed=(0, seed)),
        call("check_vector_env (env)", lambda _, env: check_vector_env(env, num_steps=8) and None,
            env=(t.world_of().to_vector_env(2), thing)),
        # -- pictures ---------------------------------------------------------------------------------------------
        call("plot_layout", lambda _, **k: plot_layout(**k) and None, bound=(schema, thing), path=(t.folder() /
            "layout.png", path)),
        call("plot_topology", lambda _, **k: plot_topology(**k) and None, bound=(schema, thing), path=(t.folder() /
            "topology.png", path)),
        call("WorldModelVectorEnv.frames", of("frames"), t.RENDERED, indices=([0, 2], indices(t.NUM_ENVS))),
        call("render_grid", lambda env, **k: render_grid(env, **k), t.RENDERED, indices=([0, 2], indices(t.NUM_ENVS)),
            columns=(1, whole(1, optional=True))),
        call("record_video", lambda env, **k: record_video(env, **k).read_bytes(), t.RENDERED, policy=(lambda obs:
            (obs[:, 0] > 0).long(), answers), path=(t.folder() / "film.gif", path), num_steps=(2, size), fps=(25.0,
            real(0.01, optional=True)), seed=(0, seed)),
        call("rollout_band", lambda env, **k: tuple(rollout_band(env, **k)), t.VECTOR, policy=(lambda obs: (obs[:, 0] >
            0).long(), answers), num_steps=(2, size), num_samples=(3, size), fields=(["reward", "observation"], fields),
            seed=(0, seed_or_none), index=(1, whole(0, high=t.NUM_ENVS - 1))),
        call("animate_rollout", lambda env, **k: animate_rollout(env, num_steps=2, num_samples=3, **k)[-1], t.VECTOR,
            path=(t.folder() / "band.png", path), fps=(10.0, real(0.01))),
        # -- engine -----------------------------------------------------------------------------------------------
        call("Engine", lambda _, **k: Engine(**k).reset(seed=1), dynamics=(t.own().engine.dynamics, thing), num_envs=(2,
            size), perspectives=(t.own().engine.perspectives, thing), config=(None, thing_or_none), sharing=(None,
            thing_or_none)),
        call("EngineConfig", lambda _, **k: EngineConfig(**k).mode, **RUN),
        call("Engine.reset", of("reset"), t.ENGINE, seed=(5, seed_or_none), mask=(torch.tensor([True, False, True,
            True]), present(numbers()))),
        call("Engine.step", lambda engine, action: engine.step(action).observation, t.ENGINE, action=(t.actions(),
            numbers(2))),
        call("Engine.step (by name)", lambda engine, action: engine.step({"agent": action}).observation, t.ENGINE,
            action=(t.actions(), numbers(2))),
        call("Engine.keep_graph", with_graph, t.ENGINE, grad=(True, flag)),
        call("Engine.set_state", of("set_state"), t.ENGINE, state=(t.vector().state(), thing)),
        call("Engine.sample_actions", of("sample_actions"), t.ENGINE, draw=(1, whole(0))),
        call("Engine.encode", lambda engine, seen: engine.encode({"agent": seen}), t.ENGINE, seen=(torch.zeros(4, 3),
            numbers(gaps=True))),
        call("Engine.sibling", lambda engine, **k: engine.sibling(**k).reset(seed=1), t.ENGINE, num_envs=(3, horizon),
            autoreset_mode=("disabled", choice)),
        call("Engine.fork", lambda engine, **k: engine.fork(**k).state(), t.ENGINE, indices=(torch.tensor([0, 1]),
            numbers(t.NUM_ENVS, gaps=True)), rng=("same", choice)),
        call("Engine.imagine", of("imagine"), t.ENGINE, policy=(lambda obs: (obs[:, 0] > 0).long(), answers),
            horizon=(2, size)),
        call("Engine.load_bank", of("load_bank"), t.ENGINE, bank=(t.vector().engine.state().dynamics, thing)),
        call("spawn_seeds", lambda _, **k: wm_vec.spawn_seeds(**k), root=(0, whole(0, optional=True)), num_seeds=(3,
            whole(0))),
        call("AutoresetMode", lambda _, value: AutoresetMode(value), value=("SameStep", choice)),
        call("ActionSpec", lambda _, **k: ActionSpec(**k), kind=("box", choice), shape=((2,), thing), low=((-1.0, -1.0),
            thing), high=((1.0, 1.0), thing)),
        call("Perspective", lambda _, **k: Perspective(**k).name, action=(ActionSpec("discrete", (), (0.0,), (1.0,)),
            thing), name=("agent", text)),
        call("captured", lambda _, fn: wm_vec.captured(fn)(torch.ones(2)), fn=(lambda x: 2 * x, function())),
        call("Engine.captured", lambda engine, play: engine.captured(play)(), t.ENGINE, play=(lambda: torch.ones(2),
            function())),
        call("WorldModelVectorEnv.captured", lambda env, play: env.captured(play)(), t.VECTOR, play=(lambda:
            torch.ones(2), function())),
        call("batched", lambda _, fn: wm_vec.batched(fn).__name__, fn=(t.push, function())),
        # -- scalar env -------------------------------------------------------------------------------------------
        call("WorldModelEnv", lambda _, **k: t.scalar_rollout(t.own_scalar(**k)), observation_space=(t.PLANE, thing),
            action_space=(t.PUSH, thing), max_episode_steps=(7, horizon), seed=(0, seed_or_none), render_mode=(None,
            choice), batching=(None, choice), device=(None, device)),
        call("WorldModelEnv.from_engine", lambda _, **k: t.scalar_rollout(WorldModelEnv.from_engine(**k)),
            engine=(t.world_of().to_engine(1, autoreset_mode="disabled"), thing), observation_space=(t.PLANE, thing),
            action_space=(t.PUSH, thing), render_mode=(None, choice)),
        call("WorldModelEnv.reset", lambda env, **k: env.reset(**k)[0], t.SCALAR, seed=(5, seed_or_none)),
        call("WorldModelEnv.step", lambda env, action: env.step(action)[:4], t.SCALAR, action=(np.int64(1),
            numbers(2))),
        call("WorldModelEnv.step (numbers)", lambda env, action: env.step(action)[:4], t.NUMBERS_SCALAR,
            action=(np.zeros(2, np.float32), numbers())),
        call("WorldModelEnv.step (own model)", lambda env, action: env.step(action)[:4], t.OWN_SCALAR,
            action=(np.int64(1), numbers(2))),
        # -- TorchRL ----------------------------------------------------------------------------------------------
        call("TorchRLEnv", lambda _, **k: t.torchrl_rollout(TorchRLEnv(**k)), engine=(t.world_of().to_engine(2,
            autoreset_mode="disabled"), thing), observation_space=(t.PLANE, thing), action_space=(t.PUSH, thing)),
        call("TorchRLEnv.from_dynamics", lambda _, **k:
            t.torchrl_rollout(TorchRLEnv.from_dynamics(t.own().engine.dynamics, t.PLANE, t.PUSH, **k)), num_envs=(2,
            size), max_episode_steps=(7, horizon), seed=(0, seed_or_none), one_hot=(False, flag)),
        call("TorchRLEnv.set_seed", lambda pair, seed: (pair[0].set_seed(seed), pair[0].reset())[1], t.TORCHRL, seed=(5,
            seed_or_none)),
        call("TorchRLEnv.step", stepped, t.TORCHRL, action=(t.actions(), numbers(2, clips=True))),
        call("TorchRLEnv.step (one-hot)", stepped, t.ONE_HOT, action=(torch.eye(2)[t.actions()], numbers())),
        call("TorchRLEnv.reset", lambda pair, tensordict: pair[0].reset(tensordict), t.TORCHRL, tensordict=(None,
            thing_or_none)),
        call("TorchRLEnv.imagine", lambda pair, **k: pair[0].imagine(**k), t.TORCHRL, policy=(lambda obs: (obs[:, 0] >
            0).long(), answers), horizon=(2, size), grad=(False, flag)),
        call("TorchRLEnv.start_from", lambda pair, **k: (pair[0].start_from(**k), pair[0].set_seed(1),
            pair[0].reset())[2], t.TORCHRL, source=(td, thing), num_states=(8, size)),
        call("StatelessTorchRLEnv", lambda _, **k: t.torchrl_rollout(StatelessTorchRLEnv(**k)),
            engine=(t.world_of().to_engine(1, autoreset_mode="disabled"), thing), observation_space=(t.PLANE, thing),
            action_space=(t.PUSH, thing), one_hot=(False, flag)),
        call("StatelessTorchRLEnv.step", stepped, t.STATELESS, action=(t.actions(), numbers(2, clips=True))),
        call("StatelessTorchRLEnv.fork", lambda pair, **k: pair[0].fork(pair[1], **k), t.STATELESS, rng=("same",
            choice)),
        call("StatelessTorchRLEnv.reset", lambda pair, tensordict: pair[0].reset(tensordict), t.STATELESS,
            tensordict=(None, thing_or_none)),
        # -- Stable-Baselines3, planners, workers -----------------------------------------------------------------
        call("SB3VecEnv", lambda _, vector_env: SB3VecEnv(vector_env).num_envs, vector_env=(t.vector(), thing)),
        call("SB3VecEnv.step", lambda env, actions: env.step(actions)[:3], t.SB3, actions=(t.actions().numpy(),
            numbers(2))),
        call("SB3VecEnv.seed", lambda env, seed: (env.seed(seed), env.reset())[1], t.SB3, seed=(5, seed_or_none)),
        call("SB3VecEnv.get_attr", lambda env, **k: [str(a) for a in env.get_attr(**k)], t.SB3, attr_name=("num_envs",
            choice), indices=([0, 1], indices(t.NUM_ENVS))),
        call("SB3VecEnv.env_method", lambda env, **k: env.env_method("sample_actions", **k), t.SB3, indices=([0, 1],
            indices(t.NUM_ENVS))),
        call("PessimisticVectorReward", lambda _, **k: PessimisticVectorReward(**k).reset(seed=1)[0], env=(t.vector(),
            thing), coefficient=(1.0, real(0))),
        call("CEM", lambda _, **k: CEM(**k) and None, env=(t.world_of().to_torchrl_env(1), thing), horizon=(3, size),
            num_candidates=(8, whole(2)), num_iterations=(1, size), num_elites=(4, whole(2, high=8))),
        call("MPPI", lambda _, **k: MPPI(**k) and None, env=(t.world_of().to_torchrl_env(1), thing), horizon=(3, size),
            temperature=(1.0, real(1e-09)), num_elites=(4, whole(2)), advantage_module=(None,
            word("nonsense", 3, 2.5, b"x"))),
        call("WorkerEnvs", lambda _, **k: t.torchrl_rollout(WorkerEnvs(**k).makers[0]()), world=(str(file), thing),
            num_envs=(4, whole(2)), num_workers=(2, whole(1, high=4)), seed=(0, seed_or_none), device=(None, device),
            wrap=(None, function())),
        # -- kernels ----------------------------------------------------------------------------------------------
        call("philox_words", lambda _, **k: wm_kernels.philox_words(**k), **PHILOX, num_words=(4, None),
            stream=(1, None)),
        call("philox_normal", lambda _, **k: wm_kernels.philox_normal(**k), **PHILOX, num_normals=(4, None),
            stream=(1, None)),
        call("use_backend", _with_backend, backend=("reference", choice)),
        # -- data, training, evaluation ---------------------------------------------------------------------------
        call("collect_transitions", lambda _, **k: collect_transitions(**k), env=("CartPole-v1", thing), n=(8, size),
            policy=("random", choice), seed=(0, seed), num_envs=(2, size), env_kwargs=(None, thing_or_none)),
        call("save_transitions", lambda _, **k: save_transitions(**k), transitions=(td, thing), path=(out, path)),
        call("load_transitions", lambda _, path: load_transitions(path), path=(_saved_transitions(), path)),
        call("read_checkpoint", lambda _, path: read_checkpoint(path), path=(file, path)),
        call("train_model", lambda world, **k: train_model(world.model, **k).steps, t.FIELDS_WORLD, data=(data, thing),
            config=(TrainConfig(n_steps=1, batch_size=16), thing), log_path=(log, path)),
        call("evaluate_world", lambda _, **k: evaluate_world(**k).policies and None,
            world=(WorldModel.bundled("CartPole-v1"), thing), env=("CartPole-v1", thing), n_transitions=(40, whole(2)),
            n_starts=(4, whole(2)), horizon=(3, size), n_denoise_steps=(1, whole(1, optional=True)), seed=(0, seed)),
        # -- the terminal -----------------------------------------------------------------------------------------
        *(call(f"wm-vec {words[0]} {[*words, 'FILE'][words.index(None) - 1]}", command(*words), word=(None,
            word(*wrong))) for words, wrong in _commands(file)),
    ]
    # fmt: on


def _with_backend(_: Any, backend: Any) -> None:
    with wm_kernels.use_backend(backend):
        pass


def _saved_transitions() -> Any:
    path = t.folder() / "steps.safetensors"
    save_transitions(t.transitions(), path)
    return path


def _commands(file: Any) -> list[tuple[tuple[Any, ...], tuple[str, ...]]]:
    """Commands with a gap, and words that do not go there."""
    rollout = ("rollout", file, "--num-envs", 2, "--steps", 2)
    counts = ("-1", "0", "x", "", "nan", "1e9", "2.5", "99999999999999999999", "1000000000000000")
    check = ("check", "CartPole-v1")
    train = ("train", "--out", t.folder() / "world.safetensors")
    return [
        (("rollout", None), ("", "nonsense", "a\0b", str(t.folder()), str(t.folder() / "text.txt"), "\x1b[31m")),
        (("check", None), ("", "nonsense", "a\0b", str(t.folder()), str(t.folder() / "text.txt"), "\x1b[31m")),
        (("rollout", file, "--num-envs", None), counts),
        (("rollout", file, "--num-envs", 2, "--steps", None), counts[:-2]),
        ((*rollout, "--seed", None), ("-1", "x", "", "nan", "2.5", "1" * 30)),
        ((*rollout, "--device", None), ("cuda:99", "nonsense", "", "-1", "cpu:x")),
        ((*rollout, "--denoise-steps", None), counts[:-3]),
        ((*rollout, "--max-episode-steps", None), counts[:-3]),
        ((*rollout, "--policy", None), ("x", ":", "x:y", "no_such_module:f", "math:nothing", "math:pi", "")),
        ((*check, "--transitions", None), counts[:-3]),
        ((*check, "--env", None), ("nonsense", "", "Acrobot-v1", "a:b", ":")),
        ((*check, "--seed", None), ("-1", "x", "1" * 30)),
        ((*train, "--env", None), ("nonsense", "", "a:b", "\x1b[31m", ":")),
        ((*train, "--env", "CartPole-v1", "--steps", None), counts[:-3]),
        ((*train, "--env", "CartPole-v1", "--d-model", None), ("0", "-1", "31", "x", "1" * 12)),
        (
            (*train, "--env", "CartPole-v1", "--data", None),
            ("nonsense", "", str(t.folder()), str(t.folder() / "text.txt"), str(file)),
        ),
        (("nonsense-or", None), ("x", "", "-1")),
    ]
