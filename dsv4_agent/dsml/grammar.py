"""Constrained decoding: inside a block of calls only what parses may be sampled.

Cost to the model: nothing is added to the prompt. A mask is computed once for each grammar state and kept;
values are free, so the mask is active on all tokens of a block but narrow only on its tags.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dsv4_agent.dsml.automaton import MARKER, Automaton, State, Value
from dsv4_agent.dsml.dialect import Dialect, GrammarMode
from dsv4_agent.dsml.prose import LineTracker
from dsv4_agent.dsml.schema import ToolSchema
from dsv4_agent.dsml.vocabulary import SpecialIds, Vocabulary

Ids: TypeAlias = list[int] | NDArray[np.int64]


class DsmlConstraint:
    """One completion's constraint; satisfies the engine's `Constraint` protocol structurally.

    It wakes when the token `｜DSML｜` is sampled behind a `<` that begins a line outside fenced code (where
    the parser would see a block, too) and holds until the end of the turn. `counted` is the number of tokens
    sampled while it was awake; `violations` how many of them the grammar forbids, after which it gives up.
    With `single` a block has exactly one call. `values` says what the JSON values of the `typed` tools may
    be; all other values are free.
    """

    def __init__(
        self,
        tools: Mapping[str, ToolSchema],
        vocabulary: Vocabulary,
        dialect: Dialect = Dialect.V4,
        mode: GrammarMode = GrammarMode.ON,
        *,
        single: bool = False,
        typed: frozenset[str] = frozenset(),
        values: ValueConstraints | None = None,
    ) -> None:
        self.counted = 0
        self.violations = 0
        self._grammar = _grammar_of(tools, vocabulary, dialect, single, typed)
        self._values = values
        self._value: ValueConstraint | None = None
        self._awake = bool(tools) and mode is not GrammarMode.OFF
        self._masks = mode is GrammarMode.ON
        self._state: State | None = None
        self._lines = LineTracker()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def allowed(self) -> Ids | None:
        """Ids that may be sampled next; None when anything may. They are shared: don't change them."""
        if self._state is None or not self._masks:
            return None
        if self._value is not None:
            marker = self._grammar.special.dsml
            allowed = [marker] if self._value.over and marker is not None else self._value.allowed()
            if allowed is not None:
                return allowed
        return self._grammar.allowed(self._state)

    def accept(self, token_id: int) -> None:
        """Tell which id was sampled (or forced)."""
        if not self._awake:
            return
        if self._state is None:
            self._watch(token_id)
            return
        self.counted += 1
        if self._grammar.ends(self._state, token_id):
            self._awake = False
            self._state = None
            return
        before, self._state = self._state, self._grammar.advance(self._state, token_id)
        if self._state is None:
            self.violations += 1
            self._awake = False
        elif self._value is not None:
            self._follow_value(token_id)
        elif isinstance(self._state, Value) and not isinstance(before, Value):
            self._value = self._value_at(self._state, token_id)

    def _value_at(self, state: Value, token_id: int) -> ValueConstraint | None:
        """The constraint of a value that begins behind a token, if it has one."""
        begins = self._grammar.vocabulary.token_bytes(token_id).endswith(b">")
        if self._values is None or state.key is None or not begins:
            return None
        return self._values(state.tool, state.key)

    def _follow_value(self, token_id: int) -> None:
        assert self._value is not None
        if isinstance(self._state, Value):
            self._value.accept(token_id)
        else:
            self._value = None

    def _watch(self, token_id: int) -> None:
        special = self._grammar.special
        if token_id == special.dsml:
            if self._lines.line == "<" and not self._lines.fenced:
                self._state = self._grammar.automaton.start()
            else:
                self._lines.advance("｜DSML｜")
        elif token_id == special.end_think:
            self._lines = LineTracker()
        else:
            self._lines.advance(self._decoder.decode(self._grammar.vocabulary.token_bytes(token_id)))


class ValueConstraint(Protocol):
    """What one JSON value may be, up to and including the `</` behind it, after which it is `over`.

    `allowed` is None where the constraint has lost its way: the value is then free.
    """

    @property
    def over(self) -> bool: ...

    def allowed(self) -> Ids | None: ...

    def accept(self, token_id: int, /) -> None: ...


ValueConstraints: TypeAlias = Callable[[str, str], ValueConstraint | None]
"""The constraint of a value by its tool's and its parameter's name; None leaves it free."""


