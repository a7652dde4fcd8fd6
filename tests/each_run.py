# SPDX-License-Identifier: Apache-2.0
"""What holds for each run of tests: clients have the time that a loaded machine takes, and a failure shows its values.

``tests/conftest.py`` calls it, and ``tests/adapters``, whose environments have no plugin of that file.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Final

import pytest

PATIENCE_S: Final = 60.0


def prepare() -> None:
    """Prepare this process; to be called before the shared modules of ``tests`` are imported."""
    for library in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            # Else 5 s.  No public name, but the examples of the pages, which name no timeout, are run as they are.
            default = importlib.import_module(f"{library}._config").DEFAULT_TIMEOUT_CONFIG
            default.connect = default.read = default.write = default.pool = PATIENCE_S
    shared = {
        f"{name}.{path.stem}"
        for name, module in sys.modules.items()
        if name in ("tests", "tests.adapters")
        for folder in module.__path__
        for path in Path(folder).iterdir()
    }
    pytest.register_assert_rewrite(*sorted(shared - set(sys.modules)))
