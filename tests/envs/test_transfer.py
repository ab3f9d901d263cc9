"""Tensors of any kind reach the host bit by bit, in one copy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from wm_vec.envs.transfer import Packed

HOST_READS = {"cpu", "numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero"}
DTYPES = [torch.float32, torch.uint8, torch.int64, torch.bool, torch.float64, torch.int16, torch.float16, torch.uint32]


class CountHostReads(TorchFunctionMode):
    """Counts the calls that wait for a device, by name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        target = (kwargs or {}).get("device", args[1] if len(args) > 1 else None)
        to_host = name == "to" and not isinstance(target, torch.dtype) and str(target) == "cpu"
        if name in HOST_READS or to_host:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def some_bits(dtype, shape, seed):
    """A tensor of random bits, NaNs, infinities and all."""
    rng = np.random.default_rng(seed)
    if dtype is torch.bool:
        return torch.from_numpy(np.asarray(rng.random(shape) < 0.5))
    raw = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
    return (
        torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)
        if raw
        else torch.empty(shape, dtype=dtype)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    )
)
def test_what_comes_out_is_what_went_in(kinds):
    tensors = {("part", i): some_bits(dtype, tuple(shape), seed) for i, (dtype, shape, seed) in enumerate(kinds)}
    arrays = Packed.of(tensors).to_host()
    assert set(arrays) == set(tensors)
    for name, tensor in tensors.items():
        expected = tensor.numpy()
        assert (arrays[name].dtype, arrays[name].shape) == (expected.dtype, expected.shape)
        assert arrays[name].tobytes() == expected.tobytes()
        assert arrays[name].flags.aligned
        assert arrays[name].flags.writeable


def test_strided_tensors_and_those_with_gradients():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4).requires_grad_()
    arrays = Packed.of({"columns": base.t(), "one row, often": base[0].expand(5, 4)}).to_host()
    np.testing.assert_array_equal(arrays["columns"], np.arange(12).reshape(3, 4).T)
    np.testing.assert_array_equal(arrays["one row, often"], [[0, 1, 2, 3]] * 5)


@pytest.mark.parametrize("count", [1, 3])
def test_no_memory_is_shared_with_what_went_in(count):
    tensors = {i: torch.zeros(4) for i in range(count)}
    arrays = Packed.of(tensors).to_host()
    tensors[0].fill_(1)
    assert not arrays[0].any()
    arrays[0][:] = 2
    assert tensors[0].tolist() == [1] * 4


def test_one_copy_however_many_tensors():
    tensors = {i: some_bits(dtype, (3, 2), i) for i, dtype in enumerate(DTYPES)}
    with CountHostReads() as count:
        packed = Packed.of(tensors)
    assert not count.calls
    with CountHostReads() as count:
        packed.to_host()
    assert count.calls == {"cpu": 1, "numpy": 1}
    # The counter sees what it should.
    with CountHostReads() as count:
        for tensor in (torch.ones(2), torch.zeros(2)):
            tensor.cpu().numpy()
        bool(tensor.sum().to("cpu") > tensor[0].item())
    assert count.calls == {"cpu": 2, "numpy": 2, "to": 1, "item": 1, "__bool__": 1}


def test_packing_reads_nothing():
    """On the meta device every host read raises."""
    packed = Packed.of({"a": torch.ones(3, device="meta"), "b": torch.ones(2, 2, dtype=torch.bool, device="meta")})
    assert packed.data.device.type == "meta"
    assert packed.data.shape == (16,)


def test_a_dtype_that_numpy_has_not():
    with pytest.raises(TypeError, match=r"bfloat16.*'reward'"):
        Packed.of({"reward": torch.zeros(2, dtype=torch.bfloat16)})