class _Grammar:
    """Masks of one tool set over one vocabulary, shared by all turns that use both."""

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, index: _TokenIndex) -> None:
        self.automaton = automaton
        self.vocabulary = vocabulary
        self.special = index.special
        self._index = index
        self._masks: dict[State, Ids] = {}

    def allowed(self, state: State) -> Ids:
        mask = self._masks.get(state)
        if mask is None:
            mask = self._masks[state] = self._mask(state)
        return mask

    def ends(self, state: State, token_id: int) -> bool:
        return self.automaton.over(state) and token_id == self.special.eos

    def advance(self, state: State, token_id: int) -> State | None:
        if token_id == self.special.dsml:
            return self.automaton.step(state, MARKER)
        text = b"" if token_id in self.special.stops else self.vocabulary.token_bytes(token_id)
        following: State | None = state if text else None
        for byte in text:
            if following is None:
                break
            following = self.automaton.step(following, byte)
        return following

    def _mask(self, state: State) -> Ids:
        if self.automaton.over(state):
            return [] if self.special.eos is None else [self.special.eos]
        marked = self.special.dsml is not None and self.automaton.step(state, MARKER) is not None
        if isinstance(state, Value):
            return self._index.text_and_marker_ids if marked else self._index.text_ids
        ids: list[int] = []
        self._collect(state, b"", 0, len(self._index.texts), ids)
        if marked and self.special.dsml is not None:
            ids.append(self.special.dsml)
        return ids

    def _collect(self, state: State, prefix: bytes, low: int, high: int, ids: list[int]) -> None:
        """Add the ids whose bytes begin with `prefix`, which led to `state`, and go on legally."""
        index = self._index
        if isinstance(state, Value):
            if state.key is not None:  # its own constraint must see all of it, from its first byte on
                high = bisect_right(index.texts, prefix, low, high)
            ids.extend(index.ids[low:high])
            return
        while low < high and index.texts[low] == prefix:
            if prefix:
                ids.append(index.ids[low])
            low += 1
        if low >= high or self.automaton.over(state):
            return
        for byte in self.automaton.legal_bytes(state):
            longer = prefix + bytes((byte,))
            first = bisect_left(index.texts, longer, low, high)
            if first == high or not index.texts[first].startswith(longer):
                continue
            last = high if byte == 255 else bisect_left(index.texts, prefix + bytes((byte + 1,)), first, high)
            following = self.automaton.step(state, byte)
            if following is not None:
                self._collect(following, longer, first, last, ids)


class _TokenIndex:
    """The vocabulary's ordinary tokens sorted by their bytes, so that a prefix is a range."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.special = SpecialIds.of(vocabulary)
        skipped = self.special.stops | {self.special.dsml}
        pairs = sorted(
            (text, token_id)
            for token_id in range(vocabulary.size)
            if token_id not in skipped and (text := vocabulary.token_bytes(token_id))
        )
        self.texts = [text for text, _ in pairs]
        self.ids = [token_id for _, token_id in pairs]
        # Most of the vocabulary: an array, which the sampler takes as it is for each token of a value.
        self.text_ids = np.array(sorted(self.ids), dtype=np.int64)
        marker = [] if self.special.dsml is None else [self.special.dsml]
        self.text_and_marker_ids = np.array([*sorted(self.ids), *marker], dtype=np.int64)
        self.grammars: OrderedDict[object, _Grammar] = OrderedDict()


_KEPT = 32
_INDEXES: WeakKeyDictionary[Vocabulary, _TokenIndex] = WeakKeyDictionary()


def _grammar_of(
    tools: Mapping[str, ToolSchema],
    vocabulary: Vocabulary,
    dialect: Dialect,
    single: bool,
    typed: frozenset[str],
) -> _Grammar:
    index = _INDEXES.get(vocabulary)
    if index is None:
        index = _INDEXES[vocabulary] = _TokenIndex(vocabulary)
    key = (dialect, single, typed, tuple((name, repr(schema.parameters)) for name, schema in tools.items()))
    grammar = index.grammars.get(key)
    if grammar is None:
        grammar = _Grammar(Automaton(tools, dialect, single=single, typed=typed), vocabulary, index)
        index.grammars[key] = grammar
        if len(index.grammars) > _KEPT:  # a server meets many sets of tools
            index.grammars.popitem(last=False)
    return grammar
