# SPDX-License-Identifier: Apache-2.0
"""Lazy exports of a package: each name is imported from its module on first use (PEP 562).

Other packages import these names and never the modules behind them.  A holder that attenuates a token therefore loads
neither the verifier nor redis.  A door writes each name once, in the imports that type checkers read::

    if TYPE_CHECKING:
        from arx_verifier.token.keyring import KeyRing as KeyRing
    else:
        open_door(__name__)
"""

import importlib
import sys
from types import CodeType
from typing import Any


def open_door(package: str) -> None:
    """Give a package ``__getattr__``, ``__dir__`` and ``__all__`` for the names in its ``if TYPE_CHECKING`` block.

    Call it from the package's own ``__init__.py``.

    Args:
        package: The package's ``__name__``.
    """
    module_of = _imports_of(sys._getframe(1).f_code)  # noqa: SLF001 - the code of the package
    namespace = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name]), name)
        namespace[name] = value  # Python calls ``__getattr__`` only for names that are not in the namespace
        return value

    namespace["__getattr__"] = get
    namespace["__dir__"] = lambda: sorted({*namespace, *module_of})
    namespace["__all__"] = sorted(module_of)


def _imports_of(code: CodeType) -> dict[str, str]:
    """Return the modules of the names that a module's code imports, whether or not it has run these imports.

    The compiler keeps the block, as it does not know what ``TYPE_CHECKING`` is.  The compiled code is there without
    the source, and is read faster: ``co_names`` has each module before the names that are imported from it.
    """
    imported = {name for names in code.co_consts if isinstance(names, tuple) for name in names}
    module_of = {}
    module = __name__  # until the block begins
    for name in code.co_names:
        if "." in name:
            module = name
        elif name in imported and module != __name__:
            module_of[name] = module
    return module_of
