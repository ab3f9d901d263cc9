"""What does not fit into `TorchRLDynamics`, and what it says of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from tensordict import TensorDict
from tensordict.nn import EnsembleModule, TensorDictModule, TensorDictSequential
from torch import nn

from wm_vec.adapters import AdapterError, TorchRLDynamics
from wm_vec.core import CounterRNG

BOX = Box(-1, 1, (2,), np.float32)
START = TensorDict({"observation": torch.zeros(3, 2)}, batch_size=[3])


def module(out_keys=("observation", "reward"), fn=None, in_keys=("observation", "action")):
    return TensorDictModule(fn or (lambda x, a: (x + a, x[:, :1])), in_keys=list(in_keys), out_keys=list(out_keys))


def dynamics(given=None, observed=BOX, acted=BOX, **options):
    options = {"initial_state": START, **options}
    return TorchRLDynamics(module() if given is None else given, observed, acted, **options)


def test_what_is_right_is_taken():
    assert dynamics().rng == "counter"


LATENT = TensorDict({"z": torch.zeros(3, 2)}, batch_size=[3])
TO_LATENT = module(["z", "reward"], in_keys=["z", "action"])
DECODER = TensorDictModule(nn.Identity(), in_keys=["z"], out_keys=["seen"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": nn.Linear(2, 2)}, "module must be a TensorDict module, got Linear. Wrap it: TensorDictModule(net"),
        ({"decoder": nn.Linear(2, 2), "state_keys": ["z"]}, "decoder must be a TensorDict module, got Linear"),
        ({"given": module(["observation", "_"])}, "output must have a tensor 'reward', at the root or under 'next'"),
        ({"given": module(["observation", "_"])}, "it has 'action', 'observation'. Name the right one with reward_key"),
        ({"terminated_key": "over"}, "output must have a tensor 'over', at the root"),
        ({"info_keys": [("stats", "std")]}, "output must have a tensor ('stats', 'std')"),
        ({"observation_key": "pixels"}, "initial_state must have a tensor 'pixels'"),
        ({"given": module(["x", "reward"])}, "the state 'observation' does not come back: the module writes"),
        ({"given": module(["x", "reward"])}, "write 'observation' or ('next', 'observation')"),
        ({"initial_state": LATENT}, "initial_state must have a tensor 'observation'"),
        (
            {"given": TO_LATENT, "initial_state": LATENT, "state_keys": ["z"], "decoder": DECODER},
            "the decoder's output must have a tensor 'observation', at the root or under 'next', but there is none",
        ),
        ({"given": TO_LATENT, "initial_state": LATENT, "decoder": DECODER}, "name its keys in state_keys"),
        (
            {"state_keys": ["observation"], "decoder": DECODER},
            "the decoder reads 'z', the state has 'observation'. It sees the state alone",
        ),
        ({"given": module(in_keys=["observation", "force"])}, "reads ['force'], but is given TensorDict(2,) of"),
        (
            {"given": module(fn=lambda x, a: (x[:1], x[:1, :1]))},
            "the module gave a tensor of another batch size than it was given",
        ),
        (
            {"given": EnsembleModule(TensorDictModule(nn.Linear(2, 2), ["observation"], ["observation"]), 4)},
            "was given batch size (2,) and returned (4, 2). It must keep the batch; an ensemble has to be reduced",
        ),
        ({"initial_state": START.expand(5, 3)}, "initial_state must have batch size (M,) or (), got (5, 3)"),
        ({"initial_state": torch.zeros(3, 2)}, "initial_state must be a TensorDict with the states"),
        ({"initial_state": None}, "nothing says how episodes start"),
        ({"initial_state": None, "reset_fn": lambda seed: torch.zeros(2)}, "reset_fn must be a TensorDict"),
        ({"reset_fn": lambda seed: START[0]}, "give initial_state or reset_fn, not both"),
        ({"observed": Tuple((BOX, BOX))}, "TensorDicts hold no tuples"),
        ({"observation_key": {"a": "observation"}}, "a mapping only of Dict spaces"),
        (
            {"observed": Dict(a=BOX, b=BOX), "observation_key": {"a": "observation"}},
            "must name the keys ['a', 'b'] of the observation space, got ['a']",
        ),
        ({"observation_key": 3}, "a key is a string or a tuple of strings, got 3"),
        ({"state_keys": "observation"}, "state_keys must be a list of keys, got 'observation'"),
        ({"one_hot": True}, "one_hot needs a Discrete or MultiDiscrete action space, got Box"),
        ({"terminated_as": "chance"}, "terminated_as must be 'probability' or 'logit', got 'chance'"),
        ({"rng": "torch"}, "rng must be 'counter', 'global' or None, got 'torch'"),
        ({"observed": Box(-1, 1, (3,))}, "observation must have shape"),
        ({"observed": Box(0, 255, (2,), np.uint8)}, "observation has dtype torch.float32, its space torch.uint8"),
        ({"given": module(fn=lambda x, a: (x + a, x))}, "reward must be one number per env"),
        ({"given": module(fn=lambda x, a: (x.double(), x[:, 0]))}, "went in as Tensor(2, 2) float32 and came back as"),
    ],
)
def test_the_message_says_what_is_wrong(options, message):
    with pytest.raises(AdapterError, match=re.escape(message)):
        dynamics(**options)


def test_an_error_inside_a_module_keeps_its_type_and_says_what_it_was_given():
    wrong = TensorDictSequential(module(), TensorDictModule(nn.Linear(5, 1), ["observation"], ["value"]))
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        dynamics(wrong)
    assert not isinstance(caught.value, AdapterError)
    notes = "\n".join(caught.value.__notes__)
    assert "Raised in the module (TensorDictSequential), given TensorDict(2,) of ['action', 'observation']" in notes
    assert "for all 2 envs at once, in step 1 of episode 0 of the first" in notes


def test_discrete_actions_that_a_module_cannot_join_are_named():
    """A net over ``(B,)`` whole numbers raises; the note shows what it got."""

    class Joined(nn.Module):
        def forward(self, x, a):
            return torch.cat([x, a], -1), x[:, 0]

    with pytest.raises(RuntimeError, match=r"cat|dimension"):
        dynamics(module(fn=Joined()), acted=Discrete(2))
    assert dynamics(module(fn=lambda x, a: (x + a, x[:, 0])), acted=Discrete(2), one_hot=True).rng == "counter"


def test_undeclared_draws_are_found_and_declared_ones_are_taken():
    noisy = module(fn=lambda x, a: (x + torch.randn_like(x), x[:, 0]))
    before = torch.get_rng_state()
    assert dynamics(noisy).rng == "global"
    assert dynamics(noisy, rng="global").rng == "global"
    assert dynamics(rng="global").rng == "global"
    with pytest.warns(UserWarning, match="torch's global random generator"):
        assert dynamics(noisy, rng="counter").rng == "counter"
    restless = dynamics(initial_state=None, reset_fn=lambda: TensorDict({"observation": torch.randn(2)}))
    assert restless.rng == "global"
    assert torch.equal(torch.get_rng_state(), before), "trying a model out must leave no trace"


def test_what_a_module_leaves_alone_goes_through_an_identity():
    goal = TensorDictModule(nn.Identity(), ["goal"], ["goal"])
    start = TensorDict({"observation": torch.zeros(2), "goal": torch.ones(2)})
    keys = {"initial_state": start, "state_keys": ["observation", "goal"]}
    with pytest.raises(AdapterError, match=r"what never changes goes through TensorDictModule\(nn.Identity"):
        dynamics(**keys)
    kept = dynamics(TensorDictSequential(module(), goal), **keys)
    state = kept.step(kept.bank, torch.ones(1, 2), CounterRNG.from_seeds(torch.zeros(1, dtype=torch.int64))).state
    assert kept.model_state(state, 0)["goal"].tolist() == [1, 1]


def test_a_decoder_that_samples_does_so_from_the_lent_generator():
    """Starts look the same whatever was drawn outside, and outside nothing is noticed."""
    sampling = TensorDictModule(lambda z: z + torch.randn_like(z), in_keys=["z"], out_keys=["observation"])
    seen = []
    for outside in range(2):
        made = dynamics(
            TO_LATENT,
            initial_state=None,
            reset_fn=lambda: TensorDict({"z": torch.zeros(2)}),
            state_keys=["z"],
            decoder=sampling,
        )
        assert made.rng == "global"
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        made.reseed(7)
        seen.append(made.start(CounterRNG.from_seeds(torch.arange(4)), None).observation)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*seen)
    assert seen[0].std() > 0.1
