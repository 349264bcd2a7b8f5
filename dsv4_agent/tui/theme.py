"""Colours: three Textual themes, and the palette of rich styles that the transcript paints with.

Meaning never rests on colour alone: whatever a colour says, a sign or a word says too, so `PLAIN` (for
NO_COLOR and for terminals' own ANSI themes) loses nothing but looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

DARK = Theme(
    name="dsv4-dark",
    primary="#7f9cff",
    secondary="#6cb6c4",
    accent="#b7a1f5",
    success="#8fc58a",
    warning="#e3b76d",
    error="#f08a8f",
    foreground="#d9dde5",
    background="#12151b",
    surface="#181c24",
    panel="#202632",
    dark=True,
    variables={
        "screen-selection-background": "#34457d",
        "screen-selection-foreground": "#ffffff",
        "scrollbar": "#2c3443",
        "scrollbar-hover": "#3d4860",
        "scrollbar-active": "#7f9cff",
        "scrollbar-background": "#12151b",
        "scrollbar-background-hover": "#12151b",
        "scrollbar-background-active": "#12151b",
    },
)
LIGHT = Theme(
    name="dsv4-light",
    primary="#2f4fd0",
    secondary="#0e6f80",
    accent="#6a3fc2",
    success="#23702f",
    warning="#855400",
    error="#b3261e",
    foreground="#22262d",
    background="#fbfaf7",
    surface="#f2f1ec",
    panel="#e7e6e0",
    dark=False,
    variables={
        "screen-selection-background": "#c5d2ff",
        "screen-selection-foreground": "#101318",
        "scrollbar": "#d2d0c8",
        "scrollbar-hover": "#b5b2a8",
        "scrollbar-active": "#2f4fd0",
        "scrollbar-background": "#fbfaf7",
        "scrollbar-background-hover": "#fbfaf7",
        "scrollbar-background-active": "#fbfaf7",
    },
)
CONTRAST = Theme(
    name="dsv4-contrast",
    primary="#9db8ff",
    secondary="#7fe3f2",
    accent="#d9c4ff",
    success="#8dff9e",
    warning="#ffd75f",
    error="#ffaaaa",
    foreground="#ffffff",
    background="#000000",
    surface="#0a0a0a",
    panel="#1a1a1a",
    dark=True,
    text_alpha=1.0,
    variables={
        "screen-selection-background": "#ffffff",
        "screen-selection-foreground": "#000000",
        "scrollbar": "#8a8a8a",
        "scrollbar-hover": "#ffffff",
        "scrollbar-active": "#ffffff",
        "scrollbar-background": "#000000",
        "scrollbar-background-hover": "#000000",
        "scrollbar-background-active": "#000000",
    },
)
THEMES: tuple[Theme, ...] = (DARK, LIGHT, CONTRAST)


@dataclass(frozen=True, slots=True)
class Palette:
    """The styles of a transcript; backgrounds are left to the widget unless a style is named `*_line`."""

    text: Style
    strong: Style
    muted: Style
    rule: Style
    user_bar: Style
    user: Style
    success: Style
    warning: Style
    error: Style
    info: Style
    heading: Style
    code: Style
    link: Style
    quote: Style
    added: Style
    removed: Style
    added_line: Style
    removed_line: Style
    keyword: Style
    string: Style
    number: Style
    comment: Style
    function: Style
    builtin: Style


PLAIN = Palette(
    text=Style(),
    strong=Style(bold=True),
    muted=Style(dim=True),
    rule=Style(dim=True),
    user_bar=Style(bold=True),
    user=Style(bold=True),
    success=Style(),
    warning=Style(bold=True),
    error=Style(bold=True),
    info=Style(dim=True),
    heading=Style(bold=True),
    code=Style(bold=True),
    link=Style(underline=True),
    quote=Style(dim=True),
    added=Style(bold=True),
    removed=Style(dim=True),
    added_line=Style(),
    removed_line=Style(),
    keyword=Style(),
    string=Style(),
    number=Style(),
    comment=Style(dim=True),
    function=Style(),
    builtin=Style(),
)
"""No colours at all: bold and dim only."""


def palette_for(theme: Theme, *, no_color: bool = False) -> Palette:
    """The palette of any Textual theme; `PLAIN` without colours or where the terminal's own are in use."""
    if no_color or theme.ansi:
        return PLAIN
    background = Color.parse(theme.background or ("#121212" if theme.dark else "#efefef"))
    text = Color.parse(theme.foreground or background.inverse)

    def color(name: str | None) -> Color:
        return Color.parse(name) if name else Color.parse(theme.primary)

    primary, secondary, accent = color(theme.primary), color(theme.secondary), color(theme.accent)
    success, warning, error = color(theme.success), color(theme.warning), color(theme.error)
    # The high-contrast theme keeps 7:1 for secondary text as well; the calm ones go down to about 5:1.
    muted = background.blend(text, 0.8 if theme.text_alpha == 1.0 else 0.7)
    tint = 0.14 if theme.dark else 0.11
    return Palette(
        text=_style(text),
        strong=_style(text, bold=True),
        muted=_style(muted),
        rule=_style(background.blend(text, 0.28)),
        user_bar=_style(primary),
        user=_style(text, bold=True),
        success=_style(success),
        warning=_style(warning),
        error=_style(error),
        info=_style(secondary),
        heading=_style(primary, bold=True),
        code=_style(secondary),
        link=_style(primary, underline=True),
        quote=_style(muted, italic=True),
        added=_style(success),
        removed=_style(error),
        added_line=Style(bgcolor=background.blend(success, tint).rich_color),
        removed_line=Style(bgcolor=background.blend(error, tint).rich_color),
        keyword=_style(accent),
        string=_style(success),
        number=_style(warning),
        comment=_style(muted, italic=True),
        function=_style(primary),
        builtin=_style(secondary),
    )


def _style(
    color: Color, *, bold: bool | None = None, italic: bool | None = None, underline: bool | None = None
) -> Style:
    return Style(color=color.rich_color, bold=bold, italic=italic, underline=underline)
