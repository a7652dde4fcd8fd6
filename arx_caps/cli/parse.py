# SPDX-License-Identifier: Apache-2.0
"""Parse what people type: durations, times, ``name=value``, verifier keys."""

import datetime as dt
import re
from collections.abc import Iterable
from typing import Any, Final

import click

from arx_caps.cli.exit_codes import Stop
from arx_caps.durations import parse_duration
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object

STATES: Final = ("open", "ended", "expired", "killed", "frozen")  # of a session or a task
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,15})")
_WORDS: Final = {"true": True, "false": False}


class Duration(click.ParamType[str]):
    """A length of time such as ``10m``, kept as text for the mint."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check it."""
        try:
            ms = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if ms == 0:
            self.fail("a duration of nothing", param, ctx)
        return value


class Moment(click.ParamType[int]):
    """A time: ms since the Unix epoch, or ``2026-01-31T12:00:00Z``; the value is in ms."""

    name = "time"
    forms = "ms since 1970 or a time with its zone, 2026-01-31T12:00:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        if isinstance(value, int):
            return value
        if str(value).isascii() and str(value).isdigit() and len(str(value)) <= 15:
            return int(value)
        try:
            read = dt.datetime.fromisoformat(str(value))
        except ValueError:
            read = None
        if read is None or read.tzinfo is None:
            self.fail(f"{str(value)[:60]!r} is not {self.forms}", param, ctx)
        return int(read.timestamp() * 1000)


def read_pairs(texts: Iterable[str], *, constraints: bool = False) -> dict[str, Any]:
    """Read ``name=value`` and ``name:=JSON``.

    Args:
        texts: As typed.
        constraints: Whether a value that begins with ``{``, ``[`` or ``"`` is JSON without a colon as well.

    Returns:
        Values by name.  A plain value is an integer or a boolean if it looks like one, else text.

    Raises:
        click.BadParameter: No name, no ``=``, a name twice, or bad JSON.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        is_json = name.endswith(":") or (constraints and value[:1] in ("{", "[", '"'))
        name = name.removesuffix(":")
        if not equals or not name:
            raise click.BadParameter(f"{text[:60]!r} is not name=value")
        if name in values:
            raise click.BadParameter(f"{name[:60]!r} is given twice")
        values[name] = _json(name, value) if is_json else _scalar(value)
    return values


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _json(name: str, text: str) -> Any:
    try:
        # The strict reader takes objects; wrapped, it holds any value to the same rules.
        return read_json_object(b'{"value":' + text.encode("utf-8", "surrogateescape") + b"}")["value"]
    except RequestError as error:
        raise click.BadParameter(f"the value of {name[:60]!r} cannot be read: {error}") from error


def read_key(text: str, option: str, kind: int) -> Any:
    """Read a verifier key as it was typed, or from the file that was named.

    Args:
        text: The key, or the file.
        option: Where it was given.
        kind: ``note.LOG`` or ``note.WITNESS``.

    Raises:
        Stop: It is neither, or a key of the other kind.
    """
    from arx_caps.audit.merkle import NoteError, VerifierKey
    from arx_caps.cli.secure_files import read_text

    try:
        key = VerifierKey.parse(text if "+" in text else read_text(text))
    except NoteError as error:
        raise Stop(f"{option}: {error}", code="key") from None
    if key.kind != kind:
        raise Stop(f"{option}: a log's key and a witness's are of two kinds, and this is the other one", code="key")
    return key
