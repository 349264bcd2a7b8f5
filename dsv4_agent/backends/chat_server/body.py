"""The body of a request, grown at its end: what was sent once is never serialised again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsv4_agent.backends.chat_server.manners import Manners
from dsv4_agent.backends.chat_server.messages import Message, MessageWriter, encode

Entries = Sequence[tuple[Message, ...]]
Tools = Sequence[Mapping[str, object]]


class RequestBody:
    """One conversation's requests.

    Model, tools and messages come first and in this order, so that as long as the conversation only grows
    each body repeats the one before byte for byte up to its newest message.
    """

    def __init__(self, model: str, manners: Manners) -> None:
        self._model = model
        self._manners = manners
        self._tools: Tools = ()
        self._head = self._make_head()
        self._begin_anew()

    def use(self, manners: Manners) -> None:
        """Write by other rules from now on, what was written before included."""
        self._manners = manners
        self._begin_anew()

    def build(self, entries: Entries, tools: Tools, parameters: Mapping[str, object]) -> bytes:
        """The whole body. `parameters` are the fields behind the messages, in their order."""
        if tools is not self._tools:
            self._tools = tools
            self._head = self._make_head()
        if not self._continues(entries):
            self._begin_anew()
        for entry in entries[len(self._known) :]:
            for message in self._writer.write(entry):
                self._messages += b"," + message if self._messages else message
            self._known.append(entry)
        tail = encode(parameters)[1:]
        return b"".join((self._head, self._messages, b"]," if parameters else b"]", tail))

    @property
    def size(self) -> int:
        """Bytes of tools and messages."""
        return len(self._head) + len(self._messages)

    def _continues(self, entries: Entries) -> bool:
        """Whether what was sent is how `entries` begin: they grow, are cut, or get another opening."""
        known = self._known
        if not known:
            return True
        return len(entries) >= len(known) and entries[0] is known[0] and entries[len(known) - 1] is known[-1]

    def _begin_anew(self) -> None:
        self._known: list[tuple[Message, ...]] = []
        self._messages = bytearray()
        self._writer = MessageWriter(self._manners)

    def _make_head(self) -> bytes:
        tools = [{"type": "function", "function": dict(tool)} for tool in self._tools]
        fields: dict[str, object] = {"model": self._model, **({"tools": tools} if tools else {})}
        return encode(fields)[:-1] + b',"messages":['
