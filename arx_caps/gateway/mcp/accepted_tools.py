# SPDX-License-Identifier: Apache-2.0
"""The tools of an MCP server as a person knows them: a tool that the server describes otherwise is held.

A tool is accepted as it is listed first.  One that is listed with another description or schema later is in no list
and is not called, until a person accepts the difference (``arx gateway tools``).  They are kept in a file beside the
service file.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from arx_caps.credentials.keyfile import replace_secret
from arx_verifier.clock import now_ms
from arx_verifier.errors import Failure, SettingsError
from arx_verifier.request import AccessRequest
from arx_verifier.service import identify_file
from arx_verifier.verification.reasons import Refused
from arx_verifier.verification.service_limits import ServiceLimits

MAX_TOOLS: Final = 2_048  # of one server: each name that it lists is kept
_QUIET_MS: Final = 60_000  # between two writes of one tool's difference: a server may list another one each time

_log = logging.getLogger(__name__)


class KnownTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool in the file.

    Attributes:
        accepted: Its definition as a person knows it, as the server listed it.
        at: When it was accepted, ms since the Unix epoch.
        listed: The definition that differs, if the tool is held.
        listed_at: When it was listed, ms since the Unix epoch.
    """

    accepted: dict[str, Any]
    at: int
    listed: dict[str, Any] | None = None
    listed_at: int = 0


class ToolFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file: the tools of a server by name."""

    tools: dict[str, KnownTool] = {}
    v: int = 1


def read_tools(path: Path) -> ToolFile:
    """Return the content of a file; an empty one if there is none.

    Args:
        path: The file.

    Raises:
        SettingsError: It cannot be read, or is no such file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ToolFile)
    except FileNotFoundError:
        return ToolFile()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: expected the accepted tools of a server, got {error}") from error


def accept(path: Path, names: Iterable[str], digests: Mapping[str, str]) -> list[str]:
    """Accept the listed definitions of held tools; return their names.

    Args:
        path: The file.
        names: The tools; all that are held if it is empty.
        digests: By tool the ``digest_of`` the definition that a person has seen; another one is not accepted.

    Raises:
        SettingsError: A tool is not held, was listed otherwise meanwhile, or the file cannot be written.
    """
    with _locked(path):
        file = read_tools(path)
        held = {name for name, tool in file.tools.items() if tool.listed is not None}
        wanted = [*dict.fromkeys(names)] or sorted(held)
        for name in wanted:
            tool = file.tools.get(name)
            if tool is None or tool.listed is None:
                known = ", ".join(sorted(held)) or "none"
                raise SettingsError(f"{name[:96]!r}: expected a tool that is held ({known})")
            if name in digests and digest_of(tool.listed) != digests[name]:
                raise SettingsError(f"{name[:96]!r} was listed otherwise meanwhile: look at the difference again")
            file.tools[name] = KnownTool(tool.listed, now_ms())
        replace_secret(path, msgspec.json.encode(file))
    return wanted


def digest_of(definition: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a tool's definition, in hex; the order of its members does not count."""
    return sha256(json.dumps(definition, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class AcceptedTools(ServiceLimits):
    """Holds the tools of one server whose definition no person has accepted.

    Args:
        audience: The audience, which each tool's name in a decision begins with.
        path: The file.

    Raises:
        SettingsError: The file is no such file.
    """

    __slots__ = ("_digests", "_held", "_lock", "_path", "_prefix", "_seen", "_tools")

    _digests: dict[str, str]  # of the accepted definitions, by tool
    _held: set[str]
    _seen: tuple[int, ...] | None  # which file was read last
    _tools: ToolFile

    def __init__(self, audience: str, path: Path) -> None:
        self.digest, self._prefix, self._path = "", f"{audience}.", path
        self._lock = threading.Lock()  # long lists are read in a thread
        self._read()

    def see(self, listed: Iterable[Any]) -> None:
        """Compare the tools that a server lists; hold those that differ.

        Args:
            listed: The items of the list.
        """
        items = [item for item in listed if isinstance(item, dict) and isinstance(item.get("name"), str)]
        found = [(item, digest_of(item)) for item in items]
        with self._lock:
            before: dict[str, str] = {}
            try:
                self._read_again()
                before = dict(self._digests)
                if any(before.get(item["name"]) != digest for item, digest in found):
                    self._keep(found)
            except (SettingsError, OSError) as error:
                # What is not kept could be accepted as something else after a restart.
                self._digests = before
                self._held |= {item["name"] for item, digest in found if before.get(item["name"]) != digest}
                _log.error("tools of %s are held: %s", self._prefix[:-1], error)

    def judge_circumstances(self, request: AccessRequest, early: int, late: int) -> Refused | None:  # noqa: ARG002
        """Refuse nothing."""
        return None

    def judge_tool(self, request: AccessRequest, written: bytes | None, is_unseen: bool) -> Refused | None:  # noqa: ARG002
        """Refuse a call of a tool that is held; see ``ServiceLimits``."""
        if not self._is_held(request.tool):
            return None
        came = "another one since: an operator has to look at it (arx gateway tools)"
        return Refused("over_service_limit", (Failure("service", "definition of the tool", "the accepted one", came),))

    def judge_approval(self, tool: str, proven: Any) -> Refused | None:  # noqa: ARG002 - see ServiceLimits
        """Refuse nothing."""
        return None

    def could_allow(self, tool: str, known: Mapping[str, Any]) -> bool:  # noqa: ARG002 - see ServiceLimits
        """Return whether a tool is not held."""
        return not self._is_held(tool)

    def _is_held(self, tool: str) -> bool:
        name = tool.removeprefix(self._prefix)
        if name not in self._held:
            return False
        with self._lock, contextlib.suppress(SettingsError):  # a file that cannot be read frees no tool
            self._read_again()
        return name in self._held

    def _keep(self, found: list[tuple[dict[str, Any], str]]) -> None:
        """Write what is new: a tool that is listed first is accepted, one that differs is held."""
        with _locked(self._path):
            self._read()
            now, file, changed = now_ms(), self._tools, False
            for item, digest in found:
                name = item["name"]
                known = file.tools.get(name)
                if known is None:
                    if len(file.tools) >= MAX_TOOLS:
                        raise SettingsError(f"expected at most {MAX_TOOLS} tools of one server")
                    file.tools[name], changed = KnownTool(item, now), True
                    self._digests[name] = digest
                elif digest != self._digests[name]:
                    if known.listed is None:
                        _log.warning(
                            "upstream of %s: %s is held: the server lists it with another definition; "
                            "`arx gateway tools` shows the difference",
                            self._prefix[:-1],
                            ascii(name)[:96],
                        )
                    self._held.add(name)
                    if known.listed != item and now - known.listed_at >= _QUIET_MS:
                        known.listed, known.listed_at, changed = item, now, True
            if changed:
                replace_secret(self._path, msgspec.json.encode(file))
                self._seen = identify_file(self._path)

    def _read_again(self) -> None:
        if identify_file(self._path) != self._seen:
            self._read()

    def _read(self) -> None:
        self._seen = identify_file(self._path)
        self._tools = read_tools(self._path)
        self._digests = {name: digest_of(tool.accepted) for name, tool in self._tools.tools.items()}
        self._held = {name for name, tool in self._tools.tools.items() if tool.listed is not None}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file: the gateway and a person may write it at once."""
    import fcntl  # imported on use: Windows has none, and no gateway

    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
