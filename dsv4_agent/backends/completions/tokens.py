"""The tokenizer of a served model: ours, a folder's, or asked of the server itself."""

from __future__ import annotations

from collections.abc import Sequence
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


class ServedTokens:
    """The server's `/tokenize`, in llama.cpp's and vLLM's forms, a request for each new segment.

    Content that the server would read as structure is refused, for there is no way to tell it otherwise
    (llama.cpp knows `parse_special`).
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
        for segment in segments:
            if not segment.text:
                continue
            if segment not in self._known:
                if len(self._known) >= _CACHED:
                    self._known.pop(next(iter(self._known)))
                self._known[segment] = await self._ask(segment)
            ids += self._known[segment]
        return ids

    async def _ask(self, segment: Segment) -> list[int]:
        body: dict[str, object]
        if self._kind is ServerKind.LLAMA_CPP:
            body = {"content": segment.text, "add_special": False, "parse_special": segment.structure}
        else:
            if not segment.structure and looks_like_structure(segment.text):
                raise ModelError(
                    "a text holds what the server would take for one of its special tokens: set the "
                    f"profile's tokenizer to \"{DEEPSEEK}\" or to the checkpoint's folder"
                )
            body = {"prompt": segment.text, "add_special_tokens": False}
            body |= {"model": self._model} if self._model else {}
        answer = await self._client.post_json("/tokenize", body, seconds=60)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise ServerError(
                f"{self._client.where} has no usable /tokenize: set the profile's tokenizer to "
                f'"{DEEPSEEK}" or to a folder',
                reason="no_tokenize",
            )
        return tokens


def looks_like_structure(text: str) -> bool:
    """Whether plain text holds what spells one of the model's special tokens."""
    return "<｜" in text or "｜DSML｜" in text or "<think>" in text or "</think>" in text


def open_tokens(name: str | None, client: ServerClient, kind: ServerKind, model: str | None) -> SegmentTokens:
    """The tokenizer of a profile: `deepseek-v4` (the default), `nano`, `server`, or a folder.

    Raises `ModelError` where it can't be had.
    """
    if name == SERVER:
        return ServedTokens(client, kind, model)
    try:
        from dsv4_model.tokenizer import Tokenizer, TokenizerError
    except ImportError as error:
        raise ModelError(
            f"tokens need the package {error.name}: pip install 'dsv4-agent[tokens]', or set the profile's "
            'tokenizer to "server" or its protocol to "chat"'
        ) from error
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
    except TokenizerError as error:
        raise ModelError(" ".join(str(error).split())) from error
