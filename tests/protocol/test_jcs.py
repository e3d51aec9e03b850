"""RFC 8785: one text for one value."""

from __future__ import annotations

import json
import struct
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macp_rx import MacpSessionError
from macp_rx.protocol import jcs

numbers = st.integers(-jcs.MAX_SAFE_INTEGER, jcs.MAX_SAFE_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_the_text_is_json_of_the_value(value: object) -> None:
    text = jcs.encode(value)
    assert json.loads(text, parse_int=float) == value  # RFC 8785 knows doubles only
    assert jcs.encode(jcs.decode(text)) == text


@given(st.dictionaries(st.text(max_size=3), values, min_size=2, max_size=5), st.randoms())
def test_the_order_of_members_does_not_matter(members: dict[str, object], random: object) -> None:
    names = list(members)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert jcs.encode({name: members[name] for name in names}) == jcs.encode(members)


@given(st.dictionaries(st.text(max_size=3), st.none()))
def test_members_are_sorted_by_utf_16_code_units(members: dict[str, None]) -> None:
    written = list(cast("dict[str, None]", json.loads(jcs.encode(members))))
    units = [struct.unpack(f">{len(name.encode('utf-16-be')) // 2}H", name.encode("utf-16-be")) for name in written]
    assert units == sorted(units)


def test_code_units_are_not_code_points() -> None:
    assert jcs.encode({"\ufb33": 1, "\U0001f600": 2, "ö": 3, "1": 4, "\r": 5}) == (
        '{"\\r":5,"1":4,"ö":3,"\U0001f600":2,"\ufb33":1}'
    )


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0xFFEFFFFFFFFFFFFF, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xC340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x44B52D02C7E14AF7, "1.0000000000000001e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF4F, "999999999999999900000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555553, "333333333.3333332"),
        (0x41B3DE4355555554, "333333333.33333325"),
        (0x41B3DE4355555555, "333333333.3333333"),
        (0x41B3DE4355555556, "333333333.3333334"),
        (0x41B3DE4355555557, "333333333.33333343"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_rfc_lists_them(bits: int, text: str) -> None:
    assert jcs.encode(struct.unpack(">d", bits.to_bytes(8, "big"))[0]) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), (100.0, "100"), (1.5, "1.5"), (-12.25, "-12.25"), (1e-7, "1e-7")]
)
def test_everyday_numbers(value: float, text: str) -> None:
    assert jcs.encode(value) == text


def test_only_what_must_be_escaped_is() -> None:
    assert jcs.encode('\x00\b\t\n\f\r\x1f"\\/\x7f\u2028é\U0001f702') == (
        '"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/\x7f\u2028é\U0001f702"'
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "nan is no JSON number"),
        (float("-inf"), "-inf is no JSON number"),
        ([2**53 + 1], "9007199254740993 is no double"),
        (10**400, "too large"),
        ({"a": "\ud800"}, "lone surrogate at 0"),
        ({"\udc00": 1}, "lone surrogate"),
        ({1: 2}, "JSON takes strings"),
        (b"bytes", "bytes is no JSON value"),
    ],
)
def test_what_is_no_json_says_so(value: object, why: str) -> None:
    with pytest.raises(MacpSessionError, match=why):
        jcs.encode(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":1,"b":2,"a":1}', "'a' stands twice"),
        ("[NaN]", "NaN is no JSON"),
        ("{", "line 1 column 2"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_means_no_one_thing_is_refused(text: str, why: str) -> None:
    with pytest.raises(MacpSessionError, match=why):
        jcs.decode(text)


def test_a_value_nested_too_deeply_is_refused() -> None:
    value: object = 0
    for _ in range(100_000):
        value = [value]
    with pytest.raises(MacpSessionError, match="nested too deeply"):
        jcs.encode(value)
