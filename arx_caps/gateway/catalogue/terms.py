# SPDX-License-Identifier: Apache-2.0
"""A catalogue: a file of the routes of one service, each with its tool and its arguments.

Those of this folder are shipped.  A route that a catalogue does not list is refused, and so is an argument.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

import msgspec

from arx_caps.settings.toml_file import TomlEntry, TomlTable, checked_text, read_toml, several, text_that
from arx_verifier.errors import SettingsError
from arx_verifier.names import is_tool

BODIES: Final = ("json", "opaque", "stream", "git-push")
SHIPPED: Final = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.toml")))
NAMES: Final = re.compile(r"\{([^{}:]+)(?::[a-z]+)?\}")  # of arguments, in a route or in the text of `join`
_REFUSALS: Final = ("json", "text", "git-fetch", "git-push")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


def _wrong_pattern(text: str) -> str | None:
    try:
        re.compile(text)
    except re.error as error:
        return f"expected a regular expression: {error}"
    return None


BodyKind: TypeAlias = Annotated[str, text_that(BODIES.__contains__, f"one of {', '.join(BODIES)}")]
RefusalKind: TypeAlias = Annotated[str, text_that(_REFUSALS.__contains__, f"one of {', '.join(_REFUSALS)}")]
HostName: TypeAlias = Annotated[str, text_that(_HOST.fullmatch, "the name of a host in lower case, without a port")]
Pattern: TypeAlias = Annotated[str, checked_text(_wrong_pattern)]


class CollectTerms(TomlTable, frozen=True, kw_only=True):
    """An argument that lists what is in a list of the body, and in the lists of the same name in its items.

    Attributes:
        of: The member of the body.
        within: Members of the body whose items may have such a list too.
        by: The member of each item whose text is listed; the names of an item's members when omitted.
        but: Patterns such as ``bash_*`` of what is not listed.
    """

    of: str
    within: tuple[str, ...] = ()
    by: str = ""
    but: tuple[str, ...] = ()


class RouteTerms(TomlTable, frozen=True, kw_only=True):
    """What a request of one route means.

    Attributes:
        tool: Its tool, behind the audience; empty with ``refused``.
        refused: Why each request of the route is refused.
        body: Its body: ``json``, whose members may be arguments; ``opaque``, read whole, whose argument ``body`` has
            digest, size and type; ``stream``, whose argument has type and size; ``git-push``, a push of git.
        members: The members of a JSON body that are arguments.
        free: The members of the body and the fields of the query that are forwarded and not judged.
        open: Whether all other members of the body and fields of the query are arguments; else they are refused.
        match: What the text of an argument must be, as a regular expression, whose named groups replace it.
        join: Arguments that replace others: ``repo = "{owner}/{name}"``.
        collect: Arguments from lists of the body.
        probe: The tool of a push without commands, which git sends before a long one.
        refusal: How a refusal is written: a problem in JSON, a text, or as git reads it.
    """

    tool: str = ""
    refused: str = ""
    body: BodyKind = "json"
    members: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    open: bool = False
    match: dict[str, Pattern] = msgspec.field(default_factory=dict)
    join: dict[str, str] = msgspec.field(default_factory=dict)
    collect: dict[str, CollectTerms] = msgspec.field(default_factory=dict)
    probe: str = ""
    refusal: RefusalKind = "json"

    @property
    def is_streamed(self) -> bool:
        """Whether its body goes on while it comes."""
        return self.body in ("stream", "git-push")


class Catalogue(TomlTable, frozen=True, kw_only=True):
    """The content of a catalogue.

    Attributes:
        match: As in a route, for each route with an argument of the name.
        join: As in a route, for each route with all arguments of the text.
        routes: Its routes.
    """

    match: dict[str, Pattern] = msgspec.field(default_factory=dict)
    join: dict[str, str] = msgspec.field(default_factory=dict)
    routes: Annotated[dict[str, RouteTerms], several("route", "such as 'GET /orders/{id}'")]


def read_catalogue(name: str, folder: Path, audience: str) -> Catalogue:
    """Read a catalogue.

    Args:
        name: That of a shipped one, or the path of a TOML file.
        folder: What a relative path is relative to.
        audience: What each tool begins with.

    Raises:
        SettingsError: It cannot be read, or has a mistake.
    """
    if not name.endswith(".toml") and name not in SHIPPED:
        raise SettingsError(f"catalogue: expected one of {', '.join(SHIPPED)}, or a file that ends in .toml")
    text = read_toml(folder / name if name.endswith(".toml") else Path(__file__).with_name(f"{name}.toml"))
    found: Catalogue = TomlEntry(text).read(Catalogue, text.document)
    routes = dict[str, RouteTerms]()
    for route, terms in found.routes.items():
        names = {*NAMES.findall(route)}
        match = {name: pattern for name, pattern in found.match.items() if name in names}
        join = {name: joined for name, joined in found.join.items() if names.issuperset(NAMES.findall(joined))}
        whole = msgspec.structs.replace(terms, match=match | terms.match, join=join | terms.join)
        routes[route] = _placed(TomlEntry(text, ("routes", route)), whole, audience)
    return msgspec.structs.replace(found, routes=routes)


def route_terms(routes: Mapping[str, str], bodies: Mapping[str, str] = MappingProxyType({})) -> dict[str, RouteTerms]:
    """Return what a request of each route of a plain table means.

    Args:
        routes: The tool of each route.
        bodies: The kind of each body that is not JSON.
    """
    return {route: RouteTerms(tool=tool, body=bodies.get(route, "json"), open=True) for route, tool in routes.items()}


def _placed(entry: TomlEntry, terms: RouteTerms, audience: str) -> RouteTerms:
    """Return what a route means, with whole names of tools.

    Raises:
        TomlError: A tool is none, or a member does not go with the others.
    """
    if bool(terms.tool) == bool(terms.refused):
        raise entry.error("expected one of `tool` and `refused`")
    if (terms.body == "git-push") != bool(terms.probe):
        raise entry.error('expected `probe` with body = "git-push" alone')
    if terms.body != "json" and (terms.members or terms.collect):
        raise entry.error('expected `members` and `collect` only with body = "json"')
    tools: Mapping[str, str] = {
        name: f"{audience}.{tool}" for name in ("tool", "probe") if (tool := getattr(terms, name))
    }
    if odd := next((tool for tool in tools.values() if not is_tool(tool)), None):
        raise entry.error(f"expected a tool of [A-Za-z0-9_.-], got {odd!r:.100}")
    return msgspec.structs.replace(terms, **tools)
