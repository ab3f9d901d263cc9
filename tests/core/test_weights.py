"""Weights, normalisers and banks that change in place are what the next step runs with."""

import copy

import pytest
import torch
from torch import nn

from tests.core.walk import tensors_of
from wm_vec import WorldModel


def changed_by_optimizer(**options):
    def change(model, target):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
        sum((p - p.detach() - 1).square().sum() for p in model.parameters()).backward()
        optimizer.step()

    return change


@torch.no_grad()
def copied(model, target):
    for mine, other in zip(model.parameters(), target.parameters(), strict=True):
        mine.copy_(other)


def assigned(model, target):
    model.load_state_dict({name: t.clone() for name, t in target.state_dict().items()}, assign=True)


def replaced_data(model, target):
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(target.parameters()).detach(), model.parameters())


@torch.no_grad()
def one_table(model, target):
    model.denoiser.noise_embedding[0].bias.add_(0.3)


def one_view(model, target):
    with torch.no_grad():
        model.denoiser.blocks[1].down.weight.add_(0.3)


def one_normaliser(model, target):
    model.codec.step_mean.add_(0.5)


CHANGES = {
    "load_state_dict": lambda model, target: model.load_state_dict(target.state_dict()),
    "AdamW": changed_by_optimizer(),
    "AdamW foreach": changed_by_optimizer(foreach=True),
    "AdamW fused": changed_by_optimizer(fused=True),
    "copy_": copied,
    "load_state_dict assign": assigned,
    "vector_to_parameters": replaced_data,
    "a table's source": one_table,
    "a view": one_view,
    "a normaliser": one_normaliser,
}


def untrained(seed=0):
    world = WorldModel.from_env("Pendulum-v1", seed=seed)
    world.trained = True
    with torch.no_grad():  # so that every parameter matters
        for parameter in world.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return world


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_take_effect_in_the_next_step(name, tmp_path):
    world = untrained()
    env = world.to_vector_env(3, autoreset_mode="disabled")
    env.reset(seed=0)
    start, action = env.state(), torch.zeros(3, 1)
    before = env.step(action)[0]
    CHANGES[name](world.model, untrained(seed=1).model)
    env.set_state(start)
    got = env.step(action)[0]
    # What a world that never held other weights makes of the same state.
    world.save(tmp_path / "world")
    fresh = WorldModel.load(tmp_path / "world").to_vector_env(3, autoreset_mode="disabled")
    fresh.reset(seed=0)
    fresh.set_state(start)
    assert torch.equal(got, fresh.step(action)[0])
    assert not torch.equal(got, before)


def leaves_of(packed):
    return [*tensors_of(packed)]


@pytest.mark.parametrize("name", CHANGES)
def test_packed_weights_change_in_place(name):
    """What was captured over their addresses runs with the new weights."""
    model, target = untrained().model, untrained(seed=1).model
    packed = model.packed(3)
    assert model.packed(3) is packed
    other = model.packed(2)
    before = [(t, t.data_ptr(), t.clone()) for t in leaves_of(packed)]
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not own & {t.untyped_storage().data_ptr() for t, *_ in before}
    CHANGES[name](model, target)
    assert model.packed(3) is packed
    assert [t.data_ptr() for t in leaves_of(packed)] == [address for _, address, _ in before]
    assert all(t is old for t, (old, *_) in zip(leaves_of(packed), before, strict=True))
    made_anew = copy.deepcopy(model).packed(3)
    assert all(map(torch.equal, leaves_of(packed), leaves_of(made_anew)))
    assert not all(torch.equal(t, old) for t, _, old in before)
    assert model.packed(2) is other
    assert all(map(torch.equal, leaves_of(other), leaves_of(copy.deepcopy(model).packed(2))))


def test_ten_optimizer_steps_run_with_the_weights_of_each(tmp_path):
    world = untrained()
    env = world.to_vector_env(2, autoreset_mode="disabled", seed=0)
    env.reset()
    start, packed, optimizer = env.state(), world.model.packed(3), torch.optim.AdamW(world.model.parameters(), lr=0.01)
    observations = []
    for _ in range(10):
        optimizer.zero_grad()
        sum((p - 1).square().sum() for p in world.model.parameters()).backward()
        optimizer.step()
        env.set_state(start)
        observations.append(env.step(torch.zeros(2, 1))[0])
        assert world.model.packed(3) is packed
        alone = copy.deepcopy(world.model).packed(3)
        assert all(map(torch.equal, leaves_of(packed), leaves_of(alone)))
    assert len({tuple(o.flatten().tolist()) for o in observations}) == 10


def test_weights_packed_under_inference_mode_or_grad_need_no_graph_and_can_be_in_one():
    model = untrained().model
    with torch.inference_mode():
        packed = model.packed(3)
    changed_by_optimizer()(model, None)
    with torch.enable_grad():
        assert model.packed(3) is packed
    with torch.inference_mode():
        one_table(model, None)
        assert model.packed(3) is packed
    assert not any(t.requires_grad or t.is_inference() for t in leaves_of(packed))


def test_load_weights_serves_environments_that_exist(tmp_path):
    world, other = untrained(), untrained(seed=1)
    other.bank = torch.full((1, world.num_positions), 0.25) * ~world.model.codec.is_class
    other.save(tmp_path / "other")
    env = world.to_vector_env(3, autoreset_mode="disabled")
    env.reset(seed=0)
    world.load_weights(tmp_path / "other")
    loaded = WorldModel.load(tmp_path / "other").to_vector_env(3, autoreset_mode="disabled")
    loaded.reset(seed=0)
    env.set_state(loaded.state())
    assert torch.equal(env.step(torch.zeros(3, 1))[0], loaded.step(torch.zeros(3, 1))[0])
    assert torch.equal(world.bank, other.bank)


def test_environments_of_one_world_share_its_weights():
    world = untrained()
    one, two = (world.to_vector_env(3, autoreset_mode="disabled") for _ in range(2))
    for env in (one, two):
        env.reset(seed=0)
    changed_by_optimizer()(world.model, None)
    assert torch.equal(one.step(torch.zeros(3, 1))[0], two.step(torch.zeros(3, 1))[0])


def test_stepping_under_inference_mode_spoils_nothing_for_training():
    world = untrained()
    env = world.to_vector_env(2)
    with torch.inference_mode():
        env.reset(seed=0)
        env.step(torch.zeros(2, 1))
    env.reset(seed=0)
    actor = nn.Linear(3, 1)
    env.imagine(actor, 3, grad=True)["next", "reward"].sum().backward()
    assert float(actor.weight.grad.abs().sum()) > 0


def test_the_worlds_parameters_take_no_gradient_from_imagination():
    world = untrained()
    env = world.to_vector_env(2)
    env.reset(seed=0)
    env.imagine(nn.Linear(3, 1), 2, grad=True)["next", "reward"].sum().backward()
    assert all(p.grad is None for p in world.model.parameters())
