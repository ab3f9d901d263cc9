"""Transitions as files."""

import pytest
import torch
from safetensors.torch import save_file
from tensordict import TensorDict

from wm_vec import WorldModel, collect_transitions
from wm_vec.train import load_transitions, save_transitions
from wm_vec.train.data import DataError


def test_transitions_come_back_as_they_were(tmp_path):
    transitions = collect_transitions("CartPole-v1", 60)
    save_transitions(transitions, tmp_path / "steps.safetensors")
    back = load_transitions(tmp_path / "steps.safetensors")
    assert back.batch_size == (60,)
    assert set(back.keys(True, True)) == set(transitions.keys(True, True))
    assert all(torch.equal(back[key], transitions[key]) for key in transitions.keys(True, True))
    assert all(back[key].dtype == transitions[key].dtype for key in transitions.keys(True, True))


def test_observations_of_several_parts_keep_their_names(tmp_path):
    parts = {"0": torch.arange(3), "hand": {"cards": torch.rand(3, 2)}}
    steps = TensorDict({"observation": parts, "next": {"observation": parts}}, batch_size=[3])
    save_transitions(steps, tmp_path / "steps.safetensors")
    back = load_transitions(tmp_path / "steps.safetensors")
    assert torch.equal(back["next", "observation", "hand", "cards"], parts["hand"]["cards"])
    assert torch.equal(back["observation", "0"], parts["0"])


def test_a_file_written_by_hand_trains_a_world(tmp_path):
    n = 40
    tensors = {
        "observation": 0.1 * torch.randn(n, 4),
        "action": torch.zeros(n, dtype=torch.int64),
        "next/observation": 0.1 * torch.randn(n, 4),
        "next/reward": torch.ones(n),
        "next/terminated": torch.arange(n) % 2 == 0,
    }
    save_file(tensors, tmp_path / "mine.safetensors")
    data = WorldModel.from_env("CartPole-v1").as_data(load_transitions(tmp_path / "mine.safetensors"))
    assert torch.equal(data.values[:, :4], tensors["observation"])
    assert int(data.next_values[:, -1].sum()) == n // 2


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "one row per step"),
        ({"observation": torch.zeros(3, 4), "action": torch.zeros(2)}, r"as many in all; got .*'action': \(2,\)"),
        ({"observation": torch.zeros(())}, "one row per step"),
        ({"next": torch.zeros(2), "next/reward": torch.zeros(2)}, "both a tensor and a group"),
    ],
)
def test_tensors_that_are_no_transitions(tensors, words, tmp_path):
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=words):
        load_transitions(tmp_path / "bad.safetensors")


def test_what_is_no_file_of_tensors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of transitions"):
        load_transitions(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.pt")
    with pytest.raises(DataError, match=r"no whole safetensors file.*save_transitions"):
        load_transitions(tmp_path / "pickle.pt")


def test_what_cannot_be_saved(tmp_path):
    steps = TensorDict({"a": torch.zeros(2, 3)}, batch_size=[2, 3])
    with pytest.raises(DataError, match=r"a batch \(n,\), got \(2, 3\)"):
        save_transitions(steps, tmp_path / "x")
    with pytest.raises(DataError, match=r"must not contain '/', got \[\('next', 'a/b'\)\]"):
        save_transitions(TensorDict({"next": {"a/b": torch.zeros(2)}}, batch_size=[2]), tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="Make it first"):
        save_transitions(steps, tmp_path / "no" / "x")
