# SPDX-License-Identifier: Apache-2.0
"""What a command does at the mint for the session of a session file: its tasks, and its approvals."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from arx_caps.agent.approval import WAITING, Approval
from arx_caps.agent.bundle import Bundle
from arx_caps.cli.exit_codes import INCOMPLETE, Stop
from arx_caps.cli.mint_session import Caller, Unreachable
from arx_caps.cli.parse import Duration
from arx_caps.cli.secure_files import write_private
from arx_caps.cli.terminal import Console, pairs
from arx_caps.cli.token_description import fingerprint
from arx_caps.durations import parse_duration, show_time
from arx_verifier.errors import StoreError


def _place(_context: click.Context, _option: click.Parameter, out: Path | None) -> Path | None:
    """Refuse a file that could not be written before anybody is asked: operators answer a call once."""
    if out is not None and not os.access(out.absolute().parent, os.W_OK):
        raise click.BadParameter(f"{out}: its folder is not there, or cannot be written to")
    return out


timeout_option = click.option("--timeout", type=Duration(), help="wait no longer than this; else until the task ends")
discharge_option = click.option(
    "--discharge",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_place,
    help="write what is sent with the call, a secret, to this file (mode 0600)",
)


class AtMint:
    """The session of a session file, as far as a task or an approval needs it."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.approval: Mapping[str, Any] = {}
        """The approval that was asked about last, as the mint tells it."""

    def used(self) -> None:
        """Nothing is renewed by a command."""

    def finish_task(self, task: str) -> dict[str, Any]:
        """Finish it."""
        return self._caller.call("DELETE", f"/v1/tasks/{task}")

    def attenuate_task(self, task: str, link: str, caveats: Mapping[str, list[dict[str, Any]]]) -> Bundle:
        """Attenuate it."""
        body = {"link": link, "caveats": caveats}
        return Bundle.parse(str(self._caller.call("POST", f"/v1/tasks/{task}/attenuate", body)["bundle"]))

    def extend_task(self, task: str, body: Mapping[str, Any]) -> Bundle:
        """Extend it."""
        return Bundle.parse(str(self._caller.call("POST", f"/v1/tasks/{task}/extend", body)["bundle"]))

    def ask_approval(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for an approval."""
        return dict(self._caller.call("POST", "/v1/discharges", body)["approval"])

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Ask how an approval stands; a mint that is away is told as the library tells it, so that the wait goes on."""
        try:
            answer = self._caller.call("POST", f"/v1/discharges/{approval}")
        except Unreachable as error:
            raise StoreError(str(error)) from error
        self.approval = dict(answer["approval"])
        return answer


def receive(console: Console, asked: Approval, mint: AtMint, timeout: str | None, out: Path | None) -> None:
    """Wait for an answer, say how it comes along, and write the discharge where somebody wants it.

    Raises:
        Stop: It was denied or is over, or nobody has answered in time.
    """
    if asked.state == WAITING:
        console.say(f"waiting for operators: `arx approval approve {asked.id}` is how they say yes")
    try:
        asked.wait(
            None if timeout is None else parse_duration(timeout) / 1000,
            lambda each: console.say(f"{len(each.by)} of {each.need} have said yes"),
        )
    except TimeoutError as error:
        hint = f"arx approval wait {asked.id} --session FILE --discharge FILE goes on; asking again would ask twice"
        raise Stop(str(error), INCOMPLETE, hint=hint, code="waiting") from error
    text = asked.encode()
    if out is not None:
        write_private(out, text + "\n")
    ends = None if asked.expires_at is None else show_time(asked.expires_at)
    rows = [("approval", asked.id), ("state", asked.state), ("by", ", ".join(asked.by)), ("until", ends)]
    rows += [("fingerprint", fingerprint(text)), ("discharge", None if out is None else str(out))]
    told = {"approval": mint.approval, "fingerprint": fingerprint(text), "out": None if out is None else str(out)}
    console.data("approval", told, lambda: pairs(rows))
    if out is None:
        console.hint(f"arx approval wait {asked.id} --session FILE --discharge FILE writes what is sent with the call")
