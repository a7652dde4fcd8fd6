# SPDX-License-Identifier: Apache-2.0
"""The per-call proof: bind a one-shot token to one call.  SPEC 8.

The holder of a task's token signs each call by appending a ``call`` caveat of fixed width; the task's token itself
never travels.  This module computes the digest, writes and reads the caveat, and splits a presented text into the head,
which every call of one parent shares, and the tail.  ``verification.nonces`` detects replays.
"""

import os
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

import arx_verifier.jcs as jcs
import arx_verifier.token.chain as chain
import arx_verifier.token.holder as keys
import arx_verifier.token.wire as wire
from arx_verifier._native import twin
from arx_verifier.errors import AttenuationError, RequestError
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.token.wire import FROM_URL, MAX_CREDENTIAL_CHARS, TO_URL

LABEL: Final = b"arx/1/call"
NONCE_BYTES: Final = 16
MAX_AGE_MS: Final = 10_000  # how long a call may take to arrive
MAX_AHEAD_MS: Final = 2_000  # how far the holder's clock may be ahead
KEEP_MS: Final = 15_000  # longer than the longest age and the longest time ahead together

# {"call":["<43 digest>",<13 issued_at>,"<22 nonce>"]}, and of a bound token a proof of its holder behind the nonce: 22
# or 86 characters.  Each of the three forms has its width, so that a token's text can be split without decoding the
# part before it.
STAMP: Final = slice(55, 92)
"""Where a call caveat has time and nonce."""
MAC_CHARS: Final = 22
SIGNATURE_CHARS: Final = 86
_PLAIN: Final = 93  # the bytes of a caveat before the proof of its holder
_PROOF: Final = slice(95, -3)
_OPEN: Final = b'{"call":["'
_CLOSE: Final = b"]}"
_CAVEAT_BYTES: Final = 10 + 43 + 2 + 13 + 2 + 22 + 3
_END: Final = b"\0" + wire.TAIL
_NONCE: Final = b"\0\0\0\x16"
_TOOL: Final = b"\0\0\0\4tool"
# By the bytes behind the last whole group of three: the last characters that are allowed, since none may carry bits
# beyond the last byte, and the padding.
_ENDS: Final = ((wire.URL_CHARS, b""), (wire.URL_CHARS[::16], b"=="), (wire.URL_CHARS[::4], b"="))
# One spelling only: the last of 43 characters carries four bits of the digest, the last of 22 or 86 two bits.
_STAMPED: Final = (
    rb"(\{\"call\":\[\"([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])\",([1-9][0-9]{12}),\"[A-Za-z0-9_-]{21}[AQgw]\""
)


class _Split(NamedTuple):
    """How a text of one length modulo 4 is split, if it ends in a call.

    Attributes:
        chars: How many characters the tail has.
        extra: How many bytes of the parent are in it: base64 writes three bytes as four characters, so the tail is cut
            where whole groups end.
        at: The offset of ``mark`` in it.
        mark: Text of the bytes before a call's content: it distinguishes a call from a task's token without decoding.
        last: The last characters that are allowed.
        padding: The padding that the text lacks.
    """

    chars: int
    extra: int
    at: int
    mark: str
    last: str
    padding: bytes


