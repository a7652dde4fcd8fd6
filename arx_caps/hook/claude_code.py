# SPDX-License-Identifier: Apache-2.0
"""Claude Code's hook PreToolUse: the tool and the arguments of a call, the hook's answer, and its settings.

A tool that has no row here is refused.  ``docs/coding-agents.md`` has the table.
"""

import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_verifier.errors import RequestError, shorten
from arx_verifier.names import is_tool
from arx_verifier.request import read_json_object

EVENT: Final = "PreToolUse"
BLOCKED: Final = 2  # the one exit code with which Claude Code does not run the tool
_TIMEOUT_S: Final = 60  # after which Claude Code runs the tool: far more than the hook's own limit

# They change nothing outside of the conversation: lists of things to do, questions to the person, output of what runs.
PUBLIC: Final = frozenset(
    (
        *("AskUserQuestion", "BashOutput", "EnterPlanMode", "ExitPlanMode", "KillBash", "KillShell", "ToolSearch"),
        *("TaskCreate", "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate", "TodoWrite", "StructuredOutput"),
    )
)
_FIRST_PATTERN: Final = re.compile(r"[*?\[{(!+@]")
_INNER_ROOT: Final = re.compile(r"[{,(|][/~]")


class HookCall(NamedTuple):
    """A call of a coding agent's tool.

    Attributes:
        name: The agent's name of the tool, for refusals.
        tool: The tool's name in tokens; empty if it needs no permission.
        args: The arguments.
    """

    name: str
    tool: str
    args: dict[str, Any]


def read_call(raw: bytes) -> HookCall:
    """Return the call that Claude Code asks about.

    Args:
        raw: What it writes to the hook's stdin.

    Raises:
        RequestError: It is no such question, or the tool or an argument has no single meaning.
    """
    event = read_json_object(raw)
    if event.get("hook_event_name") != EVENT:
        raise RequestError(f"hook_event_name: expected {EVENT}, got {shorten(event.get('hook_event_name'))}")
    name, given, folder = event.get("tool_name"), event.get("tool_input"), event.get("cwd")
    if not isinstance(name, str) or not isinstance(given, dict) or not isinstance(folder, str):
        raise RequestError("expected the texts tool_name and cwd, and the object tool_input")
    if name in PUBLIC:
        return HookCall(name, "", {})
    if name.startswith("mcp__"):
        return HookCall(name, _mcp_tool(name), given)
    if name not in _TOOLS:
        raise RequestError("this tool has no name in policies: docs/coding-agents.md lists those that have one")
    tool, arguments = _TOOLS[name]
    return HookCall(name, tool, arguments(given, folder))


def deny(text: str) -> str:
    """Return the hook's answer that refuses a call.

    Args:
        text: What the model reads.
    """
    said = {"hookEventName": EVENT, "permissionDecision": "deny", "permissionDecisionReason": text}
    return json.dumps({"hookSpecificOutput": said})


def settings(command: Sequence[str]) -> dict[str, Any]:
    """Return what a settings file needs to run the hook before each tool.

    Args:
        command: The hook's command.
    """
    # Without `|| exit 2`, a command that is missing or killed lets the call pass; `onFailure`, which Claude Code has
    # since 2.1.295 and older versions ignore, adds a hook that cannot start or takes too long.
    text = f"{shlex.join(command)} || exit {BLOCKED}"
    hook = {"type": "command", "command": text, "timeout": _TIMEOUT_S, "onFailure": "block"}
    return {"hooks": {EVENT: [{"matcher": "*", "hooks": [hook]}]}}


def _mcp_tool(name: str) -> str:
    server, _, tool = name.removeprefix("mcp__").partition("__")
    # `mcp__a__b__c` is the tool `c` of the server `a__b`, or `b__c` of `a`: a rule for one would be one for the other.
    if "__" in tool or not is_tool(found := f"mcp.{server}.{tool}"):
        raise RequestError("expected mcp__SERVER__TOOL without a further `__`, with at most 96 characters")
    return found


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise RequestError(f"{name}: expected a text")
    return value


def _real_path(folder: str, path: str) -> str:
    """Return the absolute path of a file, with every link followed: a rule is for the file, not for its name.

    Raises:
        RequestError: The agent may take the text for another path.
    """
    # Claude Code trims, expands `~`, and ends `..` and other forms by text alone before it opens the file.
    if path != path.strip() or path.startswith("~") or not path.isprintable() or ".." in Path(path).parts:
        raise RequestError("path: expected one without `~`, `..` and white space around it")
    if not unicodedata.is_normalized("NFC", path):
        raise RequestError("path: expected Unicode in the form NFC")
    return str((Path(folder) / path).resolve())


def _shell(given: Mapping[str, Any], folder: str) -> dict[str, Any]:  # noqa: ARG001 - the form of all of them
    # A rule that does not name `unsandboxed` refuses a command that wants to run without Claude Code's sandbox.
    bare = {"unsandboxed": True} if given.get("dangerouslyDisableSandbox") else {}
    return {"command": _text(given, "command"), **bare}


def _file(member: str) -> Callable[[Mapping[str, Any], str], dict[str, Any]]:
    return lambda given, folder: {"path": _real_path(folder, _text(given, member))}


def _folder(given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {"path": _real_path(folder, _text(given, "path") if given.get("path") else folder)}


def _pattern(given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the folder below which a pattern can match, which a pattern such as ``/etc/*`` sets itself."""
    pattern = _text(given, "pattern")
    if ".." in pattern or _INNER_ROOT.search(pattern):
        raise RequestError("pattern: expected one without `..`, and without a root inside of braces")
    begin = _FIRST_PATTERN.split(pattern, maxsplit=1)[0]
    fixed = begin if begin == pattern else begin.rpartition("/")[0] or "/" * begin.startswith("/")
    base = _folder(given, folder)["path"]
    return {"path": _real_path(base, fixed) if fixed else base}


def _agent(given: Mapping[str, Any], folder: str) -> dict[str, Any]:  # noqa: ARG001 - as above
    # A sub-agent's calls pass this hook as well, but for one that runs at another place, which the rule must name.
    elsewhere = {"isolation": given["isolation"]} if given.get("isolation") else {}
    return {"type": given.get("subagent_type") or "general-purpose", **elsewhere}


_TOOLS: Final[dict[str, tuple[str, Callable[[Mapping[str, Any], str], dict[str, Any]]]]] = {
    "Bash": ("shell.run", _shell),
    "Write": ("file.write", _file("file_path")),
    "Edit": ("file.write", _file("file_path")),
    "MultiEdit": ("file.write", _file("file_path")),
    "NotebookEdit": ("file.write", _file("notebook_path")),
    "Read": ("file.read", _file("file_path")),
    "LS": ("file.read", _folder),
    "Grep": ("file.read", _folder),
    "Glob": ("file.read", _pattern),
    "WebFetch": ("web.fetch", lambda given, _: {"url": _text(given, "url")}),
    "WebSearch": ("web.search", lambda given, _: {"query": _text(given, "query")}),
    "Agent": ("agent.start", _agent),
    "Task": ("agent.start", _agent),
}
