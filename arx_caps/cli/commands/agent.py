# SPDX-License-Identifier: Apache-2.0
"""``arx agent``: enrol, describe, list, show and deactivate agents, and rotate their keys."""

import contextlib
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import click

from arx_caps.cli.access.key_enrolment import key_options, key_to_enrol
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import facts_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import KidCommand, Verbs, options_of, yes_option
from arx_caps.cli.resources import AGENTS, POLICIES, Listed, list_of
from arx_caps.cli.terminal import Console, pairs
from arx_verifier.errors import GrantError, SettingsError

MOST_NAMES: Final = 200  # of agents that a mistyped one is compared with
ABOUT: Final = ("model", "purpose", "version")  # the members of an agent's metadata
# Of an agent's description, which its tokens carry.
_about_options: Final = options_of(
    click.option("--owner", help="person or team that is responsible for the agent"),
    click.option("--purpose", help="purpose of the agent"),
    click.option("--model", help="model that the agent runs"),
    click.option("--version", help="version of the agent"),
)


@click.group("agent", cls=Verbs)
def agent_command() -> None:
    """Enrol, describe, list and deactivate agents, and rotate their keys."""


@agent_command.command("enrol")
@click.argument("path")
@key_options
@click.option(
    "--workload",
    is_flag=True,
    help="enrol without a key: a [[workload]] of the policy names the tokens that authenticate the agent",
)
@_about_options
@operator_options
def enrol(
    console: Console,
    /,
    path: str,
    place: Place,
    key_out: Path | None,
    public_jwk: str | None,
    workload: bool,
    **about: str | None,
) -> None:
    """Enrol the agent PATH, with a key or as a workload.

    \b
        arx agent enrol acme/support/triage --key-out triage.key.json
    """
    AGENTS.check(path)
    if [key_out is not None, public_jwk is not None, workload].count(True) != 1:
        raise click.UsageError("expected one of --key-out FILE, --public-jwk FILE or --workload")
    metadata = {name: about[name] for name in ABOUT if about[name] is not None}
    body = {"path": path, "owner": about["owner"], "metadata": metadata or None}
    kid = None
    try:
        if workload:
            mint = place.mint()
            answer = mint.call("POST", AGENTS.path, body)
        else:
            check = f"arx agent show {path}"
            with key_to_enrol(place, "agent", path, key_out, public_jwk, check=check) as (mint, public):
                kid, answer = public.kid, mint.call("POST", AGENTS.path, body | {"jwk": public.jwk})
    except Stop as error:
        if error.code == "agent_exists":
            error.hint = f"`arx agent key add {path} --key-out FILE` enrols a further key of an active agent"
        raise
    agent = answer.get("agent", answer)
    value = {"agent": agent, "kid": kid, "key_file": str(key_out) if key_out else None}
    console.data("agent", value, lambda: pairs([("agent", path), ("key", kid), ("key file", value["key_file"])]))
    with contextlib.suppress(Stop, SettingsError):  # a role may allow to enrol an agent and not to read the policy
        _doubt(console, mint.call("GET", POLICIES.path_of("in-force"))["policy"], path)


@agent_command.command("describe")
@click.argument("path")
@_about_options
@operator_options
def describe(console: Console, /, path: str, place: Place, **about: str | None) -> None:
    """Change the description of the agent PATH; an empty text removes a part.

    New tokens carry the description, and so do the records of their decisions.
    """
    metadata = {name: about[name] for name in ABOUT if about[name] is not None}
    body = ({} if about["owner"] is None else {"owner": about["owner"]}) | ({"metadata": metadata} if metadata else {})
    if not body:
        raise click.UsageError("expected at least one of --owner, --purpose, --model and --version")
    AGENTS.show(console, place.mint().call("PATCH", AGENTS.path_of(path), body))


@agent_command.command("list")
@click.option("--under", metavar="PATH", help="show only this agent and those below it")
@click.option("--state", type=click.Choice(("active", "deactivated")), help="show only agents in this state")
@list_of(AGENTS, "AGENT: path, STATE, OWNER, ENROLLED: created_at")
def list_agents(_: Listed) -> None:
    """List the enrolled agents that match all filters."""


@agent_command.command("show")
@click.argument("path")
@operator_options
def show(console: Console, path: str, place: Place) -> None:
    """Show an agent, its description and its keys."""
    AGENTS.check(path)
    mint = place.mint()
    try:
        answer = mint.call("GET", AGENTS.path_of(path))
    except Stop as error:
        if error.code == "not_found":
            rows, _ = AGENTS.rows(mint, {"under": path.rpartition("/")[0] or None}, MOST_NAMES)
            near = get_close_matches(path, [row["path"] for row in rows], 1)
            error.hint = f"did you mean {near[0]}?" if near else error.hint
        raise
    AGENTS.show(console, answer.get("agent", answer))


@agent_command.command("deactivate")
@click.argument("path")
@yes_option
@operator_options
def deactivate(console: Console, path: str, place: Place, yes: bool) -> None:
    """Deactivate an agent: it can open no session, and all tokens of it and of agents below it are revoked."""
    console.confirm(f"deactivate {AGENTS.check(path)} and revoke all its tokens?", yes=yes)
    answer = place.mint().call("DELETE", AGENTS.path_of(path))
    console.data("agent", answer, lambda: pairs([("agent", path), ("kill", answer.get("kill", {}).get("summary"))]))


@agent_command.group("key")
def key_command() -> None:
    """Rotate an agent's keys: add the new key, use it, remove the old key."""


@key_command.command("add")
@click.argument("path")
@key_options
@operator_options
def add_key(console: Console, path: str, place: Place, key_out: Path | None, public_jwk: str | None) -> None:
    """Enrol an additional key of the agent PATH; open sessions continue."""
    check = f"arx agent show {AGENTS.check(path)}"
    with key_to_enrol(place, "agent", path, key_out, public_jwk, check=check) as (mint, public):
        agent = mint.call("PATCH", AGENTS.path_of(path), {"add_jwk": public.jwk})
    console.data("agent", {"agent": agent, "kid": public.kid}, lambda: pairs(facts_of(agent)))


@key_command.command("remove", cls=KidCommand)
@click.argument("path")
@click.argument("kid")
@operator_options
def remove_key(console: Console, path: str, kid: str, place: Place) -> None:
    """Remove the key KID of the agent PATH: it can open no further session; open sessions continue."""
    AGENTS.show(console, place.mint().call("PATCH", AGENTS.path_of(path), {"remove_kid": kid}))


def _doubt(console: Console, text: str, path: str) -> None:
    """Hint that the policy lets the agent open no session: a typing error, or a policy that is not active yet."""
    from arx_caps.mint.policy.model import Policy

    try:
        Policy.parse(text, "policy").may_open(path)
    except GrantError as error:
        if error.code == "session_not_allowed":
            console.hint(
                f"the policy lets {path} open no session: add it to `agents` of a [session] and run "
                "`arx policy load FILE`"
            )
