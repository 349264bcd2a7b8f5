"""JUnit XML, as CI systems read it: a test case an item."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from dsv4_agent.batch.events import BatchEnded
from dsv4_agent.batch.report.wording import change, why
from dsv4_agent.batch.states import ItemResult, State
from dsv4_agent.workbench.plain_text import plain

_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(ended: BatchEnded, name: str) -> bytes:
    """The document. `failure` is a check or a conflict, `error` everything else that went wrong."""
    results = ended.results
    suite = Xml.Element(
        "testsuite",
        name=_text(name),
        tests=str(len(results)),
        failures=str(_count(results, State.VERIFY_FAILED, State.CONFLICT)),
        errors=str(_count(results, State.ERROR, State.BUDGET)),
        skipped=str(_count(results, State.SKIPPED)),
        time=f"{sum(result.spent.seconds for result in results):.3f}",
    )
    for result in results:
        _case(suite, result, name)
    root = Xml.Element("testsuites")
    root.append(suite)
    Xml.indent(root)
    document: bytes = Xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case(suite: Xml.Element, result: ItemResult, name: str) -> None:
    case = Xml.SubElement(
        suite, "testcase", classname=_text(name), name=_text(result.id), time=f"{result.spent.seconds:.3f}"
    )
    match result.state:
        case State.DONE | State.NO_CHANGE:
            pass
        case State.SKIPPED:
            Xml.SubElement(case, "skipped", message=_text(why(result)))
        case State.VERIFY_FAILED | State.CONFLICT:
            failure = Xml.SubElement(case, "failure", type=result.state.value, message=_text(why(result)))
            failure.text = _text(plain(result.output))
        case _:
            error = Xml.SubElement(case, "error", type=result.state.value, message=_text(why(result)))
            error.text = _text(plain(result.output))
    said = "\n".join(filter(None, (change(result), plain(result.answer))))
    if said:
        Xml.SubElement(case, "system-out").text = _text(said)


def _count(results: Sequence[ItemResult], *states: State) -> int:
    return sum(result.state in states for result in results)


def _text(text: str) -> str:
    """Without characters that XML can't hold."""
    return _NOT_XML.sub("\ufffd", text)
