"""studio: the command that shows the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.commands import environment, refused, running

URL = re.compile(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{16,}\n")


def test_it_prints_the_address_and_ends_by_ctrl_c(target: str) -> None:
    with running("studio", "--port", "0", "--no-open", "--target", target, "--agent", "chair") as process:
        assert process.stdout is not None
        url = process.stdout.readline()
        assert URL.fullmatch(url)
        with urllib.request.urlopen(url.strip()) as answer:
            assert b"<title>macp_rx studio</title>" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(url.partition("?")[0])
        refused.value.close()
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=20)
    assert (process.returncode, shown, said) == (130, "", "")


def test_it_opens_the_page_with_a_token_of_ones_own(port: str, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    os.mkfifo(opened)  # whoever reads it waits until the browser has written it
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    chosen = {"BROWSER": f"{browser} %s", "MACP_STUDIO_TOKEN": "a-token-that-stays"}
    with running("studio", "--port", "0", "--target", port, **chosen) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.endswith("/?token=a-token-that-stays")
        assert opened.read_text() == url


def test_beyond_this_machine_only_when_asked_twice(port: str) -> None:
    told = refused(2, "studio", "--host", "0.0.0.0", "--target", port)
    assert "0.0.0.0 can be reached from other machines, in plaintext; or --allow-insecure" in told
    with running("studio", "--host", "0.0.0.0", "--allow-insecure", "--port", "0", "--no-open", "--target", port) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        assert URL.fullmatch(it.stdout.readline())
        assert "whoever can read the network to 0.0.0.0 sees the sessions" in it.stderr.readline()


def test_a_token_that_is_guessed_and_a_port_that_is_taken_are_told(port: str) -> None:
    assert "at least 16 letters" in refused(2, "studio", "--page-token", "abc", "--target", port)
    taken = port.rpartition(":")[2]
    assert "already in use" in refused(1, "studio", "--port", taken, "--no-open", "--target", port)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_it_says_which(missing: str, port: str) -> None:
    without = f"import sys; sys.modules[{missing!r}] = None; from macp_rx.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", without, "studio", "--target", port],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert ran.returncode == 2
    assert 'pip install "macp-rx[studio]"' in ran.stderr
    assert "Traceback" not in ran.stderr
