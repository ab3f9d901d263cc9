"""The commands as a shell runs them, at small size."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from wm_vec import WorldModel, collect_transitions
from wm_vec.cli import main
from wm_vec.cli.output import Reporter
from wm_vec.train import read_checkpoint, save_transitions

ROOT = Path(__file__).parents[2]


class Words(gym.Env):
    observation_space, action_space = gym.spaces.Dict(said=gym.spaces.Text(4)), gym.spaces.Discrete(2)


gym.register("Words-v0", Words)
TRAIN = "train --env CartPole-v1 --transitions 600 --steps 150 --batch-size 64 --checkpoint-every 20 --seed 3"
POLICY = """
def balance(observation):
    return (observation[:, 2] + 0.3 * observation[:, 3] > 0).astype("int64")

NUMBER = 3
"""


def shell_environment():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def command(arguments, folder):
    """The command as a process of its own, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "wm_vec", *arguments.split()],
        cwd=folder,
        env=shell_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments, folder):
    process = command(arguments, folder)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout, stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained world, and what the command said."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my_policies.py").write_text(POLICY)
    stdout, stderr = run(f"{TRAIN} --out world.safetensors --json", folder)
    return folder, json.loads(stdout), stderr


def test_train_writes_a_world_and_a_log_and_says_how_good_it_is(trained):
    folder, said, stderr = trained
    world = WorldModel.load(folder / "world.safetensors")
    assert world.trained
    assert world.signature.env_id == "CartPole-v1"
    log = [json.loads(line) for line in (folder / "world.safetensors.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [150]
    assert log[0]["held_out_loss"] == pytest.approx(said["training"]["held_out_loss"])
    assert log[0]["loss"] > 0
    assert not (folder / "world.safetensors.resume").exists()
    assert said["training"]["steps"] == 150
    names = [d["name"] for d in said["reality"]["policies"]["random"]["one_step"]["dimensions"]]
    assert names == ["cart position", "cart velocity", "pole angle", "pole velocity"]
    assert "gradient steps 150/150 in 0:0" in stderr


def test_without_a_terminal_progress_is_lines_that_say_how_long_it_takes(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with Reporter(sys.stdout, as_json=False).progress() as progress:
        task = progress.add_task("gradient steps", total=4000, note="")
        for step in range(1, 4001):
            now[0] += 1 / 16
            progress.update(task, completed=step, note="held-out loss 0.5" if step >= 200 else "")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    # 250 seconds in all: a line after 2, one every 10 from then on, and the last.
    assert len(lines) == 1 + 24 + 1
    assert lines[0] == "gradient steps 32/4,000, 16.0/s, 0:04:08 left"
    assert lines[2] == "gradient steps 352/4,000, 16.0/s, 0:03:48 left, held-out loss 0.5"
    assert lines[-1] == "gradient steps 4,000/4,000 in 0:04:10, held-out loss 0.5"


def test_on_a_terminal_progress_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take standard error for a terminal
    with Reporter(sys.stdout, as_json=False).progress() as progress:
        progress.update(progress.add_task("gradient steps", total=4, note=""), completed=4)
    assert "━━━" in capsys.readouterr().err


def test_train_logs_by_a_logger_of_torchrl(tmp_path):
    few = "train --env CartPole-v1 --transitions 400 --steps 3 --batch-size 8 --no-check --logger csv"
    assert main([*few.split(), "--out", str(tmp_path / "w")]) == 0
    (line,) = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    for name in ("held_out_loss", "loss", "learning_rate"):
        (row,) = (tmp_path / "w.logs" / "CartPole-v1" / "scalars" / f"{name}.csv").read_text().splitlines()
        assert [float(x) for x in row.split(",")] == [3, line[name]]


def test_a_logger_that_is_not_installed_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torchrl.record.loggers.tensorboard._has_tb", False)
    assert main([*TRAIN.split(), "--out", str(tmp_path / "w"), "--logger", "tensorboard"]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not list(tmp_path.glob("w*"))


def test_train_takes_a_policy_from_a_file_and_transitions_from_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("policies").mkdir()
    Path("policies/left.py").write_text("def push(observation):\n    return [0] * len(observation)\n")
    few = "train --env CartPole-v1 --steps 2 --batch-size 8 --no-check --json"
    assert main([*few.split(), *["--transitions", "80", "--policy", "policies/left.py:push", "--out", "a"]]) == 0
    assert json.loads(capsys.readouterr().out)["transitions"] == 80
    # The world's normalisers have seen nothing but pushes to the left.
    codec, bound = WorldModel.load("a").model.codec, WorldModel.load("a").bound
    assert codec.mean[bound["observation"].indices()][1] < -0.3
    save_transitions(collect_transitions("CartPole-v1", 70, "random"), "steps.safetensors")
    assert main([*few.split(), *["--data", "steps.safetensors", "--out", "b"]]) == 0
    assert json.loads(capsys.readouterr().out)["transitions"] == 70


@pytest.mark.parametrize(
    ("env_id", "words"),
    [("CartPole-v1", "hardly learn when episodes end"), ("Pendulum-v1", "only a time limit ends, like Pendulum-v1")],
)
def test_too_few_ends_are_one_line_that_says_what_follows(env_id, words, tmp_path, capsys):
    arguments = f"train --env {env_id} --transitions 320 --steps 2 --batch-size 8 --no-check --out {tmp_path / 'w'}"
    assert main(arguments.split()) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert words in line
    assert "--policy sticky" in line


def test_check_says_how_few_ends_its_figures_rest_on(capsys):
    assert main(["check", "Pendulum-v1", "--transitions", "60", "--starts", "2", "--horizon", "2"]) == 0
    assert "With 0 terminal steps these say little" in capsys.readouterr().out


def test_a_game_of_cards_is_learned_checked_and_played_by_its_id(tmp_path, capsys):
    file = str(tmp_path / "cards.safetensors")
    assert main(f"train --env Blackjack-v1 --out {file} --transitions 200 --steps 3 --no-check --json".split()) == 0
    assert WorldModel.load(file).to_env().observation_space == gym.make("Blackjack-v1").observation_space
    capsys.readouterr()
    assert main(f"check {file} --transitions 100 --starts 5 --json".split()) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["env_id"] == "Blackjack-v1"
    random = said["policies"]["random"]
    assert random["one_step"]["n_transitions"] == 100
    assert random["open_loop"]["names"] == ["observation.0", "observation.1", "observation.2"]
    policy = tmp_path / "cards.py"
    policy.write_text("def below_17(observation):\n    return (observation[0] < 17).astype('int64')\n")
    play = f"rollout {file} --num-envs 4 --steps 3 --policy {policy}:below_17 --video {tmp_path / 'cards.gif'}"
    assert main(play.split()) == 0
    assert (tmp_path / "cards.gif").read_bytes().startswith(b"GIF")


@pytest.mark.long
def test_check_writes_figures_and_a_picture(trained):
    folder, _, _ = trained
    stdout, stderr = run(
        "check world.safetensors --env CartPole-v1 --policy my_policies:balance --transitions 500 "
        "--starts 10 --horizon 10 --out-json figures.json --out-png figures.png --json",
        folder,
    )
    said = json.loads(stdout)
    assert said == json.loads((folder / "figures.json").read_text())
    assert list(said["policies"]) == ["random", "my_policies:balance"]
    assert said["policies"]["random"]["one_step"]["n_transitions"] == 500
    assert said["policies"]["random"]["open_loop"]["counts"][0] == 10
    assert (folder / "figures.png").read_bytes().startswith(b"\x89PNG")
    assert "whole episodes" in stderr


def test_rollout_of_a_bundled_world_for_people(trained):
    stdout, _ = run("rollout CartPole-v1 --num-envs 32 --steps 60", trained[0])
    assert "imagined env steps/s" in stdout
    assert "32 envs x 60 steps of CartPole-v1" in stdout


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_world(trained, tmp_path):
    process = command(f"{TRAIN} --out world.safetensors --no-check", tmp_path)
    resume = tmp_path / "world.safetensors.resume"
    deadline = time.monotonic() + 60
    while not resume.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert resume.exists()
    assert not (tmp_path / "world.safetensors").exists()
    _, stderr = run(f"{TRAIN} --out world.safetensors --no-check", tmp_path)
    assert "going on from step" in stderr
    whole, whole_config = read_checkpoint(trained[0] / "world.safetensors")
    resumed, resumed_config = read_checkpoint(tmp_path / "world.safetensors")
    assert whole_config == resumed_config
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    log = (tmp_path / "world.safetensors.jsonl").read_text()
    assert log == (trained[0] / "world.safetensors.jsonl").read_text()
    assert not resume.exists()


def test_rollout_figures(capsys):
    arguments = "rollout wm_vec/CartPole-v1 --num-envs 48 --steps 40 --max-episode-steps 10 --json"
    assert main(arguments.split()) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["env_steps"] == 48 * 40
    assert said["env_steps_per_second"] == pytest.approx(48 * 40 / said["seconds"])
    # A horizon of 10 that random actions hardly ever fall short of: four episodes each, reward 1 a step.
    assert said["episodes"] >= 4 * 48
    assert said["return"]["max"] == pytest.approx(10, abs=0.1)
    assert said["return"]["mean"] == pytest.approx(said["length"]["mean"], abs=0.1)
    assert main(["rollout", "Pendulum-v1", "--num-envs", "4", "--steps", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["return"], said["length"]) == (0, None, None)


@pytest.mark.parametrize(("env_id", "size"), [("CartPole-v1", 4), ("FrozenLake-v1", 1)])
def test_rollout_films_the_first_env(env_id, size, tmp_path, capsys):
    film = tmp_path / "film.gif"
    assert main(f"rollout {env_id} --num-envs 3 --steps 6 --seed 5 --video {film}".split()) == 0
    envs = WorldModel.bundled(env_id).to_vector_env(3, seed=5, render_mode="rgb_array")
    envs.reset(seed=5)
    envs.step(envs.sample_actions())  # `imagine` steps once before it begins
    envs.reset(seed=5)
    expected = []
    for _ in range(6):
        envs.step(envs.sample_actions())
        expected.append(envs.render()[0])
    with Image.open(film) as picture:
        shown, times = [], []
        for frame in ImageSequence.Iterator(picture):
            shown.append(np.asarray(frame.convert("RGB"), int))
            times.append(frame.info["duration"])
    assert sum(times) == 6 * 30  # equal frames in a row are one that is shown for longer
    distinct = [expected[0], *(b for a, b in pairwise(expected) if (a != b).any())]
    assert len(shown) == len(distinct)
    for one, other in zip(shown, distinct, strict=True):
        assert abs(one - other).mean() < 2  # a GIF has 256 colours


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("rollout CartPole-v1 --video film.mp4", ["--video film.mp4", ".gif"]),
        ("rollout CartPole-v1 --video no/folder/film.gif", ["no folder no/folder"]),
        ("check nowhere.safetensors", ["nowhere.safetensors", "no such file", "CartPole-v1, Pendulum-v1"]),
        ("check .", ["is a folder"]),
        ("check broken.safetensors", ["broken.safetensors", "cut short"]),
        ("check pickle.pt", ["pickle", "safetensors"]),
        ("check CartPole-v1 --env NoSuch-v7", ["--env NoSuch-v7", "doesn't exist"]),
        ("check CartPole-v1 --env no_such_package:Env-v0", ["no_such_package", "cannot make it"]),
        ("check CartPole-v1 --env Pendulum-v1", ["observation space", "Pendulum-v1"]),
        ("check CartPole-v1 --policy balance", ["--policy balance", "module:function"]),
        ("check CartPole-v1 --policy no_such_module:f", ["no module 'no_such_module'"]),
        ("check CartPole-v1 --policy json:balance", ["json has no 'balance'"]),
        ("check CartPole-v1 --policy json:__doc__", ["something callable"]),
        ("check CartPole-v1 --device tpu9", ["--device tpu9"]),
        ("check CartPole-v1 --out-png no/folder/x.png", ["--out-png no/folder/x.png"]),
        ("check CartPole-v1 --starts 1", ["--starts must be at least 2, got 1"]),
        ("train --env Words-v0 --out w", ["observation.said space", "Text", "Box, Discrete"]),
        ("train --env CartPole-v1 --out no/folder/w", ["no folder no/folder"]),
        ("train --env CartPole-v1 --out kept.safetensors", ["exists", "--overwrite"]),
        ("train --env CartPole-v1 --out w --d-model 40", ["--d-model", "multiple of 32", "40"]),
        (
            "train --env CartPole-v1 --out w --d-model 320000000",
            ["--d-model", "multiple of 32 up to 4096", "320000000"],
        ),
        ("train --env CartPole-v1 --out w --policy no/such.py:f", ["--policy no/such.py:f", "no file no/such.py"]),
        ("train --env CartPole-v1 --out w --policy stiky", ["--policy stiky", "module:function or file.py:function"]),
        ("train --env CartPole-v1 --out w --data nowhere", ["nowhere", "no file of transitions"]),
        ("train --env CartPole-v1 --out w --data broken.safetensors", ["broken.safetensors", "save_transitions"]),
        ("train --env CartPole-v1 --out w --data pickle.pt", ["pickle.pt", "no whole safetensors file"]),
        ("train --env CartPole-v1 --out w --transitions 1", ["1 steps", "at least 2"]),
        ('train --env CartPole-v1 --out w --env-kwargs {"gravity":1}', ["gravity"]),
        ("rollout kept.safetensors", ["cut short"]),
        ("demo --out .", ["--out . is a folder"]),
        ("demo --out kept.safetensors/demo.png", ["kept.safetensors"]),
    ],
)
def test_what_users_get_wrong_is_one_line_and_exit_code_2(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("broken.safetensors").write_bytes(b"\x10\x00\x00\x00")
    Path("kept.safetensors").write_bytes(b"keep me")
    torch.save({"a": torch.zeros(1)}, "pickle.pt")
    assert main(arguments.split(" ")) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("wm-vec")]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    for words in expected:
        assert words in errors[0]
    assert Path("kept.safetensors").read_bytes() == b"keep me"
    assert not Path("w").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train --out w", "--env"),
        (
            "train --env CartPole-v1 --out w --steps 0",
            "--steps: must be a whole number of at least 1, got '0'",
        ),
        ("train --env CartPole-v1 --out w --env-kwargs [1]", "JSON object"),
        ("train --env CartPole-v1 --out w --policy sticky --data x", "--data: not allowed with argument --policy"),
        ("rollout CartPole-v1 --num-envs many", "--num-envs: must be a whole number"),
        ("dance", "invalid choice"),
        ("rollout CartPole-v1 --seed -1", "--seed: must be a whole number of at least 0, got '-1'"),
        ("train --env CartPole-v1 --out w --seed 9223372036854775808", "--seed: must be a whole number"),
        (f"check CartPole-v1 --seed {2**62 + 1}", f"at least 0 and at most {2**62}, got"),
        ("rollout CartPole-v1 --num-envs 10000000000", "--num-envs: must be a whole number of at least 1 and at most"),
        ("demo --num-envs 10000000000", "--num-envs: must be a whole number"),
        ("rollout CartPole-v1 --steps 99999999999999999999", "--steps: must be a whole number"),
        ("rollout CartPole-v1 --max-episode-steps 99999999999999999999", "--max-episode-steps: must be"),
        ("rollout CartPole-v1 --denoise-steps 1000000000", "--denoise-steps: must be a whole number"),
        ("train --env CartPole-v1 --out w --batch-size 1_000_000_000_000", "--batch-size: must be a whole number"),
        ("check CartPole-v1 --transitions 1000000000000000000000", "--transitions: must be a whole number"),
        ("check CartPole-v1 --starts 1000000000000", "--starts: must be a whole number"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_sizes_that_memory_has_no_room_for_are_one_line(capsys):
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**29, before[1]))
    try:
        assert main(["rollout", "CartPole-v1", "--num-envs", "16777216", "--steps", "2"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    error = capsys.readouterr().err
    assert error.startswith("wm-vec rollout: error: there is not enough memory for such sizes")
    assert error.count("\n") == 1


def test_the_largest_seed_and_an_output_that_knows_ascii_alone(monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    arguments = f"rollout CartPole-v1 --num-envs 2 --steps 4 --max-episode-steps 2 --seed {2**62}"
    assert main(arguments.split()) == 0
    sys.stdout.flush()
    assert b"return 2 ? 0" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("text", ["[" * 100_000, "", "x" * 200, b"\xff\xfe\x00"])
def test_a_resume_file_or_log_that_is_broken_is_one_line(text, tmp_path, capsys):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "w.resume").write_bytes(data)
    (tmp_path / "w.jsonl").write_bytes(data)
    assert main([*TRAIN.split(), "--out", str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err
    assert "broken state of a training run" in error
    assert "Delete the file to start afresh" in error
    assert "Traceback" not in error


def test_a_resume_file_of_other_settings_is_refused(trained, tmp_path, capsys):
    folder, _, _ = trained
    from wm_vec.train import write_checkpoint

    tensors, config = read_checkpoint(folder / "world.safetensors")
    del config["format_version"]
    write_checkpoint(tmp_path / "w.resume", tensors, {**config, "run": {}, "numbers": {"step": 5}})
    assert main([*TRAIN.split(), "--out", str(tmp_path / "w")]) == 2
    assert "another training run" in capsys.readouterr().err
    assert (tmp_path / "w.resume").exists()
    assert not (tmp_path / "w").exists()


def test_the_demo_says_first_that_it_cannot_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import of a missing package meets
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "pip install 'wm_vec[plot]'" in captured.err


def test_training_that_diverges_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    def far_too_fast(optimizer, n_steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e33)

    monkeypatch.setattr("wm_vec.train.loop.learning_rate_schedule", far_too_fast)
    assert main([*TRAIN.split(), "--out", str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err
    assert "Training diverged" in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("wm-vec train: error:")]) == 1


def test_a_bug_keeps_its_traceback(trained, tmp_path, monkeypatch):
    """A user's own policy that fails, as an example of what is no wrong input to us."""
    monkeypatch.chdir(tmp_path)
    Path("faulty_policy.py").write_text("def f(observation):\n    raise ZeroDivisionError('mine')\n")
    with pytest.raises(ZeroDivisionError, match="mine"):
        main(["rollout", "CartPole-v1", "--num-envs", "2", "--policy", "faulty_policy:f"])


def test_help_says_how_long_training_takes(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "3 to 7 minutes" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["train", "check", "rollout"])
def test_help_shows_examples_that_parse(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    examples = [line.strip() for line in text.splitlines() if line.startswith(f"  wm-vec {name} ")]
    assert len(examples) >= 3
    import argparse
    import shlex
    from importlib import import_module

    parser = argparse.ArgumentParser()
    import_module(f"wm_vec.cli.{name}").add_arguments(parser)
    for example in examples:
        words = shlex.split(example.split("   (")[0].split(" > ")[0])
        parser.parse_args(words[2:])
