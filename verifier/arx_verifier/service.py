# SPDX-License-Identifier: Apache-2.0
"""Open a verifier from a service file: the short way to embed one.  SPEC 15.2.

The file is what the mint gives a tool service: its audience keys, where the kill epoch is followed, where decisions are
kept.  Nothing is connected or opened here: follower and journal start with the first call, or with the application.
Whoever keeps the file's keys fresh, beside the service or in it, writes a new file over the old one; a key id that is
not known makes a verifier look whether there is one.
"""

import logging
import os
import stat
import time
from mmap import PAGESIZE
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from arx_verifier.errors import MalformedTokenError, SettingsError
from arx_verifier.journal.decision import DecisionSink
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.keyring import AudienceKey, KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.nonces import MemoryNonces, NonceStore
from arx_verifier.verification.verifier import Verifier


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tool service needs to know.  ``repr`` shows no key.

    Attributes:
        audience: The service's name.
        journal: Folder of the decision journal.
        keys: Key id to base64url of the 32-byte audience key.
        issuer: The mint's URL, for whoever keeps the keys fresh; the verifier asks nobody.
        key_file: The service's own key, with which it asks the mint; not read here.
        max_ttl_ms: The realm's longest token life, ms.
        realm: The realm's name.
        store: URL of the realm's epoch store; a password may come from ``ARX_STORE_PASSWORD`` instead.
        nonces: URL of a Redis for used calls, when several processes share the audience; its password may come from
            ``ARX_NONCES_PASSWORD``.  The address of ``store`` is asked with the login of ``store``.
        journal_mode: ``strict``, ``durable`` or ``best_effort``.
        journal_bytes: What the journal's files may take in all.
        record_arguments: Tools, or patterns of them, whose arguments are recorded as they are.
        ca: File of a further authority for TLS, relative to the service file; ``ARX_CA`` wins.
        v: 1.
    """

    audience: str
    issuer: str | None = None
    journal: str | None = None
    key_file: str | None = None
    keys: dict[str, str]
    max_ttl_ms: Annotated[int, Meta(ge=1000)]
    realm: str
    store: str | None = None
    nonces: str | None = None
    journal_mode: Literal["strict", "durable", "best_effort"] = "strict"
    journal_bytes: int | None = None
    record_arguments: tuple[str, ...] = ()
    ca: str | None = None
    v: Annotated[int, Meta(ge=1, le=1)]

    def __repr__(self) -> str:
        return f"<ServiceFile of {self.audience} in {self.realm}>"


LOOK_NS: Final = 200_000_000  # between two looks at the file, or strangers' key ids would make every refusal dear
_SEGMENTS: Final = 16  # a small budget is many small files, so that shipping gives room back bit by bit
_log = logging.getLogger(__name__)
_FILE: Final = msgspec.json.Decoder(ServiceFile)


class FileKeys(KeyRing):
    """The keys of a service file, read again when one is asked for that it did not have.

    Attributes:
        path: The file.
    """

    __slots__ = ("_looked_ns", "_seen", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file's keys.

        Raises:
            SettingsError: The file is unusable, or there is no key in it.
        """
        self.path = Path(path)
        self._looked_ns = time.monotonic_ns()
        self._seen = _stamp(self.path)
        file = read_service_file(self.path)
        super().__init__(_keys_of(file, self.path), realm=file.realm, max_ttl_ms=file.max_ttl_ms)

    def get(self, kid: str) -> AudienceKey | None:
        """Return the key of ``kid``, or None; one that is not known may have been written since."""
        found = super().get(kid)
        if found is None and time.monotonic_ns() - self._looked_ns >= LOOK_NS and self.reread():
            found = super().get(kid)
        return found

    def reread(self) -> bool:
        """Take the file's keys if it was written since; one that cannot be used changes nothing.

        Returns:
            Whether there are other keys now.
        """
        self._looked_ns = time.monotonic_ns()
        stamp = _stamp(self.path)
        if stamp is None or stamp == self._seen:
            return False
        self._seen = stamp
        try:
            file = read_service_file(self.path)
            if file.realm != self.realm:
                raise SettingsError(f"{self.path} is of another realm now, {file.realm}; restart the service")
            self.replace(_keys_of(file, self.path))
        except SettingsError as error:
            # An outage elsewhere, or a slip of the pen, must not end a service that has good keys.
            _log.error("the keys stay as they were: %s", error)
            return False
        return True


