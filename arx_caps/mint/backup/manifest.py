# SPDX-License-Identifier: Apache-2.0
"""What a backup contains, with the hash of each part, authenticated by a key that no backup has.  CONTROL 8.1."""

import hmac
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.mint.backup.archive import ArchiveReader, ArchiveWriter, Part
from arx_caps.mint.keys.root_keys import RootKeys

MANIFEST: Final = "manifest.json"
MAC: Final = "manifest.mac"
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of ``manifest.json``.

    Attributes:
        v: The form.
        realm: The realm's name.
        issuer: The mint's public URL.
        version: The version of ARx that made it.
        at_ms: When the databases were read, ms since the Unix epoch.
        system: Of which database it is.
        revision: The revision of the mint's tables.
        schema: The schema of the log's tables.
        origin: The log's name.
        records: Number of records in the log's database.
        signed: Number of records under the checkpoint of the log's files; 0 without one.
        incarnation: The history of the kill epoch; empty if no mint has run.
        seq: The number in it up to which the mints had followed the store.
        outbox: The highest event number that the mint's database ever gave.
        services: The enrolled services.
        files: Size and hash of every other part, by name.
    """

    v: Literal[1] = 1
    realm: Text
    issuer: Text
    version: Text
    at_ms: Count
    system: Literal["sqlite", "postgresql"]
    revision: Text
    schema: Text
    origin: Text
    records: Count
    signed: Count
    incarnation: Text
    seq: Count
    outbox: Count
    services: tuple[Text, ...]
    files: dict[str, Part]


# The hashes show an accident.  An attacker who can write to where backups are kept could add an operator to the
# database and correct the hashes, and would own the realm after the next restore.  The attacker does not have the
# secret that opens the root keys, which is kept apart from backups.
def write_manifest(archive: ArchiveWriter, manifest: Manifest, roots: RootKeys) -> None:
    """Write the last parts of a backup: its manifest, and the MAC of it.

    Args:
        archive: Has all other parts.
        manifest: What it contains.
        roots: The realm's root keys.
    """
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    archive.add(MANIFEST, [raw])
    archive.add(MAC, [_mac(roots, raw)])
    archive.finish()


def read_manifest(archive: ArchiveReader, roots: RootKeys) -> Manifest:
    """Return what a backup contains.

    Args:
        archive: The backup.
        roots: The realm's root keys.

    Raises:
        TamperedError: It was made with other root keys, was changed, or has other parts than it says.
    """
    raw = archive.small(MANIFEST)
    if not hmac.compare_digest(archive.small(MAC, limit=4096), _mac(roots, raw)):
        raise TamperedError("the backup's manifest was changed, or is that of another realm")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TamperedError("the backup's manifest is of another version of ARx") from error
    if archive.names != (*manifest.files, MANIFEST, MAC):
        raise TamperedError("the backup has other parts than its manifest names, or in another order")
    return manifest


def _mac(roots: RootKeys, raw: bytes) -> bytes:
    return hmac.digest(roots.backup_key(), raw, "sha256").hex().encode() + b"\n"
