"""Record and replay: a file gives back the very history, its times, and what is wrong with it."""

from __future__ import annotations

import gc
import io
import json
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given, settings
from hypothesis import strategies as st
from macp.modes.decision.v1.decision_pb2 import VotePayload
from macp.v1.envelope_pb2 import Envelope
from macp.v1.policy_pb2 import PolicyDescriptor
from reactivex import operators as ops

from macp_rx import (
    Accepted,
    DecisionSession,
    HandoffSession,
    MacpClient,
    MacpClosedError,
    MacpSessionError,
    MacpTranscriptError,
    MacpTransportError,
    Runtime,
    Stream,
)
from macp_rx import operators as mo
from macp_rx.clock import VirtualClock
from macp_rx.protocol.messages import HANDOFF
from macp_rx.timeline import Completed, Event, Failed, Next, Recorder, Timeline
from macp_rx.transcript import File, record, replay, timeline
from tests import conftest
from tests.conftest import Connect, running_server
from tests.protocol.test_canonical import envelopes

FIXTURES = Path(__file__).parent / "conformance"
GOOD = '{"envelope":{"mode":"m","message_type":"t","payload_b64":""},"sequence":1,"time":"2026-01-01T00:00:00Z"}\n'


def wire(accepted: list[Accepted]) -> list[tuple[int, bytes]]:
    """A history as its sequences and bytes."""
    return [(one.sequence, one.envelope.SerializeToString(deterministic=True)) for one in accepted]


def decide(session: DecisionSession) -> None:
    """A decision of the chair and alice, who have started it."""
    session.propose("p1", "canary", rationale="\u2028 and \x85", supporting_data=b"\x00\xff")
    session.acting_as("alice").vote("p1", "APPROVE")
    session.commit(action="decision.selected", reason="why", authority_scope="team")


def read(file: File) -> tuple[list[Accepted], list[MacpTranscriptError]]:
    """What a file gives, at once, and the error that it ends with, if it does."""
    came: list[Accepted] = []
    errors: list[Any] = []
    stream = replay(file, speed=None)
    stream.subscribe(came.append, errors.append)
    stream.clock.wait(threading.Event())
    return came, errors


def virtually(history: list[Accepted]) -> bytes:
    """A history as a transcript."""
    with Runtime(clock=VirtualClock()) as runtime, MacpClient.embedded(agent="chair", runtime=runtime) as client:
        file = io.BytesIO()
        recording = record(client, rx.from_iterable(history), file)
        assert recording.end.run() == len(history)
        return file.getvalue()


histories = st.lists(envelopes(), max_size=5).map(
    lambda said: [Accepted(number, envelope) for number, envelope in enumerate(said, start=1)]
)


