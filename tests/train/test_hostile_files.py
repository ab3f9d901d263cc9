"""Files that somebody made to do harm: they execute nothing, cost nothing and say what is wrong."""

import copy
import json
import resource
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from safetensors.torch import save_file
from torch.utils._pytree import tree_leaves

from wm_vec import WorldModel
from wm_vec.canvas import EnvSignature, Field, compile_schema
from wm_vec.cli import main
from wm_vec.model import ModelConfig
from wm_vec.train import CheckpointError, read_checkpoint, write_checkpoint

MEGABYTES, SECONDS = 500, 5.0
DEEP = "[" * 100_000 + "]" * 100_000
ESCAPE = "\x1b]0;owned\x07\x9b31m"
VALUES = [-1, 0, 10**9, 1e9, float("nan"), "x", None, [], ESCAPE]


def small_world():
    """Every kind of space and of field."""
    parts = {"b": Box(-1, np.inf, (2,), np.float32), "d": Discrete(3, start=1), "t": Tuple([MultiBinary(2)])}
    signature = EnvSignature(Dict(parts), MultiDiscrete([2, 2]), 30, "CartPole-v1")
    world = WorldModel.from_signature(signature, config=ModelConfig(num_blocks=1))
    world.trained = True
    world.bank = torch.zeros(2, world.num_positions)
    return world


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("worlds") / "good.safetensors"
    small_world().save(path)
    return path


def parts_of(path):
    """The header of a safetensors file, the configuration in it, and what comes after."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["wm_vec"]), data[8 + size :]


def written(path, header, config, body, sparse=0):
    """A safetensors file of a header, whatever it says; `config` may be text."""
    text = config if isinstance(config, str) else json.dumps(config)
    data = json.dumps({**header, "__metadata__": {"wm_vec": text}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data + body)
        if sparse:
            file.truncate(8 + len(data) + len(body) + sparse)
    return path


def places(node, path=()):
    """Where the values of plain data are, groups of them too."""
    if path:
        yield path
    for key, part in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(part, (*path, key))


def changed(config, place, value):
    config = copy.deepcopy(config)
    node = config
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return config


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def never_a_raw_error(path):
    """Load a file: a world that steps, or a CheckpointError that no terminal obeys."""
    started, before = time.process_time(), peak()
    try:
        world = WorldModel.load(path)
        if world.signature is not None:
            env = world.to_vector_env(2, seed=0)
            env.reset()
            observation, *_, info = env.step(env.sample_actions())
            assert not bool(info["diverged"].any())
            assert all(bool(torch.isfinite(leaf.float()).all()) for leaf in tree_leaves(observation))
        refused = None
    except CheckpointError as error:
        refused = str(error)
        assert refused.replace("\n", "").isprintable()
    assert time.process_time() - started < SECONDS
    assert peak() - before < MEGABYTES
    return refused


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("section", ["schema", "model", "signature", "trained", "format_version"])
def test_whatever_a_number_of_the_configuration_is(section, whole, good, tmp_path):
    header, config, body = parts_of(good)
    refused = {}
    for i, place in enumerate(places({section: config[section]})):
        # The fields of a schema have the same settings: by turns, every second value of each.
        for value in VALUES[i % 2 :: 2] if section in ("schema", "signature") and not whole else VALUES:
            path = written(tmp_path / "w", header, changed(config, place, value), body)
            if (words := never_a_raw_error(path)) is not None:
                refused[place, repr(value)] = words
    if section == "model":
        for name in ("num_blocks", "num_loops", "mlp_ratio", "n_denoise_steps"):
            assert all((("model", name), value) in refused for value in ("-1", "0", "1000000000", "'x'", "None", "nan"))
        assert "`n_denoise_steps` must be a whole number" in refused[("model", "n_denoise_steps"), "1000000000"]


def test_numbers_of_the_configuration_nested_deeply(good, tmp_path):
    header, config, body = parts_of(good)
    for section in ("schema", "model", "signature", "trained", "format_version"):
        for text in (DEEP, "[" * 500 + "]" * 500):
            whole = json.dumps(changed(config, (section,), "DEEP")).replace('"DEEP"', text)
            assert never_a_raw_error(written(tmp_path / "w", header, whole, body))


def big(**changes):
    """A configuration of a larger network than the file's tensors are of."""
    return lambda config: {**config, "model": {**config["model"], **changes}}


