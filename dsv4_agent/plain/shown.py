"""How typed text is displayed: characters that steer or hide have a visible stand-in, one for one."""

from __future__ import annotations

from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

from dsv4_agent.workbench.plain_text import plain_line


class Harmless(Processor):
    """For text that comes from the history, a draft or an editor and was not cleaned as a paste is."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Replace what must not reach the terminal."""
        fragments = transformation_input.fragments
        return Transformation([(style, _visible(text)) for style, text, *_ in fragments])


def _visible(text: str) -> str:
    if plain_line(text) == text:
        return text
    return "".join(c if c == "\t" or plain_line(c) == c else "\ufffd" for c in text)