def read_service_file(path: str | os.PathLike[str]) -> ServiceFile:
    """Read a service file.

    Args:
        path: Where it is; only its owner may read it.

    Returns:
        Its content.

    Raises:
        SettingsError: It is missing, open to others, or not a service file.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode
        raw = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; `arx service join` or `arx service enrol` makes it") from error
    if stat.S_IMODE(mode) & 0o077:
        raise SettingsError(f"{file} holds keys and can be read by others; run `chmod 600 {file}`")
    try:
        content = _FILE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not a service file: {error}") from error
    return content if content.ca is None else msgspec.structs.replace(content, ca=str(file.parent / content.ca))


def open_verifier(
    path: str | os.PathLike[str],
    *,
    epochs: Epochs | None = None,
    decisions: DecisionSink | None = None,
    nonces: NonceStore | None = None,
) -> Verifier:
    """Make the verifier of a service file.

    Args:
        path: The service file.
        epochs: Another view of the kill epoch than the file's store.
        decisions: Another sink than the file's journal.
        nonces: Another nonce store than the file's, or than this process's memory.

    Returns:
        A verifier that starts to follow the epoch with its first call or with ``start``.

    Raises:
        SettingsError: The file is unusable or leaves something open that was not given here.
    """
    from arx_verifier.journal.writer import name_verifier  # with the writer, which few programs that read a file need

    file, keys = read_service_file(path), FileKeys(path)
    used = nonces if nonces is not None else _nonces(file)
    shares = used is not None and not isinstance(used, MemoryNonces)
    verifier_id = name_verifier(file.audience, shares=shares)
    return Verifier(
        audience=file.audience,
        keys=keys,
        epochs=epochs if epochs is not None else _follow(file, verifier_id),
        decisions=decisions if decisions is not None else _journal(file, verifier_id),
        nonces=used,
        record_arguments=file.record_arguments,
    )


def _keys_of(file: ServiceFile, path: Path) -> dict[str, bytes]:
    try:
        return {kid: bytes_of(key) for kid, key in file.keys.items()}
    except MalformedTokenError as error:
        raise SettingsError(f"{path}: a key is not base64url") from error


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what differs when a file was written again, or None when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _follow(file: ServiceFile, verifier_id: str) -> Epochs:
    from arx_verifier.revocation.follower import Follower  # redis is loaded where it is used

    if file.store is None:
        raise SettingsError("the service file names no epoch store; give `store` in it or `epochs` here")
    return Follower(file.store, file.realm, verifier_id, password=os.environ.get("ARX_STORE_PASSWORD"), ca=file.ca)


def _journal(file: ServiceFile, verifier_id: str) -> DecisionSink:
    from arx_verifier.journal.writer import MAX_BYTES, MIN_SEGMENT_BYTES, SEGMENT_BYTES, Journal

    if file.journal is None:
        raise SettingsError("the service file names no journal; give `journal` in it or `decisions` here")
    budget = MAX_BYTES if file.journal_bytes is None else file.journal_bytes
    size = min(SEGMENT_BYTES, max(budget // _SEGMENTS // PAGESIZE * PAGESIZE, MIN_SEGMENT_BYTES))
    return Journal(
        file.journal, verifier_id, file.audience, segment_bytes=size, mode=file.journal_mode, max_bytes=budget
    )


def _nonces(file: ServiceFile) -> NonceStore | None:
    if file.nonces is None:
        return None
    from arx_verifier.revocation.store_url import without_login
    from arx_verifier.verification.nonces import RedisNonces

    url, password = file.nonces, os.environ.get("ARX_NONCES_PASSWORD")
    if file.store is not None and url == without_login(file.store):
        # The same server: who may follow there is known by the same login.  No other server is sent it.
        url, password = file.store, password or os.environ.get("ARX_STORE_PASSWORD")
    return RedisNonces(url, f"arx:nonce:{file.realm}:{file.audience}:", password=password, ca=file.ca)
