"""A canvas's weights and constants as the kernels take them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_kernels.predict.reference import sampler_coefficients
from wm_kernels.predict.weights import BlockWeights, ClassHead

if TYPE_CHECKING:
    from wm_kernels.canvas_step.weights import PackedWeights

LOG2_E = 1 / math.log(2)
HEAD_WIDTH = 32


class Sizes(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        N, NP: Positions, and the power of two that they are padded to.
        D, H: Width, and hidden width of the MLP.
        L, K: Blocks and passes.
        ROWS: Rows of the table of classes, at least 1.
        NUM_HEADS: Positions whose class is drawn.
        END: The position that says whether a step ends the episode; -1 where it makes no difference.
        CH: Classes at a time: a power of two.
    """

    N: int
    NP: int
    D: int
    H: int
    L: int
    K: int
    ROWS: int
    NUM_HEADS: int
    END: int
    CH: int


class KernelTables(NamedTuple):
    """What the kernels read besides an env's state.

    Folded into the weights of each pass and block: shift, scale and gate of the modulation, the scale of the softmax
    and log2(e), so that it takes powers of 2. Softmax does not see the keys' bias; the values' bias goes through the
    output projection. All that is added to the residual stream is centred over D: its mean is never read.

    Attributes:
        weights: ``(K * L * (4 D + 2 H), D)`` bfloat16 or float32: queries, keys, values, output, up, down.
        biases: ``(K * L, 3 D + H)`` float32: queries, output, up, down.
        vectors: ``(4, NP, D)`` float32: token of a known zero or of an unknown value, encoder, noise, read-out.
        class_vectors: ``(4, ROWS, D)`` float32: embedding of a current class; read-out, told and peer of a drawn one.
        class_scalars: ``(2, ROWS)`` float32: bias of the logit, and the value that a class stands for.
        scalars: ``(15, NP)`` float32, in the order that `kernel.py` names.
        places: ``(NP,)`` int32: first row of a current class in the table; -1 where there is a number.
        heads: ``(3 * NUM_HEADS + K + 1,)`` int32: position, first row and number of classes of each head; then where
            the heads of each pass begin.
        passes: ``(K, 8)`` float32: 1 / norm, c_skip, c_out, a, b, c, share of the starting noise, sigma.
        sizes: What the kernels are compiled for.
    """

    weights: Tensor
    biases: Tensor
    vectors: Tensor
    class_vectors: Tensor
    class_scalars: Tensor
    scalars: Tensor
    places: Tensor
    heads: Tensor
    passes: Tensor
    sizes: Sizes

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but the sizes."""
        return self[:-1]


def padded_size(num_positions: int) -> int:
    """NP: the power of two, at least 4, that N positions are padded to."""
    return max(4, 1 << (num_positions - 1).bit_length())


def kernel_tables(packed: PackedWeights, dtype: torch.dtype) -> KernelTables:
    """The tables of a step.

    Args:
        packed: The weights; of a context ``(1, N)`` common to all envs.
        dtype: Of the weights: bfloat16 or float32.
    """
    denoiser, (passes, depth, _, width) = packed.denoiser, packed.modulation.shape
    count, device = packed.center.shape[0], packed.center.device
    padded = padded_size(count)
    hidden = denoiser.blocks[0].up_weight.shape[0]
    heads = [head for drawn in denoiser.draws for head in drawn]
    folded = [
        _fold(block, modulation)
        for table in packed.modulation.double().unbind(0)
        for block, modulation in zip(denoiser.blocks, table.unbind(0), strict=True)
    ]

    def positions(tensor: Tensor) -> Tensor:
        """``(N, ...)`` padded to ``(NP, ...)`` float64."""
        return F.pad(tensor.double(), (*(0, 0) * (tensor.dim() - 1), 0, padded - count))

    known = packed.known[0]
    base_token = torch.where(known[:, None], packed.known_bias, packed.unknown_bias)
    vectors = [_centred(base_token.double()), _centred(packed.weight.double())]
    vectors += [_centred(denoiser.noise_weight.double()), denoiser.head_weight]
    class_vectors, class_scalars, head_table = _class_tables(packed, heads)
    inputs = torch.zeros(3, count, dtype=torch.float64, device=device)
    places = torch.full((padded,), -1, dtype=torch.int32, device=device)
    if packed.classes is not None:
        at = packed.classes.positions
        inputs[:, at] = torch.stack((packed.classes.base, packed.classes.inv_step, packed.classes.last)).double()
        places[at] = packed.classes.first_row.to(torch.int32)
    scalars = [packed.center, packed.scale, known, denoiser.head_bias, denoiser.start_scale, packed.base[0]]
    scalars += [packed.shift[0, 0], packed.shift[1, 0], packed.step_scale[0, 0], packed.step_scale[1, 0]]
    scalars += [packed.low, packed.high, *inputs]
    starts = [0]
    for drawn in denoiser.draws:
        starts.append(starts[-1] + len(drawn))
    most = max((head.bias.shape[0] for head in heads), default=1)
    return KernelTables(
        weights=torch.cat([rows for rows, _ in folded]).to(dtype),
        biases=torch.stack([bias for _, bias in folded]).float(),
        vectors=torch.stack([positions(table) for table in vectors]).float(),
        class_vectors=class_vectors.float(),
        class_scalars=class_scalars.float(),
        scalars=torch.stack([positions(row) for row in scalars]).float(),
        places=places,
        heads=torch.tensor([*head_table, *starts], dtype=torch.int32, device=device),
        passes=torch.tensor(_pass_table(packed.sigmas), dtype=torch.float64).float().to(device),
        sizes=Sizes(
            N=count,
            NP=padded,
            D=width,
            H=hidden,
            L=depth,
            K=passes,
            ROWS=class_vectors.shape[1],
            NUM_HEADS=len(heads),
            END=-1 if packed.end is None else packed.end,
            CH=min(16, 1 << (most - 1).bit_length()),
        ),
    )


def _centred(tensor: Tensor) -> Tensor:
    return tensor - tensor.mean(-1, keepdim=True)


def _fold(block: BlockWeights, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """One block's rows and biases in one pass, float64; `modulation` is ``(6, D)`` float64."""
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation
    wq, wk, wv = block.qkv_weight.double().chunk(3)
    bq, _, bv = block.qkv_bias.double().chunk(3)
    wo, bo, wu, bu, wd, bd = (tensor.double() for tensor in block[2:])
    softmax = LOG2_E / math.sqrt(HEAD_WIDTH)
    rows = (
        softmax * wq * scale1,
        wk * scale1,
        wv * scale1,
        _centred((gate1[:, None] * wo).t()),
        wu * scale2,
        _centred((gate2[:, None] * wd).t()),
    )
    biases = (
        softmax * (wq @ shift1 + bq),
        _centred(gate1 * (wo @ (wv @ shift1 + bv) + bo)),
        wu @ shift2 + bu,
        _centred(gate2 * bd),
    )
    return torch.cat(rows), torch.cat(biases)


