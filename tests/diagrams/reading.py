"""What stands in a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from macp_rx.diagrams import Svg
from macp_rx.diagrams.picture import width_of

__all__ = ["Drawn", "Label"]

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Label:
    """One text, and where it stands."""

    text: str
    left: float
    right: float
    y: float


class Drawn:
    """A picture, read again."""

    def __init__(self, picture: Svg) -> None:
        self.root = ElementTree.fromstring(str(picture))

    @property
    def width(self) -> float:
        return float(self.root.attrib["width"])

    @property
    def height(self) -> float:
        return float(self.root.attrib["height"])

    @property
    def texts(self) -> list[str]:
        return [element.text or "" for element in self.root.iter(f"{SVG}text")]

    @property
    def tips(self) -> list[str]:
        return [element.text or "" for element in self.root.iter(f"{SVG}title")]

    @property
    def ids(self) -> list[str]:
        return [element.attrib["id"] for element in self.root.iter() if "id" in element.attrib]

    @property
    def marks(self) -> list[Element]:
        return [element for element in self.root.iter(f"{SVG}g") if element.attrib.get("class") == "mark"]

    @property
    def events(self) -> int:
        """How many events are drawn, or counted."""
        return sum(int(mark.attrib["data-events"]) for mark in self.marks)

    @property
    def labels(self) -> Iterator[Label]:
        """Every text that is in nothing, neither in a mark nor in a box."""
        for element in self.root.iter(f"{SVG}text"):
            classes = element.attrib["class"].split()
            if "inside" in classes or "code" in classes:
                continue
            size = next((size for name, size in (("title", 14), ("lane", 12), ("small", 10)) if name in classes), 11)
            width = width_of(element.text or "", size)
            x = float(element.attrib["x"])
            left = x - width / 2 if "middle" in classes else x
            yield Label(element.text or "", left, left + width, float(element.attrib["y"]))

    def mark(self, text: str) -> Element:
        """The one mark with this text."""
        (found,) = [mark for mark in self.marks if any(one.text == text for one in mark.iter(f"{SVG}text"))]
        return found

    def look(self, text: str) -> list[str]:
        """The tags and paths of the mark with this text: what it looks like without colours."""
        return [
            f"{one.tag.removeprefix(SVG)} {one.attrib.get('d', '')} {'hollow' in one.attrib.get('class', '')}"
            for one in self.mark(text)
            if not one.tag.endswith(("text", "title"))
        ]
