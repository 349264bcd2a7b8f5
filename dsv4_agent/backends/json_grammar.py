"""Constrained decoding of JSON: after each token only what a schema still allows (by llguidance).

Masks take well under a millisecond for a released vocabulary. Special tokens are never allowed; the end of
the turn is, exactly where the JSON is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary

from dsv4_agent.dsml.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

ANY_OBJECT: Final[Mapping[str, object]] = {"type": "object"}
_SIZE: Final = 1 << 20
_FORM: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value: a model that may choose its white space may never stop choosing."""


class JsonSchemaError(ValueError):
    """A schema can't be followed; one line with the cause."""


class JsonVocabulary(Vocabulary, Protocol):
    """What llguidance has to know beyond the wire format; `dsv4_model.tokenizer.Tokenizer` has it."""

    @property
    def added_tokens(self) -> Mapping[str, int]: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str, structure: bool) -> Sequence[int]: ...


class JsonConstraint:
    """One completion's constraint; satisfies the engine's `Constraint`. Raises `JsonSchemaError`."""

    def __init__(self, schema: Mapping[str, Any], vocabulary: JsonVocabulary) -> None:
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise JsonSchemaError(
                f"JSON schemas need the package {error.name}: pip install 'dsv4-agent[serve]'"
            ) from error
        text = json.dumps(schema)
        if len(text) > _SIZE:
            raise JsonSchemaError(f"the schema has over {_SIZE >> 20} MiB")
        self._eos = vocabulary.eos_id
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, defaults=_FORM)
            self._matcher = LLMatcher(_tokenizer(vocabulary), grammar)
        except ValueError as error:
            raise JsonSchemaError(_first_line(error)) from error
        if problem := self._matcher.get_error():
            raise JsonSchemaError(_first_line(problem))

    def allowed(self) -> NDArray[np.int64] | list[int]:
        """The ids that may come next. Raises `JsonSchemaError` where the schema is too much to follow."""
        import numpy as np

        if self._matcher.is_error():
            raise JsonSchemaError(_first_line(self._matcher.get_error()))
        if self._matcher.is_stopped():
            return [self._eos]
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def accept(self, token_id: int) -> None:
        """The id that came; one that isn't allowed is an error of the caller."""
        if token_id != self._eos and not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)


class JsonValue:
    """One JSON value inside a call, with the `</` that closes it. Raises `JsonSchemaError`."""

    def __init__(self, schema: Mapping[str, Any], vocabulary: JsonVocabulary) -> None:
        from llguidance import LLMatcher

        text = json.dumps({**schema, "x-guidance": _FORM})
        if len(text) > _SIZE:
            raise JsonSchemaError(f"the schema has over {_SIZE >> 20} MiB")
        grammar = f'start: value "</"\nvalue: %json {text}'
        try:
            self._matcher = LLMatcher(_tokenizer(vocabulary), grammar)
        except ValueError as error:
            raise JsonSchemaError(_first_line(error)) from error
        if problem := self._matcher.get_error():
            raise JsonSchemaError(_first_line(problem))

    @property
    def over(self) -> bool:
        """Whether the value is closed."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> NDArray[np.int64] | None:
        """The ids that may come next; None after one that might not."""
        import numpy as np

        if self._matcher.is_error() or self._matcher.is_stopped():
            return None
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def accept(self, token_id: int, /) -> None:
        """The id that came."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token_id)


_TOKENIZERS: WeakKeyDictionary[Any, LLTokenizer] = WeakKeyDictionary()


def _tokenizer(vocabulary: JsonVocabulary) -> LLTokenizer:
    """Built once a vocabulary: it takes a second for a released one."""
    from llguidance import LLTokenizer, TokenizerWrapper

    if vocabulary not in _TOKENIZERS:
        _TOKENIZERS[vocabulary] = LLTokenizer(TokenizerWrapper(_Adapter(vocabulary)))
    return _TOKENIZERS[vocabulary]


class _Adapter:
    """A vocabulary as llguidance wants it."""

    def __init__(self, vocabulary: JsonVocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.eos_id
        self.bos_token_id = None
        self.tokens = [vocabulary.token_bytes(id) for id in range(vocabulary.size)]
        self.special_token_ids = sorted(vocabulary.added_tokens.values())

    def __call__(self, text: bytes) -> list[int]:
        return list(self._vocabulary.encode(text.decode("utf-8"), False))


def _first_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
