# SPDX-License-Identifier: Apache-2.0
"""``arx webhook``: receivers of notifications, and what they have not taken.  CONTROL 7."""

import sys
from pathlib import Path
from typing import Any

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.access.secure_files import write_object
from arx_caps.cli.display import Cell, Row, age_of, table_of, time_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, yes_option
from arx_caps.cli.resources import NOTIFICATIONS, WEBHOOKS, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_caps.settings.durations import parse_duration, show_span, show_time
from arx_verifier.clock import now_ms


@click.group("webhook", cls=Verbs)
def webhook_command() -> None:
    """Send notifications to receivers: approvals, kills, new operators, a halted log, late verifiers."""


@webhook_command.command("add")
@click.argument("url")
@click.option(
    "--format",
    "form",
    type=click.Choice(("json", "slack", "get")),
    default="json",
    show_default=True,
    help="form of the bodies; slack for an incoming webhook of Slack, get for a heartbeat without a body",
)
@click.option("--event", "events", multiple=True, help="kind of event to send, may be repeated [all]")
@click.option(
    "--heartbeat", metavar="DURATION", help="send a heartbeat at this interval and no events, such as 1m [no heartbeat]"
)
@click.option("--out", type=click.Path(path_type=Path), help="new file for the signing secret (mode 0600)")
@operator_options
def add(
    console: Console,
    url: str,
    form: str,
    events: tuple[str, ...],
    heartbeat: str | None,
    out: Path | None,
    place: Place,
) -> None:
    """Add the receiver at URL; `-` reads it from stdin, for a URL that is a secret, as Slack's are.

    \b
        arx webhook add https://alerts.acme.example/arx --out alerts.json
        arx webhook add - --format slack < slack.url
        arx webhook add - --heartbeat 1m --format get < ping.url
    """
    # Slack and services for heartbeats do not look at signatures: there, the URL is the secret.
    if out is None and form == "json":
        raise click.UsageError("expected --out FILE, for the secret with which the receiver checks signatures")
    if out is not None and out.exists():
        raise Stop(f"{out} exists; it is not overwritten", code="file")
    body = {"url": sys.stdin.readline().strip() if url == "-" else url, "format": form, "events": events or None}
    body |= {"heartbeat_ms": None if heartbeat is None else _interval(heartbeat)}
    answer = place.mint().call("POST", WEBHOOKS.path, body, repeats=False)
    webhook = answer["webhook"]
    if out is not None:
        # The secret goes to the file alone, never to stdout.
        write_object(out, {"webhook": webhook["id"], "secret": answer["secret"]})
    value = {"webhook": webhook, "file": None if out is None else str(out)}
    console.data("webhook", value, lambda: pairs([*_facts_of(webhook), ("file", out)]))
    console.hint(f"run `arx webhook test {webhook['id']}`")


@webhook_command.command("list")
@operator_options
def list_webhooks(console: Console, place: Place) -> None:
    """List the receivers, with what waits for each and what has failed."""
    answer = place.mint().call("GET", WEBHOOKS.path)
    columns = "WEBHOOK: id, ORIGIN, FORMAT, EVENTS, STATE, WAITING, FAILED, LAST TAKEN, LAST ERROR"
    cells: dict[str, Cell] = {
        "EVENTS": lambda webhook: _events_of(webhook, len(answer["kinds"])),
        "LAST TAKEN": age_of("delivered_at"),
        "LAST ERROR": lambda webhook: webhook["error"] or "",
    }
    console.data("webhooks", answer, lambda: table_of(answer["webhooks"], columns, cells))
    if not answer["webhooks"]:
        console.say("the realm has no webhook: `arx webhook add` adds one")


@webhook_command.command("test")
@click.argument("webhook")
@click.option("--event", help="kind of event that the test has as its type, such as policy.loaded [webhook.test]")
@operator_options
def test(console: Console, webhook: str, event: str | None, place: Place) -> None:
    """Send a test to the receiver WEBHOOK, and print what it answered; exit with 1 if it did not take it."""
    path = f"{WEBHOOKS.path_of(webhook)}/test"
    answer = place.mint().call("POST", path, query={"event": event}, repeats=False)
    text = f"taken: answered {answer['status']}" if answer["taken"] else f"not taken: {answer['error']}"
    console.data("webhook-test", {"webhook": webhook, **answer}, text)
    click.get_current_context().exit(exit_codes.OK if answer["taken"] else exit_codes.DENIED)


@webhook_command.command("remove")
@click.argument("webhook")
@yes_option
@operator_options
def remove(console: Console, webhook: str, place: Place, yes: bool) -> None:
    """Remove the receiver WEBHOOK, and what waits for it."""
    console.confirm(f"remove the webhook {WEBHOOKS.check(webhook)}?", yes=yes)
    found = place.mint().call("DELETE", WEBHOOKS.path_of(webhook))
    console.data("webhook", {"webhook": found}, lambda: pairs(_facts_of(found)))


@webhook_command.command("failed")
@click.option(
    "--state",
    type=click.Choice(("failed", "waiting")),
    default="failed",
    show_default=True,
    help="waiting: list those that wait for another attempt",
)
@click.option("--webhook", help="list those of one receiver")
@list_of(
    NOTIFICATIONS,
    "NOTIFICATION: id, WEBHOOK, EVENT: kind, TIME, ATTEMPTS: tries, NEXT, LAST ERROR",
    {
        "TIME": time_of("at"),
        "NEXT": lambda row: _until(row["next_at"]),
        "LAST ERROR": lambda row: row["error"] or "",
    },
)
def failed(listed: Listed) -> None:
    """List the notifications that were given up after about 24 hours; `arx webhook resend` sends them again."""
    if not listed.rows:
        listed.console.say(f"no notification {'waits' if listed.query['state'] == 'waiting' else 'has failed'}")


@webhook_command.command("resend")
@click.argument("notifications", nargs=-1)
@click.option("--all", "every", is_flag=True, help="send again all that have failed")
@operator_options
def resend(console: Console, notifications: tuple[str, ...], every: bool, place: Place) -> None:
    """Send NOTIFICATIONS again, with the same ids and all attempts anew."""
    if bool(notifications) == every:
        raise click.UsageError("expected ids of notifications, or --all")
    names = [NOTIFICATIONS.check(name) for name in notifications]
    mint = place.mint()
    if every:
        names = [row["id"] for row in NOTIFICATIONS.rows(mint, {"state": "failed"})[0]]
    sent = [mint.call("POST", f"{NOTIFICATIONS.path_of(name)}/resend") for name in names]
    console.data("notifications", {"notifications": sent}, f"{len(sent)} will be sent again")


def _facts_of(webhook: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("id", webhook["id"]),
        ("origin", webhook["origin"]),
        ("format", webhook["format"]),
        ("events", ", ".join(webhook["events"])),
        ("state", webhook["state"]),
        ("added", f"{show_time(webhook['created_at'])} by {webhook['by']}"),
    ]


def _events_of(webhook: Row, every: int) -> str:
    if webhook["heartbeat_ms"] is not None:
        return f"heartbeat every {show_span(webhook['heartbeat_ms'])}"
    return "all" if len(webhook["events"]) == every else ", ".join(webhook["events"])


def _interval(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}", param_hint="--heartbeat") from error


def _until(at_ms: int | None) -> str:
    return "" if at_ms is None else f"in {show_span(max(0, at_ms - now_ms()))}"
