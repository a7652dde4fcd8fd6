# SPDX-License-Identifier: Apache-2.0
"""Audit what ``uv.lock`` locks for known vulnerabilities: ``make vulnerabilities``.

pip-audit asks an advisory service for each package.  Where it gets no answer for one, as behind a mirror of the index
without advisories, the result is "not audited", and never that no vulnerability is known.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]


def locked_packages(lock: Path) -> list[tuple[str, str]]:
    """Return name and version of each package of a lock that comes from an index."""
    packages = tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
    return sorted((each["name"], each["version"]) for each in packages if "registry" in each["source"])


def split_versions(packages: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return sets of packages with one version of each at most, as pip-audit takes them."""
    sets: list[dict[str, str]] = []
    for name, version in packages:
        free = next((versions for versions in sets if name not in versions), None)
        if free is None:
            sets.append(free := {})
        free[name] = version
    return sets


def audit_packages(versions: dict[str, str], *options: str) -> tuple[list[dict[str, Any]] | None, str]:
    """Ask the advisory service.

    Args:
        versions: The packages.
        options: More options of pip-audit.

    Returns:
        The packages with a known vulnerability, or None if one was not audited, and then the last line of pip-audit.
    """
    with tempfile.TemporaryDirectory(prefix="arx-audit-") as folder:
        asked = Path(folder, "requirements.txt")
        asked.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
        fixed = ("--strict", "--disable-pip", "--no-deps", "--progress-spinner=off", "--format=json", "-r", asked)
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *fixed, *options], capture_output=True, text=True, check=False
        )
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return None, ((done.stderr + done.stdout).splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
    missing = set(versions.items()) - {(each["name"], each.get("version")) for each in audited}
    if missing:
        return None, f"no answer for {len(missing)} packages, such as {min(missing)[0]}"
    return [each for each in audited if each["vulns"]], ""


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A vulnerability is known, or with ``--required`` a package was not audited.
    """
    parser = argparse.ArgumentParser(prog="make vulnerabilities", description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail if a package was not audited")
    parser.add_argument("--osv-url", help="advisory service in the form of OSV [that of PyPI]")
    options = parser.parse_args()
    packages = locked_packages(ROOT / "uv.lock")
    chosen = ("--vulnerability-service=osv", f"--osv-url={options.osv_url}") if options.osv_url else ()
    found: list[dict[str, Any]] = []
    for versions in split_versions(packages):
        known, reason = audit_packages(versions, *chosen)
        if known is None:
            print(f"not audited: {len(packages)} packages of uv.lock: {reason}")
            sys.exit(1 if options.required else 0)
        found += known
    for package in found:
        print(f"{package['name']} {package['version']}: {', '.join(each['id'] for each in package['vulns'])}")
    if found:
        sys.exit(f"vulnerabilities: {len(found)} of {len(packages)} packages of uv.lock have known vulnerabilities")
    print(f"audited: {len(packages)} packages of uv.lock, none with a known vulnerability")


if __name__ == "__main__":
    main()
