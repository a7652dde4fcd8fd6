# SPDX-License-Identifier: Apache-2.0
"""The place of a record: its path from its session down to the calling delegation.

Kinds of nodes, each with its ``ref``:

* ``session`` (its id), and below it ``task`` (its id), ``link`` (the delegation's public name), ``subtask`` (its id);
* ``holder`` without a session: ``operator:alice`` or ``agent:acme/bot``;
* ``service`` (its audience), for unauthenticated calls and for lost records;
* ``mint`` (empty), for everything else.
"""

from functools import cached_property
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from arx_verifier.journal.record import Facts
from arx_verifier.token.targets import subject_target

SESSION: Final = "session"
TASK: Final = "task"
LINK: Final = "link"
SUBTASK: Final = "subtask"
HOLDER: Final = "holder"
SERVICE: Final = "service"
MINT: Final = "mint"
MAX_TEXT: Final = 256  # characters in a search column; longer than any text that a query may have


class PlaceStep(NamedTuple):
    """One node of a path: its kind, its search key, and its name for people."""

    kind: str
    ref: str
    name: str


# The key covers the whole path, names included: records of two services about one session under two agents make two
# trees, so that no service can write itself into another agent's tree.
class RecordPlace(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """The path of a record's node.

    Attributes:
        steps: From the root down, at least one.
        agent: The agent or, as ``operator:<id>``, the operator; empty if unknown.
        subject: The target of the subject, or None.
    """

    steps: tuple[PlaceStep, ...]
    agent: str = ""
    subject: str | None = None

    @cached_property
    def key(self) -> bytes:
        """The node's key in the database."""
        # Computed at the first use: all records of a chain share their place.
        return sha256(msgspec.msgpack.encode(self)).digest()


def place_of(facts: Facts, subject: tuple[str, str] | None, audience: str) -> RecordPlace:
    """Return the place of a decision.

    Args:
        facts: The facts of its chain.
        subject: Issuer and subject, or None.
        audience: The service that sent the decision.
    """
    target = None if subject is None else subject_target(*subject)
    if not facts.session:
        if not facts.agent:
            return RecordPlace((PlaceStep(SERVICE, audience, audience),))
        ref = facts.agent if ":" in facts.agent else f"agent:{facts.agent}"
        return RecordPlace((PlaceStep(HOLDER, ref, facts.agent),), facts.agent, target)
    steps = [PlaceStep(SESSION, facts.session, facts.agent)]
    if facts.task is not None:
        steps.append(PlaceStep(TASK, facts.task, facts.agent))
    steps += [PlaceStep(LINK, link, name) for name, link in zip(facts.named, facts.links, strict=False)]
    steps += [PlaceStep(SUBTASK, task, task) for task in facts.tasks]
    return RecordPlace(tuple(steps), facts.agent, target)


def asked_by(text: str) -> str:
    """Return a search key in the form of the index columns; the record itself keeps the whole text."""
    # A holder chooses the tool's name.  PostgreSQL stores no zero character, and limits the length of index entries.
    return text if len(text) <= MAX_TEXT and "\0" not in text else text[:MAX_TEXT].replace("\0", "\ufffd")