class TestRoundTrip:
    def test_a_recorded_session_is_its_history(
        self, client: MacpClient, session: DecisionSession, tmp_path: Path
    ) -> None:
        recording = record(client, session, tmp_path / "incident.jsonl")
        decide(session)
        assert recording.end.run() == 4
        history = list(client.history(session.session_id))
        assert wire(list(replay(tmp_path / "incident.jsonl"))) == wire(history)
        # whoever comes later has the same but for the time, which then is the senders'
        late = io.StringIO()
        assert record(client, session.session_id, late).end.run() == 4
        assert wire(list(replay(late))) == wire(history)
        times = [json.loads(line)["time"] for line in late.getvalue().split("\n")[:-1]]
        assert times == [json.loads(line)["envelope"]["timestamp"] for line in late.getvalue().split("\n")[:-1]]

    def test_a_line_is_canonical_json(self, client: MacpClient, session: DecisionSession) -> None:
        file = io.StringIO()
        recording = record(client, session, file)
        decide(session)
        recording.end.run()
        line = json.loads(file.getvalue().split("\n")[2])
        assert line["sequence"] == 3
        assert line["time"].endswith("Z")
        assert line["envelope"]["payload"] == {"proposal_id": "p1", "reason": "", "vote": "APPROVE"}

    def test_all_sessions_are_recorded_together_and_told_apart(self, connect: Connect) -> None:
        client, file = connect("chair"), io.BytesIO()
        sessions = [DecisionSession(client), DecisionSession(client)]
        ids = [session.session_id for session in sessions]
        recording = record(client, client.all_events(where=lambda metadata: metadata.session_id in ids), file)
        for session in sessions:
            session.start(intent="one of two", participants=["chair", "alice"], ttl_ms=60_000)
        for session in sessions:
            decide(session)
        conftest.wait_until(client.clock, lambda: recording.count == 8)
        recording.dispose()
        assert recording.end.run() == 8
        for session in sessions:
            replayed = list(replay(file).pipe(mo.in_session(session.session_id)))
            assert wire(replayed) == wire(list(client.history(session.session_id)))

    @given(histories)
    def test_any_history_comes_back(self, history: list[Accepted]) -> None:
        came, errors = read(io.BytesIO(virtually(history)))
        assert (wire(came), errors) == (wire(history), [])

    @settings(max_examples=300)
    @given(histories, st.data())
    def test_any_cut_leaves_what_is_whole_and_one_error(self, history: list[Accepted], data: st.DataObject) -> None:
        whole = virtually(history)
        at = data.draw(st.integers(0, len(whole)))
        lines = whole[:at].count(b"\n")
        rest = whole[:at].rpartition(b"\n")[2]
        came, errors = read(io.BytesIO(whole[:at]))
        if not rest:
            assert (wire(came), errors) == (wire(history[:lines]), [])
        elif whole[at : at + 1] == b"\n":  # nothing is lost but the end of the line
            assert (wire(came), errors) == (wire(history[: lines + 1]), [])
        else:
            assert wire(came) == wire(history[:lines])
            assert [error.line for error in errors] == [lines + 1]
            assert "line of a transcript is" in str(errors[0])

    def test_an_envelope_with_a_field_of_the_future_keeps_it(self) -> None:
        envelope = Envelope.FromString(b"\xf8\x07\x01")
        assert wire(list(replay(io.BytesIO(virtually([Accepted(1, envelope)]))))) == [(1, b"\xf8\x07\x01")]


