# SPDX-License-Identifier: Apache-2.0
"""Build the compiled twins of ``arx_verifier.compiled`` into a wheel, where ``ARX_COMPILED=1`` asks for it.

It takes a C compiler, Python's headers and those of OpenSSL 3 (Debian: gcc, python3-dev, libssl-dev).  Without the
variable the wheel is pure Python and takes nothing.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WANTED = os.environ.get("ARX_COMPILED", "") not in ("", "0")
FLAGS = ["-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]


class CustomBuildHook(BuildHookInterface):
    """Add the extension module to a wheel."""

    def dependencies(self) -> list[str]:
        """Say what the compilation needs beside a compiler."""
        return ["setuptools>=70"] if WANTED and self.target_name == "wheel" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the hook says so
        """Compile, before the files of the wheel are gathered."""
        if not WANTED or self.target_name != "wheel":
            return
        from setuptools import Distribution, Extension

        sources = sorted(map(str, (Path(self.root) / "arx_verifier").glob("_compiled*.c")))
        extension = Extension("arx_verifier._compiled", sources, libraries=["crypto"], extra_compile_args=FLAGS)
        command = Distribution({"name": "arx-verifier", "ext_modules": [extension]}).get_command_obj("build_ext")
        self._made = tempfile.TemporaryDirectory()
        command.build_lib = command.build_temp = self._made.name
        command.ensure_finalized()
        command.run()
        for built in command.get_outputs():
            build_data["force_include"][built] = f"arx_verifier/{Path(built).name}"
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, *_: Any) -> None:
        """Leave nothing behind."""
        if WANTED and self.target_name == "wheel":
            self._made.cleanup()