class _Form:
    """A width of a call's caveat.

    Attributes:
        mark: The bytes before its content, with the beginning of that.
        splits: By the length of a text modulo 4.
        tail: Matches the tail's bytes behind those of the parent.  Groups: caveat, digest, time; and the signature.
    """

    def __init__(self, proof_chars: int) -> None:
        width = _CAVEAT_BYTES + (proof_chars + 3 if proof_chars else 0)
        head = wire.packet(wire.IDENTIFIER, bytes(width))[:-width]
        self.mark = head + _OPEN
        self.splits: dict[int, _Split] = {}
        for extra in (0, 1, 2):
            raw = extra + len(head) + width + len(_END) + wire.SIGNATURE_BYTES
            chars, before = (4 * raw + 2) // 3, -extra % 3  # bytes of the mark in a group with bytes of the parent
            text = wire.text_of(self.mark[before : before + (len(self.mark) - before) // 3 * 3])
            self.splits[(len(wire.TOKEN_PREFIX) + chars) & 3] = _Split(
                chars, extra, 4 if extra else 0, text, *_ENDS[raw % 3]
            )
        proof = rb",\"[A-Za-z0-9_-]{%d}[AQgw]\"" % (proof_chars - 1) if proof_chars else b""
        self.tail = re.compile(re.escape(head) + _STAMPED + proof + rb"\]\})\0\0\x06\x20(.{32})", re.DOTALL)


_FORMS: Final = tuple([_Form(chars) for chars in (0, MAC_CHARS, SIGNATURE_CHARS)])
MARK: Final = _FORMS[0].mark


class PresentedCall(msgspec.Struct, frozen=True, gc=False):
    """The parts of a one-shot token's text; nothing of it is authenticated.

    Attributes:
        head: The text before the tail: the same for every call with one parent.
        rest: The 0 to 2 bytes of the parent that fall into the tail.
        caveat: The call caveat's bytes.
        signature: 32 bytes.
        issued_at: When the holder signed, ms since the Unix epoch.
        digest: 43 characters.
    """

    head: str
    rest: bytes
    caveat: bytes
    signature: bytes
    issued_at: int
    digest: bytes

    @property
    def plain(self) -> bytes:
        """The caveat without the proof of its holder, which that proof covers."""
        return self.caveat[:_PLAIN] + _CLOSE

    @property
    def proof(self) -> bytes:
        """The proof of its holder: 22 characters, 86 if it is a signature, none in a bearer token."""
        return self.caveat[_PROOF]

    def __repr__(self) -> str:
        return "<PresentedCall>"  # with its text, a reader of a log could make the call


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _method_fields(method: str) -> bytes:
    return b"\0\0\0\4http" + _field(method.encode("ascii"))


_METHODS: Final = {method: _method_fields(method) for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")}


def http_fields(call: HttpCall) -> bytes:
    """Return the fields of an HTTP call that its digest covers.  SPEC 8.2.

    Args:
        call: The request.

    Returns:
        Kind, method, raw path and query, body digest; each after its length, 4 bytes big-endian.

    Raises:
        RequestError: The method is not ASCII, or the target is text with half of a surrogate pair.
    """
    method, target, body_digest = call
    try:
        head = _METHODS.get(method) or _method_fields(method)
        if not isinstance(target, bytes):
            target = target.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError("the method is not ASCII, or the target has half of a surrogate pair") from error
    if target.endswith(b"?") and target.index(b"?") == len(target) - 1:
        target = target[:-1]  # no server shows an application whether an empty query had its question mark
    return b"".join((head, len(target).to_bytes(4, "big"), target, b"\0\0\0\x20", body_digest))


def tool_fields(tool: str, args: Mapping[str, Any]) -> bytes:
    """Return the fields of a call without HTTP: kind, tool, RFC 8785 of the arguments.  SPEC 8.2.

    Args:
        tool: The tool's name.
        args: The arguments as they are on the wire, before validation or defaults.

    Raises:
        RequestError: The arguments have no RFC 8785 form, or the tool's name has half of a surrogate pair.
    """
    written = jcs.jcs(dict(args))
    try:
        name = tool.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError("the tool's name has half of a surrogate pair") from error
    return _TOOL + len(name).to_bytes(4, "big") + name + len(written).to_bytes(4, "big") + written


def fields_of(request: AccessRequest) -> bytes:
    """Return the fields that a proof of this request covers: those of its HTTP call if it has one, else of its tool.

    Args:
        request: The request.

    Raises:
        RequestError: The arguments have no RFC 8785 form.
    """
    return http_fields(request.http) if request.http is not None else tool_fields(request.tool, request.args)


def digest_prefix(audience: str) -> bytes:
    """Return the bytes that every digest for this audience begins with, up to the time's length."""
    return _field(LABEL) + _field(audience.encode("ascii")) + b"\0\0\0\x0d"


def call_digest(prefix: bytes, stamp: bytes, fields: bytes) -> bytes:
    """Return the digest of one call.  SPEC 8.2.

    Args:
        prefix: ``digest_prefix`` of the audience.
        stamp: ``<13 digits>,"<22 characters>``: time and nonce, as the caveat's bytes have them.
        fields: ``http_fields`` or ``tool_fields``.

    Returns:
        The digest as 43 base64url characters.
    """
    return wire.base64_of(wire.sha256_of(prefix + stamp[:13] + _NONCE + stamp[15:], fields))


@twin()
def tool_digest(prefix: bytes, caveat: bytes, tool: str, written: bytes) -> bytes:
    """Return ``call_digest`` of ``tool_fields``, under the time and nonce of a call caveat, in fewer steps.

    Args:
        prefix: ``digest_prefix`` of the audience.
        caveat: The call caveat's bytes.
        tool: The tool's name.
        written: The arguments in RFC 8785.

    Returns:
        The digest as 43 base64url characters.

    Raises:
        UnicodeEncodeError: The tool's name has a lone surrogate.
    """
    name = tool.encode()
    size, length = len(name).to_bytes(4, "big"), len(written).to_bytes(4, "big")
    parts = (prefix, caveat[55:68], _NONCE, caveat[70:92], _TOOL, size, name, length, written)
    return b2a_base64(sha256(b"".join(parts)).digest(), newline=False).translate(TO_URL, b"=")  # ``wire.base64_of``


@twin()
def http_digest(prefix: bytes, caveat: bytes, method: str, target: bytes | str, body_digest: bytes) -> bytes:
    """Return ``call_digest`` of ``http_fields``, under the time and nonce of a call caveat, in fewer steps.

    Args:
        prefix: ``digest_prefix`` of the audience.
        caveat: The call caveat's bytes.
        method: As in ``HttpCall``.
        target: As in ``HttpCall``.
        body_digest: As in ``HttpCall``.

    Returns:
        The digest as 43 base64url characters.

    Raises:
        RequestError: As ``http_fields``.
    """
    return call_digest(prefix, caveat[STAMP], http_fields(HttpCall(method, target, body_digest)))


@twin(PresentedCall)
def split_call(text: str) -> PresentedCall | None:
    """Split a presented text into its parts, if it ends in a call.

    Args:
        text: A token's text form.

    Returns:
        The parts; None if the text does not end in a well-formed call caveat in canonical form.  ``wire.read_text``
        then finds the mistake, or reads a token without a call.
    """
    size = len(text)
    if size > MAX_CREDENTIAL_CHARS:
        return None
    for form in _FORMS:
        split = form.splits.get(size & 3)
        if split is None:
            continue
        chars, extra, at, mark, last, padding = split
        cut = size - chars
        if cut < 0 or not text.startswith(mark, cut + at) or text[-1] not in last:
            continue
        try:
            raw = a2b_base64(text[cut:].encode().translate(FROM_URL) + padding, strict_mode=True)
        except ValueError:  # another alphabet, or a lone surrogate
            continue
        found = form.tail.match(raw, extra)
        if found is not None:
            caveat, digest, issued_at, signature = found.groups()
            return PresentedCall(text[:cut], raw[:extra], caveat, signature, int(issued_at), digest)
    return None


def not_the_holder(key: str) -> AttenuationError:
    """Return the error of a bound token without the private half of its holder's key.

    Args:
        key: The public half.
    """
    return AttenuationError(
        f"this token is bound to the key {key}, and can be used with no other",
        hint="give that key, or set ARX_HOLDER_KEY_FILE to its file; if it is lost, ask for a delegation to a new one",
    )


class CallSigner:
    """Signer of the calls of one task token; keep it for as long as the token is used.

    The parent's text is encoded once.  A call costs one digest, one HMAC and the text of the tail; that of a bound
    token one HMAC more, or a signature if the token requires one.
    """

    __slots__ = ("_evidence", "_head", "_key", "_prefix", "_rest", "_signature", "_signs")

    def __init__(
        self, macaroon: Macaroon, audience: str, holder: HolderKey | None = None, *, signs: bool = False
    ) -> None:
        """Encode the part of the token's text that every call shares.

        Args:
            macaroon: The task's token for this audience.
            audience: The service that will be called.
            holder: The key that a bound token is bound to; a bearer token needs none.
            signs: Sign each call so that others can check it, as ``require`` of ``signature`` demands.

        Raises:
            AttenuationError: The token is a one-shot token itself, or too large to carry a call; or it is bound to
                another key.
        """
        if macaroon.is_one_shot:
            raise AttenuationError("this token is for one call already; sign with the task's token")
        body, self._signature = macaroon.parts()
        bound, form = macaroon.bound_to, _FORMS[0]
        self._key: bytes | None = None
        self._signs: HolderKey | None = None
        self._evidence: tuple[str, str, str] | None = None
        if bound is not None:
            if holder is None or holder.public != bound.holder:
                raise not_the_holder(bound.holder)
            form = _FORMS[2 if signs else 1]
            if signs:
                self._signs, self._evidence = holder, (macaroon.location, audience, bound.link)
            else:
                self._key = keys.call_key(holder.agree(bound.aud_key), self._signature, audience)
        elif signs:
            raise AttenuationError('a call of a bearer token has no signature: its policy says binding = "bearer"')
        whole = len(body) // 3 * 3
        self._head = wire.TOKEN_PREFIX + wire.text_of(body[:whole])
        self._rest = body[whole:] + form.mark
        self._prefix = digest_prefix(audience)
        tail = max(split.chars for split in form.splits.values())
        if len(self._head) + tail > MAX_CREDENTIAL_CHARS or len(macaroon.packets) >= wire.MAX_CAVEATS:
            raise AttenuationError("the task's token is too large to carry a call")

    def sign(self, fields: bytes, at_ms: int, nonce: bytes | None = None) -> str:
        """Return the one-shot token of one call.  SPEC 8.1.

        Args:
            fields: ``http_fields`` or ``tool_fields`` of the call.
            at_ms: The holder's clock, ms since the Unix epoch.
            nonce: 16 random bytes; None draws them.  Every attempt needs its own.

        Returns:
            The text to send, valid for this call alone and for 10 s.

        Raises:
            ValueError: The time does not have 13 digits: it is not in ms since the Unix epoch.
        """
        if not 10**12 <= at_ms < 10**13:
            raise ValueError("at_ms is the time in ms since the Unix epoch, 13 digits")
        name = wire.text_of(os.urandom(NONCE_BYTES) if nonce is None else nonce)
        stamp = b'%013d,"%b' % (at_ms, name.encode("ascii"))
        inner = b'%b",%b"' % (call_digest(self._prefix, stamp, fields), stamp)
        proof = self._prove(_OPEN + inner + _CLOSE)
        inner += (b',"%b"' % proof if proof else b"") + _CLOSE
        signature = chain.extend(self._signature, _OPEN + inner)
        return self._head + wire.text_of(self._rest + inner + _END + signature)

    def _prove(self, plain: bytes) -> bytes:
        """Return the holder's proof of a call: nothing for a bearer token."""
        if self._key is not None:
            return keys.mac_of(self._key, plain)
        if self._signs is None or self._evidence is None:
            return b""
        said = sha256(self._signature).digest()
        return wire.base64_of(self._signs.sign(keys.call_message(*self._evidence, said, plain)))

    def __repr__(self) -> str:
        return "<CallSigner>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a CallSigner is a secret and is not pickled")
