"""A picture as a value, `Svg`, and what pictures are drawn with: elements, and text of which one knows how wide it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from math import fsum
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from macp_rx.diagrams.theme import Theme, style_sheet
from macp_rx.errors import MacpSessionError

__all__ = ["Picture", "Svg", "add", "clean", "shorten", "width_of", "write"]


@dataclass(frozen=True, slots=True, repr=False)
class Svg:
    """A picture. A notebook shows it; ``str()`` is the text of the file.

    Attributes:
        text: the SVG.
        plain: what is shown where there are no pictures: a terminal, a diff.
        theme: in whose colours it is.
    """

    text: str
    plain: str = field(default="", compare=False)
    theme: Theme = "auto"

    def themed(self, theme: Theme) -> Svg:
        """The same picture in other colours.

        Args:
            theme: ``light``, ``dark``, or ``auto`` for whichever the reader's system has.
        """
        return Svg(self.text.replace(style_sheet(self.theme), style_sheet(theme), 1), self.plain, theme)

    def png(self, *, theme: Theme = "light", scale: float = 2.0) -> bytes:
        """The picture as PNG. Needs cairosvg, the extra ``png``.

        Args:
            theme: ``light`` or ``dark``; pixels cannot follow the reader's system.
            scale: pixels for each unit of the picture.

        Raises:
            MacpSessionError: cairosvg is not there.
        """
        try:
            cairosvg: Any = import_module("cairosvg")
        except (ImportError, OSError) as error:  # OSError: it is there, and the cairo library is not
            raise MacpSessionError(f"a PNG needs cairosvg: pip install macp-rx[png] ({error})") from error
        fixed = self.themed("light" if theme == "auto" else theme)
        return bytes(cairosvg.svg2png(fixed.text.encode(), scale=scale))

    def save(self, file: str | Path) -> None:
        """Writes the picture: as SVG, or as PNG where the name ends in ``.png``.

        Raises:
            MacpSessionError: the name ends otherwise, or cairosvg is not there.
        """
        path = Path(file)
        match path.suffix:
            case ".svg":
                path.write_text(self.text, encoding="utf-8", newline="\n")
            case ".png":
                path.write_bytes(self.png(theme=self.theme))
            case suffix:
                raise MacpSessionError(
                    f"a picture is saved as .svg or .png, not as {suffix or 'a name without an end'}"
                )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Svg({len(self.text)} characters)"

    # JupyterLab shows an SVG of a bundle as an image, and strips one that stands in HTML (`reactive-facts.md` 4)
    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.text, "text/plain": self.plain or repr(self)}


class Picture:
    """A picture while it is drawn: later elements cover earlier ones.

    Args:
        title: what it is called, for those who hear it read.
        width: its width; the height is known when all is drawn.
    """

    def __init__(self, title: str, width: float) -> None:
        self.root: Element = Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "macp", "role": "img", "aria-label": clean(title)}
        )
        self._style = SubElement(self.root, "style")
        self._paper = add(self.root, "rect", "paper", width="100%", height="100%", rx=6)
        self._width = width

    def finished(self, height: float, theme: Theme, plain: str) -> Svg:
        """The picture as a value.

        Args:
            height: its height.
            theme: in whose colours.
            plain: what is shown where there are no pictures.
        """
        width, height = round(self._width), round(height)
        self.root.attrib |= {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
        self._style.text = style_sheet(theme)
        ElementTree.indent(self.root, " ")
        return Svg(ElementTree.tostring(self.root, encoding="unicode") + "\n", plain, theme)


def add(parent: Element, tag: str, classes: str = "", **attributes: str | float) -> Element:
    """A new element; numbers are written with one digit behind the point at most, so that the bytes are stable."""
    written = {"class": classes} if classes else {}
    for name, value in attributes.items():
        written[name.rstrip("_").replace("_", "-")] = value if isinstance(value, str) else _number(value)
    return SubElement(parent, tag, written)


def write(parent: Element, text: str, classes: str, x: float, y: float) -> Element:
    """A new text."""
    element = add(parent, "text", classes, x=x, y=y)
    element.text = clean(text)
    return element


def _number(value: float) -> str:
    written = f"{value:.1f}".removesuffix(".0")
    return "0" if written == "-0" else written


# What XML cannot say, and what turns the direction of the text around it: a label is a label, whatever is in it.
_TURNING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"
)


def clean(text: str) -> str:
    """The text in one line, with a replacement character for what cannot be shown."""
    return "".join(map(_clean, text))


def _clean(letter: str) -> str:
    if letter in "\t\n\r":
        return " "
    if unicodedata.category(letter) in ("Cc", "Cs") or letter in _TURNING:
        return "\ufffd"
    return letter


def width_of(text: str, size: float, *, code: bool = False) -> float:
    """About how wide a text is, rather more than less: the reader's font is not known here.

    Args:
        text: the text.
        size: the font's size.
        code: it is written in letters of one width.
    """
    # so many letters are wider than any picture, and a text of a megabyte is not measured; not sum(), which rounds
    # otherwise before Python 3.12: a picture is the same on each
    return size * (0.62 * len(text) if code else fsum(map(_em, text[:500])))


def _em(letter: str) -> float:
    if letter in " .,:;!'|iIjlt()[]/·-":
        return 0.4
    if letter in "mwMW@%…":
        return 0.95
    if not letter.isascii() and unicodedata.east_asian_width(letter) in "WF":
        return 1.05
    return 0.72 if letter.isupper() else 0.62


def shorten(text: str, size: float, room: float) -> str:
    """As much of a text as there is room for; what is cut off is told by an ellipsis.

    Args:
        text: the text.
        size: the font's size.
        room: how wide it may be.
    """
    head = clean(
        text[: int(room / (0.4 * size)) + 1]
    )  # more letters do not fit, and a text of a megabyte is not measured
    fits = list(_fitting(head, size, room))
    if len(fits) == len(text):
        return head
    return head[: sum(width <= room - 0.95 * size for width in fits)].rstrip() + "…"


def _fitting(text: str, size: float, room: float) -> Iterable[float]:
    width = 0.0
    for letter in text:
        width += size * _em(letter)
        if width > room:
            return
        yield width
