# SPDX-License-Identifier: Apache-2.0
"""The policy in force: read from the file, loaded over the API, or followed from the database.

What a policy may contain is in ``model`` and ``parse``.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.credentials.keyfile import replace_secret
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import PolicyRow
from arx_caps.mint.policy.diff import CHANGED, GONE, GRANTED, compare
from arx_caps.mint.policy.model import Policy
from arx_caps.settings.toml_file import MAX_BYTES
from arx_verifier.errors import Failure, RequestError, SettingsError, UnavailableError, refusal

SETTLING: Final = 3  # the database's lock for ``settle``, which one mint at a time may hold
NO_POLICY: Final = "this version of the mint refuses the policy in force; load another: `arx policy load`"
GIVEN: Final = "policy.toml"  # the file's name in errors about a text that was sent
MAX_TABLES: Final = 16  # changed tables that the event of a new policy names

_log = logging.getLogger(__name__)


class NoPolicy(NamedTuple):
    """The place of a policy that this version refuses: it has no members and grants nothing.

    Attributes:
        why: The mistake, with line and key.
        digest: Its digest in the database; empty for a file.
        at: When it was put in force, ms since the Unix epoch; 0 for a file.
    """

    why: str
    digest: str = ""
    at: int = 0

    @property
    def audiences(self) -> Mapping[str, Any]:
        """An empty mapping: no audience."""
        return {}

    @property
    def workloads(self) -> tuple[Any, ...]:
        """An empty tuple: no workload."""
        return ()


def read_policy(path: Path) -> Policy | NoPolicy:
    """Parse the policy file, or return its mistake, which ``ActivePolicy.settle`` judges."""
    try:
        return Policy.load(path)
    except SettingsError as error:
        return NoPolicy(str(error))


class ActivePolicy:
    """The policy in force at a mint.

    Args:
        path: The policy file in the realm's folder.
        db: The mint's database, which archives every policy that was in force.
        loaded: The file's policy, or its mistake.

    Attributes:
        loaded: The policy in force, or the mistake for which this version refuses it.
    """

    def __init__(self, path: Path, db: MintDatabase, loaded: Policy | NoPolicy) -> None:
        self._path, self._db = path, db
        # Replaced as a whole and never changed: a request that reads it once goes by one policy throughout.
        self.loaded = loaded

    def require(self) -> Policy:
        """Return the policy in force.

        Raises:
            UnavailableError: ``no_policy``: this version refuses it.
        """
        loaded = self.loaded
        if isinstance(loaded, NoPolicy):
            raise UnavailableError(NO_POLICY, code="no_policy")
        return loaded

    def settle(self) -> None:
        """Put the newer of two in force when the mint starts: the file, or the last policy in force.

        Raises:
            SettingsError: The file is the newer one, was never in force, and has a mistake.
            StoreError: The database does not answer.
            AuditError: The change cannot be recorded.
        """
        # Otherwise mints that start together on an empty database would each put the file's policy in force.
        with self._db.alone(SETTLING):
            self._settle()

    def reload(self, by: str) -> Policy:
        """Parse the policy file again and put it in force.

        Args:
            by: The name of the caller, for the record.

        Returns:
            The policy in force.  Running tasks keep their grants.

        Raises:
            SettingsError: It has a mistake; the old policy stays in force.
            AuditError: The change cannot be recorded; the old policy stays in force.
        """
        policy = Policy.load(self._path)
        # A digest does not cover comments, and a comment may have been the mistake: the same digest counts as new.
        refused = isinstance(self.loaded, NoPolicy)
        if refused or policy.digest != self.loaded.digest or self._db.policies.find(policy.digest) is None:
            self._put(policy, by)
        return policy

    def load(self, text: str, by: str, *, makes_operators: bool) -> Policy:
        """Put the policy that an operator sent in force, and write it to the realm's folder.

        Args:
            text: The policy, TOML.
            by: The operator, for the record.
            makes_operators: Whether this operator may make operators.

        Returns:
            The policy in force.

        Raises:
            RequestError: ``policy``: it has a mistake, with line and key; the old policy stays in force.
            AccessError: It changes who is an operator, which this operator may not.
            AuditError: The change cannot be recorded; the old policy stays in force.
        """
        try:
            raw = text.encode()
            if len(raw) > MAX_BYTES:
                raise SettingsError(f"{GIVEN}: is larger than {MAX_BYTES} bytes")
            policy = Policy.parse(text, GIVEN)
        except (SettingsError, UnicodeEncodeError) as error:
            raise RequestError(str(error), code="policy") from error
        # An operator that may only write policies could else make itself an administrator.
        if not makes_operators and _operators_of(policy) != _operators_of(self.loaded):
            wrong = Failure("[[operator]]", "as in force", "no change of its entries and their issuers", "a change")
            raise refusal("tool_not_allowed", (wrong,))
        self._put(policy, by)
        try:
            replace_secret(self._path, raw)
        except SettingsError as error:
            # The folder may be mounted read-only.  The database has the policy, and is newer at the next start.
            _log.warning("policy %s is in force, but the file could not be written: %s", policy.digest, error)
        return policy

    def follow(self) -> None:
        """Take over the policy that another mint of the realm put in force.

        Raises:
            StoreError: The database does not answer.
            SettingsError: This version refuses it; the old policy stays in force here.
        """
        # Only the mark is read every second: a policy may have a megabyte.
        loaded, mark = self.loaded, self._db.policies.mark()
        if mark is None or (
            mark.digest == loaded.digest and (isinstance(loaded, Policy) or mark.in_force_at == loaded.at)
        ):
            return
        last = self._db.policies.find(mark.digest)
        if last is None:
            return
        policy = _of_row(last)
        # During a rolling update the newer mint may know members that this one does not: this one goes on as it was.
        if isinstance(policy, NoPolicy) and isinstance(loaded, Policy):
            raise SettingsError(policy.why, code="policy")
        self._take(policy)
        _log.warning("policy %s is in force, put there by %s", last.digest, last.by)

    def _settle(self) -> None:
        last, of_file = self._db.policies.in_force(), self.loaded
        # The newer one counts, so that a mint with an old copy of the file takes no other mint back to it.
        file_counts = last is None or _is_newer(self._path, last)
        if isinstance(of_file, NoPolicy):
            # A file that was in force is refused only because this version is newer: it does not prevent the start,
            # or no operator could load another one.
            if last is None or (file_counts and not _has_text_of(self._path, last)):
                raise SettingsError(of_file.why, code="policy")
        elif last is not None and last.digest == of_file.digest:
            return
        elif last is None or file_counts:
            self._put(of_file, "mint")
            return
        else:
            _log.warning("%s is older than the policy in force, %s, and is not used", self._path, last.digest)
        self._take(_of_row(last))

    def _put(self, policy: Policy, by: str) -> None:
        facts = {"policy": policy.digest, "before": self.loaded.digest, **_summary(self.loaded, policy)}
        event = Event("policy.loaded", by, facts)
        # Archived and recorded first: the digest in every token can be resolved to its text.
        self._db.policies.put(policy.digest, policy.text.source, by, event)
        self.loaded = policy

    def _take(self, policy: Policy | NoPolicy) -> None:
        self.loaded = policy
        if isinstance(policy, NoPolicy):
            _log.error(
                "this version refuses the policy in force, and grants nothing: %s; load another with `arx policy load`,"
                " or write the policy file and start again",
                policy.why,
            )


def _summary(before: Policy | NoPolicy, after: Policy) -> dict[str, Any]:
    """Return how two policies differ, without their lines, which may name persons."""
    if isinstance(before, NoPolicy):
        return {}
    differences = compare(before, after)
    counts = Counter(difference.kind for difference in differences)
    tables = list(dict.fromkeys(difference.place for difference in differences))[:MAX_TABLES]
    return {"granted": counts[GRANTED], "gone": counts[GONE], "changed": counts[CHANGED], "tables": tables}


def _operators_of(policy: Policy | NoPolicy) -> list[Any]:
    """Return who is an operator by login, and who proves it: another key set would be another issuer."""
    if isinstance(policy, NoPolicy):
        return []
    return [(rule, policy.issuers[rule.issuer]) for rule in policy.operators]


def _of_row(row: PolicyRow) -> Policy | NoPolicy:
    """Parse a policy of the database."""
    try:
        return Policy.parse(row.text, f"policy {row.digest}")
    except SettingsError as error:
        return NoPolicy(str(error), row.digest, row.in_force_at)


def _is_newer(path: Path, last: PolicyRow) -> bool:
    """Return whether the file was written after a policy was put in force; True without a file."""
    try:
        return path.stat().st_mtime_ns // 1_000_000 > last.in_force_at
    except OSError:
        return True  # a removed file is a mistake that the operator must see, not a reason to use the older policy


def _has_text_of(path: Path, last: PolicyRow) -> bool:
    """Return whether the file is the text of a policy in the database, byte for byte."""
    try:
        return path.read_bytes() == last.text.encode()
    except OSError:
        return False
