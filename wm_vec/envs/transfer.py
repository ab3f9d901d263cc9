"""Many tensors on their way to the host in one copy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NAMES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]
NUMPY_DTYPES: dict[torch.dtype, np.dtype] = {getattr(torch, name): np.dtype(name) for name in NAMES}
"""The dtypes that can be packed, and NumPy's names for them."""
TORCH_DTYPES = {numpy_dtype: dtype for dtype, numpy_dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class Packed:
    """Tensors of any shapes and dtypes as one row of bytes; `to_host` is the only thing that reads them.

    Packing itself runs on the device and waits for nothing. What comes out shares no memory with what went in, on the
    CPU neither.

    Attributes:
        data: ``(num_bytes,)`` uint8 on the tensors' device, those of wide dtypes first, so that each lies aligned.
        layout: Name, dtype and shape of each, in the order of `data`.
    """

    data: Tensor
    layout: tuple[tuple[Hashable, torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, tensors: Mapping[Hashable, Tensor]) -> Packed:
        """Pack tensors that lie on one device.

        Args:
            tensors: At least one, by name; of dtypes that NumPy has.

        Raises:
            TypeError: A dtype that NumPy has not, as bfloat16.
        """
        for name, tensor in tensors.items():
            if tensor.dtype not in NUMPY_DTYPES:
                raise TypeError(f"Packed.of: NumPy has no {tensor.dtype}, the dtype of {name!r}; convert it first.")
        order = sorted(tensors.items(), key=lambda item: -item[1].element_size())
        data = torch.cat([tensor.detach().reshape(-1).view(torch.uint8) for _, tensor in order])
        return cls(data, tuple((name, tensor.dtype, tensor.shape) for name, tensor in order))

    def to_host(self) -> dict[Hashable, np.ndarray]:
        """The tensors as writable arrays, by name; one copy from the device, however many they are."""
        data = self.data.cpu().numpy()
        arrays, start = {}, 0
        for name, dtype, shape in self.layout:
            end = start + shape.numel() * dtype.itemsize
            arrays[name] = data[start:end].view(NUMPY_DTYPES[dtype]).reshape(shape)
            start = end
        return arrays
