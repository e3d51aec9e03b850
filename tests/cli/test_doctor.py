"""doctor: is everything in order between here and a runtime."""

from __future__ import annotations

import json
import re

import pytest

from macp_rx import MacpClient, Runtime
from macp_rx.protocol.receipt import ReceiptSigner
from macp_rx.runtime import Settings, static_tokens
from tests.cli.commands import lines, ran, run
from tests.cli.test_record import talk
from tests.cli.test_verify import KEY
from tests.conftest import dial, running_server


def states(*arguments: str) -> dict[str, str]:
    return {each["check"]: each["state"] for each in lines("doctor", *arguments, "--json")}


def test_a_development_runtime(target: str, chair: MacpClient) -> None:
    talk(chair)
    shown = ran("doctor", "--target", target, "--agent", "chair")
    for line in (
        "ok   reach",
        "ok   protocol     MACP 1.0",
        "ok   abilities",
        "ok   modes",
        "warn receipts",
        "ok   clock",
    ):
        assert line in shown
    assert "ok   caller       the credential is valid, and speaks for chair" in shown
    assert re.search(r"ok   history      kept when a session ends: one that has still tells its \d+ envelopes", shown)


def test_it_changes_nothing(target: str, chair: MacpClient) -> None:
    before = sorted(each.session_id for each in chair.list_sessions())
    ran("doctor", "--target", target, "--agent", "chair")
    assert sorted(each.session_id for each in chair.list_sessions()) == before


def test_without_a_credential_it_asks_for_what_everybody_may_know(target: str) -> None:
    shown = ran("doctor", "--target", target)
    assert "warn caller       nobody" in shown
    assert "history" not in shown


def test_a_runtime_that_signs() -> None:
    settings = Settings(signer=ReceiptSigner.read(KEY))
    with Runtime(settings=settings) as runtime, runtime.serve() as port:
        assert states("--target", port.target)["receipts"] == "ok"


def test_a_runtime_that_forgets_what_has_ended() -> None:
    with Runtime(settings=Settings(compact_ended=True)) as runtime, runtime.serve() as port:
        with dial(port.target, "chair") as client:
            talk(client)
        shown = ran("doctor", "--target", port.target, "--agent", "chair")
        assert "warn history      forgotten when a session ends" in shown
        assert "MACP_COMPACT_TERMINAL_LOGS=0" in shown


@pytest.mark.server
def test_the_real_server_forgets_by_default(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("compacting")
    with running_server(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(folder)) as server:
        with dial(server.target, "chair") as client:
            talk(client)
        assert states("--target", server.target, "--agent", "chair")["history"] == "warn"


class TestTokens:
    TOKENS = json.dumps({"tokens": [{"token": "s3cret", "sender": "chair"}]})

    def asked(self, *arguments: str) -> tuple[int, str]:
        identify = static_tokens(self.TOKENS)
        with Runtime(identify=identify) as runtime, runtime.serve() as port:
            shown = run("doctor", "--target", port.target, *arguments)
        assert "s3cret" not in shown.stdout + shown.stderr
        return shown.returncode, shown.stdout

    def test_one_that_is_good(self) -> None:
        status, shown = self.asked("--token", "s3cret", "--agent", "chair")
        assert (status, "ok   caller       the credential is valid, and speaks for chair" in shown) == (0, True)
        status, shown = self.asked("--token", "s3cret")
        assert (status, "ok   caller       the credential is valid\n" in shown) == (0, True)

    def test_one_that_is_not(self) -> None:
        status, shown = self.asked("--token", "wrong")
        assert (status, "fail caller" in shown, "say who you are" in shown) == (3, True, True)

    def test_one_of_somebody_else(self) -> None:
        status, shown = self.asked("--token", "s3cret", "--agent", "alice")
        assert (status, "fail caller" in shown) == (3, True)


def test_a_runtime_that_is_not_there() -> None:
    shown = run("doctor", "--target", "127.0.0.1:1")
    assert shown.returncode == 4
    assert shown.stdout.startswith("fail reach        Initialize failed with UNAVAILABLE")
    assert "macp-rx serve" in shown.stdout
