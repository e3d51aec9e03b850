"""A file that is dropped on the page: drawn, or refused with the reason."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macp_rx import MacpClient, MacpSessionError
from macp_rx.studio import Studio
from macp_rx.studio.drawing import drawn
from macp_rx.transcript import line, replay
from tests.studio.asking import asked
from tests.studio.conftest import started

HAPPY = Path(__file__).parents[1] / "conformance/data/decision_happy_path.json"


def told(studio: Studio, file: bytes) -> tuple[int, str]:
    """What is answered to a file."""
    with asked(studio, "/draw", method="POST", body=file) as answer:
        return answer.status, answer.read().decode()


def recorded(client: MacpClient) -> str:
    """A session's transcript."""
    session = started(client)
    session.propose("p1", "canary")
    return "".join(line(accepted, client.clock.now_ms) for accepted in client.history(session.session_id))


def test_each_session_of_a_file_has_a_picture(studio: Studio, chair: MacpClient) -> None:
    status, text = told(studio, "".join(recorded(chair) for _ in range(26)).encode())
    answer = json.loads(text)
    assert (status, len(answer["pictures"]), answer["more"], answer["why"]) == (200, 24, 2, "")
    assert all(picture["svg"].startswith("<svg ") for picture in answer["pictures"])


def test_a_file_that_is_cut_off_is_drawn_as_far_as_it_goes(studio: Studio, chair: MacpClient) -> None:
    status, text = told(studio, recorded(chair).encode()[:-20])
    answer = json.loads(text)
    assert (status, [picture["messages"] for picture in answer["pictures"]]) == (200, [1])
    assert "line 2: the file is cut off in this line" in answer["why"]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "there is nothing in this file"),
        (b"\x89PNG\r\n\x1a\n", "no UTF-8"),
        (b"hello\n", "line 1: no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (HAPPY.read_bytes()[:500], "line 20: no JSON"),
    ],
)
def test_what_is_none_says_what_is_wrong(studio: Studio, file: bytes, why: str) -> None:
    status, text = told(studio, file)
    assert status == 422
    assert why in text


TRANSCRIPT = "".join(line(accepted, 0) for accepted in replay(HAPPY)).encode()


@given(
    st.sampled_from([TRANSCRIPT, HAPPY.read_bytes()]), st.integers(0, 3_000), st.integers(0, 50), st.binary(max_size=20)
)
def test_a_file_that_is_damaged_is_drawn_or_refused(file: bytes, at: int, lost: int, instead: bytes) -> None:
    with suppress(MacpSessionError):
        answer = drawn(file[:at] + instead + file[at + lost :])
        assert answer["pictures"]
        json.dumps(answer).encode()
