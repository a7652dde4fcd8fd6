# SPDX-License-Identifier: Apache-2.0
"""Use a compiled twin of a function where this build has one.

A few functions on the way of each call have a twin in C (``_compiled.c``), for installations that were built with it.
The Python function is the reference: the twin does the ordinary case alone and calls it for all else, so that there is
one place that says what is malformed.  Tests hold both to the same answers.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

REFERENCES: Final[dict[str, Callable[..., Any]]] = {}  # the Python functions that can have a twin, by name


def _load() -> Any:
    """Import the compiled module; None where it was not built, cannot be used here, or ``ARX_PURE`` is set."""
    if os.environ.get("ARX_PURE", "") not in ("", "0"):
        return None
    try:
        return importlib.import_module("arx_verifier._compiled")
    except ImportError:
        return None


_TWINS: Final = _load()
COMPILED: Final = _TWINS is not None


def twin(knows: object = None) -> Callable[[_F], _F]:
    """Decorate a function that may have a compiled twin.  Its arguments are passed by position.

    Args:
        knows: The class of what it returns or reads, or what it uses, where the twin has to know that.
    """

    def decorate(function: _F) -> _F:
        REFERENCES[function.__name__] = function
        if _TWINS is None:
            return function
        chosen: _F = _TWINS.refer(function.__name__, function, *(() if knows is None else (knows,)))
        return chosen

    return decorate
