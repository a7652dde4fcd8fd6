# SPDX-License-Identifier: Apache-2.0
"""A tool service as a realm has it: a real store with its kills, a service file, and calls signed for it now."""

import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.request import HttpCall
from arx_verifier.token import call_proof, wire
from arx_verifier.token.macaroon import Macaroon
from benchmarks.kill_mass import target
from benchmarks.kill_stage import BY
from benchmarks.world import ARGS, KEY, TOOL, handed

BODY: Final = json.dumps(ARGS).encode()
TARGET: Final = b"/refunds"


class Realm:
    """One realm in a folder.

    Attributes:
        folder: Where the service's files are.
        service: Its service file.
        store: Where kills are made.
    """

    def __init__(self, url: str, folder: Path, kills: int = 0) -> None:
        self.folder, self.service = folder, folder / "orders.arx.json"
        self.store = RevocationStore(url, "acme")
        self.store.load_functions()
        self.store.init(lease_ms=1_000)
        for first in range(0, kills, 1_000):
            self.store.kill([target(number) for number in range(first, first + 1_000)], "benchmark", BY)
        said = {
            "audience": "orders",
            "journal": str(folder / "decisions"),
            "keys": {"k1.0": wire.text_of(KEY)},
            "max_ttl_ms": 86_400_000,
            "realm": "acme",
            "store": url,
            "v": 1,
        }
        self.service.touch(0o600)
        self.service.write_text(json.dumps(said), "utf-8")
        self._numbers = itertools.count()

    def parent(self) -> Macaroon:
        """A new task's token after three delegations, born now."""
        header = self.store.header()
        return handed(3, next(self._numbers), at=_now_ms(), born=(header.incarnation, header.seq))

    def tool_call(self) -> tuple[str, int]:
        """A call of the tool, and when it was signed."""
        at = _now_ms()
        return call_proof.CallSigner(self.parent(), "orders").sign(call_proof.tool_fields(TOOL, ARGS), at), at

    def http_calls(self, count: int) -> list[str]:
        """So many calls by HTTP, of one parent, signed now: each is good once, and for ten seconds."""
        signer, at = call_proof.CallSigner(self.parent(), "orders"), _now_ms()
        fields = call_proof.http_fields(HttpCall("POST", TARGET, sha256(BODY).digest()))
        return [signer.sign(fields, at) for _ in range(count)]


@contextlib.contextmanager
def realm(kills: int = 0) -> Iterator[Realm]:
    """Set a realm up with its store, and take it away."""
    with tempfile.TemporaryDirectory(prefix="arx") as folder, EmbeddedValkey(Path(folder) / "valkey") as server:
        yield Realm(server.url, Path(folder), kills)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
