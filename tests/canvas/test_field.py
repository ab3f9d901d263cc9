import math
from types import SimpleNamespace

import pytest

from wm_vec.canvas import Field, as_field, is_field
from wm_vec.canvas.layout import CanvasLayout


def test_positions_and_bounds():
    field = Field(2, 3, low=-1.0, high=(1, 2, 3, 4, 5, 6))
    assert field.num_positions == 6
    assert field.bounds("low") == (-1.0,) * 6
    assert field.bounds("high") == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert Field().bounds("high") == (math.inf,)


def test_the_most_classes_and_values():
    assert Field(num_classes=4096).num_classes == 4096
    assert Field(is_input=False, max_values=16).max_values == 16
    assert Field(max_values=2).max_values == 2
    assert Field(is_input=False, num_classes=2, leads=True).leads


def test_a_field_is_frozen():
    with pytest.raises(AttributeError):
        Field().h = 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": 0}, "`h` must be a whole number of at least 1, got 0"),
        ({"w": -1}, "`w`"),
        ({"w": 1.5}, "`w`"),
        ({"h": True}, "`h`"),
        ({"period": 0}, "`period`"),
        ({"loss_weight": -0.1}, "`loss_weight` must be a number from 0"),
        ({"loss_weight": math.nan}, "`loss_weight`"),
        ({"loss_weight": math.inf}, "`loss_weight`"),
        ({"num_classes": 0}, "`num_classes` must be a whole number of at least 1"),
        ({"num_classes": 2.0}, "`num_classes`"),
        ({"num_classes": True}, "`num_classes`"),
        ({"num_classes": 5000}, "`num_classes` is 5000; a field takes at most 4096. Make several fields"),
        ({"max_values": -1}, "`max_values` must be a whole number of at least 0, got -1"),
        ({"max_values": 3}, "`max_values` must be 0 to 2"),
        ({"max_values": 5000, "is_input": False}, "`max_values`"),
        ({"leads": True}, "`leads` is for one predicted position of num_classes=2 with is_input=False"),
        ({"leads": True, "num_classes": 2}, "`leads`"),
        ({"leads": True, "num_classes": 3, "is_input": False}, "`leads`"),
        ({"leads": True, "num_classes": 2, "is_input": False, "w": 2}, "`leads`"),
        ({"leads": True, "num_classes": 2, "is_input": False, "is_output": False}, "`leads`"),
        ({"unit": "m\n"}, r"`unit` must be one line of printable text, got 'm\\n'"),
        ({"meaning": 3}, "`meaning` must be one line of printable text, got 3"),
        ({"low": 2.0, "high": 1.0}, "`low` must not be above `high`, got 2.0 and 1.0"),
        ({"low": math.nan}, "`low` must not be above `high`"),
        ({"w": 2, "low": (0.0,)}, "must be one number or 2"),
        ({"w": 2, "low": (0.0, 5.0), "high": 4.0}, "got 5.0 and 4.0"),
    ],
)
def test_fields_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Field(**arguments)


def test_objects_of_other_libraries_are_fields():
    class Foreign:
        """As other canvas libraries write them, with attributes of their own."""

        h, w, period, loss_weight, is_output = 2, 4, 8, 0.5, False
        attn, semantic_type = "cross_attention", "a quantity"

    foreign = Foreign()
    assert is_field(foreign)
    assert as_field(foreign) == Field(2, 4, period=8, loss_weight=0.5, is_output=False)
    more = SimpleNamespace(h=1, w=1, period=1, loss_weight=1.0, is_output=True, num_classes=3, low=0.0)
    assert as_field(more) == Field(num_classes=3, low=0.0)


def test_what_is_no_field():
    assert not is_field(Field)
    assert not is_field({"h": 1, "w": 1})
    assert not is_field(SimpleNamespace(h=1, w=1))
    own = Field(w=3)
    assert as_field(own) is own


@pytest.mark.parametrize("d_model", [0, -32, 16, 33, 48])
def test_widths_that_kernels_cannot_run(d_model):
    with pytest.raises(ValueError, match=f"multiple of 32.*got {d_model}"):
        CanvasLayout.of({"a": Field()}, d_model)


def test_layout_by_hand():
    layout = CanvasLayout.of({"a": Field(2, 3), "b": Field(), "c": Field(1, 4)}, 64)
    assert dict(layout.starts) == {"a": 0, "b": 6, "c": 7}
    assert (layout.num_positions, layout.d_model) == (11, 64)
