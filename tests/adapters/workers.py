# SPDX-License-Identifier: Apache-2.0
"""A revocation store for the workers of an adapter's test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import RevocationStore
from tests.servers import FAST_LEASE_MS, begun_store


@contextlib.contextmanager
def begun(folder: Path) -> Iterator[tuple[EmbeddedValkey, RevocationStore]]:
    """A server of its own, and a realm that is begun in it."""
    with (
        EmbeddedValkey(folder / "valkey") as server,
        begun_store(server.url, "acme", lease_ms=FAST_LEASE_MS) as store,
    ):
        yield server, store
