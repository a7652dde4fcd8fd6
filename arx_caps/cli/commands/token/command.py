# SPDX-License-Identifier: Apache-2.0
"""``arx token``: inspect, delegate and explain tokens, offline."""

import time
from pathlib import Path
from typing import Any

import click

from arx_caps.agent.tasks.attenuation import caveats_for, delegate_tokens, pools_for
from arx_caps.agent.tasks.outline import outline, unverified_chain
from arx_caps.cli.access.credentials import Holding, holder_key_option, read_holder_key
from arx_caps.cli.access.secure_files import write_private
from arx_caps.cli.commands.token.explanation import explain_command
from arx_caps.cli.display import show_until
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.options import Verbs, command_options, out_option
from arx_caps.cli.parse import attenuation_options, read_attenuation, read_texts
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.cli.token_description import describe_discharge, describe_token, fingerprint
from arx_caps.settings.durations import show_time
from arx_caps.text.caveat_text import show_json
from arx_verifier.names import is_agent_path


@click.group("token", cls=Verbs)
def token_command() -> None:
    """Inspect, delegate and explain tokens and bundles, without the mint.

    A token is read from a file, or from stdin with `-`; it is never part of the command line.
    """


token_command.add_command(explain_command)


@token_command.command("inspect")
@click.argument("file", type=str)
@command_options
def inspect(console: Console, file: str) -> None:
    """Show the content of a token, a bundle or an approval, without verifying it."""
    holding = Holding.read(file, approvals=True)
    now_ms = time.time_ns() // 1_000_000
    tokens = [describe_token(macaroon) for _, macaroon in sorted(holding.tokens.items())]
    discharges = [describe_discharge(macaroon) for macaroon in holding.discharges]
    value = {"verified": False, "kind": holding.kind, **holding.about(), "tokens": tokens, "discharges": discharges}
    shown = [_head(holding), *(_show(token, now_ms) for token in tokens), *map(_show_discharge, discharges)]
    console.data("token", value, "\n\n".join(shown))


@token_command.command("delegate")
@click.argument("to")
@click.option("--in", "file", required=True, help="token or bundle, `-` for stdin")
@click.option("--key", metavar="PUBLIC", help="public key of TO, for a bound task; `arx key create-holder` prints it")
@holder_key_option
@attenuation_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="UNIT=AMOUNT",
    help="most that TO may spend, such as usd=1.50; repeatable",
)
@click.option(
    "--per", type=click.Choice(("task", "hour", "day")), default="task", show_default=True, help="period of --budget"
)
@out_option
@command_options
def delegate(
    console: Console,
    /,
    to: str,
    file: str,
    key: str | None,
    holder_key: Path | None,
    budgets: tuple[str, ...],
    per: str,
    out: Path | None,
    **less: Any,
) -> None:
    """Delegate an attenuated token or bundle to the agent TO.

    The JSON of --arg is a constraint, or the text, integer or boolean that the argument must equal.
    What TO spends is taken from the budgets of the task as well.

    \b
        arx token delegate acme/support/worker --in task.bundle --tool orders.get --ttl 5m --out worker.bundle
        arx token delegate acme/support/worker --in task.bundle --arg amount:='{"range":[0,50]}'
        arx token delegate acme/support/worker --in task.bundle --budget usd=1.50 --budget calls=20
    """
    if not is_agent_path(to):
        raise click.BadParameter(f"expected an agent path such as acme/worker, got {to[:60]!r}", param_hint="TO")
    holding, now = Holding.read(file), time.time_ns() // 1_000_000
    outlines = {audience: outline(holding.token(audience)) for audience in less["audiences"] or holding.tokens}
    if max(held.exp for held in outlines.values()) <= now:
        hint = "`arx task extend` and `arx task start` write a bundle that goes on"
        raise Stop(f"this {holding.kind} has expired: nothing is left to delegate", DENIED, code="expired", hint=hint)
    caveats = caveats_for(outlines, **read_attenuation(less), now=now)
    pools = pools_for(outlines, to, read_texts(budgets, "--budget", "UNIT=AMOUNT"), per)
    by = read_holder_key(holder_key) if holding.is_bound else None
    given = holding.with_tokens(delegate_tokens(holding.tokens, to, caveats, key=key, by=by, pools=pools))
    _refuse_the_useless(given)  # the next holder could not repair it
    _give(console, given, to, out)


