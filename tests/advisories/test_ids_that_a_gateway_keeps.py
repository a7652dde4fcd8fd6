# SPDX-License-Identifier: Apache-2.0
"""A holder could fill a gateway's memory with ids of tasks that are none, each as long as a message.

The gateway kept the codes of the last 512 ids by the whole ids, wrong ones too: 40 refused messages of half a MB held
108 MB.  Now it keeps short ones alone.
"""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream

LONG = 100_000  # characters


@pytest.fixture
def traced() -> Iterator[None]:
    """Count what is allocated."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_long_id_is_not_kept(traced: None) -> None:
    """It is refused, and its text goes."""
    realm = UnsafeTestRealm("files")
    caller, upstream = realm.caller(Rule(tool="files.get")), Upstream(lambda _: Answer(b"{}"))
    door = Door(realm, upstream)

    def ask(number: int) -> None:
        answer = door.message(caller, "tasks/get", {"taskId": f"{number:0{LONG}}~k1.0~code"})
        assert answer["error"]["code"] == -32602

    ask(0)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, 31):
        ask(number)
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] - before < 10 * LONG
    assert upstream.got == []
