# SPDX-License-Identifier: Apache-2.0
"""The comparison of an endpoint's arguments in FastAPI with the arguments of the decision.  SPEC 8.4."""

# FastAPI converts: ``007`` to 7, ``yes`` to True, ``"5"`` to 5.  The rules of a token were applied to the sent text, so
# an endpoint may only get a value whose one spelling was sent.  A default is no difference: no caller chooses it.

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from arx_verifier.enforcement.base.uploads import digest_of
from arx_verifier.errors import RequestError

RUNNING: Final[ContextVar[Any]] = ContextVar("arx_call", default=None)
"""The call whose endpoint runs."""
_ABSENT: Final = object()
_NUMBERS: Final = (int, float, Decimal)


class Sent(NamedTuple):
    """The arguments as the caller sent them, and as the decision was made on them.

    Attributes:
        path: The parameters of the path.
        query: The fields of the query.
        body: The members of the body; None without one.
    """

    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Mapping[str, Any] | None


class Parameters:
    """The parameters of a route and of its dependencies.

    Args:
        dependant: FastAPI's description of the endpoint.
        embedded: Whether each parameter of the body is a member of the body.
        overrides: The application's ``dependency_overrides``.

    Attributes:
        dependant: FastAPI's description of the endpoint.
        path_kinds: The parameters of the path that the endpoint or a dependency gets as ``int`` or ``number``.
    """

    def __init__(self, dependant: Any, embedded: bool, overrides: Mapping[Any, Any]) -> None:
        self.dependant, self._embedded = dependant, embedded
        self._before = list(_dependencies(dependant, overrides))
        if dependant.dependencies:  # they run first: what the endpoint gets is compared before them, too
            self._before.append(dependant)
        every = [pair for one in (dependant, *self._before) for pair in _declared(one.path_params)]
        self.path_kinds = {name: kind for name, kind in every if kind in ("int", "number")}

    def require_judged(self, sent: Sent, values: Mapping[str, Any]) -> None:
        """Compare the values that the endpoint is called with.

        Args:
            sent: The arguments of the decision.
            values: The values.

        Raises:
            RequestError: A value differs.
        """
        for field, wire, text in self._fields(self.dependant, sent):
            if field.name in values and differs(values[field.name], wire, text):
                raise _unlike(field.name)

    def require_judged_before(self, sent: Sent) -> None:
        """Compare the values of dependencies and endpoint, before the first dependency runs.

        Args:
            sent: The arguments of the decision.

        Raises:
            RequestError: A value differs.
        """
        for dependant in self._before:
            for field, wire, text in self._fields(dependant, sent):
                for form in (wire, [wire]) if type(wire) is str else (wire,):  # a list is sent as its only item
                    value, errors = field.validate(form, {}, loc=(field.name,))
                    if not errors:
                        if differs(value, wire, text):
                            raise _unlike(field.name)
                        break

    def _fields(self, dependant: Any, sent: Sent) -> Iterator[tuple[Any, Any, bool]]:
        """Yield each field for which a value was sent, with the value and whether it is text."""
        for fields, place in ((dependant.path_params, sent.path), (dependant.query_params, sent.query)):
            for field in fields:
                found = list(_sent_for(field.field_info, field.name, place))
                if not found and place and len(fields) == 1 and _is_model(field.field_info.annotation):
                    found = [place]  # a model of the whole query
                for wire in found:
                    yield field, wire, True
        if sent.body is None:
            return
        fields = dependant.body_params
        form = sys.modules["fastapi.params"].Form  # its fields are sent as text
        if len(fields) == 1 and not self._embedded:
            yield fields[0], sent.body, isinstance(fields[0].field_info, form)
            return
        for field in fields:
            for wire in _sent_for(field.field_info, field.name, sent.body):
                yield field, wire, isinstance(field.field_info, form)


def declared_query(dependant: Any) -> dict[str, str]:
    """Return the arguments that an endpoint and its dependencies declare in the query.

    Args:
        dependant: FastAPI's description of the endpoint.

    Returns:
        For each name ``int``, ``number`` or ``list``, or nothing for text and what is sent as text.
    """
    found = dict(_declared(dependant.query_params))
    for inner in dependant.dependencies:
        found |= declared_query(inner)
    return found


def _declared(params: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield each name under which parameters are sent, and its kind: ``int``, ``number``, ``list``, or empty."""
    fields = [(field.name, field.field_info) for field in params]
    if len(fields) == 1 and _is_model(fields[0][1].annotation):  # a model of the whole query
        fields = [*fields[0][1].annotation.model_fields.items()]
    for name, info in fields:
        kind = _kind_of(info.annotation)
        aliases = [alias for alias in (info.alias, *_choices(info.validation_alias)) if isinstance(alias, str)]
        for alias in aliases or [name]:
            yield alias, kind


def _kind_of(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = {_kind_of(one) for one in inner if one is not type(None)}
        return kinds.pop() if len(kinds) == 1 else ""
    if origin is Annotated:
        return _kind_of(inner[0])
    kind = origin or annotation
    if kind is int:
        return "int"
    if kind in (float, Decimal):
        return "number"
    return "list" if kind in (list, set, frozenset, tuple, Sequence) else ""


def _dependencies(dependant: Any, overrides: Mapping[Any, Any]) -> Iterator[Any]:
    for inner in dependant.dependencies:
        if inner.call in overrides:
            utils = sys.modules["fastapi.dependencies.utils"]
            inner = utils.get_dependant(path=inner.path, call=overrides[inner.call], name=inner.name)  # noqa: PLW2901
        if inner.path_params or inner.query_params or inner.body_params:
            yield inner
        yield from _dependencies(inner, overrides)


def checked(endpoint: Callable[..., Any], require: Callable[[Mapping[str, Any]], None]) -> Callable[..., Any]:
    """Return an endpoint that first compares its arguments.

    Args:
        endpoint: The endpoint.
        require: Takes the arguments by name, and raises if they differ.
    """

    @functools.wraps(endpoint)  # the framework reads signature and name
    def run(*positional: Any, **values: Any) -> Any:
        require(values)
        return endpoint(*positional, **values)

    return run


def differs(got: Any, wire: Any, text: bool) -> bool:
    """Return whether a converted value is another one than the caller sent.

    Args:
        got: The value for the endpoint.
        wire: The value as sent.
        text: Whether it was sent as text, in the path or the query, and not as JSON.
    """
    if isinstance(got, Enum):
        return differs(got.value, wire, text)
    if wire is None or got is None:
        return wire is not got
    kind = type(got)
    if kind is bool:
        return bool(wire != ("true" if got else "false")) if text else wire is not got
    if kind is bytes or (hasattr(got, "file") and hasattr(got, "content_type")):
        return _file_differs(got, wire)
    if kind is str:
        return type(wire) is not str or got != wire
    if kind in _NUMBERS:
        return _number_differs(got, wire, text)
    if _is_model(kind):
        return _model_differs(got, wire, text)
    if isinstance(got, (list, tuple, set, frozenset)):
        return _items_differ(got, [wire] if text and type(wire) is str else wire, text)
    if isinstance(got, Mapping):
        return not isinstance(wire, Mapping) or any(
            name not in wire or differs(value, wire[name], text) for name, value in got.items()
        )
    if dataclasses.is_dataclass(got):
        return not isinstance(wire, Mapping) or any(
            differs(getattr(got, name, _ABSENT), value, text) for name, value in wire.items()
        )
    return type(wire) is not str or wire not in _spellings(got)


def _file_differs(got: Any, wire: Any) -> bool:
    """Return whether a file, or the bytes of one, is another one than was judged."""
    if not isinstance(wire, Mapping):
        return True
    if type(got) is bytes:
        return digest_of(got) != wire.get("digest")
    data = got.file.read()
    got.file.seek(0)
    return digest_of(data) != wire.get("digest") or (got.content_type or "") != wire.get("content_type")


def _number_differs(got: Any, wire: Any, text: bool) -> bool:
    if text:
        return wire not in (str(got), str(got).removesuffix(".0"))
    if type(wire) is str:
        return type(got) is not Decimal or str(got) != wire
    return type(wire) not in (int, float) or bool(got != (Decimal(repr(wire)) if type(got) is Decimal else wire))


def _items_differ(got: Any, wire: Any, text: bool) -> bool:
    if not isinstance(wire, list) or len(got) != len(wire):
        return True
    if isinstance(got, (list, tuple)):
        return any(differs(mine, theirs, text) for mine, theirs in zip(got, wire, strict=True))
    return not all(any(not differs(mine, theirs, text) for mine in got) for theirs in wire)  # a set has no order


def _model_differs(got: Any, wire: Any, text: bool) -> bool:
    """Return whether a pydantic model differs, in a field that was set and did not keep its default."""
    fields = type(got).model_fields
    if fields.keys() == {"root"}:
        return differs(got.root, wire, text)
    if not isinstance(wire, Mapping):
        return True
    for name in got.model_fields_set:
        found = list(_sent_for(fields[name], name, wire)) if name in fields else [wire.get(name, _ABSENT)]
        if not found or any(differs(getattr(got, name), one, text) for one in found):
            return True
    return False


def _sent_for(info: Any, name: str, place: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the values that were sent under each name of a field."""
    aliases = [name, info.alias, info.validation_alias]
    for alias in dict.fromkeys((*aliases[:2], *_choices(aliases[2]))):
        if isinstance(alias, str) and alias in place:
            yield place[alias]
        elif isinstance(alias, tuple) and alias[0] in place:
            yield _walk(place, alias)


def _choices(alias: Any) -> Iterable[Any]:
    """Return the spellings of an alias: text, or a path into the sent value, as a tuple."""
    for choice in getattr(alias, "choices", (alias,)):
        yield tuple(choice.path) if hasattr(choice, "path") else choice


def _walk(place: Any, path: Sequence[Any]) -> Any:
    try:
        for step in path:
            place = place[step]
    except (IndexError, KeyError, TypeError):
        return _ABSENT
    return place


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_fields") and hasattr(kind, "model_fields_set")


def _spellings(got: Any) -> list[str]:
    """Return the texts that mean one value and no other, such as those of a date, a UUID or an address."""
    secret = getattr(got, "get_secret_value", None)
    if secret is not None:
        return [secret()]
    written = [str(got)]
    if hasattr(got, "isoformat"):
        written.append(got.isoformat())
    core = sys.modules.get("pydantic_core")
    if core is not None:
        with contextlib.suppress(ValueError):  # what it cannot write has no spelling but its own
            written.append(core.to_jsonable_python(got))
    return written


def _unlike(name: str) -> RequestError:
    return RequestError(
        f"argument {name!r:.80}: expected the one spelling of the value that the endpoint gets, such as '7' for 7 and "
        "'true' for True; in a JSON body the type that the endpoint has"
    )
