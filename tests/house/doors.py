# SPDX-License-Identifier: Apache-2.0
"""The names that a package exports: each is written once, ``from MODULE import NAME as NAME`` in its ``__init__.py``.

``arx_caps`` alone has an ``__all__``: its names are there before ``arx_verifier`` is imported.
"""

import ast
from pathlib import Path
from types import ModuleType


def imported_names(package: ModuleType) -> dict[str, str | None]:
    """Return the names that a package's ``__init__.py`` imports, with the ``as NAME`` that exports each, if any."""
    assert package.__file__
    nodes = ast.walk(ast.parse(Path(package.__file__).read_text(encoding="utf-8")))
    return {alias.name: alias.asname for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def exports_of(package: ModuleType) -> set[str]:
    """Return the names that a type checker takes for exported."""
    return {name for name, asname in imported_names(package).items() if name == asname} or set(
        getattr(package, "__all__", ())
    )
