# SPDX-License-Identifier: Apache-2.0
"""Find the live processes of one audience that do not share their used calls.  SPEC 8.3.

Used calls in memory are right for one process.  A verifier's id says whether its used calls are its own, and the id
stands where others can see it without asking the process: in the store's registry and in the header of each journal
file, which its writer holds locked while it lives.
"""

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from arx_verifier.errors import AuditError
from arx_verifier.journal.reader import is_written
from arx_verifier.journal.segment import HEADER_BYTES, files_in, read_header

_OWN: Final = "-own-nonces"
_ID: Final = re.compile(rf"(?P<audience>.+)-[0-9]+-[0-9a-f]{{6}}(?P<own>{_OWN})?(\.[0-9]+)?")  # a fork adds the last

_log = logging.getLogger(__name__)


def name_verifier(audience: str, *, shares: bool) -> str:
    """Return an id for the verifier of this process.

    Args:
        audience: Its audience.
        shares: Whether its used calls are in a store that the audience's other processes use, too.
    """
    return f"{audience}-{os.getpid()}-{secrets.token_hex(3)}{'' if shares else _OWN}"


def audience_of(verifier_id: str) -> str | None:
    """Return the audience in an id that ``name_verifier`` made; None of any other id."""
    found = _ID.fullmatch(verifier_id)
    return found["audience"] if found else None


def apart(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the audiences whose processes accept one call each, with the ids of those processes.

    Args:
        ids: Of verifiers that live; an id that ``name_verifier`` did not make is passed over.
    """
    processes: dict[str, list[str]] = {}
    alone: set[str] = set()
    for name in sorted(set(ids)):
        if found := _ID.fullmatch(name):
            processes.setdefault(found["audience"], []).append(name)
            alone |= {found["audience"]} if found["own"] else set()
    return {audience: names for audience, names in processes.items() if audience in alone and len(names) > 1}


def writers(folder: Path) -> list[str]:
    """Return the ids of the verifiers that write to a journal's folder now; of a file that cannot be read, none."""
    found = []
    with contextlib.suppress(OSError):
        for path in files_in(folder):
            with contextlib.suppress(OSError, AuditError):  # shipped or pruned since, or damaged
                if is_written(path):
                    found.append(_writer(path))
    return found


def _writer(path: Path) -> str:
    with path.open("rb") as file:
        return read_header(file.read(HEADER_BYTES)).verifier


def warn_beside(folder: Path, name: str) -> None:
    """Warn where this process is not the only one of its audience and they do not share their used calls.

    Args:
        folder: The journal's folder, in which this process has a file: of two that start together, one sees the other.
        name: This process's id.
    """
    for audience, names in apart(writers(folder)).items():
        if name in names:
            others = ", ".join(other for other in names if other != name)
            _log.warning(
                "%s is not the only process of %s, and they do not share used calls: each accepts one call once (%s). "
                'Name a Redis in the service file, "nonces": "redis://HOST", or run one process; '
                "a restart during which both run needs nothing",
                *(name, audience, others),
            )
