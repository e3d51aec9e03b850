"""The colours, and the style sheet made of them: for light, for dark, or for whichever the reader's system has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from macp_rx.errors import MacpSessionError

__all__ = ["HUES", "MONO", "PALETTES", "SANS", "Theme", "style_sheet"]

Theme = Literal["auto", "light", "dark"]
"""``auto`` follows the reader's system, by ``prefers-color-scheme``; the others are fixed."""

SANS: Final = "Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif"
MONO: Final = "Menlo,Consolas,'DejaVu Sans Mono',monospace"

# Text needs 4.5:1 on its ground, shapes and lines that mean something 3:1 (WCAG 2.2, 1.4.3 and 1.4.11); a test computes it.
PALETTES: Final[Mapping[str, Mapping[str, str]]] = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1d2430",
        "muted": "#5a6472",
        "line": "#7b8594",
        "grid": "#edf0f4",
        "band": "#e9f0fa",
        "box": "#f4f6f9",
        "edge": "#7b8594",
        "good": "#1b7a43",
        "bad": "#c22f3d",
        "caution": "#96610a",
        "blue": "#2563b8",
        "violet": "#7549b8",
        "teal": "#0f7380",
        "steel": "#56616f",
    },
    "dark": {
        "paper": "#12161c",
        "ink": "#e7ebf0",
        "muted": "#a0aab7",
        "line": "#78838f",
        "grid": "#20262e",
        "band": "#19283b",
        "box": "#1b2129",
        "edge": "#6f7a87",
        "good": "#4fbb79",
        "bad": "#f0767f",
        "caution": "#dba43c",
        "blue": "#6ea8f2",
        "violet": "#b393ee",
        "teal": "#4fbfcc",
        "steel": "#9aa5b3",
    },
}

HUES: Final = ("good", "bad", "caution", "blue", "violet", "teal", "steel")
"""What marks are filled with; what stands in a filled mark has the colour of the paper."""


def style_sheet(theme: Theme) -> str:
    """The CSS of a picture.

    Args:
        theme: whose colours.

    Raises:
        MacpSessionError: there is no such theme.
    """
    if theme == "auto":
        rules = _rules({name: f"var(--{name})" for name in PALETTES["light"]})
        light, dark = (_variables(PALETTES[name]) for name in ("light", "dark"))
        return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{rules}"
    if theme not in PALETTES:
        raise MacpSessionError(f"there is no theme {theme!r}, only {', '.join(get_args(Theme))}")
    return _rules(PALETTES[theme])


def _variables(palette: Mapping[str, str]) -> str:
    return f".macp {{ {' '.join(f'--{name}: {colour};' for name, colour in palette.items())} }}"


def _rules(of: Mapping[str, str]) -> str:
    hues = "\n".join(
        f".macp .{hue} {{ fill: {of[hue]}; stroke: {of[hue]}; }}\n.macp .{hue}.hollow {{ fill: {of['paper']}; }}\n"
        f".macp .{hue}.glyph {{ fill: none; }}\n.macp text.{hue} {{ stroke: none; }}"
        for hue in HUES
    )
    return f"""\
.macp text {{ font-family: {SANS}; font-size: 11px; fill: {of["ink"]}; stroke: none; }}
.macp text.middle {{ text-anchor: middle; }}
.macp text.end {{ text-anchor: end; }}
.macp text.small {{ font-size: 10px; }}
.macp text.lane {{ font-size: 12px; font-weight: bold; }}
.macp text.title {{ font-size: 14px; font-weight: bold; }}
.macp text.code {{ font-family: {MONO}; font-size: 12px; }}
.macp text.muted {{ fill: {of["muted"]}; }}
.macp .paper {{ fill: {of["paper"]}; }}
.macp .line {{ stroke: {of["line"]}; stroke-width: 1.5; fill: none; }}
.macp .grid {{ stroke: {of["grid"]}; stroke-width: 1; }}
.macp .tick {{ stroke: {of["edge"]}; stroke-width: 1; fill: none; }}
.macp .instant {{ stroke: {of["edge"]}; stroke-width: 3; stroke-linecap: round; }}
.macp .band {{ fill: {of["band"]}; }}
.macp .box {{ fill: {of["box"]}; stroke: {of["edge"]}; stroke-width: 1; }}
.macp .cut {{ stroke: {of["paper"]}; stroke-width: 5; }}
{hues}
.macp .shape {{ stroke-width: 1.5; }}
.macp .dashed {{ stroke-dasharray: 3 2; }}
.macp .glyph {{ stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }}
.macp .within {{ fill: none; stroke: {of["paper"]}; }}
.macp text.inside {{ font-weight: bold; text-anchor: middle; fill: {of["paper"]}; }}"""
