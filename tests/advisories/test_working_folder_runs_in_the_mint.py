# SPDX-License-Identifier: Apache-2.0
"""Another user could run code in the mint, by leaving a module where `arx up` was started.

``arx up`` started the mint with ``python -m``, which puts the working folder first on the module search path.  A script
named ``numbers.py`` there, also an operator's own, was imported instead of Python's module.
"""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import arx
from tests.servers import child

SHADOW = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\nraise ImportError('not the module')\n"


@pytest.mark.slow
@pytest.mark.servers
def test_the_mint_imports_nothing_from_the_working_folder(tmp_path: Path, free_port: int) -> None:
    """The realm starts where a file has the name of a module that the mint imports, and the file is not run."""
    folder, elsewhere = tmp_path / "realm", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("numbers", "sqlalchemy", "starlette"):
        (elsewhere / f"{name}.py").write_text(SHADOW)
    assert arx("init", folder, "--name", "acme", "--issuer", f"http://127.0.0.1:{free_port}").exit_code == 0
    # As the installed script, whose path has its own folder and not the working one.
    command = [sys.executable, "-P", "-m", "arx_caps.cli", "up", "--json", "--realm-dir", folder]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ARX_", "PYTHONSAFE"))}
    with child(command, cwd=elsewhere, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            while not select.select([process.stdout], [], [], 0.1)[0]:
                assert not (elsewhere / "imported").exists()  # a mint that cannot start is started again and again
            assert json.loads(process.stdout.readline())["schema"] == "arx/up/1"
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert not (elsewhere / "imported").exists()
