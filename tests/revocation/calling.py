# SPDX-License-Identifier: Apache-2.0
"""The store's functions, called raw, as any client could."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore

SESSION, TASK = "session:s-" + "a" * 16, "task:t-" + "b" * 16
KEEP_MS = 60 * 60 * 1000 + 90_000  # the longest life of a token, clocks apart, delays


@pytest.fixture
def raw(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


NO_MORE = ("", "", "", "")  # no event and no proof


@pytest.fixture
def bump(raw: redis.Redis, realm_store: RevocationStore) -> Callable[..., Any]:
    """Call arx1_bump with the header's incarnation by default."""

    def call(
        op: str, *targets: str, incarnation: str | None = None, seen: int = 0, chain: str = "", until_ms: str = ""
    ) -> Any:
        keys = realm_store.keys.written
        known = (incarnation or realm_store.header().incarnation, seen, chain)
        return raw.fcall(
            "arx1_bump", len(keys), *keys, *known, op, until_ms, "operator:ada", "test", *NO_MORE, *targets
        )

    return call


@pytest.fixture
def probe(raw: redis.Redis, realm_store: RevocationStore) -> Callable[..., list[Any]]:
    """Call arx1_probe, with the store's chain by default; the reply is as ``functions.lua`` lists it."""

    def call(incarnation: str, applied: int, limit: int = 100, name: str = "v", chain: str | None = None) -> list[Any]:
        tag = f"arx:{{{realm_store.realm}}}:"
        keys = [tag + part for part in ("h", "k", "f", "log", "v", "a")]
        if chain is None:
            chain = (realm_store.chain_at(applied) if applied >= 0 else None) or "0" * 40
        return raw.fcall("arx1_probe", len(keys), *keys, name, incarnation, applied, chain, limit)

    return call
