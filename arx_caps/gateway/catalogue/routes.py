# SPDX-License-Identifier: Apache-2.0
"""The tool and the arguments of a request, by the routes of a catalogue."""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import Any, Final

from arx_caps.gateway.catalogue.git_push import PUSH, GitPush, read_commands, read_head
from arx_caps.gateway.catalogue.terms import NAMES, CollectTerms, RouteTerms
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.routes import Meaning, RouteMap, Scope, collect_headers, merge
from arx_verifier.enforcement.base.uploads import digest_of
from arx_verifier.errors import RequestError, SettingsError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_BODILESS: Final = ("GET ", "HEAD ")


class CatalogueRoutes:
    """A table of routes, as ``RouteMap``, with what each request means beyond its path.

    Args:
        routes: The table.

    Attributes:
        has_streams: Whether the body of a request may go on while it comes.

    Raises:
        SettingsError: A route is malformed, or two routes are for the same requests.
    """

    def __init__(self, routes: Mapping[str, RouteTerms]) -> None:
        if odd := next(
            (text for text, terms in routes.items() if text.startswith(_BODILESS) and terms.body != "json"), None
        ):
            raise SettingsError(f"{odd!r:.100}: expected no `body`: GET and HEAD have none")
        self._terms = {f"route.{number}": terms for number, terms in enumerate(routes.values())}
        self._map = RouteMap(dict(zip(routes, self._terms, strict=True)))
        self.has_streams = any(terms.is_streamed for terms in routes.values())
        self._declared = {name: frozenset(NAMES.findall(text)) for name, text in zip(self._terms, routes, strict=True)}

    def find(self, scope: Scope) -> RouteTerms | None:
        """Return the route of a request, before its body is read; None without a route or a single meaning.

        Args:
            scope: The ASGI ``http`` scope.
        """
        try:
            found = self._map(scope, b"")
        except RequestError:
            return None
        return None if found is None else self._terms[found[0]]

    def __call__(self, scope: Scope, body: bytes) -> Meaning | None:
        """Return the tool and the arguments of a request, as ``RouteMap`` does; that of a push notes its commands.

        Args:
            scope: The ASGI ``http`` scope.
            body: The whole body; of one that is streamed, what ``head_of`` has read.

        Raises:
            RequestError: The request has no single meaning, or an argument that the catalogue does not list.
            RefusedCall: The catalogue refuses the route.
        """
        found = self._map(scope, b"")
        if found is None:
            return None
        name, terms, args, tool = found[0], self._terms[found[0]], dict(found[1]), self._terms[found[0]].tool
        if terms.refused:
            raise RefusedCall("tool_not_allowed", terms.refused)
        _require_listed(args, terms, self._declared[name], "the query")
        if terms.body == "json":
            members = {each: value for each, value in self._members(scope, body).items() if each not in args}
            listed = {*terms.members, *(each.of for each in terms.collect.values())}
            _require_listed(members, terms, listed, "the body")
            args |= members
        elif terms.body == "git-push":
            push = scope[PUSH] = _push_of(scope, body)
            tool = tool if push.updates else terms.probe
            args = merge(args, push.arguments() if push.updates else {})
        else:
            args = merge(args, {"body": _about(scope, body if terms.body == "opaque" else None)})
        return tool, _shaped(args, terms)

    def _members(self, scope: Scope, body: bytes) -> Mapping[str, Any]:
        found = self._map(scope, body) if body else None
        return {} if found is None else found[1]


def head_of(terms: RouteTerms) -> Callable[[Receive], Awaitable[tuple[bytes, bool]]]:
    """Return what reads the part of a streamed body that is judged, and whether more follows.

    Args:
        terms: Its route.
    """
    return read_head if terms.body == "git-push" else _read_nothing


async def _read_nothing(_: Receive) -> tuple[bytes, bool]:
    return b"", True


def _push_of(scope: Scope, head: bytes) -> GitPush:
    encoding = collect_headers(scope["headers"]).get(b"content-encoding", b"identity")
    if encoding.strip().lower() != b"identity":
        raise RequestError("the push has a Content-Encoding: what was judged must be what the server reads")
    return read_commands(head)


def _about(scope: Scope, body: bytes | None) -> dict[str, Any]:
    """Return the argument of a body that is not JSON; None for one that is streamed."""
    headers = collect_headers(scope["headers"])
    about: dict[str, Any] = {"content_type": headers.get(b"content-type", b"").decode("latin-1")}
    if body is not None:
        return about | {"digest": digest_of(body), "size": len(body)}
    declared = headers.get(b"content-length", b"")
    return about | ({"size": int(declared)} if declared.isdigit() and len(declared) < 16 else {})


def _require_listed(
    args: Mapping[str, Any], terms: RouteTerms, listed: "set[str] | frozenset[str]", place: str
) -> None:
    if not terms.open and (unlisted := args.keys() - listed - {*terms.free}):
        raise RequestError(f"argument {min(unlisted)!r:.80} in {place}: the catalogue does not list it")


def _shaped(args: dict[str, Any], terms: RouteTerms) -> dict[str, Any]:
    """Return the arguments as rules see them."""
    for name, pattern in terms.match.items():
        value = args.pop(name, None)
        found = re.fullmatch(pattern, value) if isinstance(value, str) else None
        if found is None:
            raise RequestError(f"argument {name!r:.80}: expected {pattern}, got {value!r:.80}")
        args = merge(args, found.groupdict())
    for name, collected in terms.collect.items():
        if listed := _collected(args, collected):
            args = merge(args, {name: listed})
    joined = {name: template.format_map(args) for name, template in terms.join.items()}
    gone = {*terms.free, *(name for template in terms.join.values() for name in NAMES.findall(template))}
    return merge({name: value for name, value in args.items() if name not in gone}, joined)


def _collected(args: dict[str, Any], terms: CollectTerms) -> list[str]:
    """Take a list out of a body; return what it has, each text once.

    Raises:
        RequestError: It has another form.
    """
    found, left = set[str](), [args.pop(terms.of, None)]
    left += [item.get(terms.of) for each in terms.within for item in _listed(args.get(each)) if isinstance(item, dict)]
    while left:
        for item in _listed(left.pop()):
            if not isinstance(item, dict):
                raise RequestError(f"argument {terms.of!r:.80}: expected a list of objects")
            texts = [item[terms.by]] if terms.by in item else [] if terms.by else [*item]
            if not all(isinstance(text, str) for text in texts):
                raise RequestError(f"argument {terms.of!r:.80}: expected a text as {terms.by!r:.80}")
            found |= {text for text in texts if not any(fnmatchcase(text, pattern) for pattern in terms.but)}
            left.append(item.get(terms.of))
    return sorted(found)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
