# SPDX-License-Identifier: Apache-2.0
"""Replace the key that signs the audit log, while no mint runs.  LOG 1.12."""

# Each step can be repeated after a crash: the next key is on disk before the record names it, and the file of the log's
# key is replaced last.

from dataclasses import replace
from typing import NamedTuple

from arx_caps.audit.ingest.entries import make_note
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.key_change import CHANGED_KIND, announce
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.keys.log_key import make_next_key, open_log, replace_log_key
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.errors import AuditError


class LogKeyChange(NamedTuple):
    """A change of the log's key.

    Attributes:
        old: The key that signed until now.
        new: The key that signs from now on.
        last: The largest size that the old key has signed.
    """

    old: VerifierKey
    new: VerifierKey
    last: int


def change_log_key(realm: Realm, roots: RootKeys, *, by: str, reason: str, stolen: bool) -> LogKeyChange:
    """Replace the key of a realm's log; no mint may run.

    Args:
        realm: The realm, with the database that its mints share.
        roots: The realm's root keys, opened from their file.
        by: The operator, for the record.
        reason: The reason, for the record.
        stolen: Whether the old key announces nothing any more, because a thief could as well.

    Raises:
        SettingsError: The key does not open, or a file cannot be written.
        StoreError: The database did not answer.
        AuditError: The database is not what was signed, or a witness has not cosigned the change; the key is the old
            one.
    """
    path = realm.log_key_path
    beside, log = path.with_suffix(".next"), open_log(realm, roots)
    signer, keys = log.publisher.signer, log.publisher.keys
    with log.store:
        log.store.create()
        try:
            last = log.publisher.hold()
        except (TamperedError, NoteError) as error:
            hint = "repair it first: `arx audit check` names what differs, `arx audit reindex` mends it"
            raise AuditError(
                f"the key was not changed: the database is not what was signed: {error}", hint=hint
            ) from error
        new = make_next_key(beside, keys, roots)
        values: dict[str, object] = {"last": last, "new": str(new), "old": str(signer.key), "stolen": True}
        change = None
        if not stolen:
            values = {**announce(signer, new)}
        with log.store.writing() as writing:
            writing.note(make_note(CHANGED_KIND, by, writing.now_ms, values, values | {"reason": reason}))
        if not stolen:
            last, change = _sign_change(log)
        replace_log_key(path, beside, keys.then(new, last, change), roots)
    return LogKeyChange(signer.key, new, last)


def _sign_change(log: AuditLog) -> tuple[int, str]:
    """Sign everything with the old key, and return the size and the proof of the last record, the change."""
    size = log.store.size()
    log.sign(size)
    if log.publisher.signed is None or log.publisher.witnesses.missing(log.publisher.signed):
        why = log.publisher.witnesses.failing or "the checkpoint is not published"
        hint = "start the witness, or remove it from `witnesses` in realm.toml, and run the command again"
        raise AuditError(f"the key was not changed: a reader may require a witness of the change: {why}", hint=hint)
    # Without its body, which has the reason: the log's files have no bodies.
    return size, replace(log.prove(size - 1), body=None).encode().decode()
