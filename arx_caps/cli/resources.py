# SPDX-License-Identifier: Apache-2.0
"""The resources of the mint's API: path and names of each, and the commands that list them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import click

from arx_caps.cli.access.mint_session import Caller, open_session_file
from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import Cell, Row, columns_of, facts_of, show_rows
from arx_caps.cli.terminal import Console, pairs
from arx_verifier.names import is_agent_path, is_audience


class Resource(NamedTuple):
    """One kind of rows of the mint.

    Attributes:
        schema: The schema of a list of them; after its last hyphen is the member of the answer that has the rows.
        path: The path of all, from ``/v1`` on.
        expected: What the name of one is, for the error about a text that is none.
        is_name: Whether a text is the name of one.
        argument: The argument that has the name, for the same error.
        paged: Whether the mint answers page by page.
    """

    schema: str
    path: str
    expected: str = ""
    is_name: Callable[[str], bool] = str.isalnum
    argument: str | None = None
    paged: bool = True

    @property
    def member(self) -> str:
        """The member of the mint's answer that has the rows."""
        return self.schema.rpartition("-")[2]

    def check(self, name: str) -> str:
        """Return a name, or raise ``click.BadParameter`` if it is none."""
        if not self.is_name(name):
            raise click.BadParameter(f"expected {self.expected}, got {name[:60]!r}", param_hint=self.argument)
        return name

    def path_of(self, name: str) -> str:
        """Return the path of one; raises as ``check`` does."""
        return f"{self.path}/{self.check(name)}"

    def rows(self, mint: Caller, query: Row | None = None, limit: int | None = None) -> tuple[list[Any], bool]:
        """Return rows, and whether more follow; takes and raises what ``Caller.rows`` does."""
        if self.paged:
            return mint.rows(self.path, self.member, query, limit=limit)
        return mint.call("GET", self.path).get(self.member, []), False

    def show(self, console: Console, row: dict[str, Any]) -> None:
        """Write one row."""
        noun = self.schema.removesuffix("s")
        console.data(noun, {noun: row}, lambda: pairs(facts_of(row)))


def _id(prefix: str) -> Callable[[str], bool]:
    """Return what decides whether a text is an id with this prefix."""
    return lambda text: text.startswith(prefix) and text.removeprefix(prefix).isalnum() and text.isascii()


def _is_operator(text: str) -> bool:
    return "/" not in text and is_agent_path(text)


def _is_digest(text: str) -> bool:
    return text.replace("-", "").replace("_", "").isalnum()


AGENTS: Final = Resource("agents", "/v1/agents", "an agent path such as acme/support", is_agent_path, "PATH")
OPERATORS: Final = Resource(
    "operators", "/v1/operators", "the name of an operator such as night-watch", _is_operator, "NAME"
)
SERVICES: Final = Resource("services", "/v1/services", "the name of a service such as orders", is_audience, "AUDIENCE")
INVITATIONS: Final = f"{SERVICES.path}/invitations"
CLIENTS: Final = Resource("clients", "/v1/clients", "the id of a client such as c-…", _id("c-"), "CLIENT")
CONNECTIONS: Final = Resource(
    "connections", "/v1/connections", "the id of a connection such as c-…", _id("c-"), "CONNECTION"
)
SESSIONS: Final = Resource(
    "sessions", "/v1/sessions", "the id of a session such as s-abcdefghijklmnop", _id("s-"), "SESSION"
)
TASKS: Final = Resource("tasks", "/v1/tasks", "the id of a task such as t-abcdefghijklmnop", _id("t-"), "TASK")
APPROVALS: Final = Resource(
    "approvals", "/v1/approvals", "the id of an approval such as a-abcdefghijklmnop", _id("a-"), "APPROVAL"
)
BUDGETS: Final = Resource("budgets", "/v1/budgets")
POLICIES: Final = Resource("policies", "/v1/policies", "a file or a digest", _is_digest, "DIGEST")
KILLS: Final = Resource("kills", "/v1/kills")
FREEZES: Final = Resource("freezes", "/v1/freezes")
WEBHOOKS: Final = Resource("webhooks", "/v1/webhooks", "an id such as w-…", _id("w-"), paged=False)
NOTIFICATIONS: Final = Resource("notifications", "/v1/notifications", "an id such as n-…", _id("n-"))
ROOT_KEYS: Final = Resource("keys", "/v1/root-keys", "the name of a root key such as k2", _id(""), "NAME", paged=False)
HOLDER_KEYS: Final = Resource("holder-keys", "/v1/holder-keys")
SIGNING_KEYS: Final = Resource("signing-keys", "/v1/signing-keys", paged=False)
SIGN_INS: Final = Resource("sign_ins", "/v1/console/sessions")
RUNS: Final = Resource("audit-runs", "/v1/audit/runs")


class Listed(NamedTuple):
    """What a command has listed.

    Attributes:
        console: The output.
        mint: The caller that asked.
        query: The filters.
        rows: The rows.
        more: Whether more match.
        limit: The largest number of rows; 0 without one.
    """

    console: Console
    mint: Caller
    query: Row
    rows: list[dict[str, Any]]
    more: bool
    limit: int


def list_of(
    resource: Resource, columns: str, cells: Mapping[str, Cell] = {}, nothing: str | None = None
) -> Callable[[Callable[[Listed], None]], Callable[..., None]]:
    """Return a decorator that makes a command that lists a resource; the function is called after the table.

    The command takes the options that locate the mint.  Of its other options, ``limit`` is the largest number of rows,
    ``file`` a session file whose agent asks, and each other one a filter, by its name in the mint's API.

    Args:
        resource: The rows.
        columns: The heads of the columns: ``STATE`` shows the member ``state`` of a row, ``MADE: created_at`` another.
        cells: By head, what shows a row in place of a member.
        nothing: The message in place of a table without rows [the heads].
    """
    shown = columns_of(columns, cells)

    def decorate(after: Callable[[Listed], None]) -> Callable[..., None]:
        @operator_options
        @functools.wraps(after)
        def list_rows(console: Console, /, place: Place, limit: int = 0, file: str | None = None, **query: Any) -> None:
            mint = caller_of(file, place)
            rows, more = resource.rows(mint, query, limit or None)
            value = {resource.member: rows} | ({"more": more} if limit else {})
            console.data(resource.schema, value, lambda: show_rows(rows, shown) if rows or nothing is None else "")
            if not rows and nothing is not None:
                console.say(nothing)
            after(Listed(console, mint, query, rows, more, limit))

        return list_rows

    return decorate


def caller_of(file: str | None, place: Place) -> Caller:
    """Return the agent of a session file, or without one the operator."""
    return open_session_file(file, place.issuer)[0] if file is not None else place.mint()


def hint_more(console: Console, more: bool, limit: int) -> None:
    """Hint at the limit if more rows match."""
    if more:
        console.hint(f"more than {limit} match: raise --limit to see them")
