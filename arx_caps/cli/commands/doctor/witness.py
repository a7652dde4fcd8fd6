# SPDX-License-Identifier: Apache-2.0
"""The check of the audit log's witnesses: whether each has cosigned the last checkpoint.  LOG 1.6."""

from collections.abc import Iterator

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import NoteError, TamperedError
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.mint.keys.log_key import read_log_keys
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError


def check_witnesses(realm: Realm) -> Iterator[Check]:
    """Check the cosignatures of the published checkpoint; yield nothing without a witness or a log."""
    # Unless the realm requires cosignatures, a checkpoint is published without, and only auditors notice.
    published = realm.log_dir / "checkpoint"
    if not realm.witnesses or not published.exists():
        return
    try:
        keys = [VerifierKey.parse(each.partition(" ")[2].strip()) for each in realm.witnesses]
        log = read_log_keys(realm.log_key_path)
        seen = open_checkpoint(published.read_bytes(), log, keys).seen
    except (NoteError, TamperedError, SettingsError) as error:
        yield Check("witnesses", False, str(error), "correct `witnesses` in realm.toml (see docs/audit.md)")
        return
    missing = [key.name for key in keys if key not in seen]
    if missing:
        found = f"the last checkpoint is not cosigned by {', '.join(missing)}"
        yield Check(
            "witnesses", False, found, "start the witness: the mint asks it every 10 s, and its log has the error"
        )
    else:
        yield Check("witnesses", True, f"the last checkpoint is cosigned by {', '.join(key.name for key in keys)}")
