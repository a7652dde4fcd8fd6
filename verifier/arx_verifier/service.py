# SPDX-License-Identifier: Apache-2.0
"""Open a verifier from a service file.  SPEC 15.2.

The mint gives the file to a tool service: audience keys, the store to follow, the journal's folder.  This module opens
no connection: follower and journal start with the first call, or with the application.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from mmap import PAGESIZE
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from arx_verifier._platform import is_open_to_others
from arx_verifier.errors import MalformedTokenError, SettingsError
from arx_verifier.journal.decision import DecisionSink
from arx_verifier.ledger.pools import Ledger
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.keyring import KeyRing, PreparedKey
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.freshness import readiness
from arx_verifier.verification.nonces import MemoryNonces, NonceStore
from arx_verifier.verification.service_limits import LimitsSource
from arx_verifier.verification.verifier import Verifier


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a service file.  ``repr`` shows no key.

    Attributes:
        audience: The service's name.
        journal: Folder of the decision journal.
        keys: Key id to base64url of the 32-byte audience key.
        issuer: The mint's URL, for ``upkeep``; decisions do not use it.
        key_file: The service's own key for requests to the mint; not read here.
        max_ttl_ms: The realm's longest token life, ms.
        realm: The realm's name.
        store: URL of the realm's revocation store; a password may come from ``ARX_STORE_PASSWORD`` instead.
        nonces: URL of a Redis for used nonces, when several processes share the audience; its password may come from
            ``ARX_NONCES_PASSWORD``.  If it is the server of ``store``, the login of ``store`` is used.
        ledger: URL of the Redis that keeps the realm's budgets, the same one for every service and never that of
            ``store``; its password may come from ``ARX_LEDGER_PASSWORD``.  Without it, tokens with budgets are refused.
        ledger_mode: ``strict``: each call asks the ledger; ``leased``: this process escrows a slice of each pool.
        costs: By tool or pattern what a call costs, by unit; see ``ledger.Costs``.
        journal_mode: ``strict``, ``durable`` or ``best_effort``.
        journal_bytes: Quota of all the journal's files together, bytes.
        record_arguments: Tools, or patterns of them, whose arguments are recorded in clear.
        memory: The memory keys by id, of the audience ``memory`` alone.
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
    ledger: str | None = None
    ledger_mode: Literal["strict", "leased"] = "strict"
    costs: dict[str, dict[str, Any]] = {}
    journal_mode: Literal["strict", "durable", "best_effort"] = "strict"
    journal_bytes: int | None = None
    record_arguments: tuple[str, ...] = ()
    memory: dict[str, str] = {}
    ca: str | None = None
    v: Annotated[int, Meta(ge=1, le=1)]

    def __repr__(self) -> str:
        return f"<ServiceConfig of {self.audience} in {self.realm}>"


LOOK_NS: Final = 200_000_000  # least time between two reads: else an attacker's unknown key ids would each cost a read
_OWN: Final = "give {0} to open_verifier({0}=…), a guard or the gateway's file: the mint never writes them"
_SEGMENTS: Final = 16  # a small quota is divided into many small files, so that shipping frees room early
_log = logging.getLogger(__name__)
_FILE: Final = msgspec.json.Decoder(ServiceConfig)


class FileKeys(KeyRing):
    """The keys of a service file, read again when a caller asks for an unknown key id.

    Attributes:
        path: The file.
        on_unknown: Called when a key id is unknown; it must not wait or raise.
    """

    __slots__ = ("_looked_ns", "_seen", "on_unknown", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file's keys.

        Raises:
            SettingsError: The file is unusable, or has no key.
        """
        self.path = Path(path)
        self._looked_ns, self.on_unknown = time.monotonic_ns(), _do_nothing
        # Taken before the read: if the file is replaced in between, the identity differs and the file is read again.
        self._seen = identify_file(self.path)
        file = read_service_file(self.path)
        super().__init__(keys_of(file.keys, self.path), realm=file.realm, max_ttl_ms=file.max_ttl_ms)

    def get(self, kid: str) -> PreparedKey | None:
        """Return the key of ``kid``, or None; an unknown id makes it read the file again."""
        # The process that refreshes the keys replaces the file, without a message to the verifiers.
        key = super().get(kid)
        if key is None and time.monotonic_ns() - self._looked_ns >= LOOK_NS:
            self.on_unknown()
            if self.reread():
                key = super().get(kid)
        return key

    def reread(self) -> bool:
        """Replace the keys if the file has changed; an unusable file changes nothing.

        Returns:
            Whether the keys were replaced.
        """
        self._looked_ns = time.monotonic_ns()
        seen = identify_file(self.path)
        if seen is None or seen == self._seen:
            return False
        self._seen = seen
        try:
            file = read_service_file(self.path)
            if file.realm != self.realm:
                # The follower, the journal and every cached chain belong to the realm that the service started with.
                raise SettingsError(f"{self.path} is of another realm now, {file.realm}; restart the service")
            self.replace(keys_of(file.keys, self.path))
        except SettingsError as error:
            # An operator's mistake in the file must not end a service that has usable keys.
            _log.error("the keys stay as they were: %s", error)
            return False
        return True


