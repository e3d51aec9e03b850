"""The embedded runtime as a server: TLS, health, limits of frames, its end; and `macp-rx serve` with its settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from macp.v1 import core_pb2, core_pb2_grpc

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
from macp_rx.protocol.receipt import Verdict, trusted_keys_from_jwks, verify_receipt
from macp_rx.runtime import Server, Settings, Tls
from macp_rx.runtime.service import LAST_WORDS
from tests.cli.commands import COMMAND, serving
from tests.conftest import Recorder, dial
from tests.runtime.certificates import Authority, Certified

CHAIR = AuthConfig.for_dev_agent("chair")
POLICY = {"policy_id": "policy.file", "mode": "*", "description": "", "rules": {}, "schema_version": 3}


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


def certified(folder: Path, ours: Certified, client_ca: bytes = b"") -> list[str]:
    """Settings of `macp-rx serve` for TLS with a certificate, written to a folder; with a CA, for mutual TLS."""
    settings: list[str] = []
    for option, content in (("--tls-cert", ours.certificate), ("--tls-key", ours.key), ("--client-ca", client_ca)):
        if content:
            (folder / f"{option}.pem").write_bytes(content)
            settings += [option, str(folder / f"{option}.pem")]
    return settings


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
        (tmp_path / "tokens.json").write_text(json.dumps([{"token": "secret", "sender": "chair"}]))
        settings = certified(tmp_path, authority.certify("runtime"))
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
        (tmp_path / "one.json").write_text(json.dumps(POLICY))
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

    def test_mutual_tls(self, authority: Authority, tmp_path: Path) -> None:
        ours, theirs = authority.certify("runtime"), authority.certify("client")
        with serving(*certified(tmp_path, ours, authority.pem)) as (_process, target):
            trusting = {"target": target, "auth": CHAIR, "root_certificates": authority.pem}
            with MacpClient(**trusting, private_key=theirs.key, certificate_chain=theirs.certificate) as client:
                assert start(client).metadata().initiator == "chair"
            with MacpClient(**trusting) as client, pytest.raises(MacpTransportError) as failed:
                client.initialize()
            assert failed.value.status == "UNAVAILABLE"

    def test_receipts_are_signed_and_histories_are_forgotten(self, tmp_path: Path) -> None:
        private = Ed25519PrivateKey.generate()
        (tmp_path / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        settings = ["--receipt-key", str(tmp_path / "key.pem"), "--receipt-kid", "k1", "--compact"]
        with serving(*settings) as (_process, target), dial(target) as client:
            session = start(client)
            session.propose("p1", "one")
            session.commit(action="decision.selected", authority_scope="test", reason="enough")
            receipt = client.get_decision_receipt(session.session_id).receipt_json
            verified = verify_receipt(receipt, trusted_keys_from_jwks(client.get_receipt_keys().jwks_json))
            assert verified.verdict == Verdict.ATTESTED
            with pytest.raises(MacpTransportError) as failed:
                list(client.history(session.session_id))
            assert failed.value.code == "HISTORY_UNAVAILABLE"

    def test_a_session_that_has_ended_is_kept_for_as_long_as_asked(self) -> None:
        with serving("--retention", "0") as (_process, target), dial(target) as client:
            ended, goes_on = start(client), start(client)
            ended.cancel()
            with pytest.raises(MacpTransportError) as failed:
                ended.metadata()
            assert failed.value.code == "SESSION_NOT_FOUND"
            assert goes_on.metadata().initiator == "chair"

    @pytest.mark.parametrize(("drain", "seconds"), [("0", LAST_WORDS), ("3", 3)])
    def test_a_call_under_way_gets_time_at_the_end(self, drain: str, seconds: float) -> None:
        """A client that does not read is waited for, and not for ever."""
        with serving("--drain", drain) as (process, target), dial(target) as client:
            session = start(client)
            for number in range(20):
                session.propose(f"p{number}", "x" * 1_000_000)
            subscribe = core_pb2.StreamSessionRequest(subscribe_session_id=session.session_id)
            with grpc.insecure_channel(target) as channel:
                stream = core_pb2_grpc.MACPRuntimeServiceStub(channel).StreamSession
                call = stream(iter([subscribe]), metadata=[("authorization", "Bearer chair")])
                next(call)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                took = time.monotonic() - began
                call.cancel()
        assert seconds - 0.5 < took < seconds + 2

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--bind", "0.0.0.0:0"], "can be reached from other machines"),
            (["--tls-cert", "nowhere.pem"], "--tls-cert and --tls-key go together"),
            (["--client-ca", "nowhere.pem"], "--client-ca needs --tls-cert and --tls-key"),
            (["--tokens", "nowhere.json"], "nowhere.json"),
            (["--bind", "50051"], "cannot listen on '50051': it must be host:port"),
            (["--retired-keys", __file__], "no JSON"),
            (["--policies-dry-run"], "--policies-dry-run needs --policies-dir"),
            (["--policies-dir", "nowhere"], "No such file or directory: 'nowhere'"),
        ],
    )
    def test_bad_settings_are_one_line(self, arguments: list[str], says: str) -> None:
        assert says in self.refused(*arguments)

    def test_tokens_that_this_runtime_cannot_check_are_told_instead_of_ignored(self) -> None:
        shown = self.refused(MACP_AUTH_ISSUER="https://issuer.example", MACP_AUTH_JWKS_JSON='{"keys": []}')
        assert "MACP_AUTH_ISSUER is set, but this runtime reads no JWT; use --tokens" in shown

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            (("junk", "key", "ca"), "junk.pem holds no certificate"),
            (("cert", "junk", "ca"), "junk.pem is not the key of"),
            (("cert", "other", "ca"), "other.pem is not the key of"),
            (("cert", "locked", "ca"), "locked.pem is not the key of"),
            (("cert", "key", "junk"), "junk.pem holds no certificate"),
            (("cert", "key", "empty"), "empty.pem holds no certificate"),
        ],
    )
    def test_a_certificate_that_is_wrong_is_named(
        self, authority: Authority, tmp_path: Path, settings: tuple[str, str, str], says: str
    ) -> None:
        ours, others = authority.certify("runtime"), authority.certify("other")
        key = load_pem_private_key(ours.key, None)
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        files = {"cert": ours.certificate, "key": ours.key, "ca": authority.pem, "other": others.key, "locked": locked}
        for name, content in {**files, "junk": b"junk", "empty": b""}.items():
            (tmp_path / f"{name}.pem").write_bytes(content)
        certificate, key_file, client_ca = (str(tmp_path / f"{name}.pem") for name in settings)
        shown = self.refused("--tls-cert", certificate, "--tls-key", key_file, "--client-ca", client_ca)
        assert says in shown

    @pytest.mark.parametrize(
        ("policies", "says"),
        [
            ([{"policy_id": "policy.x"}], "0.json: it lacks mode, description, rules, schema_version"),
            (
                [POLICY, {**POLICY, "policy_id": "policy.default"}],
                "1.json: INVALID_POLICY_DEFINITION: policy 'policy.default': 'policy.default' is",
            ),
            (
                [POLICY, {**POLICY, "policy_id": "x", "rules": {"odd": 1}}],
                "1.json: INVALID_POLICY_DEFINITION: policy 'x': ",
            ),
            ([POLICY, POLICY], "1.json: INVALID_POLICY_DEFINITION: policy 'policy.file' is defined twice"),
        ],
    )
    def test_a_policy_file_that_is_wrong_is_named(
        self, tmp_path: Path, policies: list[dict[str, object]], says: str
    ) -> None:
        for number, policy in enumerate(policies):
            (tmp_path / f"{number}.json").write_text(json.dumps(policy))
        assert says in self.refused("--policies-dir", str(tmp_path), "--policies-dry-run")

    @staticmethod
    def refused(*arguments: str, **environment: str) -> str:
        shown = subprocess.run(
            [COMMAND, "serve", *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, **environment},
        )
        assert shown.returncode == (1 if "No such file" in shown.stderr else 2)
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
