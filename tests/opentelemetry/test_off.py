"""Off, nothing goes with a call and nothing is imported; and no token is ever told."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from macp_rx import (
    AuthConfig,
    MacpClient,
    MacpSessionError,
    MacpTransportError,
)
from macp_rx.opentelemetry import OpenTelemetry
from macp_rx.streams.retry import RetryPolicy
from tests.chaos.proxy import Proxy
from tests.conftest import Recorder
from tests.opentelemetry.watched import (
    NotingWire,
    Watched,
    call_everything,
    started,
)


def test_off_nothing_goes_with_a_call_even_under_a_span(watched: Watched, wire: tuple[NotingWire, str]) -> None:
    heard, target = wire
    auth = AuthConfig.for_dev_agent("chair")
    with (
        MacpClient(target=target, secure=False, auth=auth) as client,
        watched.tracer.start_as_current_span("work"),
    ):
        call_everything(client)
    assert len(heard.heard) == 5
    assert not [said for _, said in heard.heard if set(said) & {"traceparent", "tracestate", "baggage"}]
    assert [span.name for span in watched.spans()] == ["work"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_off_opentelemetry_is_not_imported() -> None:
    code = """
import sys, macp_rx
with macp_rx.MacpClient.embedded(agent="chair") as client:
    session = macp_rx.DecisionSession(client)
    session.start(intent="off", participants=["chair"], ttl_ms=60_000)
    session.propose("p1", "canary")
    client.history(session.session_id).run()
print(sorted(name for name in sys.modules if "opentelemetry" in name))
"""
    assert run(code) == "[]"


def test_without_the_extra_the_error_names_it() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
try:
    import macp_rx.opentelemetry
except ImportError as error:
    print(error)
"""
    assert run(code) == "macp_rx.opentelemetry needs the package opentelemetry-api: pip install 'macp-rx[otel]'"


@pytest.mark.parametrize("telemetry", [None, True, OpenTelemetry, TracerProvider])
def test_what_is_no_telemetry_is_refused_at_once(telemetry: Any, no_thread_left: None) -> None:
    with pytest.raises(MacpSessionError, match=r"such as OpenTelemetry\(\)"):
        MacpClient(target="127.0.0.1:1", telemetry=telemetry)
    with pytest.raises(MacpSessionError, match=r"such as OpenTelemetry\(\)"):
        MacpClient.embedded(agent="chair", telemetry=telemetry)


def test_no_token_is_ever_told(watched: Watched, connected_to: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = "a-bearer-token-that-nobody-may-see"

    def expired() -> str:
        raise PermissionError("the session of the identity provider has expired")

    retry = RetryPolicy(first=0.01, cap=0.01, give_up_after=0.02)
    with Proxy(connected_to) as proxy:
        for provider in (token, lambda: token, expired):
            auth = AuthConfig.for_bearer(provider)
            with MacpClient(
                target=proxy.target, secure=False, auth=auth, telemetry=watched.telemetry, retry=retry
            ) as client:
                if provider is expired:
                    with pytest.raises(MacpTransportError):
                        started(client)
                    continue
                session = started(client)
                heard = Recorder()
                events = client.session_events(session.session_id, retry=retry)
                events.subscribe(heard)
                heard.wait_for(1)
                proxy.refuse()
                proxy.cut()
                heard.wait_for_end()
                with pytest.raises(MacpTransportError):
                    session.propose("p1", "nobody hears it")
                proxy.accept()
    told = caplog.text + "".join(span.to_json() for span in watched.spans())
    assert "given up" in told
    assert "has expired" in told
    assert token not in told