HOSTILE = {
    "wide": lambda c: {**c, "schema": {**c["schema"], "d_model": 4096}},
    "too wide": lambda c: {**c, "schema": {**c["schema"], "d_model": 8192}},
    "blocks": big(num_blocks=128),
    "a thousand million blocks": big(num_blocks=10**9),
    "loops": big(num_loops=10**9),
    "mlp": big(mlp_ratio=64),
    "passes": big(n_denoise_steps=10**9),
    "a large field": lambda c: changed(c, ("schema", "fields", "reward", "h"), 10**9),
    "many classes": lambda c: changed(c, ("schema", "fields", "reward", "max_values"), 4096),
    "a large dtype": lambda c: changed(
        c,
        ("signature", "action_space"),
        {"kind": "box", "shape": [1], "dtype": "U1000000000", "low": ["0"], "high": ["1"]},
    ),
    "many spaces": lambda c: changed(
        c, ("signature", "action_space"), {"kind": "tuple", "spaces": [{"kind": "tuple", "spaces": []}] * 80_000}
    ),
    "a long header": lambda c: {**c, "padding": "[[],[]]" * 700_000},
    "many lists": lambda c: {**c, "signature": [[]] * 900_000},
}


def hostile_files(good, folder):
    """Small files on disk that ask for much."""
    header, config, body = parts_of(good)
    made = {name: written(folder / name, header, change(config), body) for name, change in HOSTILE.items()}
    made["deep"] = written(folder / "deep", header, json.dumps({**config, "x": 0}).replace("0}", DEEP + "}"), body)
    for name, tensor in (("a sparse tensor", "model.zzz"), ("a sparse bank", "bank")):
        rows, at = 20 * 2**30 // (4 * 10), len(body)
        entry = {"dtype": "F32", "shape": [rows, 10], "data_offsets": [at, at + rows * 40]}
        more = {("old" if n == tensor else n): e for n, e in header.items()}
        made[name] = written(folder / name, {**more, tensor: entry}, config, body, rows * 40)
    return made


SCRIPT = """
import json, resource, sys, time
from wm_vec.cli import main
import wm_vec.cli.check, wm_vec.cli.loading, wm_vec.train.evaluation
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
result = [peak()]
out, *files = sys.argv[1:]
for file in files:
    started = time.process_time()
    code = main(["rollout", file, "--num-envs", "2", "--steps", "2"])
    result.append([file, code, time.process_time() - started, peak()])
open(out, "w").write(json.dumps(result))
"""


def test_the_command_refuses_small_files_that_ask_for_much_at_once(good, tmp_path):
    files = list(map(str, hostile_files(good, tmp_path).values()))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "result"), *files]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    before, *said = json.loads((tmp_path / "result").read_text())
    for file, code, seconds, after in said:
        print(file, code, seconds, after - before)
        assert code == 2, file
        assert seconds < SECONDS, file
        assert after - before < MEGABYTES, file
    errors = run.stderr.splitlines()
    assert len(errors) == len(files)
    assert all(line.startswith("wm-vec rollout: error: ") for line in errors)


# -- nothing is executed, nothing steers the terminal -------------------------------------------------------


