"""Timelines as pictures: SVG, PNG, Mermaid, a page, what each operator of a pipeline does, and a session while it runs."""

from macp_rx.diagrams.explain import explain as explain
from macp_rx.diagrams.lanes import svg as svg
from macp_rx.diagrams.live import live as live
from macp_rx.diagrams.mermaid import mermaid as mermaid
from macp_rx.diagrams.page import html as html
from macp_rx.diagrams.picture import Svg as Svg
