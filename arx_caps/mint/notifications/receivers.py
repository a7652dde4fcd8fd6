# SPDX-License-Identifier: Apache-2.0
"""Receivers of notifications: their URL and secret, checked, sealed, and called. CONTROL 7.1, 7.3."""

import base64
import http.client
import re
import secrets
import time
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from arx_caps.http.client import make_context
from arx_caps.http.public_host import HostRules, NotPublicError, connect_public, is_public
from arx_caps.mint.db.repositories.identity.keys import WEBHOOK_NAME, SealedRoot
from arx_caps.mint.db.tables import Format, WebhookRow
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.notifications.message import SECRET_PREFIX, Notice, body_of, sign
from arx_caps.settings.realm import LOOPBACK, Realm
from arx_verifier.errors import RequestError, SettingsError

MAX_URL_CHARS: Final = 1024
TOTAL_S: Final = 10.0  # for address, connection and answer together
ANSWER_BYTES: Final = 4 * 1024  # read of an answer, whose content is not used
SECRET_BYTES: Final = 32
_URL: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([1-9][0-9]{0,4}))?(/[!-~]*)?")
_OK: Final = range(200, 300)


class Receiver(NamedTuple):
    """Where a notification is sent, and the secret that signs it; ``repr`` shows neither.

    Attributes:
        url: The URL, which may be a secret itself.
        secret: The secret.
    """

    url: str
    secret: str

    def __repr__(self) -> str:
        return f"<Receiver at {origin_of(self.url)}>"


class Outcome(NamedTuple):
    """What came of an attempt.

    Attributes:
        status: The HTTP status; None without an answer.
        error: Why it failed, without a secret; None if it was taken.
        retry_after_s: How long the receiver asks to wait, s; None if it does not.
    """

    status: int | None
    error: str | None
    retry_after_s: int | None = None


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def check_url(url: str, hosts: Collection[str]) -> str:
    """Return the URL of a receiver, or refuse it.

    Args:
        url: The URL, as an operator wrote it.
        hosts: The realm's ``webhook_hosts``.

    Raises:
        RequestError: It is not ``https:``, or has a user, a fragment or unusual characters.
    """
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found is None or "#" in url or (found[3] and int(found[3]) > 65535):
        raise RequestError("invalid url: expected https://host/path, in small letters, without user and fragment")
    if found[1] == "http" and not (_is_listed(url, hosts) and urlsplit(url).hostname in LOOPBACK):
        raise RequestError("invalid url: expected https:; http: is for a host of this machine in `webhook_hosts`")
    return url


def seal_receiver(roots: RootKeys, webhook: str, receiver: Receiver) -> SealedRoot:
    """Return a receiver, sealed with the root keys' seal.

    Args:
        roots: The root keys.
        webhook: The receiver's id.
        receiver: What to seal.
    """
    return roots.seal_secret(WEBHOOK_NAME + webhook, msgspec.json.encode(tuple(receiver)))


def open_receiver(roots: RootKeys, row: WebhookRow) -> Receiver:
    """Return the receiver of a row.

    Raises:
        SettingsError: It was sealed with another passphrase or key file.
    """
    box = SealedRoot(WEBHOOK_NAME + row.id, row.nonce or "", row.sealed or "")
    return Receiver(*msgspec.json.decode(roots.unseal(box), type=tuple[str, str]))


def new_secret() -> str:
    """Return a new secret, as Standard Webhooks writes it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def send_notice(receiver: Receiver, form: Format, notice: Notice, realm: Realm) -> Outcome:
    """Send a notification once.

    Args:
        receiver: The receiver.
        form: The form of the body.
        notice: The notification.
        realm: The realm.

    Returns:
        What came of it; an error has no secret.
    """
    until = time.monotonic() + TOTAL_S
    parts = urlsplit(receiver.url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    listed = _is_listed(receiver.url, realm.webhook_hosts)
    if not secure and not listed:  # it was listed when it was added
        return Outcome(None, "expected https:, or a host of this machine in `webhook_hosts`")
    body = body_of(notice, realm, form)
    method, about = ("GET", {}) if form == "get" else ("POST", {"Content-Type": "application/json"})
    headers = {"User-Agent": "arx-webhook/1", "Accept-Encoding": "identity", **about}
    headers |= sign(receiver.secret, notice.id, int(time.time()), body)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        rules = HostRules(make_context(realm.ca) if secure else None, may_connect=_anywhere if listed else is_public)
        with connect_public(host, parts.port or (443 if secure else 80), until, rules) as connection:
            connection.request(method, path, body=body or None, headers=headers)
            answer = connection.getresponse()
            answer.read(ANSWER_BYTES)
    except (NotPublicError, SettingsError) as error:
        return Outcome(None, str(error))
    except (OSError, TimeoutError, http.client.HTTPException, UnicodeError, ValueError) as error:
        # The error's text may quote the URL.
        return Outcome(None, f"{host} did not answer: {type(error).__name__}")
    if answer.status in _OK:
        return Outcome(answer.status, None)
    # No redirect is followed: its address was not checked.
    return Outcome(answer.status, f"answered {answer.status}", _retry_after(answer.getheader("Retry-After")))


def _is_listed(url: str, hosts: Collection[str]) -> bool:
    return urlsplit(url).netloc in hosts


def _anywhere(_: str) -> bool:
    return True


def _retry_after(text: str | None) -> int | None:
    """Return the seconds of a ``Retry-After``; None for a date, after which the next attempt comes by itself."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
