"""Canvases that hypothesis draws."""

import torch
from hypothesis import strategies as st

from tests.kernels.canvases import END, KINDS, case_of
from wm_vec.canvas import Field


@st.composite
def cases(draw, max_envs=20):
    """Random fields, sizes, perspectives and modes."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=9))
    fields = {f"{kind}{i}": KINDS[kind] for i, kind in enumerate(kinds)}
    agents = draw(st.integers(1, 3))
    acted = draw(st.sampled_from(["action", "told", "number"]))
    for p in range(agents):
        fields[f"act{p}"] = Field() if acted == "number" else KINDS["given" if acted == "action" else "told"]
    if draw(st.booleans()):
        fields["end"] = END
    fields["paid"] = Field(is_input=False)
    whole_actions = acted == "told"
    return case_of(
        fields,
        [[f"act{p}"] for p in range(agents)],
        num_envs=draw(st.integers(1, max_envs)),
        mode=draw(st.sampled_from(["same_step", "next_step", "disabled"])),
        horizon=draw(st.none() | st.integers(1, 6)),
        hold=draw(st.booleans()),
        whole=draw(st.booleans()),
        action_dtype=draw(
            st.sampled_from(
                [torch.int64, torch.int32, torch.uint8] if whole_actions else [torch.float32, torch.float64]
            )
        ),
        seed=draw(st.integers(0, 2**20)),
        num_blocks=draw(st.integers(1, 2)),
        mlp_ratio=draw(st.sampled_from([1, 3, 4])),
        n_denoise_steps=draw(st.integers(1, 4)),
    )
