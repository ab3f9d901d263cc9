"""Spaces in words, by which the states of models are told apart."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

from wm_vec.adapters.spaces import space_signature


def plane(low=-1.1234568, high=1.0, **options):
    return Box(low, high, (2,), **options)


def in_the_middle(number):
    low = np.zeros(2000, np.float32)
    low[1000] = number
    return Box(low, 1.0)


SPACES = [
    *(plane(), plane(-1.1234569), plane(high=2.0), plane(dtype=np.float64), Box(-1.1234568, 1.0, (2, 1))),
    *(in_the_middle(-1.0), in_the_middle(0.0)),
    *(Discrete(3), Discrete(3, start=1), Discrete(4), MultiDiscrete([3, 3]), MultiDiscrete([3, 4])),
    *(Dict(a=plane()), Dict(b=plane()), Tuple([plane()]), Tuple([plane(), plane()])),
]


def test_other_spaces_have_other_signatures():
    assert len({space_signature(space) for space in SPACES}) == len(SPACES)


def test_a_signature_does_not_hang_on_what_numpy_prints():
    with np.printoptions(precision=1, threshold=3):
        assert space_signature(plane()) == space_signature(SPACES[0])
        assert space_signature(in_the_middle(0.0)) == space_signature(Box(0.0, 1.0, (2000,)))