def test_check_imports_no_module_that_a_file_names(good, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    header, config, body = parts_of(good)
    for env_id in ("evil_module:CartPole-v1", "evil_module:ns/X-v0", "evil_module"):
        written(tmp_path / "w", header, changed(config, ("signature", "env_id"), env_id), body)
        for command in ("check", "rollout --num-envs 2 --steps 1"):
            name, *rest = command.split()
            code = main([name, str(tmp_path / "w"), *rest])
            assert code == 2 or name == "rollout"
            assert "evil_module" not in sys.modules
    written(tmp_path / "w", header, changed(config, ("signature", "env_id"), "evil_module:CartPole-v1"), body)
    capsys.readouterr()
    assert main(["check", str(tmp_path / "w")]) == 2
    assert "imports the module before the colon. If you trust it, give it as --env" in capsys.readouterr().err
    # A file of another version is answered with a command to repeat: not with one that imports what the file names.
    written(
        tmp_path / "w",
        header,
        {**changed(config, ("signature", "env_id"), "evil_module:A-v1"), "format_version": 1},
        body,
    )
    with pytest.raises(CheckpointError) as caught:
        WorldModel.load(tmp_path / "w")
    assert "evil_module" not in str(caught.value)


@pytest.mark.parametrize("where", ["env_id", "field", "version", "tensor", "kind"])
def test_no_escape_sequence_of_a_file_reaches_the_terminal(where, good, tmp_path, capsys):
    header, config, body = parts_of(good)
    if where == "env_id":
        config = changed(config, ("signature", "env_id"), ESCAPE)
    elif where == "field":
        config = changed(config, ("schema", "fields", ESCAPE), config["schema"]["fields"]["reward"])
    elif where == "version":
        config = changed(config, ("format_version",), ESCAPE)
    elif where == "tensor":
        header = {(ESCAPE if name == "bank" else name): entry for name, entry in header.items()}
    else:
        config = changed(config, ("signature", "action_space", "kind"), ESCAPE)
    written(tmp_path / "w", header, config, body)
    for command in ("check", "rollout"):
        assert main([command, str(tmp_path / "w")]) == 2
        said = capsys.readouterr()
        assert "\\x1b" in said.err
        assert (said.out + said.err).replace("\n", "").isprintable()


# -- broken numbers -----------------------------------------------------------------------------------------

LARGE, NAN, INF = 1e30, float("nan"), float("inf")
BROKEN = {
    "NaN weights": ("model.denoiser.head_weight", lambda t: t.fill_(NAN)),
    "infinite weights": ("model.denoiser.blocks.0.qkv.weight", lambda t: t.fill_(INF)),
    "huge weights": ("model.codec.embedding", lambda t: t.fill_(LARGE)),
    "one huge weight": ("model.denoiser.blocks.0.up.weight", lambda t: t.flatten()[3:4].fill_(-LARGE)),
    "a NaN mean": ("model.codec.mean", lambda t: t[:1].fill_(NAN)),
    "a huge mean": ("model.codec.step_mean", lambda t: t.fill_(LARGE)),
    "a negative deviation": ("model.codec.step_std", lambda t: t.fill_(-1.0)),
    "a negative spread": ("model.codec.spread", lambda t: t.fill_(-1.0)),
    "more classes than there is room for": ("model.codec.num_classes", lambda t: t.fill_(4096)),
    "negative classes": ("model.codec.num_classes", lambda t: t.fill_(-1)),
    "a number where classes belong": ("model.codec.num_classes", lambda t: t.fill_(0)),
    "values that are no classes": ("model.codec.class_value", lambda t: t.add_(1)),
    "no class at all": ("model.codec.class_seen", lambda t: t.fill_(False)),
    "other bounds": ("model.codec.high", lambda t: t.fill_(3.0)),
    "other periods": ("model.codec.period", lambda t: t.fill_(7)),
    "other outputs": ("model.codec.is_output", lambda t: t.logical_not_()),
    "a NaN bank": ("bank", lambda t: t.fill_(NAN)),
    "a huge bank": ("bank", lambda t: t.fill_(LARGE)),
    "classes in the bank that there are not": ("bank", lambda t: t.fill_(9.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_numbers_are_no_world(name, dtype, good, tmp_path):
    tensors, config = read_checkpoint(good)
    tensors = {n: (t.to(dtype) if t.is_floating_point() else t).clone() for n, t in tensors.items()}
    del config["format_version"]
    write_checkpoint(tmp_path / "w", tensors, config)
    world = WorldModel.load(tmp_path / "w")
    broken, spoil = BROKEN[name]
    spoil(tensors[broken])
    write_checkpoint(tmp_path / "w", tensors, config)
    with pytest.raises(CheckpointError, match=broken.removeprefix("model.")):
        WorldModel.load(tmp_path / "w")
    before = {n: t.clone() for n, t in world.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=broken.removeprefix("model.")):
        world.load_weights(tmp_path / "w")
    assert all(torch.equal(before[n], t) for n, t in world.model.state_dict().items())


@pytest.mark.parametrize("name", ["model.denoiser.head_weight", "model.codec.num_classes", "bank"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float16, torch.uint8], ids=str)
def test_tensors_of_other_dtypes_are_refused_unread(name, dtype, good, tmp_path):
    tensors, config = read_checkpoint(good)
    save_file({**tensors, name: tensors[name].to(dtype)}, tmp_path / "w", {"wm_vec": json.dumps(config)})
    for load in (WorldModel.load, small_world().load_weights):
        with pytest.raises(CheckpointError, match=rf"another shape or dtype: {name}"):
            load(tmp_path / "w")


@pytest.mark.parametrize("space", [Discrete(5), MultiBinary(1), Box(-1, 1, (2,)), Dict({"x": Discrete(2)})], ids=str)
def test_spaces_that_are_not_those_of_the_fields_are_refused(space, tmp_path):
    world = WorldModel.from_signature(EnvSignature(Box(0, 1, (1,)), Discrete(2)))
    world.signature = EnvSignature(Box(0, 1, (1,)), space)
    if isinstance(space, MultiBinary):
        world.signature = EnvSignature(space, Discrete(2))
    world.save(tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"spaces do not fit the schema|The action space"):
        WorldModel.load(tmp_path / "w")


def test_a_world_that_no_file_would_give_back_is_not_saved(tmp_path):
    world = small_world()
    world.save(tmp_path / "w")
    before = (tmp_path / "w").read_bytes()
    with torch.no_grad():
        world.model.denoiser.head_bias.fill_(NAN)
    with pytest.raises(ValueError, match=r"denoiser\.head_bias"):
        world.save(tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == before


def test_bounds_of_every_dtype_survive(tmp_path):
    for dtype in (bool, np.int8, np.uint64, np.float16, np.float64):
        world = WorldModel.from_signature(EnvSignature(Box(0, 1, (2,), dtype), Discrete(2)))
        world.save(tmp_path / "w")
        assert WorldModel.load(tmp_path / "w").signature == world.signature


def test_numpys_numbers_are_plain_ones(tmp_path):
    prices = np.array([1.5, 2.5], np.float32)
    field = Field(
        h=np.int64(1),
        w=np.int32(2),
        period=np.uint8(3),
        loss_weight=np.float32(0.5),
        is_output=np.True_,
        low=prices.min(),
        high=prices + 2,
        max_values=np.int16(2),
    )
    assert field == Field(w=2, period=3, loss_weight=0.5, low=1.5, high=(3.5, 4.5), max_values=2)
    schema = {"a": field, "b": Field(num_classes=np.int64(3))}
    settings = {"num_blocks": np.int64(1), "sigma_min": np.float32(0.25), "n_denoise_steps": np.int8(2)}
    world = WorldModel(compile_schema(schema, d_model=np.int64(32)), config=ModelConfig(**settings))
    world.save(tmp_path / "w")
    again = WorldModel.load(tmp_path / "w")
    assert again.bound == world.bound
    assert again.model.config == ModelConfig(num_blocks=1, sigma_min=0.25, n_denoise_steps=2)
    signature = EnvSignature(Box(0, 1, (1,)), Discrete(2), np.int64(7))
    WorldModel.from_signature(signature, config=ModelConfig(num_blocks=1)).save(tmp_path / "w")
    assert WorldModel.load(tmp_path / "w").signature.max_episode_steps == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_blocks": 0}, "`num_blocks` must be a whole number of at least 1, got 0"),
        ({"num_blocks": 1.0}, "`num_blocks`"),
        ({"num_loops": 129}, "`num_loops` must be a whole number of at least 1 and at most 128, got 129"),
        ({"num_blocks": 12, "num_loops": 12}, "num_blocks x num_loops is at most 128, got 12 x 12"),
        ({"mlp_ratio": -1}, "`mlp_ratio`"),
        ({"n_denoise_steps": True}, "`n_denoise_steps`"),
        ({"sigma_min": 0.0}, "`sigma_min` must be a number from 1e-06 to 1000"),
        ({"sigma_min": 2.0}, "`sigma_min` 2.0 is above `sigma_max` 0.8"),
        ({"rho": NAN}, "`rho`"),
        ({"noise_std": "1"}, "`noise_std` .* got '1'"),
        ({"first_share": 1.5}, "`first_share`"),
        ({"topology": "sparse"}, "`topology`"),
    ],
)
def test_networks_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=f"ModelConfig: {message}"):
        ModelConfig(**settings)
