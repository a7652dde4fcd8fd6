# SPDX-License-Identifier: Apache-2.0
"""Choose between the primitives in C and in Python, once, when the package is imported.

A few functions on bytes (HMACs, base64url, packets, digests) are compiled if the build found a C compiler:
``primitives.c``.  The Python function is the reference.  Tests compare both.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

REFERENCES: Final[dict[str, Callable[..., Any]]] = {}  # the Python functions that can be compiled, by name


def _load() -> tuple[Any, str]:
    """Return the extension module and an empty text, or None and the reason why it is missing."""
    if os.environ.get("ARX_PURE", "") not in ("", "0"):
        return None, "ARX_PURE is set"
    importlib.import_module("hashlib")  # the loader reuses the libcrypto that Python brings, such as one of conda
    try:
        return importlib.import_module("arx_verifier._native.primitives"), ""
    except ModuleNotFoundError:
        return None, "no wheel for this platform, and no C compiler or no headers of Python to build one"
    except ImportError as error:
        return None, f"the compiled module cannot be loaded: {error}"


_MODULE, _WHY_NOT = _load()
COMPILED: Final = _MODULE is not None


def about_build() -> str:
    """Return which build runs, ``compiled`` or ``pure Python`` with the reason, for people to read."""
    return "compiled" if COMPILED else f"pure Python ({_WHY_NOT})"


def twin(knows: object = None) -> Callable[[_F], _F]:
    """Decorate a function that may be compiled.  Its arguments are passed by position.

    Args:
        knows: The class of its result, if that is not a built-in one.

    Returns:
        A decorator, which returns the compiled function or the Python function itself.
    """

    # The compiled function does the ordinary case alone and calls the Python function for all else, so that only one
    # implementation decides what is malformed.
    def decorate(function: _F) -> _F:
        REFERENCES[function.__name__] = function
        if _MODULE is None:
            return function
        chosen: _F = _MODULE.refer(function.__name__, function, *(() if knows is None else (knows,)))
        return chosen

    return decorate
