"""A backend over a server that was not asked again what it is, for it may have become another."""

from __future__ import annotations

from dsv4_agent.backends.base import Backend, ModelError
from dsv4_agent.backends.http.errors import ServerError
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.workbench.remembered_facts import forget
from dsv4_agent.workbench.watched_backend import WatchedBackend

_NO_SUCH = 404


class RecalledBackend(WatchedBackend):
    """As the backend inside; after any failure the next start asks the server of `profile` anew."""

    def __init__(self, inside: Backend, profile: ServerProfile) -> None:
        super().__init__(inside)
        self._profile = profile

    def explained(self, error: ModelError) -> ModelError:
        """As the base class: a model that is there no more may have another name by now."""
        forget(self._profile)
        if not isinstance(error, ServerError) or error.status != _NO_SUCH or self._profile.model:
            return error
        cause, _, _ = str(error).rpartition("; ")
        message = f"{cause}; run the task again: the server, which may have changed, is then asked anew"
        return ModelError(message, unreachable=error.unreachable)
