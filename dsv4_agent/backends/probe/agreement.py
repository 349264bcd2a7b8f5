"""Whether a server cuts text into the same tokens as we do.

The known text has what tokenizers differ in: the model's structure, digits, several scripts, an emoji of
four code points, white space. A tokenizer of another family gives other ids, or another count of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from dsv4_agent.backends.base import ModelError
from dsv4_agent.backends.completions.tokens import (
    DEEPSEEK,
    NANO,
    OwnTokens,
    SegmentTokens,
    ServedTokens,
    open_tokens,
)
from dsv4_agent.backends.facts import ServerKind
from dsv4_agent.backends.http.client import ServerClient
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.profile import ServerProfile, ServerProtocol
from dsv4_agent.dsml.segments import Segment

KNOWN_TEXT: Final = (
    "<｜begin▁of▁sentence｜>You fix 1234567 bugs.<｜User｜>def naïve(x):\n\treturn x  # 你好, мир, 👩‍💻\r\n"
    "<｜Assistant｜><think>so</think>\n\n<｜DSML｜tool_calls>\n"
)
TOKENIZING: Final = frozenset({ServerKind.DSV4, ServerKind.VLLM, ServerKind.SGLANG, ServerKind.LLAMA_CPP})
"""Kinds that take token ids and have a `/tokenize`."""


def tokenizer_of(profile: ServerProfile, preset: str | None, model: str | None) -> str:
    """The tokenizer of a profile: its own choice, else V4-Nano's for V4-Nano, else DeepSeek-V4's."""
    preset = profile.preset or preset
    nano = preset == NANO or (preset is None and "nano" in (model or "").lower())
    return profile.tokenizer or (NANO if nano else DEEPSEEK)


def own_tokens(
    client: ServerClient, kind: ServerKind, preset: str | None, model: str | None
) -> SegmentTokens | None:
    """The tokenizer that the token protocol would use; None where it isn't wanted or can't be had.

    Raises `ModelError` where the profile insists on it.
    """
    profile = client.profile
    wanted = profile.protocol is ServerProtocol.TOKENS
    if not wanted and (profile.protocol is ServerProtocol.CHAT or kind not in TOKENIZING):
        return None
    try:
        return open_tokens(tokenizer_of(profile, preset, model), client, kind, model)
    except ModelError:
        if wanted or profile.tokenizer is not None:
            raise
        return None


async def tokens_agree(
    own: SegmentTokens | None, client: ServerClient, kind: ServerKind, model: str | None, seconds: float
) -> bool | None:
    """Compare ids on the known text; None where there is nothing to compare. One request at most.

    Raises `ServerError` for a server that doesn't answer.
    """
    if kind not in TOKENIZING or not isinstance(own, OwnTokens):
        return None
    segments = [Segment(KNOWN_TEXT, True)]
    try:
        async with asyncio.timeout(seconds):
            theirs = await ServedTokens(client, kind, model).encode(segments)
    except TimeoutError:
        return None
    except ServerError as error:
        if error.unreachable and error.status is None:
            raise
        return None
    return tuple(theirs) == own.encode_now(segments) or _spells(theirs, own)


def _spells(ids: Sequence[int], own: OwnTokens) -> bool:
    """Whether ids mean the known text to us: the same vocabulary, put together by other rules.

    We make the ids ourselves, so that is agreement; llama.cpp knows no pre-tokenizer of ours for V4-Nano.
    """
    from dsv4_model.tokenizer import TokenizerError

    try:
        said = b"".join(own.vocabulary.token_bytes(id) for id in ids)
    except TokenizerError:
        return False
    return said == KNOWN_TEXT.encode()
