"""The tokenizer of a served model: ours, a folder's, or asked of the server itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.dsml.segments import Segment
from dsv4_agent.dsml.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dsv4_model.tokenizer import Tokenizer

DEEPSEEK: Final = "deepseek-v4"
NANO: Final = "nano"
SERVER: Final = "server"
_CACHED: Final = 4_096
"""Segments whose ids are remembered."""
_LARGEST: Final = 1 << 26
"""No vocabulary has so many ids."""
_STRUCTURE: Final = re.compile(r"<(?=｜)|｜(?=DSML｜)|<(?=/?think>)|<(?=\|\w+\|>)|<(?=/?dsml:)")
"""The first characters of what spells a special token of V4 or of the generations before it."""


class SegmentTokens(Protocol):
    """Turns prompt segments into ids; content can't act as structure."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """None where only the server knows what an id means."""
        ...

    def encode_now(self, segments: Sequence[Segment]) -> tuple[int, ...] | None:
        """The ids, if that takes no request."""
        ...

    async def encode(self, segments: Sequence[Segment]) -> list[int]:
        """The ids. Raises `ModelError`."""
        ...

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether each of them is a token."""
        ...


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """A tokenizer in this process."""

    tokenizer: Tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer

    def encode_now(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode_segments(segments))

    async def encode(self, segments: Sequence[Segment]) -> list[int]:
        return list(self.tokenizer.encode_segments(segments))

    def knows(self, ids: Sequence[int]) -> bool:
        from dsv4_model.tokenizer import TokenizerError

        try:
            for id in ids:
                self.tokenizer.token_bytes(id)
        except TokenizerError:
            return False
        return True


class ServedTokens:
    """The server's `/tokenize`, in llama.cpp's and vLLM's forms.

    Structure and content are asked for apart. Where content spells a special token it goes there in pieces
    that don't; llama.cpp can be told (`parse_special`). Answers are remembered.
    """

    vocabulary = None

    def __init__(self, client: ServerClient, kind: ServerKind, model: str | None) -> None:
        self._client = client
        self._kind = kind
        self._model = model
        self._known: dict[Segment, list[int]] = {}

    def encode_now(self, segments: Sequence[Segment]) -> None:
        return None

    async def encode(self, segments: Sequence[Segment]) -> list[int]:
        ids: list[int] = []
        for text, structure in _joined(segments):
            for piece in self._pieces(text, structure):
                ids += await self._known_or_asked(Segment(piece, structure))
        return ids

    def knows(self, ids: Sequence[int]) -> bool:
        return True

    def _pieces(self, text: str, structure: bool) -> list[str]:
        if structure or self._kind is ServerKind.LLAMA_CPP:
            return [text]
        return harmless_pieces(text)

    async def _known_or_asked(self, segment: Segment) -> list[int]:
        known = self._known.get(segment)
        if known is None:
            known = await self._ask(segment)
            if len(self._known) >= _CACHED:
                self._known.pop(next(iter(self._known)))
            self._known[segment] = known
        return known

    async def _ask(self, segment: Segment) -> list[int]:
        body: dict[str, object]
        if self._kind is ServerKind.LLAMA_CPP:
            body = {"content": segment.text, "add_special": False, "parse_special": segment.structure}
        else:
            body = {"prompt": segment.text, "add_special_tokens": False}
            body |= {"model": self._model} if self._model else {}
        answer = await self._client.post_json("/tokenize", body, seconds=60)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        usable = isinstance(tokens, list) and all(type(id) is int and 0 <= id < _LARGEST for id in tokens)
        if not isinstance(tokens, list) or not usable:
            raise ServerError(
                f"{self._client.where} has no usable /tokenize: set the profile's tokenizer to "
                f'"{DEEPSEEK}" or to a folder',
                reason="no_tokenize",
            )
        return tokens


def _joined(segments: Sequence[Segment]) -> Iterator[tuple[str, bool]]:
    """Neighbours of one kind as one text, as our own tokenizer has it."""
    for structure, run in itertools.groupby(segments, key=lambda segment: segment.structure):
        if text := "".join(segment.text for segment in run):
            yield text, structure


def harmless_pieces(text: str) -> list[str]:
    """`text` cut within everything that spells a special token, so that no piece does."""
    places = [0, *(found.end() for found in _STRUCTURE.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places) if start < end]


def looks_like_structure(text: str) -> bool:
    """Whether plain text holds what spells one of the model's special tokens."""
    return _STRUCTURE.search(text) is not None


def open_tokens(name: str | None, client: ServerClient, kind: ServerKind, model: str | None) -> SegmentTokens:
    """The tokenizer of a profile: `deepseek-v4` (the default), `nano`, `server`, or a folder.

    Raises `ModelError` where it can't be had.
    """
    if name == SERVER:
        return ServedTokens(client, kind, model)
    from dsv4_model.tokenizer import Tokenizer, TokenizerError

    try:
        match name or DEEPSEEK:
            case "deepseek-v4":
                return OwnTokens(Tokenizer.deepseek_v4())
            case "nano":
                from dsv4_model.nano import WEIGHTS

                return OwnTokens(Tokenizer.from_file(WEIGHTS / "tokenizer.json"))
            case folder:
                path = Path(folder).expanduser()
                return OwnTokens(Tokenizer.from_file(path if path.is_file() else path / "tokenizer.json"))
    except OSError as error:
        raise ModelError(
            f"the profile's tokenizer can't be read: {error.strerror}; name a folder with a tokenizer.json"
        ) from error
    except TokenizerError as error:
        cause = " ".join(str(error).split())
        raise ModelError(
            f'{cause} Or set the profile\'s tokenizer to "server" or its protocol to "chat".'
        ) from error
