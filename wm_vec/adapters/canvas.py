"""Our canvas model as a `Dynamics`."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels import Controls, FusedStep, PackedWeights, Role, canvas_step
from wm_kernels.canvas_step.tiles import why_not
from wm_kernels.dispatch import has_kernels
from wm_vec.compat import new_tensordict, tree_leaves
from wm_vec.core import CounterRNG, Dynamics, Perspective, Transition
from wm_vec.core.config import Backend
from wm_vec.core.rng import STREAM_BANK, STREAM_NOISE, STREAM_RESET
from wm_vec.model import CanvasModel
from wm_vec.plain import warn_once, whole_number

ActMode = Literal["set", "hold"]


class CanvasDynamics(Dynamics):
    """Acting writes into fields' current values; one predict moves the whole canvas on.

    The state holds ``values`` ``(B, N)``, every position's value in its field's own units, from which a step encodes
    the canvas; and ``tick`` ``(B,)`` int64 where fields of a period above 1 need it.

    Args:
        model: The canvas model; its weights are used where they are, so new ones take effect at the next step.
        act_fields: Paths that the joint action's columns are written to, in order; each once.
        n_denoise_steps: K; None for the model's own.
        act_mode: ``"set"`` overwrites the current value, and the next is predicted like any other; ``"hold"`` keeps
            the written value through the step.
        reward_field: Path whose prediction is the reward; None for none.
        terminated_field: Path of a two-class field whose prediction ends the episode; None for none.
        bank: ``(M, N)`` values of initial states; None draws them from the model's prior.
        backend: ``"torch"`` steps in torch, ``"triton"`` by kernels, ``"auto"`` by kernels on CUDA where they take the
            canvas.
        dtype: Of the network in kernels: bfloat16 or float32; None for bfloat16 on CUDA.

    Raises:
        ValueError: Another act mode, or ``"triton"`` for a canvas or device that no kernel takes.
    """

    capturable = True

    @torch.inference_mode(False)
    def __init__(
        self,
        model: CanvasModel,
        act_fields: Sequence[str],
        *,
        n_denoise_steps: int | None = None,
        act_mode: ActMode = "set",
        reward_field: str | None = None,
        terminated_field: str | None = None,
        bank: Tensor | None = None,
        backend: Backend = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        if act_mode not in ("set", "hold"):
            raise ValueError(f"act_mode must be 'set' or 'hold', got {act_mode!r}.")
        self.model = model
        self.n_denoise_steps = denoise_steps(model, n_denoise_steps)
        self._ticks_per_step = model.config.ticks_per_step
        bound, device = model.bound, model.codec.mean.device
        self._act_index = bound.indices(act_fields)
        self.action_columns = torch.tensor(self._act_index, dtype=torch.int64, device=device)
        self.reward_column = bound[reward_field].start if reward_field else None
        self.terminated_column = bound[terminated_field].start if terminated_field else None
        self._has_periods = any(field.spec.period > self._ticks_per_step for field in bound.bound_fields())
        clamped = torch.zeros(1, bound.layout.num_positions, dtype=torch.bool)
        outputs = [i for path in act_fields if bound[path].spec.is_output for i in bound[path].indices()]
        clamped[0, outputs] = True
        self._controls = Controls(
            columns=self.action_columns,
            num_positions=bound.layout.num_positions,
            held=clamped.to(device) if act_mode == "hold" and outputs else None,
            period=model.codec.period.to(device) if self._has_periods else None,
            ticks_per_step=self._ticks_per_step,
            stream=STREAM_NOISE,
        )
        self._kernel_dtype = self._chosen_dtype(backend, dtype)
        self.signature = json.dumps(bound.to_dict(words=False)["fields"], sort_keys=True)
        self._saved_bank = bank

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.codec.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating dtype."""
        return self.model.codec.mean.dtype

    @property
    def bank(self) -> TensorDict | None:
        """The saved initial states as dynamics states, if there are any."""
        return None if self._saved_bank is None else self._as_state(self._saved_bank.to(self.device, self.dtype))

    def replace_bank(self, bank: Tensor | None) -> None:
        """Take other saved initial states ``(M, N)``; engines see them when they load `bank` again."""
        self._saved_bank = bank

    def initial_state(self, rng: CounterRNG, num_envs: int) -> TensorDict:
        """Starts of episodes sampled from the model itself, with the whole context unknown."""
        model = self.model
        zeros = torch.zeros(num_envs, model.bound.layout.num_positions, device=self.device, dtype=self.dtype)
        noise = rng.normal(model.noise_size, STREAM_BANK, torch.promote_types(self.dtype, torch.float32))
        filled = model.fill_in(zeros, zeros.bool(), noise, self.n_denoise_steps)
        return self._as_state(filled)

    def observe(self, state: TensorDictBase) -> Tensor:
        """All positions' values, ``(B, N)``."""
        return state.get("values")

    def encode(self, observation: Tensor, rng: CounterRNG) -> TensorDict:
        """States at which `observe` gives real observations.

        What was observed stands as it is. Where the network does not know all that it reads of a current state, it
        fills in the rest; otherwise the rest (action, reward, termination) is zero, as in a trained world's bank.

        Args:
            observation: ``(M, N)`` float in the fields' own units, NaN where a position was not observed.
            rng: Counters ``(M,)`` that the rest is drawn at.

        Raises:
            ValueError: Another number of positions, infinities, or no class of a categorical field.
        """
        model, codec = self.model, self.model.codec
        if observation.dim() != 2 or observation.shape[1] != codec.mean.shape[0]:
            raise ValueError(
                f"CanvasDynamics: observations must have shape ('M', {codec.mean.shape[0]}), one number per position, "
                f"got {tuple(observation.shape)}."
            )
        observation = observation.to(self.device, self.dtype)
        known = ~observation.isnan()
        values = torch.where(known, observation, 0.0)
        complete = (known | ~(codec.is_input & codec.is_output)).all(1)
        if self.device.type != "meta":  # which has no values to look at
            self._check_values(values)
            if bool(complete.all()):
                return self._as_state(values)
        noise = rng.normal(model.noise_size, STREAM_BANK, torch.promote_types(self.dtype, torch.float32))
        filled = model.fill_in(values, known, noise, self.n_denoise_steps)
        return self._as_state(torch.where(complete[:, None], values, filled))

    def _check_values(self, values: Tensor) -> None:
        """Refuse values ``(M, N)`` that no state can hold; reads the host."""
        codec = self.model.codec  # where there is a table of values, the nearest one counts
        classes = codec.num_classes * (torch.tensor(codec.max_values, device=self.device) == 0)
        no_class = (classes > 0) & ((values < 0) | (values >= classes) | (values != values.round()))
        wrong = torch.isinf(values) | no_class
        if bool(wrong.any()):
            place, position = wrong.nonzero()[0].tolist()
            field = next(f for f in self.model.bound.bound_fields() if position in f.indices())
            wanted = "be finite" if field.spec.num_classes is None else f"be classes below {field.spec.num_classes}"
            value = values[place, position].item()
            raise ValueError(f"CanvasDynamics: {field.path!r} must {wanted}; observation {place} has {value}.")

    def current_action(self, state: TensorDictBase) -> Tensor:
        """The act fields' current values, ``(B, A)``."""
        return state.get("values")[:, self.action_columns]

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """Write the action ``(B, A)``, predict, read reward and termination."""
        tick = state.get("tick") if self._has_periods else None
        counters = rng.seed, rng.episode, rng.step
        values = canvas_step(self.packed(), self._controls, state.get("values"), action, *counters, tick)
        tick = None if tick is None else tick + self._ticks_per_step
        reward = None if self.reward_column is None else values.select(1, self.reward_column)
        terminated = None if self.terminated_column is None else values.select(1, self.terminated_column) > 0.5
        return Transition(self._as_state(values, tick), values, reward, terminated)

    def packed(self) -> PackedWeights:
        """The model's weights as they are now, for a step."""
        return self.model.packed(self.n_denoise_steps, self._kernel_dtype)

    def addresses(self) -> Hashable:
        """The weights' own, of which there are others where the model was moved, or counts its classes anew."""
        return self.model.packed_place(self.n_denoise_steps, self._kernel_dtype)

    def fuse(self, perspectives: Sequence[Perspective]) -> FusedStep | None:
        """One launch for everybody, where kernels run and every perspective sees floats or whole numbers."""
        if self._kernel_dtype is None:
            return None
        columns = iter(self._act_index)
        roles = []
        for perspective in perspectives:
            spec, parts = perspective.action, tree_leaves(perspective.obs_parts)
            index = perspective.obs_index
            observes = list(range(self._controls.num_positions))
            if index is not None:  # on "meta" it has no values, and any do
                observes = list(range(len(index))) if index.is_meta else index.tolist()
            if len({*observes}) < len(observes):
                return None
            role = Role(
                acts=tuple(islice(columns, spec.size)),
                low=spec.low,
                high=spec.high,
                offset=spec.offset,
                observes=tuple(observes),
                whole=bool(parts) and all(part.dtype is torch.int64 and part.bounds is None for part in parts),
                reward=-1 if self.reward_column is None else self.reward_column,
                terminated=-1 if self.terminated_column is None else self.terminated_column,
            )
            roles.append(role)
        return FusedStep(self.packed, self._controls, roles, STREAM_RESET)

    def _chosen_dtype(self, backend: Backend, dtype: torch.dtype | None) -> torch.dtype | None:
        """The dtype of the network in kernels; None where none run."""
        problem = self._why_no_kernel()
        if backend == "torch" or (backend == "auto" and self.device.type != "cuda"):
            return None
        if problem is not None and backend == "triton":
            raise ValueError(f"backend='triton': no kernel takes this world: {problem}. Use backend='auto'.")
        if problem is not None:
            warn_once(f"No kernel takes this world: {problem}. It runs in torch.")
            return None
        default = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return default if dtype is None else dtype

    def _why_no_kernel(self) -> str | None:
        if not (has_kernels(self.device) or self.device.type == "meta"):
            return f"it is on {self.device}, and kernels run on CUDA devices where Triton is installed"
        if self.dtype is not torch.float32:
            return f"it is in {self.dtype}, not torch.float32"
        layout, heads = self.model.bound.layout, self.model.denoiser.num_heads
        return why_not(layout.num_positions, layout.d_model, heads, self.model.config.topology)

    def _as_state(self, values: Tensor, tick: Tensor | None = None) -> TensorDict:
        state = {"values": values}
        if self._has_periods:
            zeros = torch.zeros(values.shape[0], dtype=torch.int64, device=values.device)
            state["tick"] = zeros if tick is None else tick
        return new_tensordict(state, values.shape[:1])


def denoise_steps(model: CanvasModel, n_denoise_steps: Any) -> int:
    """K as it was asked for, checked; None for the model's own.

    Raises:
        ValueError: No whole number of at least 1.
    """
    if n_denoise_steps is None:
        return model.config.n_denoise_steps
    steps = whole_number(n_denoise_steps, "n_denoise_steps")
    model.sigmas(steps)
    return steps
