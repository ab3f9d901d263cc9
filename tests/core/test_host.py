"""Finishing a step in host memory, against the same loop over rows as the operation's reference."""

import math

import torch
from hypothesis import assume, given, settings

from tests.kernels.test_finish_step import arguments, by_hand, steps
from wm_vec.core.host import HostRows
from wm_vec.core.rows import Rows
from wm_vec.core.transition import Proposal, on_host


class Given:
    """Starts row i, whose seed is i, at ``bank_index[i]``; keeps which rows were drawn for."""

    def __init__(self, step):
        self.bank, self.bank_index = arguments(step)[2], torch.tensor(step["bank_index"])
        self.info, self.drawn = {}, []

    def draw(self, seed, episode, options=None):
        self.drawn += seed.tolist()
        return self.bank, self.bank_index[seed]


def finished(step, starts):
    previous, proposed, _, _, action, *judged, elapsed, episode, returns, _, horizon, _ = arguments(step)
    seeds, pending = torch.arange(len(elapsed)), torch.zeros(len(elapsed), dtype=torch.bool)
    rows = Rows(previous, elapsed, episode, seeds, returns, pending)
    given = [tensor for tensor in (*proposed, *judged, elapsed, episode, returns) if tensor is not None]
    kept = [tensor.clone() for tensor in given]
    with torch.no_grad():
        out = on_host(Proposal(proposed, proposed[0], *judged, {}))
        if not math.isfinite(out.total + (0.0 if action is None else action.sum().item())):
            return None
        host = HostRows.of(rows)
        finished = host.finished_step(host.finish(out, horizon, starts, keep=True))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(kept, given, strict=True)), "none is written"
    return host.to_rows(), finished


@settings(max_examples=300, deadline=None)
@given(steps(modes=["same_step", "disabled"]))
def test_every_row_is_what_the_design_says(step):
    starts = Given(step)
    out = finished(step, None if step["autoreset"] == "disabled" else starts)
    numbers = [x for row in (*step["proposed"][0], *step["reward"], *(step["action"] or [])) for x in row]
    if not all(math.isfinite(x) for x in (*numbers, *step["proposed"][1])):
        assert out is None, "rows that may have diverged are left to the reference"
        return
    assume(out is not None)  # a sum of the largest numbers overflows
    after, got = out
    expected = [by_hand(step, i) for i in range(len(step["elapsed"]))]
    for i, row in enumerate(expected):
        for name, want in row.items():
            value = getattr(got, name)
            have = [leaf[i].tolist() for leaf in value] if isinstance(value, list) else value[i].tolist()
            assert have == want, f"row {i}, {name}, {step['autoreset']}"
        assert [leaf[i].tolist() for leaf in after.leaves] == row["state"]
        assert (after.elapsed[i], after.episode[i]) == (row["elapsed"], row["episode"])
        assert after.returns[i].tolist() == row["returns"]
    assert starts.drawn == [i for i, row in enumerate(expected) if row["was_reset"]], "no others are drawn for"
