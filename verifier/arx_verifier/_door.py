# SPDX-License-Identifier: Apache-2.0
"""Doors: the names of a package, each imported from its module when it is used first (PEP 562).

Other packages import from a door and from nowhere behind it.  A holder that attenuates a token so loads no verifier,
and no redis.  A module binds the names that it imports, so each costs one look-up a process.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def open_door(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: The package's ``__name__``.
        exports: By module of the package, the names that it gives, separated by spaces.
    """
    module_of = {name: module for module, names in exports.items() for name in names.split()}
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        namespace[name] = value  # the next use does not come here
        return value

    def names() -> list[str]:
        return sorted({*namespace, *module_of})

    return get, names
