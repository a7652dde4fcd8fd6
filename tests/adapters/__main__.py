# SPDX-License-Identifier: Apache-2.0
"""Run the test of each adapter in an environment of its own: ``make adapters``.

``integrations/NAME.py`` of the verifier has the test ``tests/adapters/test_NAME.py`` and the extra ``NAME``.  The
environment in ``build/adapters`` holds ``arx-verifier[NAME]``, mypy and pytest alone: frameworks need not agree on what
they need, and an adapter cannot use what a tool service does not install.
"""

import subprocess
import sys

from tests.routes.environments import ROOT, prepare

ADAPTERS = ROOT / "verifier" / "arx_verifier" / "integrations"


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A test failed, or an adapter has none.
    """
    names = sorted(path.stem for path in ADAPTERS.glob("*.py") if path.stem != "__init__")
    for name in names:
        python = str(prepare(name, ("mypy", "pytest", "pytest-timeout"), extra=name))
        types = [python, "-m", "mypy", f"verifier/arx_verifier/integrations/{name}.py"]
        tests = [python, "-m", "pytest", "-q", "--noconftest", f"tests/adapters/test_{name}.py", *sys.argv[1:]]
        for words in (types, tests):
            if subprocess.run(words, cwd=ROOT, check=False).returncode:
                sys.exit(f"{name}: failed; again with {' '.join(words)}")
    sys.stdout.write(f"{len(names)} adapters: passed\n")


main()
