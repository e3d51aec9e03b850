"""The studio: a page on this machine that shows what sessions do. Needs Starlette and uvicorn, the extra ``studio``.

A browser asks for two streams of server-sent events. `sessions.py` is what every page hears: the sessions that there are, and
whether the runtime is reached. `session.py` is one session as one page hears it: a session stream of its own, which waits for a
slow browser as for any other slow reader. `drawing.py` draws a transcript, `guard.py` keeps others out, `server.py` puts it
together, and `page.html` is the whole page.
"""

from macp_rx.studio.server import Studio as Studio
