"""The operators, imported as ``mo``: one operator, one file, one spec of the same name."""

from macp_rx.operators.commit_if_decided import commit_if_decided as commit_if_decided
from macp_rx.operators.deciding import UNDECIDED as UNDECIDED
from macp_rx.operators.deciding import Undecided as Undecided
from macp_rx.operators.deciding import Verdict as Verdict
from macp_rx.operators.deliver_on import deliver_on as deliver_on
from macp_rx.operators.majority import majority as majority
from macp_rx.operators.of_type import of_type as of_type
from macp_rx.operators.send_to import send_to as send_to
from macp_rx.operators.tally import Count as Count
from macp_rx.operators.tally import Tally as Tally
from macp_rx.operators.tally import tally as tally
from macp_rx.operators.within import within as within
