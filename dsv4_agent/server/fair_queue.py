"""A bounded queue that serves its clients in turn, so that nobody waits behind all of another's requests."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each client; round robin among clients. Not thread-safe."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def put(self, client: str, item: T) -> None:
        """Append to the client's lane; a client that had nothing waiting is served after the others."""
        self._lanes.setdefault(client, deque()).append(item)

    def take(self) -> T:
        """The next item; its client goes to the back. Raises `IndexError` where nothing waits."""
        if not self._lanes:
            raise IndexError("nothing waits")
        client, lane = self._lanes.popitem(last=False)
        item = lane.popleft()
        if lane:
            self._lanes[client] = lane
        return item

    def drain(self) -> list[T]:
        """Everything that waits, in the order in which it would have been served."""
        items: list[T] = []
        while self._lanes:
            items.append(self.take())
        return items
