"""A bounded queue that serves its clients in turn, so that nobody waits behind all of another's requests."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
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

    def drop(self, unwanted: Callable[[T], bool]) -> int:
        """Take out what nobody waits for any more; how many that were."""
        before = len(self)
        for client, lane in tuple(self._lanes.items()):
            if any(map(unwanted, lane)):
                kept = deque(item for item in lane if not unwanted(item))
                if kept:
                    self._lanes[client] = kept
                else:
                    del self._lanes[client]
        return before - len(self)

    def drain(self) -> list[T]:
        """Everything that waits, in the order in which it would have been served."""
        items: list[T] = []
        while self._lanes:
            items.append(self.take())
        return items