class TestRecording:
    def test_each_line_is_in_the_file_before_the_next_is_heard(
        self, virtual_time: VirtualClock, tmp_path: Path
    ) -> None:
        with embedded(virtual_time) as client:
            session = DecisionSession(client)
            with record(client, session, tmp_path / "a.jsonl") as recording:
                session.start(intent="watched", participants=["chair"], ttl_ms=60_000)
                for number in range(3):
                    session.propose(f"p{number}", "canary")
                    virtual_time.advance_by(1)
                    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == recording.count == number + 2
            session.propose("p9", "late")
            assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4
            assert recording.end.run() == 4

    def test_it_ends_with_a_session_that_is_cancelled(self, client: MacpClient, session: DecisionSession) -> None:
        recording = record(client, session, io.BytesIO())
        session.cancel(reason="enough")
        assert recording.end.run() == 1

    def test_a_file_that_exists_is_left_alone(self, client: MacpClient, tmp_path: Path) -> None:
        path = tmp_path / "incident.jsonl"
        path.write_text("of last week")
        with pytest.raises(MacpTranscriptError, match=r"incident\.jsonl: exists already: name another"):
            record(client, client.all_events(), path)
        with pytest.raises(MacpTranscriptError, match=r"cannot be written: .*No such file or directory"):
            record(client, client.all_events(), tmp_path / "no" / "where")
        assert path.read_text() == "of last week"

    def test_an_open_file_is_appended_to_and_left_open(self, virtual_time: VirtualClock, tmp_path: Path) -> None:
        with embedded(virtual_time) as client, open(tmp_path / "a.jsonl", "a+", encoding="utf-8") as file:
            for _ in range(2):
                session = DecisionSession(client)
                session.start(intent="again", participants=["chair"], ttl_ms=60_000)
                recording = record(client, session, file)
                session.cancel()
                assert recording.end.run() == 1
            assert len(list(replay(file))) == 2

    def test_a_full_disk_ends_it_with_an_error_that_says_where(
        self, client: MacpClient, session: DecisionSession
    ) -> None:
        with open("/dev/full", "wb") as full:
            recording = record(client, session, full)
            with pytest.raises(MacpTranscriptError, match=r"/dev/full, line 1: cannot be written: .*No space left"):
                recording.end.run()
            with pytest.raises(OSError, match="No space left"):
                full.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())

    def test_a_file_that_somebody_closes_ends_it(self, client: MacpClient, session: DecisionSession) -> None:
        file = io.BytesIO()
        recording = record(client, session, file)
        conftest.wait_until(client.clock, lambda: recording.count == 1)
        file.close()
        session.propose("p1", "canary")
        with pytest.raises(MacpTranscriptError, match=r"the file, line 2: cannot be written: .*closed file"):
            recording.end.run()

    def test_it_tells_what_the_stream_fails_with(self, client: MacpClient) -> None:
        recording = record(client, client.clock.new_id(), io.BytesIO())
        with pytest.raises(MacpTransportError, match="SESSION_NOT_FOUND"):
            recording.end.run()

    @pytest.mark.parametrize("what", ["session", "its id", "all"])
    def test_a_client_that_closes_ends_it(self, connect: Connect, what: str) -> None:
        session = DecisionSession(connect("chair"))
        session.start(intent="closed", participants=["chair"], ttl_ms=60_000)
        recorded: dict[str, Any] = {
            "session": session,
            "its id": session.session_id,
            "all": session.client.all_events(where=lambda metadata: metadata.session_id == session.session_id),
        }
        recording = record(session.client, recorded[what], io.BytesIO())
        conftest.wait_until(session.client.clock, lambda: recording.count == 1)
        ended = conftest.Recorder()
        recording.end.subscribe(ended)
        session.client.close()
        ended.wait_for_end()
        assert isinstance(ended.error, MacpClosedError)

    def test_a_file_that_it_has_opened_is_closed(self, virtual_time: VirtualClock, tmp_path: Path) -> None:
        with embedded(virtual_time) as client:
            recording = record(client, client.all_events(), tmp_path / "a.jsonl")
            recording.dispose()
            recording.dispose()
            gc.collect()  # a file that is left open warns, which is an error here

    def test_memory_is_flat(self, virtual_time: VirtualClock) -> None:
        said = Accepted(1, Envelope(mode="m", message_type="t", payload=b"x" * 1000))
        with embedded(virtual_time) as client, open(os.devnull, "wb") as file:
            record(client, rx.repeat_value(said, 100).pipe(ops.repeat(2)), file).end.run()
            tracemalloc.start()
            recording = record(client, rx.repeat_value(said, 100).pipe(ops.repeat(20)), file)
            assert recording.end.run() == 2000
            _now, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 500_000  # of 3.3 MB that were written


def embedded(clock: VirtualClock) -> MacpClient:
    return MacpClient.embedded(agent="chair", runtime=Runtime(clock=clock))


def at_times(*seconds: int) -> io.StringIO:
    """A transcript of envelopes at so many seconds past midnight."""
    lines = [
        GOOD.replace("00Z", f"{second:02}Z").replace('"sequence":1', f'"sequence":{number}')
        for number, second in enumerate(seconds, start=1)
    ]
    return io.StringIO("".join(lines))


