# SPDX-License-Identifier: Apache-2.0
"""No token could call a view of Django below an include with a parameter, nor a rule of Flask with a further slash.

The texts of the parameters came from the last pattern alone, and a rule without a slash at its end was compared with
the path in one way.  Random trees of both frameworks now have a bare twin: what it runs, the guarded one runs.
"""

import os
import subprocess

import pytest

from tests.routes.environments import ROOT, VERSIONS, prepare

pytestmark = [pytest.mark.install, pytest.mark.spec("8.4")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("django", marks=pytest.mark.nightly), "flask"])
def test_what_the_bare_application_runs_is_run(name: str) -> None:
    """Among the first trees are a view below such an include, and a rule that takes a further slash."""
    words = [str(prepare(name, VERSIONS[name])), "-W", "ignore", "-m", "tests.routes", "--count=20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("0 confused\n"), done.stderr[-2000:]
