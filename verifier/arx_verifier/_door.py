# SPDX-License-Identifier: Apache-2.0
"""Lazy exports of a package: each name is imported from its module on first use (PEP 562).

Other packages import these names and never the modules behind them.  A holder that attenuates a token therefore loads
neither the verifier nor redis.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def open_door(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: The package's ``__name__``.
        exports: Module of the package to the names that it exports, separated by spaces.

    Returns:
        Both functions.  ``__getattr__`` raises ``AttributeError`` for a name that is not exported.
    """
    module_of = {name: module for module, names in exports.items() for name in names.split()}
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        namespace[name] = value  # Python calls ``__getattr__`` only for names that are not in the namespace
        return value

    def names() -> list[str]:
        return sorted({*namespace, *module_of})

    return get, names