class TestTime:
    @pytest.mark.parametrize(
        ("speed", "times"),
        [
            (1.0, [0, 1, 1, 30, 30]),
            (2.0, [0, 0.5, 0.5, 15, 15]),
            (0.5, [0, 2, 2, 60, 60]),
            (None, [0] * 5),
            (float("inf"), [0] * 5),
        ],
    )
    def test_the_times_between_are_kept(
        self, virtual_time: VirtualClock, speed: float | None, times: list[float]
    ) -> None:
        # the fourth one's clock went back: it comes behind the third, at once
        heard = Recorder(virtual_time)
        heard.record(replay(at_times(5, 6, 35 - 29, 35, 20), speed=speed, clock=virtual_time), "heard")
        virtual_time.run_until_idle()
        *events, end = heard.timeline.events
        assert [event.time / 1e6 for event in events] == times
        assert end.what == Completed()
        assert [event.what.value.sequence for event in events if isinstance(event.what, Next)] == [1, 2, 3, 4, 5]

    def test_on_a_clock_of_its_own_days_take_no_time(self) -> None:
        file = io.StringIO(GOOD + GOOD.replace("2026-01-01", "2026-03-01"))
        stream = replay(file)
        assert stream.pipe(ops.timestamp(stream.clock), ops.map(lambda one: one.value.live)).run()
        assert stream.clock.seconds == 59 * 86_400

    def test_in_real_time_it_takes_the_time_it_took(self, client: MacpClient) -> None:
        begun = client.clock.seconds
        assert replay(at_times(0, 1), speed=20, clock=client.clock).pipe(ops.count()).run() == 2
        assert client.clock.seconds - begun >= 0.05

    @pytest.mark.parametrize("speed", [0, -1.0, float("nan")])
    def test_a_speed_that_does_not_come_to_an_end_is_refused(self, speed: float) -> None:
        with pytest.raises(MacpSessionError, match="does not come to an end"):
            replay("incident.jsonl", speed=speed)

    def test_each_subscription_reads_from_the_start_and_what_is_left_is_not_read(self) -> None:
        stream = replay(at_times(1, 2, 3))
        assert [one.sequence for one in stream] == [1, 2, 3]
        assert [one.sequence for one in stream.pipe(ops.take(2))] == [1, 2]

    def test_a_slow_reader_holds_it_back(self) -> None:
        class Counting(io.StringIO):
            lines = 0

            def readline(self, *_: Any) -> str:
                self.lines += 1
                return super().readline()

        file = Counting(GOOD * 5000)
        for _ in range(2):
            reading = iter(replay(file, speed=None))
            next(reading)
            assert file.lines <= 600
            assert sum(1 for _ in reading) == 4999
            file.lines = 0

    def test_what_the_observer_raises_is_its_own_error(self, virtual_time: VirtualClock) -> None:
        errors: list[Exception] = []

        def hear(accepted: Accepted) -> None:
            raise LookupError(accepted.sequence)

        replay(at_times(1, 2), clock=virtual_time).subscribe(hear, errors.append)
        virtual_time.run_until_idle()
        assert [error.args for error in errors] == [(1,)]


