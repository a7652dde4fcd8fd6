# SPDX-License-Identifier: Apache-2.0
"""Compile ``arx_verifier/_native/primitives.c`` into a wheel, or into the source folder for an editable install.

This needs a C compiler and Python's headers (Debian: gcc python3-dev).  If one of them is missing, or ``ARX_PURE=1`` is
set, the result is pure Python, with a message.  ``ARX_REQUIRE_COMPILED=1`` makes that an error instead.

``ARX_TARGET``, one of ``TARGETS``, builds a wheel for a platform of that name with zig (PyPI: ziglang), whose bytes
depend on the source, zig and Python's headers alone.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
SOURCE = "arx_verifier/_native/primitives.c"
MODULE = "primitives.abi3.so"  # each CPython from 3.11 loads it
TARGETS = {  # the platform of a wheel, and zig's name for it
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
}
# What the module calls in libcrypto.  A library of these names is linked, so that no machine that builds needs OpenSSL.
CRYPTO = (
    "CRYPTO_memcmp",
    "EVP_DigestFinal_ex",
    "EVP_DigestInit_ex2",
    "EVP_DigestUpdate",
    "EVP_MD_CTX_copy_ex",
    "EVP_MD_CTX_free",
    "EVP_MD_CTX_new",
    "EVP_MD_fetch",
    "OPENSSL_cleanse",
)


def is_set(name: str) -> bool:
    """Return whether an environment variable is set to anything but 0."""
    return os.environ.get(name, "") not in ("", "0")


class CustomBuildHook(BuildHookInterface):
    """Add the extension module to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of the wheel are gathered."""
        if self.target_name != "wheel":
            return
        beside = Path(self.root, SOURCE).with_name(MODULE)
        if version == "editable":
            for stale in beside.parent.glob("primitives*.so"):
                stale.unlink()  # none must stay where this build fails
        if is_set("ARX_PURE"):
            return
        self._made = tempfile.TemporaryDirectory()
        built = Path(self._made.name, MODULE)
        wrong = compile_to(built, Path(self.root, SOURCE))
        if wrong:
            if is_set("ARX_REQUIRE_COMPILED") or "ARX_TARGET" in os.environ:
                raise RuntimeError(f"arx-verifier cannot be compiled, and it must be: {wrong}")
            self.app.display_warning(f"arx-verifier is built in pure Python, which is slower: {wrong}")
        elif version == "editable":
            shutil.copy(built, beside)
        else:
            build_data["force_include"][str(built)] = f"arx_verifier/_native/{MODULE}"
            platform = os.environ.get("ARX_TARGET") or sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"], build_data["tag"] = False, f"cp311-abi3-{platform}"

    def finalize(self, *_: Any) -> None:
        """Delete what was compiled, once it is in the wheel."""
        if hasattr(self, "_made"):
            self._made.cleanup()


def compile_to(built: Path, source: Path) -> str:
    """Compile the extension module, for ``ARX_TARGET`` or this machine.

    Returns:
        What failed, in one line; empty where nothing did.
    """
    target = os.environ.get("ARX_TARGET")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python has no stable ABI"
    if target and target not in TARGETS:
        return f"ARX_TARGET: expected {', '.join(TARGETS)}, got {target}"
    linker = cross_linker(TARGETS[target]) if target else local_linker()
    try:
        library = [] if "macos" in (target or sysconfig.get_platform()) else [link_names(linker, built.parent)]
        include = f"-I{sysconfig.get_path('include')}"
        run([*linker, include, source.name, "-o", str(built), *library], source.parent)
    except OSError as error:
        return f"no C compiler: {error.strerror}: {linker[0]}"
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines()
        return said[0].strip() if said else f"{linker[0]} ended with {error.returncode}"
    return ""


def local_linker() -> list[str]:
    """Return the words that link a module with the compiler of this Python, ``CC``, ``CFLAGS`` and ``LDFLAGS``."""
    found = {
        name: shlex.split(sysconfig.get_config_var(name) or "") for name in ("CC", "LDSHARED", "CFLAGS", "CCSHARED")
    }
    linker = found["LDSHARED"]
    if "CC" in os.environ:
        linker = [*shlex.split(os.environ["CC"]), *linker[len(found["CC"]) :]]
    more = [word for name in ("CFLAGS", "LDFLAGS") for word in shlex.split(os.environ.get(name, ""))]
    return [*linker, *found["CFLAGS"], *found["CCSHARED"], *FLAGS, *more]


def cross_linker(target: str) -> list[str]:
    """Return the words that link a module with zig."""
    # Without a name of its own, a module for macOS would hold the path that it is written to.
    mac = ["-undefined", "dynamic_lookup", f"-Wl,-install_name,{MODULE}"]
    system = mac if "macos" in target else ["-fPIC"]
    return [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-g0", *system, *FLAGS]


def link_names(linker: list[str], folder: Path) -> str:
    """Make a ``libcrypto.so.3`` that has names alone, for the linker, and return its path."""
    library, source, versions = folder / "libcrypto.so.3", folder / "names.c", folder / "names.map"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in CRYPTO))
    versions.write_text("OPENSSL_3.0.0 { global: *; };\n")
    options = ["-fvisibility=default", f"-Wl,-soname,{library.name}", f"-Wl,--version-script={versions}"]
    run([*linker, *options, str(source), "-o", str(library)], folder)
    return str(library)


def run(command: list[str], folder: Path) -> None:
    """Run a compiler in a folder."""
    subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=True)
