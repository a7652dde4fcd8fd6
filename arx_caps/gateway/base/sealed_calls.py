# SPDX-License-Identifier: Apache-2.0
"""What a client keeps of a call that waits for an operator or a person: a text that only a gateway can make.

It is the ``requestState`` or the ``taskId`` of MCP.  Both come back from the client, and so from an attacker: they are
encrypted and authenticated (AES-256-GCM), and open for the principal and the kind for which they were made alone.
"""

import hmac
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from arx_caps.mcp.errors import INVALID_PARAMS, WireError
from arx_caps.mcp.message import written
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.jcs import jcs
from arx_verifier.token import wire
from arx_verifier.token.keyring import KeyRing

PREFIX: Final = "arxw1."  # an upstream's own texts pass: no server is expected to begin one so
NONCE_BYTES: Final = 12  # SP 800-38D 5.2.1.1
MAX_CHARS: Final = 2048  # an honest one has about 300
_OF_STATE: Final = ("requestState", "inputResponses")
_LABEL: Final = b"arx gateway: a waiting call\0"  # no token's identifier begins so: the key signs tokens too

Kind = Literal["state", "task", "link"]
_PREFIXES: Final[Mapping[Kind, str]] = {"state": PREFIX, "task": PREFIX, "link": "arxl1."}


class WaitingCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that waits for an approval, or for a person's account.

    Attributes:
        approval: The approval's id; the digest of the link by which the account is connected.
        tool: The tool, as the client calls it.
        digest: ``digest_of`` the call.
        asked_at: When it was asked for, ms since the Unix epoch.
        until: When it is over in any case, ms since the Unix epoch.
    """

    approval: str
    tool: str
    digest: str
    asked_at: int
    until: int


def digest_of(tool: str, args: Mapping[str, Any]) -> str:
    """Return the digest of a call: SHA-256 of the RFC 8785 form of tool and arguments, in hex.

    Raises:
        RequestError: The arguments have no such form.
    """
    return sha256(jcs([tool, dict(args)])).hexdigest()


class SealedCalls:
    """Seals and opens waiting calls.

    Args:
        keys: The audience keys: each gateway of the audience opens what another one has sealed.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def seal(self, call: WaitingCall, kind: Kind, principal: str, kid: str) -> str:
        """Return the text for a client.

        Args:
            call: The call.
            kind: What the text is for.
            principal: Who made the call.
            kid: The audience key that signed the caller's token.
        """
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher(kid).encrypt(nonce, msgspec.json.encode(call), _bound(kind, principal, kid))
        return f"{_PREFIXES[kind]}{kid}.{wire.text_of(nonce + sealed)}"

    def open(self, text: str, kind: Kind, principal: str) -> WaitingCall | None:
        """Return the call of a text; None if it is none of this principal, kind and audience.

        Args:
            text: What the client sent.
            kind: As for ``seal``.
            principal: Who sent it.
        """
        kid, _, encoded = text.removeprefix(_PREFIXES[kind]).rpartition(".")
        if not is_sealed(text, kind) or len(text) > MAX_CHARS or self._keys.get(kid) is None:
            return None
        try:
            raw = wire.bytes_of(encoded)
            plain = self._cipher(kid).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound(kind, principal, kid))
            return msgspec.json.decode(plain, type=WaitingCall)
        except (InvalidTag, ArxError, ValueError):
            return None

    def open_again(self, params: Mapping[str, Any], kind: Kind, principal: str) -> WaitingCall:
        """Return the call that comes again with its ``requestState``.

        Args:
            params: Its parameters.
            kind: As for ``seal``.
            principal: Who sent it.

        Raises:
            WireError: The state is none that this principal got for this call, or is over.
        """
        call = self.open(str(params["requestState"]), kind, principal)
        name, args = params.get("name"), params.get("arguments")
        if call is None or call.until <= now_ms() or type(name) is not str:
            raise WireError(INVALID_PARAMS, "requestState: expected one that this caller got, and that is not over")
        if not isinstance(args, dict | None) or not _is_same(call, name, args or {}):
            raise WireError(INVALID_PARAMS, "requestState: expected the tool and the arguments that it was given for")
        return call

    def _cipher(self, kid: str) -> AESGCM:
        key = self._keys.get(kid)
        assert key is not None  # a token that it signed was just authenticated, or ``open`` has looked
        return AESGCM(hmac.digest(key.derived, _LABEL, "sha256"))


def is_sealed(text: object, kind: Kind = "state") -> bool:
    """Return whether a text claims to be a sealed call.

    Args:
        text: What the client sent.
        kind: As for ``SealedCalls.seal``; a state and a task look alike.
    """
    return isinstance(text, str) and text.startswith(_PREFIXES[kind])


def without_state(body: bytes) -> bytes:
    """Return a call as its upstream gets it: without the state, whose place another one of the upstream would take.

    Args:
        body: The message.
    """
    found = json.loads(body)
    found["params"] = {name: each for name, each in found["params"].items() if name not in _OF_STATE}
    return written(found)


def _is_same(call: WaitingCall, name: str, args: Mapping[str, Any]) -> bool:
    try:
        return digest_of(name, args) == call.digest
    except ArxError:
        return False


def _bound(kind: Kind, principal: str, kid: str) -> bytes:
    return "\0".join((kind, kid, principal)).encode("utf-8", "surrogatepass")
