# SPDX-License-Identifier: Apache-2.0
"""Parse arguments: durations, times, ``name=value``, verifier keys; and the options that have them."""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import options_of
from arx_caps.settings.durations import parse_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_AGO_MS: Final = 36_525 * 86_400_000  # a century: records are kept for years
STATES: Final = ("open", "ended", "expired", "killed", "frozen")  # of a session or a task
# At most 16 digits: longer integers are not exact in JSON.  No leading zeros: those are ids, and stay text.
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,15})")
_WORDS: Final = {"true": True, "false": False}


class Duration(click.ParamType[str]):
    """A duration such as ``10m``; the value is the text, as the mint takes it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text, checked."""
        try:
            ms = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if ms == 0:
            self.fail(f"expected more than 0 ms, got {value}", param, ctx)
        return value


class Moment(click.ParamType[int]):
    """A time: ms since the Unix epoch, or ``2026-01-31T12:00:00Z``; the value is ms since the Unix epoch."""

    name = "time"
    forms = "a time with its zone such as 2026-01-31T12:00:00Z, or ms since 1970"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the time, ms since the Unix epoch."""
        if isinstance(value, int):
            return value
        if str(value).isascii() and str(value).isdigit() and len(str(value)) <= 15:
            return int(value)
        try:
            read = dt.datetime.fromisoformat(str(value))
        except ValueError:
            read = None
        # A time without a zone would mean another moment on each machine.
        if read is None or read.tzinfo is None:
            self.fail(f"expected {self.forms}, got {str(value)[:60]!r}", param, ctx)
        return int(read.timestamp() * 1000)


class Since(Moment):
    """A time, or an age such as ``2h``; the value is ms since the Unix epoch."""

    name = "time"
    forms = "an age such as 2h, a time with its zone such as 2026-01-31T12:00:00Z, or ms since 1970"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the time, ms since the Unix epoch."""
        try:
            return now_ms() - parse_duration(value, LONGEST_AGO_MS)
        except ValueError:
            return super().convert(value, param, ctx)


def pairs_option(flag: str, name: str, text: str) -> Callable[[F], F]:
    """Return an option whose values ``read_pairs`` reads.

    Args:
        flag: The option's flag.
        name: The parameter of the function.
        text: The help, before the form of the value.
    """
    help_text = f"{text}; NAME:=JSON for any value; repeatable"
    return click.option(flag, name, multiple=True, metavar="NAME=VALUE", help=help_text)


# What attenuates a token; ``read_attenuation`` reads it.
attenuation_options: Final = options_of(
    click.option("--tool", "tools", multiple=True, help="tool to keep; repeatable [all tools]"),
    click.option(
        "--arg",
        "arguments",
        multiple=True,
        metavar="NAME=JSON",
        help="constraint of an argument, in every tool that has it; repeatable",
    ),
    click.option(
        "--audience", "audiences", multiple=True, help="service whose token to keep; repeatable [all services]"
    ),
    click.option("--ttl", type=Duration(), help="lifetime from now, such as 5m [unchanged]"),
    click.option("--depth", type=click.IntRange(0, 16), help="number of delegations that may follow [unchanged]"),
)


def read_attenuation(less: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of ``attenuation_options`` as ``caveats_for`` takes them; raise as ``read_pairs`` does."""
    args = read_pairs(less["arguments"], constraints=True)
    given = {"tools": less["tools"], "args": args, "audiences": less["audiences"]}
    return {name: value or None for name, value in given.items()} | {"ttl": less["ttl"], "depth": less["depth"]}


def read_pairs(texts: Iterable[str], *, constraints: bool = False) -> dict[str, Any]:
    """Parse ``name=value`` and ``name:=JSON``.

    Args:
        texts: The arguments.
        constraints: Whether a value that begins with ``{``, ``[`` or ``"`` is JSON without the colon as well.

    Returns:
        Values by name.  A plain value is an integer or a boolean if it looks like one, else text.

    Raises:
        click.BadParameter: A name or ``=`` is missing, a name is repeated, or the JSON is invalid.
    """
    # A plain value becomes a number or a boolean if it looks like one: a policy compares types, so `amount=50` must
    # not be text.  `amount:="50"` gives text.
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        is_json = name.endswith(":") or (constraints and value[:1] in ("{", "[", '"'))
        name = name.removesuffix(":")
        if not equals or not name:
            raise click.BadParameter(f"expected NAME=VALUE or NAME:=JSON, got {text[:60]!r}")
        if name in values:
            raise click.BadParameter(f"{name[:60]!r} is given twice")
        values[name] = _json(name, value) if is_json else _scalar(value)
    return values


def read_texts(texts: Iterable[str], option: str, form: str, is_name: Callable[[str], bool] = bool) -> dict[str, str]:
    """Parse ``name=text`` of a repeatable option.

    Args:
        texts: The arguments.
        option: The option.
        form: What is expected, for errors, such as ``UNIT=AMOUNT``.
        is_name: Returns whether a text can be a name.

    Returns:
        Texts by name, as they were written.

    Raises:
        click.BadParameter: A name or a text is missing, or a name is repeated.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not is_name(name) or not value:
            raise click.BadParameter(f"expected {form}, got {text[:60]!r}", param_hint=option)
        if name in named:
            raise click.BadParameter(f"{name[:60]!r} is given twice", param_hint=option)
        named[name] = value
    return named


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _json(name: str, text: str) -> Any:
    try:
        # Wrapped, because the strict parser, which refuses repeated names and large integers, takes objects alone.
        return read_json_object(b'{"value":' + text.encode("utf-8", "surrogateescape") + b"}")["value"]
    except RequestError as error:
        raise click.BadParameter(f"invalid value of {name[:60]!r}: {error}") from error


def read_key(text: str, option: str, kind: int) -> Any:
    """Parse a public key of a log or a witness.

    Args:
        text: The key, or the path of a file that has it.
        option: The option that it is the value of.
        kind: ``note.LOG`` or ``note.WITNESS``.

    Returns:
        The ``VerifierKey``.

    Raises:
        Stop: The text is no key, or a key of the other kind.
    """
    from arx_caps.audit.merkle.errors import NoteError
    from arx_caps.audit.merkle.note import LOG, VerifierKey
    from arx_caps.cli.access.secure_files import read_text

    try:
        key = VerifierKey.parse(text if "+" in text else read_text(text))
    except NoteError as error:
        raise Stop(f"{option}: {error}", code="key") from None
    if key.kind != kind:
        wanted, got = ("log", "witness") if kind == LOG else ("witness", "log")
        raise Stop(f"{option}: expected the key of a {wanted}, got that of a {got}", code="key")
    return key
