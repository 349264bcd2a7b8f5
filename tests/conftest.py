"""What all tests share: property tests without a clock, so that a busy machine fails nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_kv_states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor leave KV states in the user's cache, nor use a server of theirs.

    The native library is shared.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSV4_KV_DIR", str(tmp_path_factory.mktemp("kv")))
        patch.setenv("DSV4_NO_SERVER", "1")
        patch.delenv("DSV4_KV_CACHE_LIMIT", raising=False)
        yield
