# SPDX-License-Identifier: Apache-2.0
"""Recorded events as tests look at them."""

from pathlib import Path
from typing import Any

from arx_caps.mint.db.events import Recorded
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.settings.realm import Realm


def members_of(event: Recorded) -> dict[str, Any]:
    """Return the facts and the event's own members in one object."""
    return event.facts | {"id": event.id, "at_ms": event.at_ms, "mint": event.mint, "kind": event.kind, "by": event.by}


def events_of(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """Return the events that a realm has recorded, or those of a kind, the oldest first."""
    with MintDatabase(Realm.open(folder).database_url) as db:
        return [members_of(event) for event in db.outbox.since(0, (kind,) if kind else (), 1000)]
