# SPDX-License-Identifier: Apache-2.0
"""The fields and files of a multipart body, read so strictly that every other parser sees the same.  SPEC 8.4.

One form of each body is accepted, which browsers, curl, httpx and requests send: no preamble, no epilogue, no folded,
repeated or further header, no escape in a name, and no boundary within a part.
"""

import hashlib
import re
from typing import Any, Final
from unicodedata import ucd_3_2_0

from arx_verifier.constraints.text import is_one_line
from arx_verifier.errors import RequestError

MAX_PARTS: Final = 256  # bounds the work of reading a body
# RFC 2046 allows more in a boundary, and a parser could end it there: of `a:b` without quotes, Werkzeug reads `a`, and
# then takes `--a` within a field for the begin of another one.
_TYPE: Final = re.compile(rb'multipart/form-data; ?boundary=("?)([A-Za-z0-9_-]{1,70})\1', re.IGNORECASE)
_DISPOSITION: Final = re.compile(
    rb'content-disposition: form-data; name="([^"\\%\x00-\x1f\x7f]{1,256})"'
    rb'(?:; filename="([^"\\\x00-\x1f\x7f]{1,1024})")?',
    re.IGNORECASE,
)
_CONTENT_TYPE: Final = re.compile(rb"content-type: ([a-z0-9!#$&^_.+/-]{1,127}(?:; ?charset=utf-8)?)", re.IGNORECASE)
_TEXT: Final = re.compile("text/plain(?:; ?charset=utf-8)?", re.IGNORECASE)
_SLASHES: Final = re.compile(r"[/\\]")
_CHARSET: Final = "_charset_"  # RFC 7578 4.6: the name of a field with the charset of all others


def read_multipart(kind: bytes, body: bytes) -> dict[str, Any]:
    """Return the arguments of a multipart body.

    Args:
        kind: The Content-Type.
        body: The whole body.

    Returns:
        For each field its text, and for each file its ``digest``, ``size`` and ``content_type``.

    Raises:
        RequestError: The body is not of the one form, or has a name twice.
    """
    found = _TYPE.fullmatch(kind)
    if found is None:
        raise RequestError("the multipart body: expected Content-Type: multipart/form-data; boundary=…")
    first, *parts = body.removesuffix(b"\r\n").split(b"--" + found[2], MAX_PARTS + 1)
    if first or len(parts) < 2 or parts.pop() != b"--":
        raise RequestError(f"the multipart body: expected at most {MAX_PARTS} parts between its boundaries")
    arguments: dict[str, Any] = {}
    for part in parts:
        if len(part) < 4 or part[:2] != b"\r\n" or part[-2:] != b"\r\n":
            raise RequestError("the multipart body: expected each boundary on a line of its own")
        name, value = _read_part(part[2:-2])
        if name in arguments:
            raise RequestError(f"the multipart body has {name!r:.80} twice")
        arguments[name] = value
    return arguments


def _read_part(part: bytes) -> tuple[str, Any]:
    head, blank, data = part.partition(b"\r\n\r\n")
    disposition, _, further = head.partition(b"\r\n")
    named = _DISPOSITION.fullmatch(disposition)
    typed = _CONTENT_TYPE.fullmatch(further) if further else None
    if named is None or not blank or (further and typed is None):
        raise RequestError("the multipart body: expected a part with its name, and at most a filename and a type")
    content_type = "" if typed is None else typed[1].decode("ascii")
    try:
        name, text = named[1].decode("utf-8"), "" if named[2] else data.decode("utf-8")
        filename = (named[2] or b"-").decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the multipart body has a name or a field that is not UTF-8") from None
    # Django strips a name: `amount` and ` amount` are one field there.
    if not is_one_line(name) or name != name.strip() or name == _CHARSET:
        raise RequestError(f"the multipart body: expected a plain name of a field, got {name!r:.80}")
    if not _is_kept(filename):
        raise RequestError(f"the file {name!r:.80} of the multipart body: expected a plain filename")
    if named[2]:
        return name, {"digest": digest_of(data), "size": len(data), "content_type": content_type}
    if content_type and not _TEXT.fullmatch(content_type):
        raise RequestError(f"the field {name!r:.80} of the multipart body: expected text, or a filename")
    return name, text


def _is_kept(filename: str) -> bool:
    """Return whether each parser keeps a file of this name."""
    import html  # with the names of all entities, 0.4 MB that a service without uploads has no use for

    # Django resolves entities, takes what is behind the last slash, and drops from it what its Python cannot print.
    # Without a name, it drops the file.
    plain = html.unescape(filename)  # empty for an entity of a control character, which HTML does not allow
    if plain[-1:] in ("", ".", "/", "\\") or not is_one_line(plain):
        return False
    # Each version of Python prints more characters than the one before; those of Unicode 3.2 are printed by all.
    last = _SLASHES.split(plain)[-1].replace(".", "")
    return any(character.isprintable() and ucd_3_2_0.category(character) != "Cn" for character in last)


def digest_of(data: bytes) -> str:
    """Return the digest of a file, as a rule names it: ``sha256:`` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
