"""Calls in plain XML (`<invoke name=...>` without the marker): read only when they are the whole answer."""

from __future__ import annotations

import re

from dsv4_agent.dsml.calls import RawCall, RawParameter, Tools

_WRAPPER = re.compile(r"<(function_calls|tool_calls)>\s*")
_INVOKE = re.compile(r'<invoke name="([^"<>\n]{1,128})">\s*')
_PARAMETER = re.compile(r'<parameter name="([^"<>\n]{1,128})"(?: string="(true|false)")?>')
_CLOSE = "</parameter>"
_INVOKE_CLOSE = re.compile(r"</invoke>\s*")
_BLANK = re.compile(r"\s*")


def read_plain_xml(answer: str, tools: Tools) -> list[RawCall]:
    """The calls of an answer that is nothing but such a block for declared tools; else nothing."""
    text = answer.strip()
    wrapper = _WRAPPER.match(text)
    end = len(text)
    if wrapper is not None:
        closer = f"</{wrapper.group(1)}>"
        if not text.endswith(closer):
            return []
        end -= len(closer)
    position = wrapper.end() if wrapper is not None else 0
    calls: list[RawCall] = []
    while position < end:
        start = position
        invoke = _INVOKE.match(text, position, end)
        if invoke is None or invoke.group(1) not in tools:
            return []
        call = RawCall(invoke.group(1))
        position = invoke.end()
        while (parameter := _PARAMETER.match(text, position, end)) is not None:
            stop = text.find(_CLOSE, parameter.end(), end)
            if stop < 0:
                return []
            string = None if parameter.group(2) is None else parameter.group(2) == "true"
            call.parameters.append(RawParameter(parameter.group(1), string, text[parameter.end() : stop]))
            blank = _BLANK.match(text, stop + len(_CLOSE), end)
            position = blank.end() if blank is not None else stop + len(_CLOSE)
        closed = _INVOKE_CLOSE.match(text, position, end)
        if closed is None:
            return []
        position = closed.end()
        call.raw.append(text[start:position])
        calls.append(call)
    return calls
