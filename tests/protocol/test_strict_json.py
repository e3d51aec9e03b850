"""JSON as the real server reads and writes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.v1.policy_pb2 import PolicyDescriptor

from macp_rx import AuthConfig, MacpClient
from macp_rx.protocol.strict_json import as_json_text, parse_json
from tests.conftest import RealServer

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def documents(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.recursive(
        st.none() | st.booleans() | texts | leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=20,
    )


values = documents(numbers)


def typed(value: object) -> object:
    """A value with the types of its numbers: 1, 1.0 and True are equal in Python."""
    match value:
        case list():
            return [typed(item) for item in value]
        case dict():
            return {key: typed(item) for key, item in value.items()}
        case float():
            return float, value, math.copysign(1, value)
        case _:
            return type(value), value


@given(values)
def test_what_is_written_reads_as_the_same(value: object) -> None:
    """Types and all: a double stays a double, and zero keeps its sign."""
    assert typed(parse_json(as_json_text(value))) == typed(value)


@given(values)
def test_a_text_is_canonical(value: object) -> None:
    """Written again it is the same text; any JSON of the value leads to it, whatever its order, spaces and escapes."""
    text = as_json_text(value)
    assert as_json_text(parse_json(text)) == text
    assert as_json_text(parse_json(json.dumps(value))) == text
    assert as_json_text(parse_json(json.dumps(value, indent=3, ensure_ascii=False))) == text


@given(st.dictionaries(texts, st.integers(0, 9), min_size=2))
def test_the_order_of_members_does_not_matter(members: dict[str, int]) -> None:
    """They are written in the order of their keys' code points."""
    backwards = dict(reversed(members.items()))
    assert as_json_text(backwards) == as_json_text(members)
    assert list(json.loads(as_json_text(members))) == sorted(members)


@given(st.text())
def test_a_text_either_reads_or_is_no_json(text: str) -> None:
    """Nothing but ValueError is ever raised; what Python's own parser refuses is refused."""
    for candidate in (text, json.dumps(text), f'[{text}, "x"]'):
        try:
            value = parse_json(candidate)
        except ValueError:
            continue
        assert parse_json(as_json_text(value)) == value == json.loads(candidate)


NO_JSON = (
    *("NaN", "Infinity", "-Infinity", '{"a": NaN}', "1e400", "-1e400", '"\\ud800"', '{"\\udfff": 1}', "01", "+1", ".5"),
    *("1.", "'a'", '{"a":1,}', "[1,]", '"\t"', "\ufeff{}", "tru", "", " "),
)
"""Python's own parser takes some of these."""


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is for people
        parse_json(text)


@pytest.mark.parametrize(("begin", "inner", "end"), [("[", "", "]"), ('{"a":', "1", "}")], ids=["lists", "objects"])
def test_no_text_is_nested_too_deeply_for_the_stack(begin: str, inner: str, end: str) -> None:
    """127 levels are read, 128 refused, and so are a million."""
    parse_json(begin * 127 + inner + end * 127)
    for depth in (128, 1000, 1_000_000):
        with pytest.raises(ValueError, match="deep"):
            parse_json(begin * depth + inner + end * depth)


WRITTEN = {
    "1": "1",
    "1.0": "1.0",
    "1e0": "1.0",
    "-0": "-0.0",
    "0": "0",
    "18446744073709551615": "18446744073709551615",
    "18446744073709551616": "1.8446744073709552e+19",
    "-9223372036854775808": "-9223372036854775808",
    "-9223372036854775809": "-9.223372036854776e+18",
    "1e15": "1000000000000000.0",
    "1e16": "1e+16",
    "-1.5e100": "-1.5e+100",
    "1e-4": "0.0001",
    "1e-5": "0.00001",
    "1.5e-5": "0.000015",
    "1e-6": "1e-6",
    "1.5e-7": "1.5e-7",
    "5e-324": "5e-324",
    "1.7976931348623157e308": "1.7976931348623157e+308",
    '"\\u00e9\\u2028\\/\\b\\u001f\\u007f"': '"é\u2028/\\b\\u001f\x7f"',
    '{"b":1,"a":2,"a":3}': '{"a":3,"b":1}',
}


@pytest.mark.parametrize("text", WRITTEN)
def test_how_a_value_is_written(text: str) -> None:
    assert as_json_text(parse_json(text)) == WRITTEN[text]


@pytest.fixture(scope="module")
def real_client(real_server: RealServer) -> Iterator[MacpClient]:
    with MacpClient(target=real_server.target, secure=False, auth=AuthConfig.for_dev_agent("chair")) as client:
        yield client


# doubles of few digits: the real server reads others wrong by a bit, see below
few_digits = st.integers(-(10**8), 10**8).map(lambda number: number / 1024)
plain = documents(st.integers(-(2**63), 2**64 - 1) | few_digits)


def written_by(client: MacpClient, text: str) -> str:
    """How the real server writes a JSON value that it has read: as a rule of a policy for a mode that it does not know."""
    policy = PolicyDescriptor(
        policy_id=client.clock.new_id(), mode="ext.unknown", rules=f'{{"it":{text}}}', schema_version=1
    )
    client.register_policy(policy)
    rules = client.get_policy(policy.policy_id).policy_descriptor.rules
    client.unregister_policy(policy.policy_id)
    return rules


@pytest.mark.server
@pytest.mark.parametrize("text", WRITTEN)
def test_the_real_server_writes_it_so(real_client: MacpClient, text: str) -> None:
    assert written_by(real_client, text) == f'{{"it":{WRITTEN[text]}}}'


@pytest.mark.server
def test_the_real_server_reads_as_deep(real_client: MacpClient) -> None:
    """One level is the object around it; what is too deep is no JSON, and so no rules."""
    assert written_by(real_client, "[" * 126 + "]" * 126) == '{"it":' + "[" * 126 + "]" * 126 + "}"
    assert written_by(real_client, "[" * 127 + "]" * 127) == "{}"


@pytest.mark.server
@settings(max_examples=300)
@given(value=plain)
def test_the_real_server_writes_what_we_write(real_client: MacpClient, value: object) -> None:
    """Numbers, escapes, the order of members: byte for byte."""
    assert written_by(real_client, json.dumps(value)) == as_json_text({"it": value})


@pytest.mark.server
@settings(max_examples=300)
@given(digits=st.integers(-(2**53), 2**53), exponent=st.integers(-22, 22))
def test_the_real_server_reads_a_double_as_we_do(real_client: MacpClient, digits: int, exponent: int) -> None:
    """Up to 15 digits and some; beyond that it may be off in the last bit, and we are not."""
    text = f"{digits}e{exponent}"
    assert written_by(real_client, text) == as_json_text({"it": parse_json(text)})
