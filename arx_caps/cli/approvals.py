# SPDX-License-Identifier: Apache-2.0
"""Request an approval and wait for it with a session file, and show an approval to an operator.  CONTROL 2."""

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.sessions.session import Session
from arx_caps.agent.tasks.approval import WAITING, Approval
from arx_caps.cli.access.mint_session import Caller, Unreachable
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.display import show_until
from arx_caps.cli.exit_codes import INCOMPLETE, Stop
from arx_caps.cli.parse import Duration
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.cli.token_description import fingerprint
from arx_caps.settings.durations import parse_duration, show_time
from arx_caps.text.caveat_text import show_json
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError

# The agent chose the arguments and wrote the reason, and gains if an operator misreads them.  So arguments are JSON in
# ASCII, a run of spaces is escaped, a long line is cut here and marked where it continues, and the agent's own words
# come last: no part of them can pass for a line of ARx.
WIDTH: Final = 64  # columns of a line of the agent's text: with the 13 before it, it fits a terminal of 80
MOST_LINES: Final = 12  # of arguments in a list; `arx approval show` shows all
MOST_WORDS: Final = 1000  # characters of the agent's words that are shown
_ATTENUATE: Final = ("H", "N", "Na")  # every other character may take two columns
_BARE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def show_approval(about: Mapping[str, Any], now_ms: int, *, whole: bool = True) -> str:
    """Return one approval as text.

    Args:
        about: The approval as the mint returns it.
        now_ms: The time, ms since the Unix epoch.
        whole: Show all arguments; else the first lines, and how many more follow.
    """
    asked, ends, waits = about.get("asked_at"), about.get("expires_at"), about.get("state") == "waiting"
    since = f", asked {show_until(asked, now_ms)}" if isinstance(asked, int) else ""
    lines = [f"{plain(about.get('id'))}  {plain(about.get('state'))}{since}"]
    wanted = f"{plain(about.get('tool'))} at {plain(about.get('audience'))}"
    lines += _row("agent", plain(about.get("agent")))
    lines += _row("for", _subject(about.get("subject")))
    lines += _row("wants", wanted)
    # Sorted by name: an agent must not choose the order in which an operator reads its arguments.
    arguments = [line for name, value in sorted((about.get("args") or {}).items()) for line in _argument(name, value)]
    if not whole and len(arguments) > MOST_LINES:
        more = len(arguments) - MOST_LINES
        arguments = [*arguments[:MOST_LINES], f"and {more} more lines: `arx approval show {plain(about.get('id'))}`"]
    none = "without arguments" if about.get("state") in ("waiting", "approved") else "without arguments, or erased"
    lines += [f"             {line}" for line in arguments or [none]]
    for mark in about.get("marks") or ():
        by = f"{plain(mark['tool'])} at {plain(mark['service'])}"
        lines += _row("after", f"{plain(mark['mark'])}, set {show_until(mark['set_at'], now_ms)} by {by}")
    lines += _row("task", f"{plain(about.get('task'))}, {plain(about.get('template'))}; {plain(about.get('session'))}")
    lines += _row("answers", _answers(about))
    lines += _row("answer by", show_until(ends, now_ms) if isinstance(ends, int) and waits else None)
    lines += _row("good for", _good(about, now_ms))
    lines += _row("because", _words(about.get("answer_why")))
    lines += _row("why", _words(about.get("why")), "the agent gives no reason")
    return "\n".join(lines)


def _argument(name: str, value: Any) -> list[str]:
    return _cut(f"{name if _BARE.fullmatch(name) else _spaced(show_json(name))} = {_spaced(show_json(value))}")


def _row(title: str, text: str | None, otherwise: str | None = None) -> list[str]:
    if text is None:
        return [] if otherwise is None else [f"  {title:<9}  {otherwise}"]
    first, *others = _cut(text)
    return [f"  {title:<9}  {first}", *[f"             {line}" for line in others]]


def _cut(text: str) -> list[str]:
    """Cut a text into lines that fit a terminal of 80 columns; each but the first is marked."""
    lines, line, room = [], "", WIDTH
    for char in text:
        takes = 1 if unicodedata.east_asian_width(char) in _ATTENUATE else 2
        if takes > room:
            lines.append(line)
            line, room = "… ", WIDTH - 2
        line, room = line + char, room - takes
    return [*lines, line]


def _spaced(text: str) -> str:
    """Escape all spaces of a run but the first: a long run could push text to where a line of ARx is."""
    return re.sub(r"(?<= ) ", r"\\u0020", text)


