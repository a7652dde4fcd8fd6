# SPDX-License-Identifier: Apache-2.0
"""The tools of a WSGI framework's views, by the names that the framework gives them.  SPEC 8.4.

The framework routes, and its adapter in ``integrations`` says which view it matched and with which parameters.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

from arx_verifier.enforcement.base.routes import (
    PUBLIC,
    Key,
    Meaning,
    collect_headers,
    join_arguments,
    read_body,
    read_keys,
)
from arx_verifier.enforcement.wsgi.wsgi_call import WSGICall
from arx_verifier.errors import RequestError, SettingsError


class Matched(NamedTuple):
    """What a framework made of a request.

    Attributes:
        view: The view's name.
        method: The method.
        path: The path that it matched.
        query: The query.
        body: Returns the body that the view will read.
        parameters: Returns the parameters as they are judged: numbers where the framework has them, else the texts that
            were sent.  It raises ``RequestError`` for one in another spelling.
    """

    view: str
    method: str
    path: str
    query: bytes
    body: Callable[[], bytes]
    parameters: Callable[[], Mapping[str, Any]]


class EmptyForm:
    """The form of a JSON body, as a base beside a framework's mapping: it refuses a look-up of a judged argument.

    The form is empty, so the view would take its default for an argument that was judged.
    """

    call: WSGICall

    @classmethod
    def of(cls, call: WSGICall) -> Self:
        """Return the form of a call.

        Args:
            call: The call.
        """
        form = cls()
        form.call = call
        return form

    def __getitem__(self, name: Any) -> Any:
        self._require_unsent(name)
        return super().__getitem__(name)  # type: ignore[misc]

    def __contains__(self, name: Any) -> bool:
        self._require_unsent(name)
        return bool(super().__contains__(name))  # type: ignore[misc]

    def getlist(self, name: Any, *more: Any, **options: Any) -> Any:
        """Return the values of a field: none."""
        self._require_unsent(name)
        return super().getlist(name, *more, **options)  # type: ignore[misc]

    def _require_unsent(self, name: Any) -> None:
        if name in self.call.members:
            require_other(self.call, f"argument {name!r:.80}: expected in a form, got in JSON")


def require_other(call: WSGICall, text: str) -> None:
    """Refuse an allowed call whose view reads the body as one of another kind, unless the guard watches.

    Args:
        call: The call.
        text: What the view expects.

    Raises:
        RequestError: It is refused.
    """
    error = RequestError(text)
    call.withdraw(error)
    if call.problem is not None:
        raise error


class Views:
    """The tool of each view and method.

    Args:
        tools: A view's name, or ``POST name?{dry_run}``, and its tool.
        public: The names of the views that need no token, alone or with a method.
        methods: The methods of each view by its name, without ``HEAD`` and ``OPTIONS``; empty if they are not known.

    Raises:
        SettingsError: A line is malformed, names no view, or names a view of several methods without one.
    """

    def __init__(self, tools: Mapping[str, str], public: Iterable[str], methods: Mapping[str, frozenset[str]]) -> None:
        self._keys: dict[tuple[str, str], Key] = {}
        for key in read_keys(tools, public):
            known = methods.get(key.path)
            if known is None:
                raise SettingsError(
                    f"{key.text!r:.100} names no view: expected one of {', '.join(sorted(methods)[:20]) or 'none'}"
                )
            # A view of several methods may do another thing by each: one tool for all would be a mistake of writing.
            if not key.method and len(known) != 1:
                raise SettingsError(f"{key.text!r:.100} may have several methods: name each, such as 'GET {key.path}'")
            line = key if key.method else key.of(next(iter(known)), {})
            if known and line.method not in known:
                raise SettingsError(f"{key.text!r:.100}: the view has {', '.join(sorted(known))}, not {line.method}")
            if self._keys.setdefault((key.path, line.method), line) is not line:
                raise SettingsError(f"the view {line.method} {key.path} is named twice")

    def is_public(self, view: str, method: str) -> bool:
        """Return whether a view needs no token.

        Args:
            view: Its name.
            method: The request's method.
        """
        key = self._key(view, method)
        return key is not None and key.tool is PUBLIC

    def judge(self, call: WSGICall, matched: Matched) -> bool:
        """Decide on a call that the framework has led to a view, and return whether the view may run.

        Args:
            call: The call.
            matched: The view, and what it will read.
        """
        return call.judge(lambda: self._meaning(call, matched))

    def _meaning(self, call: WSGICall, matched: Matched) -> Meaning | None:
        key = self._key(matched.view, matched.method)
        if key is None or key.tool is PUBLIC:
            return None if key is None else (PUBLIC, {})
        if call.unproven is not None:
            return None  # let in for a public view alone
        scope = call.scope
        sent = scope["method"], scope["path"] or "/", scope["query_string"], call.body
        if (matched.method, matched.path, matched.query, matched.body()) != sent:
            # A middleware of the application, such as one that reads X-HTTP-Method-Override, has changed the request.
            raise RequestError("the method, the path, the query or the body is not the one that was sent")
        query = key.typed(key.read_query(scope["query_string"]))
        members = call.members = read_body(collect_headers(scope["headers"]), call.body)
        has_body = bool(call.body)
        return key.tool, join_arguments(key, matched.method, matched.parameters(), query, members, has_body=has_body)

    def _key(self, view: str, method: str) -> Key | None:
        key = self._keys.get((view, method))
        return self._keys.get((view, "GET")) if key is None and method == "HEAD" else key
