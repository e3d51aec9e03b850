"""The embedded runtime as a server: TLS, health, limits of frames, its end; and `macp-rx serve` with its settings."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from macp_rx import (
    AuthConfig,
    DecisionSession,
    MacpAckError,
    MacpClient,
    MacpRefusedError,
    MacpSessionError,
    MacpTransportError,
    Runtime,
)
from macp_rx.protocol.policy import build_decision_policy
from macp_rx.runtime import Server, Settings, Tls
from tests.conftest import Recorder
from tests.runtime.certificates import Authority
from tests.test_cli import COMMAND, serving

CHAIR = AuthConfig.for_dev_agent("chair")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@contextmanager
def served(tls: Tls | None = None, settings: Settings | None = None) -> Iterator[Server]:
    with Runtime(settings=settings) as runtime, runtime.serve(tls=tls) as server:
        yield server


def start(client: MacpClient, **more: str) -> DecisionSession:
    session = DecisionSession(client, **more)
    session.start(intent="serve", participants=["chair"], ttl_ms=60_000)
    return session


class TestTls:
    def test_a_client_that_trusts_the_ca(self, authority: Authority) -> None:
        ours = authority.certify("runtime")
        with (
            served(Tls(ours.certificate, ours.key)) as server,
            MacpClient(target=server.target, auth=CHAIR, root_certificates=authority.pem) as client,
        ):
            assert start(client).metadata().initiator == "chair"

    def test_a_client_that_does_not(self, authority: Authority) -> None:
        ours = authority.certify("runtime")
        with (
            served(Tls(ours.certificate, ours.key)) as server,
            MacpClient(target=server.target, auth=CHAIR, root_certificates=Authority().pem) as client,
            pytest.raises(MacpTransportError) as failed,
        ):
            client.initialize()
        assert failed.value.status == "UNAVAILABLE"

    def test_mutual(self, authority: Authority) -> None:
        ours, theirs = authority.certify("runtime"), authority.certify("client")
        with served(Tls(ours.certificate, ours.key, authority.pem)) as server:
            with MacpClient(
                target=server.target,
                auth=CHAIR,
                root_certificates=authority.pem,
                private_key=theirs.key,
                certificate_chain=theirs.certificate,
            ) as client:
                assert start(client).metadata().initiator == "chair"
            with (
                MacpClient(target=server.target, auth=CHAIR, root_certificates=authority.pem) as client,
                pytest.raises(MacpTransportError) as failed,
            ):
                client.initialize()
            assert failed.value.status == "UNAVAILABLE"

    def test_the_key_is_never_shown(self, authority: Authority) -> None:
        ours = authority.certify("runtime")
        assert "PRIVATE KEY" not in repr(Tls(ours.certificate, ours.key))


@pytest.mark.parametrize(("service", "status"), [("", 1), ("macp.v1.MACPRuntimeService", 1), ("other", None)])
def test_health(service: str, status: int | None) -> None:
    with served() as server, grpc.insecure_channel(server.target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString
        )
        if status is None:
            with pytest.raises(grpc.RpcError) as failed:
                check(StringValue(value=service))
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        else:
            assert check(StringValue(value=service)).value == status


def test_a_payload_and_a_frame_that_are_too_large() -> None:
    with (
        served(settings=Settings(max_payload_bytes=1000)) as server,
        MacpClient(target=server.target, secure=False, auth=CHAIR) as client,
    ):
        session = start(client)
        with pytest.raises(MacpAckError) as refused:
            session.propose("p1", "x" * 1001)
        assert refused.value.code == "PAYLOAD_TOO_LARGE"
        with pytest.raises(MacpTransportError) as failed:
            session.propose("p1", "x" * 67_000)
        assert (failed.value.status, failed.value.code) == ("OUT_OF_RANGE", "")
        session.propose("p1", "x" * 900)


def test_a_very_long_id_is_cut_in_the_error() -> None:
    with served() as server, MacpClient(target=server.target, secure=False, auth=CHAIR) as client:
        with pytest.raises(MacpTransportError) as failed:
            client.get_session("x" * 500_000)
        assert failed.value.code == "SESSION_NOT_FOUND"


def test_a_server_that_closes_ends_its_streams_with_unavailable() -> None:
    heard = Recorder()
    with served() as server, MacpClient(target=server.target, secure=False, auth=CHAIR) as client:
        session = start(client)
        client.open_stream(session.session_id).subscribe(heard)
        heard.wait_for(1)
        server.close()
        heard.wait_for_end()
    assert isinstance(heard.error, MacpTransportError)
    assert heard.error.status == "UNAVAILABLE"


def test_a_session_that_ends_is_forgotten_where_that_is_asked_for() -> None:
    with (
        served(settings=Settings(compact_ended=True)) as server,
        MacpClient(target=server.target, secure=False, auth=CHAIR) as client,
    ):
        session = start(client)
        session.propose("p1", "one")
        session.cancel()
        with pytest.raises(MacpTransportError) as failed:
            list(client.history(session.session_id))
        assert failed.value.code == "HISTORY_UNAVAILABLE"
        assert failed.value.lowest_available_sequence == 2
        assert list(client.history(session.session_id, 2)) == []


class TestCommand:
    def test_tls_tokens_and_a_store_that_survives_a_restart(self, authority: Authority, tmp_path: Path) -> None:
        ours = authority.certify("runtime")
        (tmp_path / "cert.pem").write_bytes(ours.certificate)
        (tmp_path / "key.pem").write_bytes(ours.key)
        (tmp_path / "tokens.json").write_text(json.dumps([{"token": "secret", "sender": "chair"}]))
        settings = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
        settings += ["--tokens", str(tmp_path / "tokens.json"), "--store", str(tmp_path / "sessions.sqlite")]
        auth = AuthConfig.for_bearer("secret")
        with serving(*settings) as (process, target):
            with MacpClient(target=target, auth=auth, root_certificates=authority.pem) as client:
                session = start(client)
                session.propose("p1", "canary")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        with (
            serving(*settings) as (_process, target),
            MacpClient(target=target, auth=auth, root_certificates=authority.pem) as client,
        ):
            again = [accepted.message_type for accepted in client.history(session.session_id)]
            assert again == ["SessionStart", "Proposal"]
            DecisionSession(client, session.session_id).vote("p1", "APPROVE")

    def test_the_settings_of_the_real_server_by_their_own_variables(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        policy = {"policy_id": "policy.file", "mode": "*", "description": "", "rules": {}, "schema_version": 3}
        (tmp_path / "one.json").write_text(json.dumps(policy))
        for name, value in {
            "MACP_AUTH_TOKENS_JSON": '[{"token": "secret", "sender": "chair", "can_manage_mode_registry": true}]',
            "MACP_MAX_PAYLOAD_BYTES": "1000",
            "MACP_SESSION_START_LIMIT_PER_MINUTE": "2",
            "MACP_LIST_SESSIONS_DEFAULT_PAGE_SIZE": "1",
            "MACP_POLICIES_DIR": str(tmp_path),
            "MACP_RUNTIME_ID": "here",
        }.items():
            monkeypatch.setenv(name, value)
        with (
            serving() as (_process, target),
            MacpClient(target=target, secure=False, auth=AuthConfig.for_bearer("secret"), retry=None) as client,
        ):
            session = start(client, policy_version="policy.file")
            with pytest.raises(MacpAckError) as refused:
                session.propose("p1", "x" * 1000)
            assert refused.value.code == "PAYLOAD_TOO_LARGE"
            start(client)
            with pytest.raises(MacpAckError) as refused:
                start(client)
            assert refused.value.code == "RATE_LIMITED"
            assert len(client.list_sessions_page().sessions) == 1
            with pytest.raises(MacpTransportError) as failed:
                client.register_policy(build_decision_policy("policy.other"))
            assert failed.value.code == "REGISTRY_READ_ONLY"
            session.propose("p1", "one")
            session.commit(action="decision.selected", authority_scope="test", reason="enough")
            receipt = json.loads(client.get_decision_receipt(session.session_id).receipt_json)
            assert receipt["issuer"] == "runtime:here"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--bind", "0.0.0.0:0"], "can be reached from other machines"),
            (["--tls-cert", "nowhere.pem"], "--tls-cert and --tls-key go together"),
            (["--client-ca", "nowhere.pem"], "--client-ca needs --tls-cert and --tls-key"),
            (["--tokens", "nowhere.json"], "nowhere.json"),
            (["--bind", "127.0.0.1"], "cannot listen on '127.0.0.1': it must be host:port"),
            (["--retired-keys", __file__], "no JSON"),
            (["--policies-dry-run"], "--policies-dry-run needs --policies-dir"),
        ],
    )
    def test_bad_settings_are_one_line(self, arguments: list[str], says: str) -> None:
        shown = self.refused(*arguments)
        assert says in shown

    def test_a_policy_file_that_is_wrong_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "wrong.json").write_text('{"policy_id": "policy.x"}')
        shown = self.refused("--policies-dir", str(tmp_path), "--policies-dry-run")
        assert "wrong.json: it lacks mode, description, rules, schema_version" in shown

    @staticmethod
    def refused(*arguments: str) -> str:
        shown = subprocess.run([COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert shown.returncode == 1
        assert "Traceback" not in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
        return shown.stderr


def test_policies_that_are_given_from_the_start_are_checked() -> None:
    twice = [build_decision_policy("policy.x"), build_decision_policy("policy.x")]
    with pytest.raises(MacpRefusedError, match=r"'policy\.x' is defined twice"):
        Runtime(policies=twice)


@pytest.mark.parametrize(
    "bind",
    ["", "127.0.0.1", "127.0.0.1:", ":50051", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:-1", "::1:0", "unix:a"],
)
def test_a_place_that_is_no_host_and_port(bind: str) -> None:
    with Runtime() as runtime, pytest.raises(MacpSessionError) as refused:
        runtime.serve(bind)
    assert str(refused.value).startswith(f"cannot listen on {bind!r}: it must be host:port")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_place_by_its_name_or_its_number(host: str) -> None:
    with Runtime() as runtime, runtime.serve(f"{host}:0") as server:
        assert server.target.startswith(f"{host}:")
        with MacpClient(target=server.target, secure=False, auth=CHAIR) as client:
            assert client.initialize().runtime_info.name == "macp-rx"


def test_retired_keys_that_are_wrong_are_told_at_the_start() -> None:
    with pytest.raises(MacpSessionError, match="the retired key 'k0' tells its private half"):
        Settings(retired_keys='{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k0", "x": "AA", "d": "AA"}]}')
