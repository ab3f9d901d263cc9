"""Classes as one-hot vectors."""

import pytest
import torch

from wm_vec.spaces import read_one_hot

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int64, *FLOATS])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_the_classes_come_back(dtype, shape):
    classes = torch.stack([torch.randint(n, shape, generator=torch.Generator().manual_seed(n)) for n in (4, 1, 2)], -1)
    hot = torch.cat([torch.nn.functional.one_hot(classes[..., i], n) for i, n in enumerate((4, 1, 2))], -1).to(dtype)
    index, clear = read_one_hot(hot, (4, 1, 2))
    assert torch.equal(index, classes)
    assert clear.shape == shape
    assert bool(clear.all())


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_a_straight_through_estimator_leaves_is_clear(dtype):
    scores = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = scores.softmax(-1).to(dtype)
    classes = probs.argmax(-1)
    hot = torch.nn.functional.one_hot(classes, 3).to(dtype) + probs - probs
    assert bool((hot != hot.round()).any()), "not ones and zeros alone"
    index, clear = read_one_hot(hot, (3,))
    assert torch.equal(index[:, 0], classes)
    assert bool(clear.all())


@pytest.mark.parametrize(
    "bad",
    [[0.5, 0.5, 1], [0, 0, 1], [1, 1, 1], [0.99, 0.01, 1], [1, 0, 0], [1, -0.1, 1], [9, 0, 1], [torch.nan, 1, 1]],
    ids=str,
)
def test_what_is_no_one_hot_vector_is_not_clear(bad):
    hot = torch.tensor([[1.0, 0.0, 1.0], bad, [0.0, 1.0, 1.0]])
    assert read_one_hot(hot, (2, 1))[1].tolist() == [True, False, True]


def test_nothing_is_read_on_the_host():
    index, clear = read_one_hot(torch.empty(5, 7, device="meta"), (3, 4))
    assert (index.shape, clear.shape) == ((5, 2), (5,))
