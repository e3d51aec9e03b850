"""The options of a connection: by option, by the environment, and never a token that is seen."""

from __future__ import annotations

import pytest

from macp_rx.cli.connection import is_loopback
from tests.cli.commands import ran, refused, run


def test_by_the_environment(port: str) -> None:
    assert "policy.default" in ran("policies", "list", MACP_TARGET=port, MACP_AGENT="chair")
    assert "policy.default" in ran("policies", "list", MACP_TARGET=port, MACP_TOKEN="chair", MACP_INSECURE="1")


def test_tls_where_plaintext_is_spoken(port: str) -> None:
    assert "--insecure" in refused(4, "modes", "--target", port, "--secure")
    assert "--insecure" in refused(4, "modes", "--target", port, MACP_INSECURE="0")


@pytest.mark.parametrize("token", ["s3cret token", "s3cret\n", "s3crét", "s3cret"])
def test_a_token_is_in_no_message(port: str, token: str) -> None:
    shown = run("sessions", "--target", port, "--agent", "x", "--secure", MACP_TOKEN=token)
    assert shown.returncode != 0
    assert "s3cr" not in shown.stdout + shown.stderr


def test_plaintext_beyond_this_machine_is_warned_of() -> None:
    said = refused(4, "modes", "--target", "runtime.invalid:1", "--insecure", "--token", "s3cret")
    assert said.startswith("macp-rx: the token goes to runtime.invalid:1 in plaintext")
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", ""), "a target is 'host:port'"),
        (("--target", "http://127.0.0.1:1"), "a target is 'host:port'"),
        (("--ca", "none.pem"), "does not exist"),
        (("--timeout", "0"), "--timeout"),
        (("--token", "x", "--ca", __file__), "macp-rx: "),
    ],
)
def test_bad_input_is_told(arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(2, "modes", *arguments)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("127.0.0.1", True), ("[::1]", True), ("localhost", True), ("10.0.0.1", False), ("a.b", False)],
)
def test_what_is_this_machine(host: str, is_ours: bool) -> None:
    assert is_loopback(host) is is_ours
