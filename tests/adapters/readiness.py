# SPDX-License-Identifier: Apache-2.0
"""The routes of docs/readiness.md, asked while a verifier has no lease, has one, and has lost it."""

from collections.abc import Callable
from typing import Any

from arx_verifier.revocation.epoch import Lease
from arx_verifier.testing import UnsafeTestRealm
from tests.house.pages import ROOT, blocks

Readiness = tuple[int, str | None]  # status and reason


def route(before: str, **names: Any) -> dict[str, Any]:
    """Run a block of the page, and return its names.

    Args:
        before: How the text before the block begins.
        names: What it finds: ``app``, ``server`` and ``verifier``.
    """
    page = (ROOT / "docs" / "readiness.md").read_text("utf-8")
    (block,) = [block for block in blocks(page) if block.before.startswith(before)]
    names["__name__"] = "readiness"
    exec(compile(block.text, "readiness.md", "exec"), names)
    return names


def check_readiness(realm: UnsafeTestRealm, ask: Callable[[], Readiness]) -> None:
    """Require that a route answers as the verifier's lease is.

    Args:
        realm: The verifier's realm.
        ask: Asks the route.
    """
    epochs = realm.epochs
    epochs._state = epochs._state.without_lease("syncing")
    assert ask() == (503, "syncing")
    epochs._live()
    assert ask() == (200, None)
    epochs.renew(epochs.incarnation, epochs.seq, Lease(0, 0, 0))
    assert ask() == (503, "stale")
