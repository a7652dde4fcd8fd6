# SPDX-License-Identifier: Apache-2.0
"""The command list of a push of git: what it changes, read before a byte of its pack, and the refusal that git prints.

gitprotocol-pack(5), gitprotocol-http(5).  A list that two readers could take for different ones is refused.
"""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final, NamedTuple

from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.bounded_body import ClientGoneError
from arx_verifier.errors import RequestError

PUSH: Final = "arx.push"  # in the scope of a push whose commands were read
MAX_COMMANDS: Final = 64 * 1024  # bytes of a list
_MAX_REPORT: Final = 4 * MAX_COMMANDS  # bytes of a report that is read
_FLUSH: Final = b"0000"
_LENGTH: Final = re.compile(rb"[0-9a-f]{4}")
_ID: Final = rb"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_COMMAND: Final = re.compile(rb"(%b) (%b) (refs/[^\x00-\x20\x7f~^:?*\[\\]+)" % (_ID, _ID), re.DOTALL)
_SHALLOW: Final = re.compile(rb"shallow (%b)" % _ID)
_ODD_REF: Final = re.compile(r"\.\.|//|/\.|@\{|\.lock(?:/|\Z)|[/.]\Z")  # git-check-ref-format(1)
_CAPABILITY: Final = re.compile(
    r"report-status(?:-v2)?|side-band-64k|delete-refs|ofs-delta|atomic|quiet|object-format=sha(?:1|256)"
    r"|(?:agent|session-id)=[!-~]+"
)
_RECORDED: Final = 8  # updates of a push whose ids its record has
_BAND_BYTES: Final = 65_000  # of one line on a side band
_WHY_CHARS: Final = 600

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Update(NamedTuple):
    """One command of a push.

    Attributes:
        old: The object id that the ref has; zeros for one that is created.
        new: The object id that it gets; zeros for one that is deleted.
        ref: The ref.
    """

    old: str
    new: str
    ref: str


class GitPush(NamedTuple):
    """The commands of a push.

    Attributes:
        updates: What it changes; empty for a probe, which changes nothing.
        has_bands: Whether the client reads side bands.
    """

    updates: tuple[Update, ...]
    has_bands: bool = True

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the call."""
        creates = sum(not each.old.strip("0") for each in self.updates)
        deletes = sum(not each.new.strip("0") for each in self.updates)
        return {"refs": [each.ref for each in self.updates], "creates": creates, "deletes": deletes}

    def external_id(self, refused: frozenset[str] = frozenset()) -> str:
        """Return the text for the record of the effect: old id, new id and ref of each update.

        Args:
            refused: The refs that the server did not change: their new id is the old one.
        """
        ids = ((each.old, each.old if each.ref in refused else each.new, each.ref) for each in self.updates[:_RECORDED])
        shown = [f"{old} {new} {ref:.200}" for old, new, ref in ids]
        left = len(self.updates) - len(shown)
        return ", ".join([*shown, *([f"and {left} more"] if left else [])])


class PushReport:
    """What a server reports of a push, read from its answer while it goes on: which refs it has not changed.

    Args:
        push: The push.
    """

    def __init__(self, push: GitPush) -> None:
        self._push, self._unread, self._report = push, bytearray(), bytearray()

    def take(self, part: bytes) -> None:
        """Take a part of the answer."""
        if not self._push.has_bands:
            self._report += part[: _MAX_REPORT - len(self._report)]
            return
        if len(self._unread) <= MAX_COMMANDS:  # else it is no line, and the rest is not kept
            self._unread += part
        for line in _taken(self._unread):
            if line.startswith(b"\x01"):
                self._report += line[1 : 1 + _MAX_REPORT - len(self._report)]

    def refused(self) -> frozenset[str] | None:
        """Return the refs that the server has not changed; None if its report cannot be read."""
        words = [bytes(line).decode("utf-8", "replace").split() for line in _taken(self._report)]
        if not words or words[0][:1] != ["unpack"] or words[-1]:
            return None  # without its head or its flush
        changed = {line[1] for line in words if line[:1] == ["ok"] and line[1:]}
        return frozenset(each.ref for each in self._push.updates if each.ref not in changed)


def _taken(data: bytearray) -> Iterator[bytearray]:
    """Yield the lines that are whole, and remove them; nothing more of what is no list of lines."""
    with contextlib.suppress(RequestError):
        while len(data) >= (length := _length_at(data, 0)):
            line = data[4:length]
            del data[: max(length, 4)]
            yield line


async def read_head(receive: Receive) -> tuple[bytes, bool]:
    """Return a push up to the end of its command list, with what has come behind it, and whether more follows.

    Args:
        receive: As ASGI has it.

    Raises:
        RefusedCall: The list has no end, or more than ``MAX_COMMANDS`` bytes.
        ClientGoneError: The client went.
    """
    head, at = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        head += message.get("body", b"")
        more = bool(message.get("more_body", False))
        try:
            while (length := _length_at(head, at)) and at + length <= len(head):
                at += length
        except RequestError as error:
            raise RefusedCall.of(error) from None
        if length == 0 and at + 4 <= len(head):
            return bytes(head), more
        if at > MAX_COMMANDS or not more:
            wrong = f"has more than {MAX_COMMANDS} bytes" if more else "has no end"
            raise RefusedCall("malformed_request", f"the command list of the push {wrong}")


def _length_at(data: bytes | bytearray, at: int) -> int:
    """Return the length of the line at a place: 0 for a flush; beyond the data for one that has not come.

    Raises:
        RequestError: It is no line of a command list.
    """
    digits = bytes(data[at : at + 4])
    if len(digits) < 4:
        return len(data) + 4
    if not _LENGTH.fullmatch(digits) or 0 < (length := int(digits, 16)) <= 4:
        raise RequestError("the push has no list of commands (pkt-line) before its pack")
    return length


def read_commands(head: bytes) -> GitPush:
    """Read the command list of a push.

    Args:
        head: The push from its beginning, at least up to the end of the list.

    Raises:
        RequestError: The list is malformed, or has what is not understood.
    """
    lines: list[bytes] = []
    at = 0
    while length := _length_at(head, at):
        if at + length > len(head):
            raise RequestError("the command list of the push has no end")
        lines.append(head[at + 4 : at + length].removesuffix(b"\n"))
        at += length
    if at > MAX_COMMANDS:
        raise RequestError(f"the command list of the push has more than {MAX_COMMANDS} bytes")
    while lines and _SHALLOW.fullmatch(lines[0]):
        del lines[0]
    if not lines:
        if head != _FLUSH:
            raise RequestError("the push has no commands, and more than a flush")
        return GitPush(())
    lines[0], nul, capabilities = lines[0].partition(b"\0")
    known = _capabilities(capabilities) if nul else frozenset[str]()
    if not known & {"report-status", "report-status-v2"}:
        raise RequestError("the push asks for no report of its result (report-status)")
    chars = 64 if "object-format=sha256" in known else 40
    updates = tuple(_update(line, chars) for line in lines)
    if len({each.ref for each in updates}) != len(updates):
        raise RequestError("the push has a ref twice")
    return GitPush(updates, "side-band-64k" in known)


def _capabilities(raw: bytes) -> frozenset[str]:
    found = raw.decode("latin-1").split(" ")
    if odd := next((each for each in found if each and not _CAPABILITY.fullmatch(each)), None):
        raise RequestError(f"the push has the capability {odd!r:.80}, which is not known here")
    return frozenset(found)


def _update(line: bytes, chars: int) -> Update:
    found = _COMMAND.fullmatch(line)
    try:
        old, new, ref = [each.decode("utf-8") for each in found.groups()] if found else ("", "", "")
    except UnicodeDecodeError:
        ref = ""
    if not ref or len(old) != chars or len(new) != chars or _ODD_REF.search(ref):
        raise RequestError(f"the push has a command that is none: expected old id, new id and ref, got {line!r:.120}")
    return Update(old, new, ref)


def refusal_of(push: GitPush | None, why: str) -> bytes:
    """Return the body of the answer to a refused push, which git prints for each ref.

    Args:
        push: The push, if its commands were read.
        why: Why it is refused.
    """
    text = _line(why)
    refs = [] if push is None else [f"ng {each.ref} {text}\n" for each in push.updates]
    lines = ["unpack ok\n" if refs else f"unpack {text}\n", *refs]
    report = b"".join(_packet(line.encode()) for line in lines) + _FLUSH
    if push is not None and push.updates and not push.has_bands:
        return report
    parts = [report[start : start + _BAND_BYTES] for start in range(0, len(report), _BAND_BYTES)]
    return _packet(b"\x02" + text.encode() + b"\n") + b"".join(_packet(b"\x01" + part) for part in parts) + _FLUSH


def fetch_refusal(why: str) -> bytes:
    """Return the body of the answer to a refused fetch.

    Args:
        why: Why it is refused.
    """
    return _packet(f"ERR {_line(why)}\n".encode())


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:_WHY_CHARS]


def _packet(data: bytes) -> bytes:
    return b"%04x%b" % (len(data) + 4, data)
