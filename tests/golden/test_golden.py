"""Every face rolls out what it did when the rollouts were frozen."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from tests.golden.cases import CASES
from tests.golden.freeze import ROLLOUTS


@pytest.fixture(scope="module")
def frozen() -> dict[str, dict[str, np.ndarray]]:
    """Case -> name -> array."""
    cases: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    with np.load(ROLLOUTS) as file:
        for key in file.files:
            case, name = key.split("|")
            cases[case][name] = file[key]
    return cases


def test_every_case_is_frozen(frozen):
    assert set(frozen) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_rollout_is_the_frozen_one(case, frozen):
    rolled, expected = CASES[case]().arrays(), frozen[case]
    assert set(rolled) == set(expected)
    # Flags first: where an episode ends elsewhere, all numbers after it differ too.
    for name in sorted(expected, key=lambda name: expected[name].dtype.kind != "b"):
        assert rolled[name].dtype == expected[name].dtype, name
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(rolled[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(rolled[name], expected[name], err_msg=name)
