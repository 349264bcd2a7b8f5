"""The legal continuations inside a block of calls, as an automaton over bytes and the marker token.

States are built when they are first reached. A state is a place in a tree of literals (`Literal`), a value
(`Value`), or the name of a parameter the schema leaves open (`FreeName`); a step takes one byte (0-255) or
`MARKER`, which stands for the one token `｜DSML｜`, never for its spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsv4_agent.dsml import dialect as wire
from dsv4_agent.dsml.dialect import Dialect, tags_of
from dsv4_agent.dsml.schema import ToolSchema, types_of

MARKER = 256
_MOST_MEMBERS = 256
_NOT_IN_NAMES = frozenset(b'"<>\r\n')


@dataclass(frozen=True, slots=True)
class Calls:
    """Behind the first marker, or behind a finished call."""

    first: bool


@dataclass(frozen=True, slots=True)
class Call:
    """Inside a call, between parameters."""

    tool: str
    given: frozenset[str]
    parameters: int


@dataclass(frozen=True, slots=True)
class End:
    """The block is closed: only the end of the turn is left."""


Place = Calls | Call | End


@dataclass(eq=False, slots=True)
class Literal:
    """A place inside one of several literals; `goal` is where a complete literal leads."""

    edges: dict[int, Literal] = field(default_factory=dict)
    goal: Place | ValueOf | NameOf | None = None


@dataclass(frozen=True, slots=True)
class ValueOf:
    """The value of a parameter begins; `then` follows its closer. A JSON value has its parameter's `key`."""

    then: Call
    key: str | None = None


@dataclass(frozen=True, slots=True)
class NameOf:
    """An undeclared parameter's name begins."""

    call: Call


@dataclass(eq=False, slots=True)
class Value:
    """Inside a value; `tail` is how much of `</` was written last (0, 1 or 2 bytes).

    `tool` and `key` say which value it is, where JSON values are told apart.
    """

    then: Call
    tail: int
    key: str | None = None

    @property
    def tool(self) -> str:
        """Whose value it is."""
        return self.then.tool


@dataclass(eq=False, slots=True)
class FreeName:
    """Inside an undeclared parameter's name."""

    call: Call
    empty: bool


State = Literal | Value | FreeName


class Automaton:
    """The grammar of one set of tools in one dialect; with `single` a block has exactly one call.

    `typed` tools have JSON values that are told apart, and of a text with an enumeration only its members.
    """

    def __init__(
        self,
        tools: Mapping[str, ToolSchema],
        dialect: Dialect,
        *,
        single: bool = False,
        typed: frozenset[str] = frozenset(),
    ) -> None:
        self._tools = tools
        self._single = single
        self._typed = typed
        tags = tags_of(dialect)
        self._calls = tags.calls.removeprefix(wire.DSML)
        self._invoke = tags.invoke.removeprefix(wire.DSML)
        self._parameter = tags.parameter.removeprefix(wire.DSML)
        self._starts: dict[object, State] = {}

    def start(self) -> State:
        """The state right behind the first marker of a block."""
        return self._at(Calls(first=True))

    def over(self, state: State) -> bool:
        """Whether the block is closed."""
        return isinstance(state, Literal) and isinstance(state.goal, End)

    def step(self, state: State, symbol: int) -> State | None:
        """The state behind a byte or the marker; None where it is illegal."""
        match state:
            case Literal():
                following = state.edges.get(symbol)
                if following is None or following.goal is None or isinstance(following.goal, End):
                    return following
                return self._at(following.goal)
            case Value(then, tail, key):
                if symbol == MARKER:
                    return self._at(("closer", then)) if tail == 2 else None
                tail = 1 if symbol == 0x3C else 2 if symbol == 0x2F and tail == 1 else 0
                return self._at(("value", then, tail, key))
            case FreeName(call, empty):
                if symbol == 0x22:
                    return None if empty else self._at(("attribute", call))
                return None if symbol in _NOT_IN_NAMES or symbol == MARKER else self._at(("name", call))

    def legal_bytes(self, state: State) -> Iterable[int]:
        """Bytes with a step from this state."""
        match state:
            case Literal(edges):
                return [symbol for symbol in edges if symbol != MARKER]
            case _:
                return [byte for byte in range(256) if self.step(state, byte) is not None]

    def _at(self, place: object) -> State:
        state = self._starts.get(place)
        if state is None:
            state = self._starts[place] = self._build(place)
        return state

    def _build(self, place: object) -> State:
        match place:
            case Calls(first):
                return self._build_calls(first)
            case Call():
                return self._build_call(place)
            case ValueOf(then, key):
                return self._at(("value", then, 0, key))
            case ("value", Call() as then, int(tail), (str() | None) as key):
                return Value(then, tail, key)
            case NameOf(call):
                return FreeName(call, empty=True)
            case ("name", Call() as call):
                return FreeName(call, empty=False)
            case ("attribute", Call() as call):
                root = Literal()
                for flag in ("true", "false"):
                    _plant(root, f' string="{flag}">', ValueOf(call))
                return root
            case ("closer", Call() as then):
                root = Literal()
                _plant(root, f"{self._parameter}>\n", then)
                return root
        raise AssertionError(f"no such place: {place}")

    def _build_calls(self, first: bool) -> Literal:
        root = Literal()
        lead = f"{self._calls}>\n<\0" if first else "<\0"
        for name in self._tools if first or not self._single else ():
            _plant(root, f'{lead}{self._invoke} name="{name}">\n', Call(name, frozenset(), 0))
        if not first:
            _plant(root, f"</\0{self._calls}>", End())
        return root

    def _build_call(self, call: Call) -> Literal:
        schema = self._tools[call.tool]
        root = Literal()
        head = f'<\0{self._parameter} name="'
        for key, declared in schema.properties.items():
            if key in call.given:
                continue
            then = Call(call.tool, call.given | {key}, call.parameters + 1)
            typed = call.tool in self._typed
            for flag in _flags(types_of(declared)):
                begun = f'{head}{key}" string="{flag}">'
                if typed and flag == "true" and (members := _members(declared)):
                    for member in members:
                        _plant(root, f"{begun}{member}</\0{self._parameter}>\n", then)
                    continue
                _plant(root, begun, ValueOf(then, key if typed and flag == "false" else None))
        if schema.open_ended and not schema.properties:
            _plant(root, head, NameOf(Call(call.tool, call.given, 1)))
        if call.given.issuperset(schema.required):
            _plant(root, f"</\0{self._invoke}>\n", Calls(first=False))
            if not call.parameters:
                _plant(root, f"\n</\0{self._invoke}>\n", Calls(first=False))
        return root


def _flags(types: tuple[str, ...]) -> tuple[str, ...]:
    if not types:
        return ("true", "false")
    if "string" not in types:
        return ("false",)
    return ("true",) if set(types) <= {"string"} else ("true", "false")


def _members(declared: object) -> list[str]:
    """The texts that a parameter may be, where its schema lists them and nothing else may come."""
    if not isinstance(declared, Mapping):
        return []
    values = declared.get("enum", [declared["const"]] if "const" in declared else [])
    texts = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    usable = len(texts) <= _MOST_MEMBERS and not any("\0" in text or "</" in text for text in texts)
    return texts if usable else []


def _plant(root: Literal, text: str, goal: Place | ValueOf | NameOf) -> None:
    """Add a literal to a tree; NUL stands for the marker."""
    node = root
    for byte in text.encode("utf-8"):
        node = node.edges.setdefault(byte or MARKER, Literal())
    node.goal = goal
