"""Colours are legible: WCAG 2.2, 1.4.3 (text 4.5:1) and 1.4.11 (what means something 3:1)."""

from __future__ import annotations

import pytest

from macp_rx.diagrams.theme import HUES, PALETTES


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula_is_the_one_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
@pytest.mark.parametrize("ground", ["paper", "band", "box"])
@pytest.mark.parametrize("text", ["ink", "muted"])
def test_text_is_legible(palette: dict[str, str], ground: str, text: str) -> None:
    assert contrast(palette[text], palette[ground]) >= 4.5


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
@pytest.mark.parametrize("hue", HUES)
def test_a_mark_is_seen_and_what_stands_in_it_is_legible(palette: dict[str, str], hue: str) -> None:
    assert contrast(palette[hue], palette["paper"]) >= 4.5
    assert contrast(palette[hue], palette["band"]) >= 3


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
@pytest.mark.parametrize("line", ["line", "edge"])
def test_lines_are_seen(palette: dict[str, str], line: str) -> None:
    for ground in ("paper", "band", "box"):
        assert contrast(palette[line], palette[ground]) >= 3
