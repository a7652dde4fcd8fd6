# SPDX-License-Identifier: Apache-2.0
"""Small journals, decisions to write into them, and the file of a service.  It needs no package of tests."""

import json
from pathlib import Path
from typing import Any

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.writer import Journal

T0 = 1_700_000_000_000
FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
KIB = 1024


def allow(i: int = 0, **more: Any) -> Decision:
    return Decision("ok", T0 + i, FACTS, f"tool.{i}", **more)


def deny(i: int = 0, **more: Any) -> Decision:
    return Decision("expired", T0 + i, FACTS, f"tool.{i}", **more)


def small(folder: Path, **more: Any) -> Journal:
    return Journal(folder, "v1", "orders", **({"segment_bytes": 64 * KIB, "max_bytes": 64 * KIB * 64} | more))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arxj"))


def service_file(folder: Path, **members: Any) -> Path:
    """A service file of the realm."""
    path = folder / "service.json"
    file = {"audience": "orders", "keys": {"k1.0": "A" * 43}, "max_ttl_ms": 1000, "realm": "acme", "v": 1}
    path.touch(mode=0o600)
    path.write_text(json.dumps(file | members))
    return path
