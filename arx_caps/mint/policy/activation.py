# SPDX-License-Identifier: Apache-2.0
"""The policy in force: read from the file, loaded over the API, or put in force at another mint of the realm.

A policy is checked whole before anything changes, and archived before it is in force: every digest in a token can be
shown again.  At a start the newer of two counts, the file or what was put in force last; so a mint with an old copy of
the file takes no other mint back to it.

A newer version may refuse the policy that was in force.  Then there is no policy and nothing is granted, until an
operator loads one over the API or writes the file.  A file that never was in force and has a mistake prevents the
start.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.keyfile import replace_secret
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.policy.model import MAX_BYTES, Policy
from arx_verifier.errors import RequestError, SettingsError, UnavailableError

SETTLING: Final = 3  # what one mint of several does at a time
NO_POLICY: Final = "this version of the mint refuses the policy in force: an operator has to load another"
GIVEN: Final = "policy.toml"  # what errors call a text that came without a file

_log = logging.getLogger(__name__)


class NoPolicy(NamedTuple):
    """In the place of a policy that this version refuses: it knows of nothing, and nobody is granted anything.

    Attributes:
        why: What is wrong with it, with line and key.
        digest: Its digest, as it is kept; empty for a file.
        at: When it was put in force, ms since the Unix epoch; 0 for a file.
    """

    why: str
    digest: str = ""
    at: int = 0

    @property
    def audiences(self) -> Mapping[str, Any]:
        """No audience."""
        return {}

    @property
    def workloads(self) -> tuple[Any, ...]:
        """No workload."""
        return ()


def read_policy(path: Path) -> Policy | NoPolicy:
    """Read the policy file; ``ActivePolicy.settle`` decides what a mistake in it means."""
    try:
        return Policy.load(path)
    except SettingsError as error:
        return NoPolicy(str(error))


class ActivePolicy:
    """The policy in force at a mint: read, activated and followed.

    Args:
        path: The policy file in the realm's folder.
        db: The mint's database, which has every policy that was ever in force.
        loaded: The policy to begin with: the file's, or that this version refuses it.

    Attributes:
        loaded: The policy in force, or that this version refuses it; replaced whole.
    """

    def __init__(self, path: Path, db: MintDatabase, loaded: Policy | NoPolicy) -> None:
        self._path, self._db = path, db
        self.loaded = loaded

    def require(self) -> Policy:
        """Return the policy in force, to grant something by it.

        Raises:
            UnavailableError: ``no_policy``: this version refuses it.
        """
        loaded = self.loaded
        if isinstance(loaded, NoPolicy):
            raise UnavailableError(NO_POLICY, code="no_policy")
        return loaded

    def settle(self) -> None:
        """At a start: take the file's policy, unless another was put in force since the file was written.

        Raises:
            SettingsError: The file counts, was not in force before, and has a mistake.
            StoreError: The database does not answer.
            AuditError: It could not be recorded.
        """
        # Mints that start together on an empty database would each put the file's policy in force.
        with self._db.alone(SETTLING):
            self._settle()

    def reload(self, by: str) -> Policy:
        """Read the policy file again and put it in force; running tasks keep what they were granted.

        Raises:
            SettingsError: It has a mistake; the old one stays in force.
            AuditError: The change could not be recorded; the old one stays in force.
        """
        policy = Policy.load(self._path)
        refused = isinstance(self.loaded, NoPolicy)  # perhaps for a comment, and comments are in no digest
        if refused or policy.digest != self.loaded.digest or self._db.policies.find(policy.digest) is None:
            self._put(policy, by)
        return policy

    def load(self, text: str, by: str) -> Policy:
        """Put a policy in force that an operator sent, and write it into the realm's folder, where that can be written.

        Raises:
            RequestError: It has a mistake, with line and key; the old one stays in force.
            AuditError: The change could not be recorded; the old one stays in force.
        """
        try:
            raw = text.encode()
            if len(raw) > MAX_BYTES:
                raise SettingsError(f"{GIVEN}: is larger than {MAX_BYTES} bytes")
            policy = Policy.parse(text, GIVEN)
        except (SettingsError, UnicodeEncodeError) as error:
            raise RequestError(str(error), code="policy") from error
        self._put(policy, by)
        try:
            replace_secret(self._path, raw)
        except SettingsError as error:
            # A folder that was mounted to be read: the database has it, and is newer than the file at the next start.
            _log.warning("policy %s is in force, and the file stays as it was: %s", policy.digest, error)
        return policy

    def follow(self) -> None:
        """Take the policy that another mint of the realm put in force.

        Raises:
            StoreError: The database does not answer.
            SettingsError: This version cannot read it; the old one stays in force here.
        """
        loaded, mark = self.loaded, self._db.policies.mark()  # asked every second, and a policy may be long
        if mark is None or mark == (loaded.digest, loaded.at if isinstance(loaded, NoPolicy) else mark[1]):
            return
        last = self._db.policies.find(mark[0])
        if last is None:
            return
        found = _of_row(last)
        if isinstance(found, NoPolicy) and isinstance(loaded, Policy):
            raise SettingsError(found.why, code="policy")
        self._take(found)
        _log.warning("policy %s is in force: %s put it", last["digest"], last["by"])

    def _settle(self) -> None:
        last, of_file = self._db.policies.in_force(), self.loaded
        counts = last is None or _is_newer(self._path, last)
        if isinstance(of_file, NoPolicy):
            if last is None or (counts and not _says(self._path, last)):
                raise SettingsError(of_file.why, code="policy")
        elif last is not None and last["digest"] == of_file.digest:
            return
        elif last is None or counts:
            self._put(of_file, "mint")
            return
        else:
            _log.warning("%s is older than the policy in force, %s, and is not used", self._path, last["digest"])
        self._take(_of_row(last))

    def _put(self, policy: Policy, by: str) -> None:
        what = Event.of("policy.loaded", by, policy=policy.digest, before=self.loaded.digest)
        self._db.policies.put(policy.digest, policy.text.source, by, what)
        self.loaded = policy

    def _take(self, found: Policy | NoPolicy) -> None:
        self.loaded = found
        if isinstance(found, NoPolicy):
            told = (
                "this version refuses the policy in force, and nothing is granted until `arx policy load` puts another"
            )
            _log.error("%s in its place, or the policy file has one at a start: %s", told, found.why)


def _of_row(row: Mapping[str, Any]) -> Policy | NoPolicy:
    """Read a policy that was put in force."""
    try:
        return Policy.parse(row["text"], f"policy {row['digest']}")
    except SettingsError as error:
        return NoPolicy(str(error), row["digest"], row["in_force_at"])


def _is_newer(path: Path, last: Mapping[str, Any]) -> bool:
    """Tell whether the file was written after a policy was put in force; one that is not there is the newer one."""
    try:
        return path.stat().st_mtime_ns // 1_000_000 > int(last["in_force_at"])
    except OSError:
        return True


def _says(path: Path, last: Mapping[str, Any]) -> bool:
    """Tell whether the file is the very text that was put in force."""
    try:
        return path.read_bytes() == str(last["text"]).encode()
    except OSError:
        return False
