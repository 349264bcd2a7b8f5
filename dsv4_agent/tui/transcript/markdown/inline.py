"""The inside of a paragraph: emphasis, code, links; as lines of styled text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.style import Style

from dsv4_agent.tui.theme import Palette
from dsv4_agent.tui.transcript.rows import Span
from dsv4_agent.workbench.plain_text import plain_line

if TYPE_CHECKING:
    from markdown_it.token import Token

_EMPHASIS: Final = {
    "strong_open": Style(bold=True),
    "em_open": Style(italic=True),
    "s_open": Style(strike=True),
}


def inline_lines(token: Token, base: Style, palette: Palette) -> list[list[Span]]:
    """The lines of an `inline` token. A line feed in the source stays one: models mean it.

    Entities are decoded by the parser, so every piece is made harmless again here.
    """
    lines: list[list[Span]] = [[]]
    styles = [base]
    links: list[tuple[str, int, int]] = []

    def add(text: str, style: Style) -> None:
        if text:
            lines[-1].append((plain_line(text), style))

    for child in token.children or ():
        match child.type:
            case "softbreak" | "hardbreak":
                lines.append([])
            case "code_inline":
                add(child.content, styles[-1] + palette.code)
            case "strong_open" | "em_open" | "s_open":
                styles.append(styles[-1] + _EMPHASIS[child.type])
            case "strong_close" | "em_close" | "s_close":
                styles.pop()
            case "link_open":
                links.append((str(child.attrGet("href") or ""), len(lines), len(lines[-1])))
                styles.append(styles[-1] + palette.link)
            case "link_close":
                styles.pop()
                target, line, index = links.pop()
                shown = "".join(text for text, _ in lines[-1][index if line == len(lines) else 0 :])
                if target and target not in (shown, f"mailto:{shown}"):
                    add(f" ({target})", palette.muted)
            case "image":
                add(f"[image: {child.content}] ({child.attrGet('src') or ''})", palette.muted)
            case _:
                add(child.content, styles[-1])
    return lines