def read_service_file(path: str | os.PathLike[str]) -> ServiceConfig:
    """Read a service file.

    Args:
        path: The file; only its owner may read it.

    Returns:
        Its content.

    Raises:
        SettingsError: It is missing, readable by other users, or not a service file.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode
        raw = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; `arx service enrol` makes it") from error
    if is_open_to_others(mode):
        # An audience key forges tokens for this service: another user of the machine must not have read it.
        raise SettingsError(f"{file} holds keys and can be read by others; run `chmod 600 {file}`")
    try:
        content = _FILE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Else the mint, which writes this file, could lower what holds against it.
        own = next((name for name in ("limits", "effects") if f"`{name}`" in str(error)), None)
        hint = "" if own is None else f"; {_OWN.format(own)}"
        raise SettingsError(f"{file} is not a service file: {error}{hint}") from error
    return content if content.ca is None else msgspec.structs.replace(content, ca=str(file.parent / content.ca))


def open_verifier(
    path: str | os.PathLike[str],
    *,
    epochs: Epochs | None = None,
    decisions: DecisionSink | None = None,
    nonces: NonceStore | None = None,
    ledger: Ledger | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    draws: bool = True,
    limits: LimitsSource | None = None,
    effects: Collection[str] = (),
    wrap: Callable[[DecisionSink], DecisionSink] | None = None,
) -> Verifier:
    """Return the verifier of a service file.

    Args:
        path: The service file.
        epochs: Replaces the follower of the file's store.
        decisions: Replaces the file's journal.
        nonces: Replaces the file's nonce store, or this process's memory.
        ledger: Replaces the file's ledger.
        costs: Replaces the file's costs.
        draws: As of ``Verifier``; without it no ledger is opened.
        limits: As of ``Verifier``: what each call must satisfy as well, whatever its token allows, or the file with it.
            The mint never writes them.
        effects: As of ``Verifier``: the tools whose effects are recorded too.  The mint never writes them.
        wrap: Returns the sink that gets all decisions, such as one that counts them, given the one that records them.
            Without it they are counted for the Prometheus client and OpenTelemetry, where these are installed.

    Returns:
        A verifier that starts to follow the epoch, to ship its journal and to refresh its keys with its first call or
        with ``start``.  With ``decisions`` it ships and refreshes nothing.

    Raises:
        SettingsError: The file is unusable, or lacks a setting that was not given here; or the limits are not valid.
    """
    from arx_verifier.journal.writer import name_verifier  # with the writer, which few programs that read a file need
    from arx_verifier.metrics.export import export_decisions
    from arx_verifier.upkeep import Upkeep

    file, keys = read_service_file(path), FileKeys(path)
    nonce_store = nonces if nonces is not None else _nonces(file)
    shares = nonce_store is not None and not isinstance(nonce_store, MemoryNonces)
    verifier_id = name_verifier(file.audience, shares=shares)
    upkeep = None
    if decisions is None:
        own_key = file.issuer is not None and file.key_file is not None
        upkeep = Upkeep(keys.path, file.audience, keys, own_key=own_key)
        keys.on_unknown = upkeep.begin
        decisions = _journal(file, verifier_id, upkeep.begin)
    view = epochs if epochs is not None else _follow(file, verifier_id)
    return Verifier(
        audience=file.audience,
        keys=keys,
        epochs=view,
        decisions=export_decisions(decisions, file.audience, view, readiness) if wrap is None else wrap(decisions),
        nonces=nonce_store,
        ledger=ledger if ledger is not None or not draws else _ledger(file),
        costs=file.costs if costs is None else costs,
        draws=draws,
        record_arguments=file.record_arguments,
        limits=limits,
        effects=effects,
        upkeep=upkeep,
    )


def keys_of(texts: Mapping[str, str], path: Path) -> dict[str, bytes]:
    """Return the keys of a service file.

    Args:
        texts: Its ``keys``, or its ``memory``.
        path: The file.

    Raises:
        SettingsError: One is not base64url.
    """
    try:
        return {kid: bytes_of(key) for kid, key in texts.items()}
    except MalformedTokenError as error:
        raise SettingsError(f"{path}: a key is not base64url") from error


def identify_file(path: Path) -> tuple[int, ...] | None:
    """Return inode, time and size, which differ after the file was replaced; None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _follow(file: ServiceConfig, verifier_id: str) -> Epochs:
    from arx_verifier.revocation.follower import Follower
    from arx_verifier.revocation.password import find_password  # redis is loaded where it is used

    if file.store is None:
        raise SettingsError("the service file names no epoch store; give `store` in it or `epochs` here")
    return Follower(file.store, file.realm, verifier_id, password=find_password("ARX_STORE_PASSWORD"), ca=file.ca)


