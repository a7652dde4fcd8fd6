# SPDX-License-Identifier: Apache-2.0
"""Build ``arx-caps`` with hatchling, so that ``pip install .`` in a checkout finds the ``arx-verifier`` beside it.

A released wheel depends on ``arx-verifier`` of the same version, which is in no index before the release.  Where pip
builds a wheel in a checkout, to install it, that wheel depends on the folder ``verifier`` instead.  No other build
does: not ``python -m build``, not a source distribution, not an editable install, which names both folders.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.build import *  # noqa: F403 - all other hooks are hatchling's
from hatchling.builders.wheel import WheelBuilder


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel (PEP 517), as hatchling does."""
    del config_settings, metadata_directory
    builder = WheelBuilder(str(Path.cwd()))
    if _pip_installs_a_checkout(Path.cwd()):
        _depend_on(Path.cwd() / "verifier", builder)
    return Path(next(builder.build(directory=wheel_directory, versions=["standard"]))).name


def _pip_installs_a_checkout(root: Path) -> bool:
    if "PIP_BUILD_TRACKER" not in os.environ or (root / "PKG-INFO").exists():
        return False
    # pip keeps wheels of what it cloned by commit, and the clone is gone the next time.
    return not root.name.startswith("pip-req-build-") and (root / "verifier" / "pyproject.toml").exists()


def _depend_on(folder: Path, builder: WheelBuilder) -> None:
    project, hatch = builder.metadata.config["project"], builder.metadata.config["tool"]["hatch"]
    hatch["metadata"] = {"allow-direct-references": True}  # in no other build: hatchling refuses an address there
    others = [wanted for wanted in project["dependencies"] if not wanted.startswith("arx-verifier")]
    project["dependencies"] = [f"arx-verifier @ {folder.as_uri()}", *others]
