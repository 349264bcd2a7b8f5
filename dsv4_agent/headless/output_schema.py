"""`--output-schema`: the last message as data; the schema itself is checked before the model is asked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dsv4_agent.dsml.schema import finite, refuse_constant
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
                text = Path(source).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not valid UTF-8"
                raise _bad(f"the schema {source} can't be read: {reason}") from error
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad(f"the schema is not valid JSON: {error}") from error
        if not isinstance(schema, (dict, bool)):
            raise _bad("the schema is neither an object nor true/false")
        if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
            raise _bad("not a valid JSON Schema at /$schema: it is not a string")
        try:
            jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
        except jsonschema.SchemaError as error:
            place = "/".join(str(part) for part in error.absolute_path)
            raise _bad(f"not a valid JSON Schema at /{place}: {error.message[:200]}") from error
        except RecursionError as error:
            raise _bad("the schema is nested too deep") from error
        _check_references(schema)
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
        """The value in `message` (the JSON alone, or in one fenced block).

        Raises `Mismatch`, and `RunFailure` (42) where the schema itself can't be applied.
        """
        import jsonschema

        text = message.strip()
        if len(blocks := _FENCED.findall(text)) == 1:
            text = blocks[0]
        try:
            value = json.loads(text, parse_constant=refuse_constant, parse_float=finite)
        except (ValueError, RecursionError) as error:
            raise Mismatch(f"The last message is not valid JSON: {error}") from error
        kind = jsonschema.validators.validator_for(self.schema, jsonschema.Draft202012Validator)
        try:
            # The library's default registry would fetch a $ref from the network or from any file.
            found = list(kind(self.schema, registry=_known_schemas()).iter_errors(value))
        except RecursionError as error:
            raise _bad(
                "the schema can't be applied: a $ref leads back to itself, or it is too deep"
            ) from error
        except Exception as error:  # what the library raises as its own types
            raise _bad(f"the schema can't be applied: {error}") from error
        if found:
            lines = [
                f"- at /{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}"
                for e in found[:_SHOWN_ERRORS]
            ]
            raise Mismatch("The last message does not satisfy the schema:\n" + "\n".join(lines))
        return value


def _known_schemas() -> Any:
    """The drafts' own schemas, which a $ref may name; nothing is ever fetched."""
    from jsonschema_specifications import REGISTRY

    return REGISTRY


def _check_references(schema: dict[str, Any] | bool) -> None:
    """Refuse a schema with a `$ref` that leads nowhere: else it shows when the work is done. Raises
    `RunFailure` (42)."""
    import jsonschema
    import referencing.exceptions
    import referencing.jsonschema

    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    draft = str(kind.META_SCHEMA["$schema"])
    resource = referencing.jsonschema.specification_with(draft).create_resource(schema)
    pending = [(_known_schemas().resolver_with_root(resource), resource)]
    while pending:
        resolver, part = pending.pop()
        if isinstance(part.contents, dict):
            for keyword in ("$ref", "$dynamicRef"):
                target = part.contents.get(keyword)
                try:
                    if isinstance(target, str):
                        resolver.lookup(target)
                except referencing.exceptions.Unresolvable as error:
                    cause = (
                        f"the schema's {keyword} {target!r} leads nowhere: nothing is read beside the schema"
                    )
                    raise _bad(cause) from error
        pending += [(resolver.in_subresource(sub), sub) for sub in part.subresources()]


def _bad(cause: str) -> RunFailure:
    return RunFailure(Subtype.INPUT, cause, "Pass a file or an inline object with --output-schema.")
