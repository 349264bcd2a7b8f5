"""What the wire format needs to know of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dsv4_agent.dsml import dialect as wire


class Vocabulary(Protocol):
    """A byte-level vocabulary; `dsv4_model.tokenizer.Tokenizer` satisfies it structurally."""

    @property
    def size(self) -> int:
        """Number of ids; every id is in `range(size)`."""
        ...

    def id_of(self, token: str) -> int | None:
        """The id whose token is spelt exactly so, or None."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes:
        """The UTF-8 bytes a token stands for; may cut a character. Empty for an unused id."""
        ...


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids that act as structure; None where a vocabulary lacks the token."""

    think: int | None
    end_think: int | None
    dsml: int | None
    eos: int | None
    stops: frozenset[int]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> SpecialIds:
        """Look the structural tokens up. BOS and `<｜User｜>` are stops as well: the model has run on."""
        stops = (vocabulary.id_of(token) for token in (wire.EOS, wire.BOS, wire.USER))
        return cls(
            think=vocabulary.id_of(wire.THINK),
            end_think=vocabulary.id_of(wire.END_THINK),
            dsml=vocabulary.id_of(wire.DSML),
            eos=vocabulary.id_of(wire.EOS),
            stops=frozenset(token_id for token_id in stops if token_id is not None),
        )
