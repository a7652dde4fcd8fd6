# SPDX-License-Identifier: Apache-2.0
"""A mint refused workloads as strangers while it fetched their issuer's keys.

Of many workloads that came at once to a mint that had just been started, one got in.  When an issuer began to use a new
key, its tokens were called a stranger's, 401, for as long as the mint was fetching that key: who was refused so had no
reason to try again.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from arx_caps.mint.keys.jwks import MAX_WAITING, RETRY_S, KeySets
from arx_verifier.errors import UnavailableError
from tests.mint.issuer import KeyServer, jwks, key_server
from tests.mint.test_identity_keys import Clock
from tests.servers import until

pytestmark = pytest.mark.servers
Found = Future[list[dict[str, Any]]]
REFUSED_S = 0.3  # a caller that does not wait is refused sooner


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * MAX_WAITING) as made:
        yield made


@pytest.fixture
def server(pool: ThreadPoolExecutor) -> Iterator[KeyServer]:
    """An issuer's key server, which never keeps the pool from ending."""
    with key_server() as made:
        yield made
        made.open.set()


def kids(found: Found) -> list[Any]:
    return [key["kid"] for key in found.result(20)]


def test_all_who_come_meanwhile_get_the_answer(tmp_path: Path, server: KeyServer, pool: ThreadPoolExecutor) -> None:
    """
    At the first question, and at the one for a key that the issuer has only now; who needs no answer waits for none.
    """
    clock = Clock()
    sets = KeySets(tmp_path, clock=clock)
    server.body = jwks("ec")
    for asked, kid in enumerate(("ec", "ed"), 1):
        server.open.clear()
        first = pool.submit(sets.find, server.url, kid)
        until(lambda asked=asked: server.asked == asked)
        others = [pool.submit(sets.find, server.url, kid) for _ in range(MAX_WAITING)]
        assert not wait(others, REFUSED_S).done
        if asked == 2:
            assert kids(pool.submit(sets.find, server.url, "ec")) == ["ec"]
        server.open.set()
        assert [kids(found) for found in (first, *others)] == [[kid]] * (MAX_WAITING + 1)
        assert server.asked == asked
        server.body = jwks("ec", "ed")
        clock.now += RETRY_S


def test_so_many_wait_and_no_more(tmp_path: Path, server: KeyServer, pool: ThreadPoolExecutor) -> None:
    """
    An issuer that is slow holds a few of the mint's threads; others get "try again", and not "wrong key".
    """
    clock = Clock()
    sets = KeySets(tmp_path, clock=clock)
    server.body = jwks("ec")
    sets.find(server.url, "ec")
    clock.now += RETRY_S
    server.open.clear()
    first = pool.submit(sets.find, server.url, "ed")
    until(lambda: server.asked == 2)
    others = [pool.submit(sets.find, server.url, "ed") for _ in range(MAX_WAITING + 2)]
    until(lambda: sum(found.done() for found in others) == 2)
    values = [found.exception() for found in others if found.done()]
    assert [str(error) for error in values] == ["the issuer's keys are being fetched: retry"] * 2
    assert all(isinstance(error, UnavailableError) and error.code == "issuer_unavailable" for error in values)
    server.open.set()
    assert kids(first) == []
