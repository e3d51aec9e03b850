"""Marble tests under virtual time, for any RxPY pipeline; `plugin` is the pytest plugin that brings the fixtures."""

from macp_rx.testing.expectation import MarbleError as MarbleError
from macp_rx.testing.expectation import Where as Where
from macp_rx.testing.guard import only_virtual_time as only_virtual_time
from macp_rx.testing.marbles import Marbles as Marbles
from macp_rx.testing.sessions import Exactly as Exactly
from macp_rx.testing.sessions import PlayedSession as PlayedSession
from macp_rx.testing.sessions import Refused as Refused
from macp_rx.testing.sessions import from_fixture as from_fixture
from macp_rx.testing.sources import Said as Said
from macp_rx.testing.sources import misbehaving as misbehaving
from macp_rx.testing.sources import said as said
