"""A backend over a running server of this user, which may end at any time: the error then says what to do."""

from __future__ import annotations

from dsv4_agent.backends.base import Backend, ModelError
from dsv4_agent.workbench.watched_backend import WatchedBackend


class WarmBackend(WatchedBackend):
    """As the backend inside, but for the error when the server at `url` is gone."""

    def __init__(self, inside: Backend, url: str) -> None:
        super().__init__(inside)
        self._url = url

    def explained(self, error: ModelError) -> ModelError:
        """As the base class."""
        if not error.unreachable:
            return error
        message = (
            f"the running server at {self._url} has ended or refuses us ({error}): run the task again, "
            "or leave the chat and resume it; the model is then loaded here, or that of a new dsv4 serve"
        )
        return ModelError(message, unreachable=True)