def _class_tables(packed: PackedWeights, heads: list[ClassHead]) -> tuple[Tensor, Tensor, list[int]]:
    """``class_vectors``, ``class_scalars`` and the first part of ``heads``."""
    width = packed.weight.shape[1]
    embedding = packed.weight.new_zeros(1, width) if packed.classes is None else packed.classes.embedding
    drawn = sum(head.bias.shape[0] for head in heads)
    rows = max(embedding.shape[0], drawn, 1)
    vectors = torch.zeros(4, rows, width, dtype=torch.float64, device=embedding.device)
    scalars = torch.zeros(2, rows, dtype=torch.float64, device=embedding.device)
    vectors[0, : embedding.shape[0]] = _centred(embedding.double())
    table, first = [], 0
    for head in heads:
        count = head.bias.shape[0]
        mine = slice(first, first + count)
        vectors[1, mine], vectors[2, mine] = head.weight.double(), _centred(head.told.double())
        vectors[3, mine] = head.peer.double()
        scalars[0, mine], scalars[1, mine] = head.bias.double(), head.value.double()
        table += [head.position, first, count]
        first += count
    return vectors, scalars, table


def _pass_table(sigmas: tuple[float, ...]) -> list[list[float]]:
    """The numbers of each pass; the first is the denoiser at infinite noise, from whose mean the sampler starts."""
    table = [[0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    for sigma, (a, b, c) in zip(sigmas, sampler_coefficients(sigmas), strict=False):
        norm = math.sqrt(1 + sigma * sigma)
        table.append([1 / norm, 1 / (norm * norm), sigma / norm, a, b, c, 0.0, sigma])
    return table
