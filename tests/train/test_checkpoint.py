"""Files that survive, and files that are no worlds."""

import fcntl
import json
import multiprocessing
import os
import pickle
import re
import stat
import time

import pytest
import torch
from safetensors.torch import save_file
from tensordict import TensorDict

from wm_vec import WorldModel
from wm_vec.canvas import Field
from wm_vec.model import ModelConfig
from wm_vec.train import CheckpointError, read_checkpoint, save_transitions, write_checkpoint

TENSORS = {
    "weights": torch.randn(7, 3, generator=torch.Generator().manual_seed(0)),
    "counts": torch.arange(5),
    "flags": torch.tensor([True, False]),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0, dtype=torch.float64),
    "nothing": torch.zeros(0, 4),
}
CONFIG = {"name": "ein Gerät", "sizes": [1, 2], "deep": {"none": None, "yes": True, "pi": 3.25}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "world.safetensors"
    write_checkpoint(path, TENSORS, CONFIG)
    return path


def test_round_trip(file):
    tensors, config = read_checkpoint(file)
    assert config == {"format_version": 2, **CONFIG}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_headers_of_every_length_load(tmp_path):
    # The file begins with its header's length: some lengths look like a pickle's first bytes.
    first = set()
    for padding in range(0, 264, 8):
        write_checkpoint(tmp_path / "x", {"a": torch.ones(1)}, {"padding": "x" * padding})
        first.add((tmp_path / "x").read_bytes()[0])
        assert read_checkpoint(tmp_path / "x")[1]["padding"] == "x" * padding
    assert 0x80 in first
    text = "x" * (0x4B50 - 0x110)
    for padding in range(0, 256, 8):
        write_checkpoint(tmp_path / "x", {"a": torch.ones(1)}, {"padding": text + "x" * padding})
        first.add((tmp_path / "x").read_bytes()[:2])
        read_checkpoint(tmp_path / "x")
    assert b"PK" in first


def test_strided_and_shared_tensors_are_written_whole(tmp_path):
    table = torch.arange(12.0).view(3, 4)
    write_checkpoint(tmp_path / "x", {"a": table.T, "b": table[:, 1], "c": table.requires_grad_(True)}, {})
    tensors, _ = read_checkpoint(tmp_path / "x")
    assert torch.equal(tensors["a"], table.detach().T)
    assert tensors["b"].tolist() == [1.0, 5.0, 9.0]


def test_nothing_but_the_file_is_left(file):
    write_checkpoint(file, TENSORS, CONFIG)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_failed_write_leaves_the_old_file_and_no_other(file):
    before = file.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        write_checkpoint(file, TENSORS, {"nan": float("nan")})
    with pytest.raises(TypeError):
        write_checkpoint(file, TENSORS, {"object": object()})
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 1


# -- files that are no worlds -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.6, 0.99, 0.9999])
def test_a_file_that_is_cut_short(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"world\.safetensors is no whole safetensors file.*cut short"):
        read_checkpoint(file)


@pytest.mark.parametrize("missing", range(1, 10))
def test_a_file_that_lacks_its_last_bytes(file, missing):
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(CheckpointError, match="cut short"):
        read_checkpoint(file)


class Trap:
    """Unpickling it would be noticed."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "dump",
    [
        lambda path: torch.save({"trap": Trap()}, path),
        lambda path: torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Trap())),
        lambda path: path.write_bytes(pickle.dumps(Trap(), protocol=2)),
    ],
)
def test_pickles_are_refused_unread(file, dump):
    dump(file)
    with pytest.raises(CheckpointError, match=r"looks like a pickle.*Expected a safetensors file"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"hello" * 100, pickle.dumps(Trap(), protocol=0), bytes(1000), b"\xff" * 64]
)
def test_other_bytes_are_refused(file, data):
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"world\.safetensors"):
        read_checkpoint(file)


def test_safetensors_of_others_are_refused(file):
    save_file({"w": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match="not a wm_vec checkpoint"):
        read_checkpoint(file)
    save_file({"w": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a wm_vec checkpoint"):
        read_checkpoint(file)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", "3", "null", '{"schema": {}}', '"text"', DEEP, '{"format_version": 2, "x": NaN}', "9" * 5000],
    ids=lambda text: text[:20],
)
def test_a_header_that_cannot_be_read(file, header):
    save_file({"w": torch.ones(2)}, file, metadata={"wm_vec": header})
    with pytest.raises(CheckpointError, match="configuration in its header cannot be read"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(3, "Update wm_vec"), (1, "Train it again with WorldModel.finetune"), ("2", "Train it"), (None, "Train it")],
)
def test_other_versions(file, version, advice):
    save_file({"w": torch.ones(2)}, file, metadata={"wm_vec": json.dumps({"format_version": version})})
    with pytest.raises(CheckpointError, match=rf"format version {version}; this wm_vec reads version 2.*{advice}"):
        read_checkpoint(file)


@pytest.mark.parametrize("env_id", ["CartPole-v1", None])
def test_a_world_of_version_1_is_refused_with_what_makes_it_anew(env_id, tmp_path):
    path = tmp_path / "my world.safetensors"
    header = {"format_version": 1, "schema": {}, "model": {}, "signature": {"env_id": env_id}, "trained": True}
    save_file({"model.w": torch.ones(2)}, path, metadata={"wm_vec": json.dumps(header)})
    advice = f"wm-vec train --env CartPole-v1 --out '{path}' --overwrite" if env_id else "WorldModel.finetune()"
    for read in (WorldModel.load, WorldModel({"a": Field()}).load_weights):
        with pytest.raises(CheckpointError, match=re.escape(advice)):
            read(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint here"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint here"):
        read_checkpoint(tmp_path)


# -- worlds -------------------------------------------------------------------------------------------------


def test_a_world_survives_whole(cartpole, tmp_path):
    cartpole.save(tmp_path / "w")
    again = WorldModel.load(tmp_path / "w")
    assert again.bound == cartpole.bound
    assert again.signature == cartpole.signature
    assert again.trained
    assert torch.equal(again.bank, cartpole.bank)
    envs = [world.to_vector_env(3, seed=0) for world in (cartpole, again)]
    for env in envs:
        env.reset()
    for _ in range(5):
        one, two = (env.step(torch.tensor([0, 1, 0])) for env in envs)
        assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))


def test_a_schema_world_survives_with_its_bounds(tmp_path):
    world = WorldModel({"a": {"b": Field(w=2, low=(-1.0, 0.0)), "c": Field(num_classes=5, period=3)}})
    world.save(tmp_path / "w")
    again = WorldModel.load(tmp_path / "w")
    assert again.bound == world.bound
    assert not again.trained
    assert again.signature is None
    assert again.bank is None


def test_weights_of_another_schema_or_network_are_refused(cartpole, pendulum, tmp_path):
    pendulum.save(tmp_path / "pendulum")
    before = {name: t.clone() for name, t in cartpole.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another schema or network.*observation, action.*WorldModel\.load"):
        cartpole.load_weights(tmp_path / "pendulum")
    assert all(torch.equal(before[n], t) for n, t in cartpole.model.state_dict().items())


def test_weights_of_the_same_fields_in_another_order_are_refused(tmp_path):
    WorldModel({"a": Field(), "b": Field()}).save(tmp_path / "ab")
    with pytest.raises(CheckpointError, match="another schema"):
        WorldModel({"b": Field(), "a": Field()}).load_weights(tmp_path / "ab")


@pytest.mark.parametrize("change", ["lacks a tensor", "has another shape", "has no schema", "has a broken schema"])
def test_worlds_that_contradict_themselves(change, tmp_path):
    path = tmp_path / "w"
    WorldModel({"a": Field()}).save(path)
    tensors, config = read_checkpoint(path)
    del config["format_version"]
    if change == "lacks a tensor":
        del tensors["model.codec.std"]
    elif change == "has another shape":
        tensors["model.codec.std"] = torch.ones(2)
    elif change == "has no schema":
        del config["schema"]
    else:
        config["schema"] = {"d_model": 64, "fields": {"a": {"h": 0}}}
    write_checkpoint(path, tensors, config)
    with pytest.raises(CheckpointError, match=str(path)):
        WorldModel.load(path)
    with pytest.raises(CheckpointError, match=str(path)):
        WorldModel({"a": Field()}).load_weights(path)


# -- a run killed while it saves ----------------------------------------------------------------------------


def save_for_ever(path, ready):
    i = 0
    while True:
        i += 1
        write_checkpoint(path, {"w": torch.full((500_000,), float(i))}, {"i": i})
        ready.set()


def test_a_run_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    path = tmp_path / "world.safetensors"
    write_checkpoint(path, {"w": torch.zeros(500_000)}, {"i": 0})
    fork = multiprocessing.get_context("fork")
    last = 0
    for attempt in range(12):
        ready = fork.Event()
        run = fork.Process(target=save_for_ever, args=(path, ready))
        run.start()
        assert ready.wait(20)
        time.sleep(0.02 + 0.0037 * attempt)
        run.kill()
        run.join()
        tensors, config = read_checkpoint(path)
        assert bool((tensors["w"] == config["i"]).all()), "old or new, never a mixture"
        last = max(last, config["i"])
    assert last > 0, "the run never got to save anything"
    write_checkpoint(path, {"w": torch.zeros(1)}, {"i": 0})
    assert os.listdir(tmp_path) == [path.name], "what killed saves left is gone after the next save"


def save_often(path):
    for i in range(15):
        write_checkpoint(path, {"w": torch.full((2000,), float(i))}, {"i": i})


def test_processes_that_save_to_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "world.safetensors"
    fork = multiprocessing.get_context("fork")
    runs = [fork.Process(target=save_often, args=(path,)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * 4
    tensors, config = read_checkpoint(path)
    assert bool((tensors["w"] == config["i"]).all())
    assert os.listdir(tmp_path) == [path.name]


def test_a_save_leaves_alone_what_a_living_one_writes(tmp_path):
    path = tmp_path / "world.safetensors"
    with (tmp_path / f".{path.name}.0123.tmp").open("wb") as living, (tmp_path / ".other.0123.tmp").open("wb") as other:
        fcntl.flock(living, fcntl.LOCK_EX)
        for file in (living, other):
            file.write(b"half of it")
            file.flush()
        write_checkpoint(path, {"w": torch.zeros(1)}, {})
        assert sorted(os.listdir(tmp_path)) == [".other.0123.tmp", f".{path.name}.0123.tmp", path.name]
    write_checkpoint(path, {"w": torch.zeros(1)}, {})
    assert sorted(os.listdir(tmp_path)) == [".other.0123.tmp", path.name]


# -- modes, links and folders -------------------------------------------------------------------------------


def saves(path):
    """Every way to save."""
    steps = TensorDict({"observation": torch.zeros(3, 1)}, batch_size=3)
    return [
        lambda: write_checkpoint(path, TENSORS, CONFIG),
        lambda: WorldModel({"a": Field()}).save(path),
        lambda: save_transitions(steps, path),
    ]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("which", range(3))
def test_new_files_follow_the_umask_and_old_ones_keep_their_mode(which, tmp_path):
    path = tmp_path / "w"
    for umask, expected in ((0o077, 0o600), (0o022, 0o644), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            path.unlink(missing_ok=True)
            saves(path)[which]()
            assert mode(path) == expected
            path.chmod(0o640)
            saves(path)[which]()
            assert mode(path) == 0o640
        finally:
            os.umask(before)


@pytest.mark.parametrize("which", range(3))
def test_a_link_stays_and_what_it_points_to_is_replaced(which, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    link, target = tmp_path / "a" / "link", tmp_path / "b" / "target"
    link.symlink_to(target)
    for _ in range(2):  # the target is not there yet, and then is
        saves(link)[which]()
        assert link.is_symlink()
        assert target.is_file()
        assert not target.is_symlink()
    assert os.listdir(tmp_path / "a") == ["link"]
    assert os.listdir(tmp_path / "b") == ["target"]


@pytest.mark.parametrize("which", range(3))
def test_a_folder_is_no_file_to_save_to(which, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for path in (tmp_path / "folder", tmp_path / "link", f"{tmp_path}/new/", f"{tmp_path}/folder/"):
        with pytest.raises(IsADirectoryError, match="is a folder; expected a file"):
            saves(path)[which]()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


@pytest.mark.parametrize("argument", ["log_path", "resume_path", "save_path"])
def test_finetune_refuses_before_the_first_step_what_it_could_not_write(argument, tmp_path):
    world = WorldModel({"a": Field()}, config=ModelConfig(num_blocks=1))
    for path, error in (
        (tmp_path, IsADirectoryError),
        (f"{tmp_path}/new/", IsADirectoryError),
        (tmp_path / "no" / "x", OSError),
    ):
        with pytest.raises(error):
            world.finetune({"a": torch.zeros(9)}, 3, **{argument: path}, progress=lambda *_: pytest.fail("trained"))
    assert not world.trained