def _refuse_the_useless(given: Holding) -> None:
    """Raise if every verifier would refuse the delegated token."""
    for audience, macaroon in given.tokens.items():
        refused = unverified_chain(macaroon).refused
        if refused is not None:
            because = "; ".join(map(str, refused.failures))
            raise Stop(
                f"every call with the token for {audience} would be refused: {because}", DENIED, code=refused.code
            )


def _give(console: Console, given: Holding, to: str, out: Path | None) -> None:
    chains = {audience: unverified_chain(macaroon) for audience, macaroon in given.tokens.items()}
    first = next(iter(chains.values()))
    link, exp, text = first.facts.links[-1], min(chain.exp for chain in chains.values()), given.encode()
    value: dict[str, Any] = {"kind": given.kind, "to": to, "link": link, "expires_at": exp}
    value |= {"fingerprint": fingerprint(text), "audiences": sorted(given.tokens), "bound_to": _key_of(given)}
    if out is not None:
        write_private(out, text + "\n")
        console.data("delegation", value | {"out": str(out)}, "")
    else:
        console.data("delegation", value | {given.kind: text}, text)
    bound = "" if value["bound_to"] is None else f", bound to the key {value['bound_to']}"
    console.say(f"delegated to {to}: {', '.join(sorted(given.tokens))}, until {show_time(exp)}{bound}")
    console.hint(f"`arx kill link:{link}` revokes it and everything delegated from it")


def _key_of(given: Holding) -> str | None:
    bound = next(iter(given.tokens.values())).bound_to
    return None if bound is None else bound.holder


def _head(holding: Holding) -> str:
    lines = ["not verified: only the service's key can authenticate it"]
    if holding.bundle is not None:
        lines.append(
            pairs(
                [
                    (holding.kind, "1 token" if len(holding.tokens) == 1 else f"{len(holding.tokens)} tokens"),
                    *holding.about().items(),
                ]
            )
        )
    return "\n".join(lines)


def _show(token: dict[str, Any], now_ms: int) -> str:
    named = token.get("named") or ()
    facts = [
        ("token", token["audience"] + (", for one call" if token["one_shot"] else "")),
        ("fingerprint", token["fingerprint"]),
        ("realm", f"{token['realm']}, key {token['kid']}"),
        ("operator", token.get("operator")),
        ("agent", token.get("agent")),
        ("named", " -> ".join(named) + " (not authenticated)" if named else None),
        ("session", token.get("session")),
        ("task", token.get("task")),
        ("subject", " ".join(token["subject"]) if token.get("subject") else None),
        ("model", token.get("model")),
        *token.get("meta", {}).items(),
        ("policy", token.get("policy")),
        ("bound to key", token.get("bound_to")),
        ("link", token.get("link")),
        ("issued", show_time(token["issued_at"])),
        ("expires", show_until(token["expires_at"], now_ms)),
    ]
    lines = [pairs(facts)]
    lines += [_show_step(step) for step in token["caveats"]]
    never = token.get("never_accepted")
    if never:
        lines.append(f"never accepted: {never['code']}: " + plain("; ".join(never["failures"])))
    return "\n".join(lines)


def _show_discharge(discharge: dict[str, Any]) -> str:
    tools = " or ".join(discharge["answers"].get("tools") or ()) or "every tool"
    facts = [
        ("approval", f"of a call of {tools}"),
        ("answers", discharge["answers"]["id"]),
        ("fingerprint", discharge["fingerprint"]),
        ("realm", discharge["realm"]),
    ]
    return "\n".join([pairs(facts), *map(_show_step, discharge["caveats"])])


def _show_step(step: dict[str, Any]) -> str:
    key = (step["caveat"] or {}).get("key")
    title = {
        "mint": "the mint granted",
        "delegation": f"delegated to {step['to']}" + (f", signed for the key {key}" if key else ""),
        "third_party_caveat": "operators must approve",
        "approval": "approved",
        "call": "signed for a call",
    }
    removes = [f"    removes {phrase}" for phrase in step["removes"]] or ["    removes nothing"]
    body = [plain(line) for line in removes] if step["caveat"] is not None else [plain(show_json(step["removes"]))]
    return "\n".join([f"  {step['place']}: {title.get(step['kind'], 'attenuated')}", *body])
