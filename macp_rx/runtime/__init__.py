"""The embedded runtime: a pure kernel, a thin shell on a clock, and two carriers, memory and gRPC."""

from macp_rx.runtime.runtime import Runtime as Runtime
from macp_rx.runtime.service import Server as Server