def _do_nothing() -> None:
    pass


def _journal(file: ServiceConfig, verifier_id: str, on_run: Callable[[], None]) -> DecisionSink:
    from arx_verifier.journal.writer import MAX_BYTES, MIN_SEGMENT_BYTES, SEGMENT_BYTES, Journal

    if file.journal is None:
        raise SettingsError("the service file names no journal; give `journal` in it or `decisions` here")
    budget = MAX_BYTES if file.journal_bytes is None else file.journal_bytes
    size = min(SEGMENT_BYTES, max(budget // _SEGMENTS // PAGESIZE * PAGESIZE, MIN_SEGMENT_BYTES))
    about: dict[str, Any] = {"segment_bytes": size, "mode": file.journal_mode, "max_bytes": budget, "on_run": on_run}
    return Journal(file.journal, verifier_id, file.audience, **about)


def _ledger(file: ServiceConfig) -> Ledger | None:
    if file.ledger is None:
        return None
    from arx_verifier.ledger.leases import LeasedLedger
    from arx_verifier.ledger.redis_ledger import RedisLedger
    from arx_verifier.revocation.password import find_password
    from arx_verifier.revocation.store_url import without_login

    url, password = file.ledger, find_password("ARX_LEDGER_PASSWORD")
    if file.store is not None and without_login(url) == without_login(file.store):
        raise SettingsError(
            "`ledger` is the revocation store, whose disk every write waits for: budgets need another instance"
        )
    if file.nonces is not None and without_login(url) == without_login(file.nonces):
        password = password or find_password("ARX_NONCES_PASSWORD")
    ledger = RedisLedger(url, file.realm, password=password, ca=file.ca)
    return LeasedLedger(ledger) if file.ledger_mode == "leased" else ledger


def _nonces(file: ServiceConfig) -> NonceStore | None:
    if file.nonces is None:
        return None
    from arx_verifier.revocation.password import find_password
    from arx_verifier.revocation.store_url import without_login
    from arx_verifier.verification.nonces import RedisNonces

    url, password = file.nonces, find_password("ARX_NONCES_PASSWORD")
    if file.store is not None and url == without_login(file.store):
        # The same server, so the same login.  The login of `store` is never sent to another server.
        url, password = file.store, password or find_password("ARX_STORE_PASSWORD")
    # Realm and audience are in the prefix: services that share a Redis must not use up each other's nonces.
    return RedisNonces(url, f"arx:nonce:{file.realm}:{file.audience}:", password=password, ca=file.ca)
