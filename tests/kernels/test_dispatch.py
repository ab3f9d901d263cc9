import re

import pytest
import torch

from tests.kernels.harness import TOLERANCES, assert_matches_reference
from wm_kernels import ContractError, Op, decode_fields, encode_fields, philox_normal, predict, use_backend
from wm_kernels.decode_fields.reference import decode_fields_reference
from wm_kernels.dispatch import TensorContract


def decode_args(dtype=torch.float32, batch=5):
    """Two numbers and a class, with a NaN sample in the last env."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, 3, generator=generator).to(dtype)
    sample[-1, 0] = float("nan")
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.2, 0.0], [0.5, 2.0, 1.0]], dtype=dtype)
    return (
        sample,
        torch.randn(batch, 3, generator=generator).to(dtype),
        rows[:1],
        rows[1:2],
        rows[2:],
        torch.tensor([-1.0, -torch.inf, -torch.inf], dtype=dtype),
        torch.tensor([1.0, torch.inf, torch.inf], dtype=dtype),
    )


def op_with(run, supports=lambda *args: True):
    """`decode_fields` with one more implementation, called "candidate"."""
    op = Op(decode_fields.name, decode_fields.reference, decode_fields.contract)
    op.register("candidate", supports)(run)
    return op


# -- contracts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "replacement", "expected", "got"),
    [
        (0, torch.zeros(5, 3, 2), "`sample` must have shape (B, N)", "got (5, 3, 2), torch.float32"),
        (1, torch.zeros(5, 4), "`values` must have shape (B, N)", "got (5, 4), torch.float32"),
        (1, torch.zeros(5, 3, dtype=torch.int64), "`values` must have shape (B, N) and dtype", "torch.int64"),
        (6, torch.zeros(2), "`high` must have shape (N)", "got (2,)"),
    ],
)
def test_contract_error_says_op_argument_expected_and_got(position, replacement, expected, got):
    args = list(decode_args())
    args[position] = replacement
    with pytest.raises(ContractError) as caught:
        decode_fields(*args)
    message = str(caught.value)
    assert "wm_kernels.decode_fields" in message
    assert expected in message
    assert got in message


def test_contract_error_names_the_sizes_that_other_arguments_fixed():
    args = list(decode_args())
    args[1] = torch.zeros(4, 3)
    with pytest.raises(ContractError, match=re.escape("B=5, N=3")):
        decode_fields(*args)


def test_contract_error_names_both_devices():
    args = list(decode_args())
    args[1] = args[1].to("meta")
    with pytest.raises(ContractError, match="`values` is on meta, the others on cpu"):
        decode_fields(*args)


def test_contract_holds_for_keyword_arguments_too():
    seed = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ContractError, match="`episode`"):
        philox_normal(seed, episode=torch.zeros(3, dtype=torch.int64), step=seed, num_normals=1, stream=0)


def test_contract_refuses_what_is_no_tensor():
    with pytest.raises(ContractError, match=r"wm_kernels\.philox_normal: `seed` .*got list"):
        philox_normal([1, 2], torch.zeros(2).long(), torch.zeros(2).long(), 1, 0)


def test_fixed_sizes_are_held():
    op = Op("pairs", lambda x: x, {"x": TensorContract(("B", 2))})
    assert op(torch.zeros(3, 2)).shape == (3, 2)
    with pytest.raises(ContractError, match=re.escape("shape (B, 2)")):
        op(torch.zeros(3, 4))


def test_every_exported_op_has_a_contract_that_names_its_parameters():
    import inspect

    for op in (decode_fields, encode_fields, philox_normal, predict):
        parameters = list(inspect.signature(op.reference).parameters)
        assert list(op.contract) == parameters[: len(op.contract)], op.name


# -- choice of implementation -------------------------------------------------------------------------------


def test_use_backend_forces_and_restores():
    calls = []

    def candidate(*args):
        calls.append("candidate")
        return decode_fields_reference(*args)

    op, args = op_with(candidate), decode_args()
    op(*args)
    assert calls == ["candidate"]
    with use_backend("reference"):
        op(*args)
        assert calls == ["candidate"]
        with use_backend("candidate"):
            op(*args)
        assert calls == ["candidate"] * 2
        op(*args)
        assert calls == ["candidate"] * 2
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    op(*args)
    assert calls == ["candidate"] * 3


def test_what_an_implementation_cannot_take_runs_the_reference_unless_forced():
    op, args = op_with(lambda *args: pytest.fail("chosen"), supports=lambda *args: False), decode_args()
    assert op.choose(*args) is op.reference
    op(*args)
    with use_backend("candidate"), pytest.raises(ContractError, match=r"decode_fields.*'candidate'"):
        op(*args)


def test_forcing_a_backend_that_an_op_lacks_runs_its_reference():
    op, args = op_with(decode_fields_reference), decode_args()
    with use_backend("numpy"):
        assert op.choose(*args) is op.reference


@pytest.mark.parametrize("backend", ["no-such-backend", "", None, 1])
def test_forcing_a_backend_that_no_op_has_is_refused(backend):
    with pytest.raises(ValueError, match=r"use_backend: known are .*numpy"), use_backend(backend):
        pass


# -- the harness catches what is wrong ----------------------------------------------------------------------


def off_by_a_little(*args):
    out = decode_fields_reference(*args)
    out[0, 0] += 3e-4
    return out


def swallows_nan(*args):
    return decode_fields_reference(*args).nan_to_num()


def wrong_dtype(*args):
    return decode_fields_reference(*args).double()


def wrong_shape(*args):
    return decode_fields_reference(*args)[:-1]


def writes_into_its_argument(*args):
    out = decode_fields_reference(*args)
    args[1].add_(1.0)
    return out


def ignores_bounds(*args):
    low, high = torch.full_like(args[5], -torch.inf), torch.full_like(args[6], torch.inf)
    return decode_fields_reference(*args[:5], low, high)


WRONG = [off_by_a_little, swallows_nan, wrong_dtype, wrong_shape, writes_into_its_argument, ignores_bounds]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_implementation_fails_the_harness(wrong):
    with pytest.raises(AssertionError, match="decode_fields"):
        assert_matches_reference(op_with(wrong), decode_args(), backend="candidate")


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_right_implementation_passes_the_harness(dtype):
    def compiled_by_hand(*args):
        sample, values, base, shift, scale, low, high = args
        return (base * values + shift + scale * sample).clamp(low, high)

    assert_matches_reference(op_with(compiled_by_hand), decode_args(dtype), backend="candidate")


def test_an_implementation_that_is_never_chosen_fails_the_harness():
    op = op_with(lambda *args: decode_fields_reference(*args))
    op.choose = lambda *args: op.reference
    with pytest.raises(AssertionError, match="was not chosen"):
        assert_matches_reference(op, decode_args(), backend="candidate")
