# SPDX-License-Identifier: Apache-2.0
"""What holds for each run of tests: clients have the time that a loaded machine takes, and a failure shows its values.

``tests/conftest.py`` calls it, and ``tests/adapters``, whose environments have no plugin of that file.
"""

import contextlib
import importlib
import os
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


def share_rewriting(config: pytest.Config) -> None:
    """Rewrite the assertions of this worker's share of the test files, for all workers.

    In a new clone each worker rewrote each file, which took longer than to collect the tests.

    Args:
        config: Of a worker that runs all tests; any other process has nothing to share.
    """
    worker, folder = os.environ.get("PYTEST_XDIST_WORKER", ""), Path(__file__).parent
    if not worker or sys.dont_write_bytecode or [Path(arg).resolve() for arg in config.args] != [folder]:
        return
    with contextlib.suppress(ImportError, AttributeError):  # no public names: without them the tests are the same
        from _pytest.assertion import rewrite

        files = sorted(folder.rglob("test_*.py"))
        for file in files[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
            cached = rewrite.get_cache_dir(file) / (file.stem + rewrite.PYC_TAIL)
            if cached.exists() and cached.stat().st_mtime >= file.stat().st_mtime:
                continue
            if rewrite.try_makedirs(cached.parent):
                source, code = rewrite._rewrite_test(file, config)
                rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source, cached)