class TestTheServersLog:
    """`log.jsonl`, which the real server keeps of each session."""

    @pytest.mark.server
    @pytest.mark.parametrize("interval", ["0", "3"])
    def test_it_gives_the_history_byte_for_byte(self, tmp_path: Path, interval: str) -> None:
        with (
            running_server(
                MACP_MEMORY_ONLY="0",
                MACP_DATA_DIR=str(tmp_path),
                MACP_COMPACT_TERMINAL_LOGS="0",
                MACP_CHECKPOINT_INTERVAL=interval,
            ) as server,
            conftest.dial(server.target) as client,
        ):
            session = DecisionSession(client)
            session.start(intent="logged", participants=["chair", "alice"], ttl_ms=60_000, extensions={"a": b"\xff"})
            session.suspend(reason="lunch")
            session.resume()
            decide(session)
            history = wire(list(client.history(session.session_id)))
            silent = PolicyDescriptor(
                policy_id="policy.silence",
                mode=HANDOFF,
                schema_version=3,
                rules='{"acceptance":{"implicit_accept_timeout_ms":1}}',
            )
            client.register_policy(silent)
            other = HandoffSession(client, policy_version="policy.silence")
            other.start(intent="silence", participants=["chair", "alice"], ttl_ms=60_000)
            other.offer("h1", "alice")
            client.clock.wait(threading.Event(), 0.01)
            other.commit(action="handoff.accepted", reason="why", authority_scope="team")
            unanswered = wire(list(client.history(other.session_id)))
        log, logged = (tmp_path / "sessions" / one.session_id / "log.jsonl" for one in (session, other))
        assert wire(list(replay(log))) == history
        assert wire(list(replay(logged))) == unanswered
        assert len(unanswered) == 4  # what the server itself said among them
        both = io.BytesIO(log.read_bytes() + logged.read_bytes())
        assert wire(list(replay(both).pipe(mo.in_session(other.session_id)))) == unanswered

        whole = log.read_bytes()
        for at in (1, 200, len(whole) // 2):
            came, (error,) = read(io.BytesIO(whole[:at]))
            assert wire(came) == history[: len(came)]
            assert error.line == whole[:at].count(b"\n") + 1

    @pytest.mark.server
    def test_what_it_has_discarded_is_an_error(self, tmp_path: Path) -> None:
        with (
            running_server(MACP_MEMORY_ONLY="0", MACP_DATA_DIR=str(tmp_path)) as server,
            conftest.dial(server.target) as client,
        ):
            session = DecisionSession(client)
            session.start(intent="forgotten", participants=["chair", "alice"], ttl_ms=60_000)
            decide(session)
        with pytest.raises(MacpTranscriptError, match=r"log\.jsonl, line 1: .*discarded .* up to sequence 4"):
            replay(tmp_path / "sessions" / session.session_id / "log.jsonl").run()


class TestFixtures:
    def test_one_gives_what_is_accepted(self) -> None:
        file = FIXTURES / "data" / "decision_reject_paths.json"
        fixture = json.loads(file.read_text())
        accepted = [(one["sender"], one["message_type"]) for one in fixture["messages"] if one["expect"] == "accept"]
        stream = replay(file)
        assert [(one.sender, one.message_type) for one in stream][1:] == accepted
        assert list(stream) == list(stream)  # the same session each time

    def test_what_the_runtime_itself_says_is_among_it_at_its_time(self) -> None:
        assert [
            (event.time, event.lane) for event in timeline(FIXTURES / "ours" / "handoff_unanswered.json").events
        ] == [
            (0, "desk"),
            (1_000_000, "desk"),
            (3_000_000, "expert"),
        ]

    def test_one_that_the_rules_do_not_bear_out_is_an_error(self) -> None:
        text = (FIXTURES / "data" / "decision_happy_path.json").read_text().replace('"accept"', '"reject"', 1)
        with pytest.raises(
            MacpTranscriptError, match=r"message 1 is refused with any code in the fixture, .* accepted"
        ):
            replay(io.StringIO(text)).run()


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("\n", "no JSON: Expecting value"),
            ("[]\n", "this is no JSON object; a line of a transcript is"),
            ("{}\n", "this line has no 'sequence'"),
            (GOOD.replace('"m"', "5"), "Envelope.mode cannot be 5"),
            (GOOD.replace("26-01", "26-13"), "'2026-13-01T00:00:00Z' is no time"),
            (GOOD.replace(":1,", ":0,"), "sequence counts from 1 on, and is 0"),
            (GOOD.replace(":1,", ":true,"), "sequence counts from 1 on, and is True"),
            ('{"envelope_b64":"_","sequence":1,"time":"2026-01-01T00:00:00Z"}\n', "envelope_b64"),
            ('{"envelope_b64":"CA==","sequence":1,"time":"2026-01-01T00:00:00Z"}\n', "envelope_b64 holds no Envelope"),
            (GOOD[:-9], "the file is cut off in this line"),
        ],
    )
    def test_a_line_in_the_middle(self, line: str, told: str) -> None:
        file = io.BytesIO(f"{GOOD}{GOOD}{line}".encode())
        file.name = "incident.jsonl"
        came, (error,) = read(file)
        assert [one.sequence for one in came] == [1, 1]
        assert (error.file, error.line) == ("incident.jsonl", 3)
        assert str(error).startswith("incident.jsonl, line 3: ")
        assert told in str(error)

    def test_bytes_that_are_no_text(self) -> None:
        came, (error,) = read(io.BytesIO(GOOD.encode() + b'{"envelope": "\xff"}\n'))
        assert (len(came), error.line) == (1, 2)
        assert "no UTF-8: invalid start byte at byte 14" in str(error)

    def test_bytes_that_are_no_text_in_a_file_that_is_open_as_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(GOOD.encode() + b"\xff\n")
        with open(tmp_path / "a.jsonl", encoding="utf-8") as file:
            came, (error,) = read(file)
        assert (len(came), error.line) == (1, 2)

    def test_an_entry_of_a_log(self) -> None:
        entry = {"message_id": "", "entry_kind": "Other", "session_id": "s"}
        with pytest.raises(
            MacpTranscriptError, match=r"line 1: entry_kind is Incoming, Internal or Checkpoint, and not"
        ):
            replay(io.StringIO(f"{json.dumps(entry)}\n")).run()
        with pytest.raises(
            MacpTranscriptError, match=r"line 1: this line has no 'macp_version'; a line of a runtime's log"
        ):
            replay(io.StringIO(f"{json.dumps({**entry, 'entry_kind': 'Incoming'})}\n")).run()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("hello\nthere\n", "line 1: no JSON: Expecting value at column 1"),
            ('{\n  "messages": [,]\n}', "line 2: no JSON: Expecting value at column 16"),
            ('{"messages": {}}', "line 1: this is neither a transcript, a runtime's log nor a fixture"),
            ("[" * 100_000, "nested too deeply"),
            ('{"messages": [], "expected_final_state": "Open"}', "the fixture has no 'participants'"),
        ],
    )
    def test_a_file_of_another_kind(self, text: str, told: str) -> None:
        with pytest.raises(MacpTranscriptError) as raised:
            replay(io.StringIO(text)).run()
        assert told in str(raised.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(MacpTranscriptError, match=r"nothing: cannot be read: .*No such file"):
            replay(tmp_path / "nothing").run()

    def test_an_empty_file_has_nothing(self) -> None:
        assert list(replay(io.StringIO(""))) == []


class TestTimelines:
    def test_a_lane_for_each_sender(self, virtual_time: VirtualClock) -> None:
        file = io.BytesIO()
        with embedded(virtual_time) as client:
            session = DecisionSession(client)
            session.start(intent="drawn", participants=["chair", "alice"], ttl_ms=60_000)
            recording = record(client, session, file)
            for step in (
                lambda: session.propose("p1", "canary"),
                lambda: session.acting_as("alice").vote("p1", "APPROVE"),
                lambda: session.commit(action="decision.selected", reason="why", authority_scope="team"),
            ):
                virtual_time.advance_by(0.002)
                step()
            recording.end.run()
        drawn = timeline(file)
        assert str(drawn).splitlines()[:2] == ["chair : a-b---c", "alice : ----d--"]
        assert Timeline.parse(str(drawn)) == drawn
        assert timeline(file, "another").events == ()
        assert len(timeline(file, session.session_id).events) == 4

    def test_what_cannot_be_read_ends_it(self) -> None:
        (accepted, failed) = timeline(io.StringIO(GOOD + GOOD[:20])).events
        assert isinstance(accepted, Event)
        assert failed.lane == "transcript"
        assert isinstance(failed.what, Failed)


def test_an_incident_is_a_unit_test(virtual_time: VirtualClock) -> None:
    """An operator says the same of the recording as it did of the session."""
    file = io.BytesIO()
    with embedded(virtual_time) as client:
        session = DecisionSession(client)
        session.start(intent="incident", participants=["chair", "alice"], ttl_ms=60_000)

        def verdict(events: Stream[Accepted]) -> Stream[Any]:
            return events.pipe(mo.of_type(VotePayload), mo.majority(electorate=1))

        then: list[Any] = []
        verdict(session.events).subscribe(then.append)
        recording = record(client, session, file)
        decide(session)
        recording.end.run()
    assert [verdict(replay(file)).run()] == then
