"""Connections that are to bring a request within a time, so that idle ones can't take every place."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection"]


class Connection(H11Protocol):
    """uvicorn's, which bounds the time between two requests but not that until the head of one is there.

    The bound is the same, `timeout_keep_alive`; it holds for a body that still comes after the answer, too.
    """

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As the base class."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """As the base class."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As the base class."""
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Let the time run while no request is being answered; bytes that trickle in don't renew it."""
        if self._answers():
            self._unwatch()
        elif self._limit is None and not self.transport.is_closing():
            self._limit = self.loop.call_later(self.timeout_keep_alive, self._over)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _over(self) -> None:
        self._limit = None
        if not self._answers():
            self.transport.close()

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete
