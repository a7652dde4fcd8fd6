# SPDX-License-Identifier: Apache-2.0
"""The operations of an OpenAPI 3 document, with their parameters, and what its references name."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

READS: Final = ("GET", "HEAD", "OPTIONS")  # the methods of operations that change nothing
_METHODS: Final = (*READS, "POST", "PUT", "PATCH", "DELETE")
_LONGEST: Final = 8  # of references that lead to one another


class Operation(NamedTuple):
    """An operation of a document.

    Attributes:
        method: Its method.
        path: Its path.
        about: The operation object.
        parameters: Its parameters and those of its path, by place and name.
    """

    method: str
    path: str
    about: Mapping[str, Any]
    parameters: dict[tuple[str, str], Mapping[str, Any]]

    @property
    def place(self) -> str:
        """Where it is in the document, for people: its method and path."""
        return f"{self.method} {self.path}"


def operations_of(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield the operations of a document.

    Raises:
        ValueError: It is of another version, or lacks what it refers to.
    """
    if not str(document.get("openapi", "")).startswith("3."):
        raise ValueError("expected an OpenAPI document of version 3")
    for path, item in document.get("paths", {}).items():
        if path.startswith("/"):
            found = resolved(document, item, path)
            for method in [method for method in _METHODS if method.lower() in found]:
                about = resolved(document, found[method.lower()], f"{method} {path}")
                operation = Operation(method, path, about, {})
                for written in (*found.get("parameters", ()), *about.get("parameters", ())):
                    parameter = resolved(document, written, operation.place)
                    # An operation's parameter replaces that of its path.
                    operation.parameters[str(parameter.get("in")), str(parameter.get("name"))] = parameter
                yield operation


def resolved(document: Mapping[str, Any], value: Any, place: str) -> Mapping[str, Any]:
    """Return an object, or what its ``$ref`` names in the document.

    Args:
        document: The document.
        value: The object.
        place: Where it is, for errors.

    Raises:
        ValueError: It is no object, or the document does not have what it names.
    """
    for _ in range(_LONGEST):
        if not isinstance(value, dict):
            raise ValueError(f"{place}: expected an object, got {type(value).__name__}")
        reference = value.get("$ref")
        if reference is None:
            return value
        if not str(reference).startswith("#/"):
            raise ValueError(f"{place}: expected a reference into this document, got {reference!r:.100}")
        value = document
        for part in str(reference).removeprefix("#/").split("/"):
            value = value.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    raise ValueError(f"{place}: a reference leads to further ones")
