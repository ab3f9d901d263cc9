"""Random canvases for the kernels: every kind of field, random weights, states that an env can be in."""

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from wm_kernels import CanvasState, Controls, Draw, FusedStep, PackedWeights, Role, kernel_tables
from wm_kernels.fused_step import fused_step_reference
from wm_vec.canvas import Field, compile_schema
from wm_vec.model import CanvasModel, ModelConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs CUDA or Triton's interpreter"
)
KINDS = {
    "number": Field(),
    "bounded": Field(low=-0.5, high=0.5),
    "slow": Field(period=3),
    "measured": Field(is_input=False),
    "given": Field(is_output=False),
    "two": Field(num_classes=2),
    "seventeen": Field(num_classes=17),
    "forty": Field(num_classes=40, period=2),
    "told": Field(num_classes=3, is_output=False),
    "one": Field(num_classes=1),
    "flag": Field(num_classes=2, is_input=False),
}
END = Field(num_classes=2, is_input=False, leads=True)
ATARI = {"x": Field(w=3), "kind": KINDS["seventeen"], "act": KINDS["given"], "end": END, "paid": Field(is_input=False)}
TOLERANCE = 2e-4


@dataclass
class Case:
    """Arguments of `fused_step`."""

    model: CanvasModel
    packed: PackedWeights
    controls: Controls
    roles: list[Role]
    state: CanvasState
    actions: list[torch.Tensor]
    bank: list[torch.Tensor]
    draw: Draw | None
    horizon: int | None
    autoreset: str

    def arguments(self):
        return self.state, self.actions, self.bank, self.draw, self.horizon, self.autoreset

    def rows(self, index):
        """The same of some envs."""
        index = torch.as_tensor(index, dtype=torch.int64, device=DEVICE)
        state = CanvasState(*(None if leaf is None else leaf[index] for leaf in self.state))
        draw = None if self.draw is None else self.draw._replace(seed=state.seed, episode=state.episode)
        return Case(
            self.model, self.packed, self.controls, self.roles, state, [a[index] for a in self.actions], self.bank,
            draw, self.horizon, self.autoreset,
        )  # fmt: skip


def random_model(fields, d_model=32, num_blocks=2, mlp_ratio=4, seed=0, n_denoise_steps=3, **network):
    """A network of random weights, normalisers and bounds, none of them at its start value."""
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(num_blocks=num_blocks, mlp_ratio=mlp_ratio, n_denoise_steps=n_denoise_steps, **network)
    model = CanvasModel(compile_schema(fields, d_model=d_model), config)

    def normal(like, std):
        return torch.randn(like.shape, generator=generator) * std

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter.shape[-1] if parameter.dim() == 2 else 1
            std = 0.3 if "bias" in name or fan_in == 1 else 0.8 / math.sqrt(fan_in)
            parameter.copy_(normal(parameter, std))
            if name.endswith("modulation.bias"):
                parameter.view(6, -1)[[1, 2, 4, 5]] += 1.0
        codec = model.codec
        for name in ("mean", "step_mean"):
            getattr(codec, name).copy_(normal(getattr(codec, name), 0.2))
        for name in ("std", "step_std", "spread"):
            getattr(codec, name).copy_(normal(getattr(codec, name), 0.3).abs() + 0.2)
        if codec.mean.shape[0] > 2:
            codec.std[0] = codec.step_std[:, 1:3] = 0.0  # what was constant
    model.eval()
    return model


