"""The differential test: seeded random sessions, byte for byte, to the embedded runtime and to the real server.

- ``generator.py`` tells each mode's usual course; ``script.py`` carries it out and throws in what is wrong (``hostile.py``), and
  policies (``policies.py``); ``steps.py`` is what comes out: bytes, and their words.
- ``targets.py`` and ``stream.py`` send the steps to a runtime; ``answers.py`` makes what it answers comparable.
- ``runner.py`` plays many sessions at once on both, step by step, and tells the first divergence of each with all that led to it;
  ``differences.py`` is the short table of differences that are wanted.
- ``test_courses.py`` compares what random sessions cannot.

``pytest tests/differential --differential-sessions 500`` plays more, ``--differential-first 1000`` others, and
``--differential-seed decision:123`` one again.
"""
