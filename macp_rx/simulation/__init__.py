"""The same agents under virtual time: one run, or thousands with other settings. Nothing here needs gRPC."""

from macp_rx.simulation.chance import Chance as Chance
from macp_rx.simulation.chance import Choice as Choice
from macp_rx.simulation.chance import Exponential as Exponential
from macp_rx.simulation.chance import LogNormal as LogNormal
from macp_rx.simulation.chance import Uniform as Uniform
from macp_rx.simulation.conditions import PERFECT as PERFECT
from macp_rx.simulation.conditions import Conditions as Conditions
from macp_rx.simulation.run import Refusal as Refusal
from macp_rx.simulation.run import Simulation as Simulation
from macp_rx.simulation.run import simulate as simulate
from macp_rx.simulation.sweep import Record as Record
from macp_rx.simulation.sweep import Summary as Summary
from macp_rx.simulation.sweep import Sweep as Sweep
from macp_rx.simulation.sweep import sweep as sweep