def case_of(
    fields, acts, *, num_envs=5, mode="same_step", horizon=4, hold=False, seed=0, dtype=torch.float32, whole=False,
    action_dtype=torch.float32, observes=None, **network,
):  # fmt: skip
    """A case over named fields.

    Args:
        fields: Name -> `Field`.
        acts: For each perspective the names that it acts on.
        whole: The last perspective observes whole numbers.
        observes: Positions that each perspective observes; all of them if not given.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    model = random_model(fields, seed=seed, **network).to(DEVICE, dtype)
    bound, codec, count = model.bound, model.codec, model.noise_size
    steps = model.config.n_denoise_steps
    packed = model.packed(steps)
    if dtype is torch.float32:
        packed = packed._replace(kernel=kernel_tables(packed, torch.float32))
    agents, is_class = len(acts), codec.num_classes.cpu() > 0

    def values(rows):
        drawn = torch.randn(rows, count, generator=generator)
        classes = torch.rand(rows, count, generator=generator) * codec.num_classes.cpu()
        return torch.where(is_class, classes.floor(), drawn).to(DEVICE, dtype)

    def whole_numbers(shape, low, high):
        return torch.randint(low, high, shape, generator=generator, device="cpu").to(DEVICE)

    roles, actions, end, paid = [], [], bound["end"].start if "end" in fields else -1, count - 1
    for p, names in enumerate(acts):
        places = bound.indices(names)
        offset = 2 if not action_dtype.is_floating_point else 0
        roles.append(
            Role(
                acts=tuple(places),
                low=(-0.75,) * len(places),
                high=(1.25,) * len(places),
                offset=offset,
                observes=tuple(range(count - 1, -1, -1)) if observes is None else tuple(observes[p]),
                whole=whole and p == agents - 1,
                reward=-1 if p == 1 else paid,
                terminated=-1 if p == 2 else end,
            )
        )
        if action_dtype.is_floating_point:
            action = torch.randn(num_envs, len(places), generator=generator).to(DEVICE, action_dtype) * 2
        else:
            action = whole_numbers((num_envs, len(places)), 0, 5).to(action_dtype)
        actions.append(action)
    period = codec.period.to(DEVICE)
    held = torch.zeros(1, count, dtype=torch.bool, device=DEVICE)
    outputs = [place for role in roles for place in role.acts if bool(codec.is_output[place])]
    held[0, outputs] = True
    controls = Controls(
        columns=torch.tensor([place for role in roles for place in role.acts], device=DEVICE),
        num_positions=count,
        held=held if hold else None,
        period=period if int(period.max()) > 1 else None,
        ticks_per_step=1,
        stream=0,
    )
    shape = (num_envs,)
    state = CanvasState(
        values=values(num_envs),
        tick=whole_numbers(shape, 0, 9) if controls.period is not None else None,
        elapsed=whole_numbers(shape, 0, 5),
        episode=whole_numbers(shape, 0, 2**40),
        seed=whole_numbers(shape, -(2**63), 2**63 - 1),
        returns=torch.randn(num_envs, agents, generator=generator).to(DEVICE, dtype),
        ended=(torch.rand(num_envs, agents, generator=generator) < 0.3).to(DEVICE),
        pending=(torch.rand(num_envs, generator=generator) < 0.3).to(DEVICE),
    )
    if agents == 1:
        state = state._replace(ended=torch.zeros_like(state.ended))
    size = torch.tensor(6, device=DEVICE)
    bank = [values(8)] if controls.period is None else [whole_numbers((8,), 0, 9), values(8)]
    draw = Draw(state.seed, state.episode, size, 1)
    if mode == "disabled":
        bank, draw = [], None
    return Case(model, packed, controls, roles, state, actions, bank, draw, horizon, mode)


@contextmanager
def poisoned_outputs():
    """Memory that is allocated inside holds NaN, or the largest number, until it is written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def fused(case: Case):
    step = FusedStep(lambda: case.packed, case.controls, case.roles, 1)
    with torch.no_grad(), poisoned_outputs():
        return step(*case.arguments())


def reference(case: Case):
    with torch.no_grad():
        return fused_step_reference(case.packed, case.controls, case.roles, *case.arguments())


def named(output):
    """Every tensor of an output by name."""
    tensors = {name: value for name, value in output.finished._asdict().items() if isinstance(value, torch.Tensor)}
    for name in ("final", "state"):
        tensors.update({f"{name}{i}": leaf for i, leaf in enumerate(getattr(output.finished, name))})
    for name in ("observed", "last_observed"):
        tensors.update({f"{name}{i}": leaf for i, leaf in enumerate(getattr(output, name))})
    return tensors


def assert_equal(got, expected, unsure):
    """All but the envs in which a class was drawn within rounding of the next one."""
    got, expected = named(got), named(expected)
    assert got.keys() == expected.keys()
    assert len(unsure) < 8 or unsure.float().mean() < 0.5, "most envs are compared"
    for name, tensor in got.items():
        assert tensor.dtype == expected[name].dtype, name
        assert tensor.shape == expected[name].shape, name
        torch.testing.assert_close(
            tensor[~unsure],
            expected[name][~unsure],
            rtol=TOLERANCE if tensor.is_floating_point() else 0,
            atol=TOLERANCE if tensor.is_floating_point() else 0,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def unsure_envs(case: Case, outputs=lambda case: named(reference(case))):
    """``(B,)`` bool: envs in which a change of the noise within rounding draws another class, or rounds another way.

    Args:
        outputs: Gives tensors ``(B, ...)`` by name.
    """
    step = case.packed.predict
    unsure = torch.zeros(case.state.values.shape[0], dtype=torch.bool, device=DEVICE)
    results = []
    for nudge in (-1e-5, 0.0, 1e-5):

        def predict(self, values, noise, kept=None, nudge=nudge):
            return step.__func__(self, values, noise + nudge, kept)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(case.packed), "predict", predict)
            results.append(outputs(case))
    for name, tensor in results[1].items():
        for other in (results[0][name], results[2][name]):
            differs = (tensor.double() - other.double()).abs() > 0.01
            unsure |= differs[:, None].flatten(1).any(-1)
    return unsure
