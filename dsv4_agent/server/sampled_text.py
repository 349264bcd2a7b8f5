"""Sampled ids as text for people and programs: whole characters, control tokens left out."""

from __future__ import annotations

import codecs

from dsv4_agent.dsml.vocabulary import Vocabulary

__all__ = ["SampledText", "shown_bytes"]


class SampledText:
    """Decodes ids as they come; a cut character waits for its rest."""

    def __init__(self, vocabulary: Vocabulary, *, skip_special: bool) -> None:
        self._vocabulary = vocabulary
        self._skip = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became certain with this id."""
        data = self._vocabulary.token_bytes(token)
        if self._skip and is_control(data):
            return ""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What was held back, as U+FFFD."""
        return self._decoder.decode(b"", True)


def is_control(data: bytes) -> bool:
    """Whether a token is a marker such as `<｜User｜>`, which is never part of an answer."""
    return data.startswith("<｜".encode()) and data.endswith("｜>".encode())


def shown_bytes(vocabulary: Vocabulary, token: int) -> tuple[str, list[int]]:
    """A token's text (`bytes:\\x..` where it is none) and its bytes, as log-probabilities name them."""
    data = vocabulary.token_bytes(token)
    try:
        return data.decode(), list(data)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), list(data)
