# SPDX-License-Identifier: Apache-2.0
"""The plan of ``arx apply``: what the mint has, what the file asks for, and which invitations still wait.  CONTROL 3.1.

An invitation's file is the memory of a run that ended early: while it is valid, no other one is made.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.cli.access.secure_files import read_object
from arx_caps.cli.commands.apply.services_file import ServiceTerms
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.terminal import plain
from arx_caps.settings.durations import show_time

MAX_NEAR: Final = 100  # names that are compared with each other: the time grows with their square
ADD, CHANGE, EQUAL, ABSENT = "add", "change", "equal", "absent"
_MARKS: Final = {ADD: "+", CHANGE: "~", EQUAL: "=", ABSENT: " "}


class PlannedService(NamedTuple):
    """A service of the file or of the mint, and what is to be done.

    Attributes:
        audience: The service.
        change: ``add``, ``change``, ``equal``, or ``absent``: the mint has it and the file does not.
        terms: The file's table; None for an absent one.
        own_keys: How many keys of its own it has.
        file: The invitation's file to write, or the one that waits; None without one.
        invited_until: When the invitation that waits expires, ms since the Unix epoch; None without one.
        outdated: Whether the invitation that waits has not what the file's table has.
        near: A service with almost the same name that the file does not name: one of the two may be a typing error.
    """

    audience: str
    change: str
    terms: ServiceTerms | None
    own_keys: int = 0
    file: Path | None = None
    invited_until: int | None = None
    outdated: bool = False
    near: str | None = None

    @property
    def invites(self) -> bool:
        """Whether an invitation is to be made."""
        return self.file is not None and self.invited_until is None

    def line(self, width: int) -> str:
        """Return the plan's line about it, the name padded to ``width``."""
        return f"{_MARKS[self.change]} {self.audience.ljust(width)}  {plain(self._words())}"

    def shown(self) -> dict[str, Any]:
        """Return it for scripts."""
        invitation = None if self.file is None else str(self.file)
        return {"audience": self.audience, "change": self.change, "own_keys": self.own_keys} | {
            "invitation": invitation,
            "invited_until": self.invited_until,
            "near": self.near,
        }

    def _words(self) -> str:
        if self.change == ABSENT:
            return f"not in the file: left alone; remove it by `arx service remove {self.audience}`"
        words = ["enrol"] if self.change == ADD else []
        if self.invites:
            words.append(f"write the invitation {self.file}")
        elif self.outdated:
            words.append(f"write the table's members into the invitation {self.file}")
        elif self.invited_until is not None:
            words.append(f"invited until {show_time(self.invited_until)}: {self.file}")
        elif self.own_keys:
            words.append(f"{self.own_keys} own key{'s' * (self.own_keys > 1)}")
        elif self.change == EQUAL:
            words.append("no key of its own: --out FOLDER writes an invitation")
        if self.near is not None:
            words.append(f"did you mean `{self.near}`, which is not in the file?")
        return "; ".join(words)


class ServicesPlan(NamedTuple):
    """The services of the file in its order, then those of the mint that it does not name."""

    services: Sequence[PlannedService]

    @property
    def work(self) -> list[PlannedService]:
        """The services for which something is to be done."""
        return [service for service in self.services if service.change in (ADD, CHANGE)]

    @property
    def counts(self) -> dict[str, int]:
        """How many services have each change."""
        return {change: sum(service.change == change for service in self.services) for change in _MARKS}

    def text(self) -> str:
        """Return a line for each service, and one with the counts."""
        width = max(len(service.audience) for service in self.services)
        count = self.counts
        total = f"{count[ADD]} to add, {count[CHANGE]} to change, {count[EQUAL]} equal, {count[ABSENT]} not in the file"
        return "\n".join([*(service.line(width) for service in self.services), total])


def make_plan(
    services: Sequence[ServiceTerms], rows: Sequence[Mapping[str, Any]], *, out: Path | None, issuer: str, now_ms: int
) -> ServicesPlan:
    """Compare the file with the mint.

    Args:
        services: The file's services.
        rows: The mint's services, as ``GET /v1/services`` has them.
        out: The folder of the invitations, or None.
        issuer: The mint's URL.
        now_ms: The current time, ms since the Unix epoch.

    Raises:
        Stop: A file in the folder stands where an invitation belongs.
    """
    known = {str(row["audience"]): row for row in rows}
    planned = []
    for terms in services:
        row = known.pop(terms.name, None)
        keys = 0 if row is None else len(row["keys"])
        file = None if out is None or keys else out / f"{terms.name}.invite"
        found = None if file is None else read_invitation(file, terms.name, issuer, now_ms)
        until = None if found is None else int(found["expires_at"])
        outdated = found is not None and not terms.is_in(found)
        change = ADD if row is None else CHANGE if outdated or (file is not None and until is None) else EQUAL
        planned.append(PlannedService(terms.name, change, terms, keys, file, until, outdated))
    if len(known) <= MAX_NEAR and sum(service.change == ADD for service in planned) <= MAX_NEAR:
        planned = [_with_near(service, list(known)) for service in planned]
    absent = [PlannedService(audience, ABSENT, None, len(row["keys"])) for audience, row in sorted(known.items())]
    return ServicesPlan([*planned, *absent])


def _with_near(service: PlannedService, absent: list[str]) -> PlannedService:
    near = get_close_matches(service.audience, absent, 1, 0.8) if service.change == ADD else []
    return service._replace(near=near[0]) if near else service


def read_invitation(file: Path, audience: str, issuer: str, now_ms: int) -> dict[str, Any] | None:
    """Return the invitation in a file, a secret; None if there is none that is valid.

    Args:
        file: The file.
        audience: Its service.
        issuer: The mint's URL.
        now_ms: The current time, ms since the Unix epoch.

    Raises:
        Stop: The file is another one, or other users can read or replace it.
    """
    try:
        found = file.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stop(f"{file}: {error.strerror}", code="file") from error
    hint = "move it away, or name another folder with --out"
    # A file of another user is neither believed nor replaced: it could make the service wait for ever.
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Stop(f"{file}: expected an own file with mode 0600, got another one", hint=hint, code="file")
    content = read_object(str(file))
    members = {"audience": str, "enrolment": str, "issuer": str, "expires_at": int}
    if not all(isinstance(content.get(name), kind) for name, kind in members.items()):
        raise Stop(f"{file}: expected an invitation, as `arx service invite` writes it", hint=hint, code="file")
    if (content["audience"], content["issuer"].rstrip("/")) != (audience, issuer.rstrip("/")):
        shown = plain(f"{content['audience']} at {content['issuer']}"[:200])
        raise Stop(f"{file}: expected an invitation of {audience} at {issuer}, got {shown}", hint=hint, code="file")
    return content if content["expires_at"] > now_ms else None