def _words(text: Any) -> str | None:
    if not text:
        return None
    # In quotation marks, and with escapes: these words are the agent's, and untrusted.
    shown = _spaced(plain(str(text)[:MOST_WORDS]))
    more = len(str(text)) - MOST_WORDS
    return f'"{shown}"' + (f" and {more} more characters" if more > 0 else "")


def _subject(subject: Any) -> str | None:
    if isinstance(subject, Mapping):
        return _spaced(plain(f"{subject.get('subject')} of {subject.get('issuer')}"))
    if isinstance(subject, list | tuple) and len(subject) == 2:
        return _spaced(plain(f"{subject[1]} of {subject[0]}"))
    return None if subject is None else _spaced(plain(subject))


def _answers(about: Mapping[str, Any]) -> str:
    by, need = about.get("by") or [], about.get("need")
    answers = f"{len(by)} of {need} approved" + (f": {plain(', '.join(by))}" if by else "")
    if about.get("state") == "waiting" and need is not None and len(by) >= need:
        answers += "; not all of these may approve now"
    denied = about.get("denied_by")
    return answers if denied is None else f"{answers}; {plain(denied)} denied"


def _good(about: Mapping[str, Any], now_ms: int) -> str:
    ends = about.get("expires_at")
    calls = "one call" if about.get("once") else "any number of calls"
    if about.get("state") == "waiting":
        return f"{calls}, within {plain(about['ttl'])} of the last answer" if about.get("ttl") else calls
    if not isinstance(ends, int):
        return calls
    return f"{calls}, until {show_until(ends, now_ms)}" if about.get("state") == "approved" else f"{calls} no more"


def _place(_context: click.Context, _option: click.Parameter, out: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before the request: operators answer a request once."""
    if out is not None and not os.access(out.absolute().parent, os.W_OK):
        raise click.BadParameter(f"{out}: its folder does not exist, or cannot be written to")
    return out


timeout_option = click.option("--timeout", type=Duration(), help="longest time to wait [until the task ends]")
discharge_option = click.option(
    "--discharge",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_place,
    help="file for the discharge, a secret that is sent with the call (mode 0600)",
)


class CommandSession(Session):
    """The session of a session file, as ``StartedTask`` and ``Approval`` need it; refusals become exit codes.

    Args:
        caller: The agent of the session file.
        session: The session, as the file has it.

    Attributes:
        fetched: The last fetched approval, as the mint returns it.
    """

    def __init__(self, caller: Caller, session: Mapping[str, Any]) -> None:
        super().__init__(caller.mint, caller.key, {"session": session, "token": caller.token}, now=now_ms)
        self._caller = caller
        self.fetched: Mapping[str, Any] = {}

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Return an approval and its discharge.

        Raises:
            StoreError: The mint did not answer; the caller waits on.
        """
        try:
            answer = super().fetch_discharge(approval)
        except Unreachable as error:
            raise StoreError(str(error)) from error
        self.fetched = dict(answer["approval"])
        return answer

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._caller.call(method, path, body)


def receive(console: Console, asked: Approval, mint: CommandSession, timeout: str | None, out: Path | None) -> None:
    """Wait for the operators' answers, report each, and write the discharge to a file if one is named.

    Args:
        console: The output.
        asked: The approval.
        mint: The session that requested it.
        timeout: The longest time to wait, as text; None until the task ends.
        out: The file for the discharge, or None.

    Raises:
        Stop: The approval was denied or has ended, or was not answered in time.
    """
    # Messages go to stderr, so that stdout has the result alone.
    if asked.state == WAITING:
        console.say(f"waiting for operators, who approve with `arx approval approve {asked.id}`")
    try:
        asked.wait(
            None if timeout is None else parse_duration(timeout) / 1000,
            lambda each: console.say(f"{len(each.by)} of {each.need} approved"),
        )
    except TimeoutError as error:
        hint = (
            f"run `arx approval wait {asked.id} --session FILE --discharge FILE`; a new request would be a second one"
        )
        raise Stop(str(error), INCOMPLETE, hint=hint, code="waiting") from error
    text = asked.encode()
    # The discharge is a secret: it goes to a file of mode 0600, and its fingerprint to stdout.
    if out is not None:
        write_private(out, text + "\n")
    ends = None if asked.expires_at is None else show_time(asked.expires_at)
    rows = [("approval", asked.id), ("state", asked.state), ("by", ", ".join(asked.by)), ("until", ends)]
    rows += [("fingerprint", fingerprint(text)), ("discharge", None if out is None else str(out))]
    value = {"approval": mint.fetched, "fingerprint": fingerprint(text), "out": None if out is None else str(out)}
    console.data("approval", value, lambda: pairs(rows))
    if out is None:
        console.hint(
            f"`arx approval wait {asked.id} --session FILE --discharge FILE` writes the discharge for the call"
        )
