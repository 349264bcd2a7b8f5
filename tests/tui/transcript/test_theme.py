"""The themes' contrast, and palettes without colours."""

from __future__ import annotations

from dataclasses import fields

import pytest
from rich.style import Style
from textual.color import Color
from textual.theme import Theme

from dsv4_agent.tui.theme import CONTRAST, PLAIN, THEMES, Palette, palette_for
from dsv4_agent.workbench import settings

DECORATION = {"rule", "added_line", "removed_line"}


def luminance(color: Color) -> float:
    parts = [value / 255 for value in color.rgb]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Color, other: Color) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def styles(palette: Palette) -> dict[str, Style]:
    return {field.name: getattr(palette, field.name) for field in fields(palette)}


def test_the_settings_know_the_themes() -> None:
    assert tuple(theme.name for theme in THEMES) == settings.THEMES


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_text_is_readable_also_on_changed_lines(theme: Theme) -> None:
    palette = palette_for(theme)
    least = 7.0 if theme is CONTRAST else 4.5
    grounds = [Color.parse(theme.background)]
    grounds += [Color.from_rich_color(s.bgcolor) for s in (palette.added_line, palette.removed_line)]
    for name, style in styles(palette).items():
        if name in DECORATION:
            continue
        for ground in grounds[:1] if name == "user_bar" else grounds:
            assert contrast(Color.from_rich_color(style.color), ground) >= least, (name, ground)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_without_colours_there_are_none(theme: Theme) -> None:
    palette = palette_for(theme, no_color=True)
    assert palette is PLAIN
    for style in styles(palette).values():
        assert style.color is None
        assert style.bgcolor is None
