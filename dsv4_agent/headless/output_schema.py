"""`--output-schema`: the last message as data; the schema itself is checked before the model is asked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dsv4_agent.loop.events import Subtype
from dsv4_agent.workbench.failures import RunFailure

_FENCED: Final = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_SHOWN_ERRORS: Final = 5


class Mismatch(Exception):
    """The message isn't JSON or doesn't satisfy the schema; the text is what the model is told."""


@dataclass(frozen=True)
class OutputSchema:
    """A checked JSON Schema (2020-12 unless it names another draft)."""

    schema: dict[str, Any] | bool

    @classmethod
    def load(cls, source: str) -> OutputSchema:
        """From a file, or from the argument itself where it begins with `{`. Raises `RunFailure` (42)."""
        import jsonschema

        if source.lstrip().startswith("{"):
            text = source
        else:
            try:
                text = Path(source).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not valid UTF-8"
                raise _bad(f"the schema {source} can't be read: {reason}") from error
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad(f"the schema is not valid JSON: {error}") from error
        if not isinstance(schema, (dict, bool)):
            raise _bad("the schema is neither an object nor true/false")
        try:
            jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
        except jsonschema.SchemaError as error:
            place = "/".join(str(part) for part in error.absolute_path)
            raise _bad(f"not a valid JSON Schema at /{place}: {error.message[:200]}") from error
        return cls(schema)

    @property
    def grammar(self) -> dict[str, Any] | None:
        """What a model that samples here is held to; None for a schema that nothing satisfies."""
        match self.schema:
            case dict():
                return self.schema
            case allows:
                return {} if allows else None

    def instruction(self) -> str:
        """What the model is told along with the task."""
        return (
            "When you are done, your last message must be only one JSON value, without any other text, "
            f"that satisfies this JSON Schema:\n{json.dumps(self.schema, ensure_ascii=False)}"
        )

    def check(self, message: str) -> object:
        """The value in `message` (the JSON alone, or in one fenced block). Raises `Mismatch`."""
        import jsonschema

        text = message.strip()
        if len(blocks := _FENCED.findall(text)) == 1:
            text = blocks[0]
        try:
            value = json.loads(text, parse_constant=_reject)
        except (ValueError, RecursionError) as error:
            raise Mismatch(f"The last message is not valid JSON: {error}") from error
        kind = jsonschema.validators.validator_for(self.schema, jsonschema.Draft202012Validator)
        try:
            found = list(kind(self.schema).iter_errors(value))
        except Exception as error:  # an unresolvable $ref shows only here, as the library's own type
            raise _bad(f"the schema can't be applied: {error}") from error
        if found:
            lines = [
                f"- at /{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}"
                for e in found[:_SHOWN_ERRORS]
            ]
            raise Mismatch("The last message does not satisfy the schema:\n" + "\n".join(lines))
        return value


def _reject(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _bad(cause: str) -> RunFailure:
    return RunFailure(Subtype.INPUT, cause, "Pass a file or an inline object with --output-schema.")
