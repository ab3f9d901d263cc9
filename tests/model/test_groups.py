"""A network whose topology is groups, wherever a dense one goes."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.kernels.canvases import END, random_model
from wm_kernels import use_backend
from wm_kernels.predict import cpu
from wm_vec import ModelConfig, TrainConfig, WorldModel, compile_schema
from wm_vec.canvas import Field
from wm_vec.train import CheckpointError

FIRM = {
    "health": Field(),
    "financials": {"revenue": Field(w=40)},
    "operations": {"staff": Field(), "mood": Field(num_classes=3)},
}
WORLD = {"regime": Field(num_classes=2), "acme": FIRM, "rival": FIRM, "act": Field(is_output=False), "end": END}


@pytest.fixture(scope="module")
def model():
    """Random weights over 88 positions, and so two tiles; do not change it."""
    return random_model(WORLD, d_model=64, topology="groups", num_heads=4, num_blocks=5)


def inputs(model, num_envs=3, seed=0):
    """Values that states can have, and noise."""
    generator = torch.Generator().manual_seed(seed)
    values, noise = (torch.randn(num_envs, model.noise_size, generator=generator) for _ in range(2))
    counts = model.codec.num_classes
    return torch.where(counts > 0, values.abs().floor().minimum(counts - 1), values), noise


@torch.no_grad()
def test_every_way_to_predict_gives_the_same(model, monkeypatch):
    values, noise = inputs(model)
    with use_backend("reference"):
        expected = model.packed(2).predict(values, noise)
    assert float(expected.std(0).max()) > 0.1
    packed = model.packed(2)

    def one(values, noise):
        return packed.predict(values[None], noise[None])[0]

    compiled = torch.compile(
        lambda values, noise: model.packed(2).predict(values, noise), fullgraph=True, backend="eager"
    )
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "TILES_PAY", 9.0)
        in_tiles = packed.predict(values, noise)
    ways = {
        "cpu": packed.predict(values, noise),
        "in tiles": in_tiles,
        "vmap": torch.func.vmap(one)(values, noise),
        "compiled": compiled(values, noise),
        "copied": copies[0].packed(2).predict(values, noise),
        "unpickled": copies[1].packed(2).predict(values, noise),
    }
    for name, got in ways.items():
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    on_meta = copy.deepcopy(model).to("meta")
    assert on_meta.packed(2).predict(values.to("meta"), noise.to("meta")).shape == values.shape
    known = torch.zeros_like(values, dtype=torch.bool)
    known[:, : values.shape[1] // 2] = True
    filled = model.fill_in(values, known, noise, 2)
    assert torch.equal(filled[known], values[known])
    assert bool(filled.isfinite().all())


def test_gradients_reach_every_number_and_the_summaries(model):
    values, noise = inputs(model)
    learner = copy.deepcopy(model)
    values.requires_grad_(True)
    weights = learner.denoiser.weights(learner.codec, learner.sigmas(3))
    learner.packed(3)._replace(denoiser=weights).predict(values, noise)[
        :, model.bound["acme.health"].start
    ].sum().backward()
    read = model.codec.is_input & (model.codec.num_classes == 0) & (model.codec.std > 0)
    assert torch.equal(values.grad.abs().amax(0) > 0, read)
    assert bool((learner.denoiser.summary.grad.abs().amax(1) > 0).all())


@torch.no_grad()
def test_a_diverged_env_leaves_its_neighbours_alone(model):
    values, noise = inputs(model)
    clean = model.packed(3).predict(values, noise)
    values[1, 0] = torch.nan
    got = model.packed(3).predict(values, noise)
    assert bool(got[1].isnan().any())
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


@torch.no_grad()
def test_packed_weights_follow_the_summaries_in_place(model):
    learner, (values, noise) = copy.deepcopy(model), inputs(model)
    packed = learner.packed(3)
    before = packed.predict(values, noise)
    learner.denoiser.summary.mul_(2)
    assert learner.packed(3) is packed
    after = packed.predict(values, noise)
    assert float((after - before).abs().max()) > 1e-3
    assert torch.equal(after, copy.deepcopy(learner).packed(3).predict(values, noise))


def test_envs_are_independent_of_their_number_and_no_kernel_takes_them():
    small = {**WORLD, "acme": {**FIRM, "financials": {"revenue": Field()}}, "rival": {"staff": Field()}}
    model = random_model(small, topology="groups")
    world = WorldModel(model.bound, config=model.config)
    world.model.load_state_dict(model.state_dict())
    fields = ["acme.health", "acme.operations.staff"], ["act"], lambda obs, act, info: obs["acme.health"].mean()
    with pytest.warns(UserWarning, match="untrained"):
        few, many = (world.to_vector_env(n, *fields, exact_rows=True) for n in (2, 35))
    for env in (few, many):
        env.reset(seed=0)
    for _ in range(2):
        got, more = (env.step(torch.ones(env.num_envs, 1))[0] for env in (few, many))
        assert torch.equal(got, more[:2])
    with pytest.raises(ValueError, match="topology is 'groups'"):
        world.to_vector_env(2, *fields, backend="triton")


# -- checkpoints ----------------------------------------------------------------------------------------------


def test_a_checkpoint_keeps_topology_and_heads(tmp_path, model):
    world = WorldModel(model.bound, config=model.config)
    world.save(tmp_path / "w")
    again = WorldModel.load(tmp_path / "w")
    assert again.model.config == ModelConfig(num_blocks=5, n_denoise_steps=3, topology="groups", num_heads=4)
    for name, tensor in world.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
    again.load_weights(tmp_path / "w")
    dense = WorldModel(model.bound, config=ModelConfig(num_blocks=5, n_denoise_steps=3, num_heads=4))
    assert world.model.state_dict().keys() - dense.model.state_dict().keys() == {"denoiser.summary"}
    with pytest.raises(CheckpointError, match="another schema or network"):
        dense.load_weights(tmp_path / "w")


def test_files_from_before_there_were_heads_load(tmp_path):
    world = WorldModel({"x": Field(), "y": Field()}, config=ModelConfig(num_blocks=1))
    world.save(tmp_path / "new")
    raw = (tmp_path / "new").read_bytes()
    header = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["wm_vec"])
    del header["model"]["num_heads"]
    save_file(load_file(tmp_path / "new"), tmp_path / "old", metadata={"wm_vec": json.dumps(header)})
    assert WorldModel.load(tmp_path / "old").model.config == world.model.config
    world.load_weights(tmp_path / "old")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "`num_heads` must divide d_model, 64, got 3"),
        ({"num_heads": 0}, "`num_heads` must be a whole number of at least 1"),
        ({"num_heads": 2.0}, "`num_heads` must be a whole number"),
        ({"topology": "tree"}, "`topology` must be 'dense' or 'groups', got 'tree'"),
    ],
)
def test_networks_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=f"ModelConfig: {message}"):
        WorldModel({"x": Field()}, config=ModelConfig(**settings))


# -- learning -------------------------------------------------------------------------------------------------


def skill(num_blocks):
    """R2 of a change that another group's field alone foretells, on fresh steps."""
    schema = {"far": {"away": {"push": Field(is_output=False)}}, "here": {"level": Field()}}
    bound = compile_schema(schema, d_model=32)
    world = WorldModel(bound, config=ModelConfig(num_blocks=num_blocks, topology="groups"))
    push = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
    level = np.concatenate(([0], push.cumsum()[:-1])).astype(np.float32)
    config = TrainConfig(n_steps=300, batch_size=128, eval_every=100, context_dropout=0.0)
    world.finetune({"far.away.push": push, "here.level": level}, config=config)
    values = torch.stack((torch.linspace(-1, 1, 64), torch.zeros(64)), 1)
    noise = torch.zeros(64, 2)
    with torch.no_grad():
        change = world.model.packed(1).predict(values, noise)[:, 1]
    return 1 - float((change - values[:, 0]).square().mean() / values[:, 0].var())


@pytest.mark.long
def test_a_world_learns_what_one_group_does_to_another_as_deep_as_its_blocks_reach():
    # Away's summary, far's, the root's, the level: four blocks.
    assert skill(4) > 0.95
    assert skill(3) < 0.1
