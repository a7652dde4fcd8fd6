# SPDX-License-Identifier: Apache-2.0
"""Compile ``arx_verifier/_native/primitives.c`` into a wheel, or into the source folder for an editable install.

This needs a C compiler, Python's headers and those of OpenSSL 3 (Debian: gcc python3-dev libssl-dev).  If one of them
is missing, or ``ARX_PURE=1`` is set, the result is pure Python, with a message.  ``ARX_REQUIRE_COMPILED=1`` makes that
an error instead, for publishers of wheels.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
SOURCE = "arx_verifier/_native/primitives.c"


def is_set(name: str) -> bool:
    """Return whether an environment variable is set to anything but 0."""
    return os.environ.get(name, "") not in ("", "0")


class CustomBuildHook(BuildHookInterface):
    """Add the extension module to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of the wheel are gathered."""
        if self.target_name != "wheel":
            return
        name = f"primitives{sysconfig.get_config_var('EXT_SUFFIX')}"
        beside = Path(self.root, SOURCE).with_name(name)
        if version == "editable":
            beside.unlink(missing_ok=True)  # a stale one must not stay where this build fails
        if is_set("ARX_PURE"):
            return
        self._made = tempfile.TemporaryDirectory()
        built = Path(self._made.name, name)
        wrong = compile_to(built, Path(self.root, SOURCE))
        if wrong:
            if is_set("ARX_REQUIRE_COMPILED"):
                raise RuntimeError(f"arx-verifier cannot be compiled, and ARX_REQUIRE_COMPILED is set: {wrong}")
            self.app.display_warning(f"arx-verifier is built in pure Python, which is slower: {wrong}")
        elif version == "editable":
            shutil.copy(built, beside)
        else:
            build_data["force_include"][str(built)] = f"arx_verifier/_native/{name}"
            build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, *_: Any) -> None:
        """Delete what was compiled, once it is in the wheel."""
        if hasattr(self, "_made"):
            self._made.cleanup()


def compile_to(built: Path, source: Path) -> str:
    """Compile the extension module with the compiler that Python was built with, and ``CC``, ``CFLAGS``, ``LDFLAGS``.

    Returns:
        What failed, in one line; empty where nothing did.
    """
    found = {name: sysconfig.get_config_var(name) or "" for name in ("CC", "LDSHARED", "CFLAGS", "CCSHARED")}
    linker = shlex.split(found["LDSHARED"])
    if "CC" in os.environ:
        linker = [*shlex.split(os.environ["CC"]), *linker[len(shlex.split(found["CC"])) :]]
    flags = [*shlex.split(found["CFLAGS"]), *shlex.split(found["CCSHARED"]), *FLAGS]
    more = shlex.split(os.environ.get("CFLAGS", "")), shlex.split(os.environ.get("LDFLAGS", ""))
    include = f"-I{sysconfig.get_path('include')}"
    command = [*linker, *flags, *more[0], include, str(source), "-o", str(built), *more[1], "-lcrypto"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        return f"no C compiler: {error.strerror}: {command[0]}"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        return said[0].strip() if said else f"{command[0]} ended with {done.returncode}"
    return ""
