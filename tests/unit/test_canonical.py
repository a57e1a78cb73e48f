"""RFC 8785, wherever the spelling comes from: the examples of the RFC, and a library that knows nothing of ours as the judge."""

from __future__ import annotations

import math
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.consent.canonical import canonical

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1000, 1000) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.dictionaries(st.sampled_from("abcéö가😀"), inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=1000)
@given(json_values)
@example({"\ue000": 1, "\U0001f600": 2, "a": 3})
@example([2.0**53, -(2.0**53), 2.0**53 - 1, 1e15 + 0.5])
@example([0.0, -0.0, 1.0, 1e-4, 1e-5, 9.999e-5, 1e15, 1e16, 1e21, 123456789.123, 5e-324, 1.7976931348623157e308])
@example('\x00\x1f\x7f"\\/\b\f\n\r\t\u2028é가😀')
def test_it_is_the_librarys_spelling(value: Any) -> None:
    assert rfc8785.dumps(value) == canonical(value)


def test_the_example_of_the_rfc() -> None:
    """RFC 8785 §3.2.2 and §3.2.4."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert expected.encode() == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, -(2**53), {1: 2}, object(), "\ud800", b"octets"])
@pytest.mark.parametrize("within", [False, True])
def test_what_the_rfc_forbids_is_refused(value: Any, within: bool) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical({"a": ["b", value]} if within else value)
