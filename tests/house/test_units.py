# SPDX-License-Identifier: Apache-2.0
"""The units of ``deploy/systemd`` are hardened alike, and have no secret; the packages have them.

``make packages-try`` runs them.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from arx_caps.audit.shipping import shipper
from arx_caps.cli import exit_codes
from arx_caps.gateway import gateway
from arx_caps.gateway import serve as gateway_serve
from arx_caps.mint import context, runtime
from arx_caps.mint.audit import log
from arx_caps.mint.notifications import sender
from arx_caps.mint.server import child_process
from arx_caps.service import refresh
from tests.house.pages import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
MOST_EXPOSED = 15  # tenths, as systemd-analyze counts
PACKAGES = ROOT / "deploy" / "packages"
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def analyze(*words: str | Path) -> str:
    """Run systemd-analyze, and return what it wrote; end with that if it fails."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("ARX_REQUIRE_SYSTEMD"):
            pytest.fail("systemd-analyze is not installed, and ARX_REQUIRE_SYSTEMD says that it has to be")
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "--no-pager", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines_of(unit: Path) -> list[str]:
    return [line for line in unit.read_text("utf-8").splitlines() if line and not line.startswith("#")]


def test_there_is_a_unit_for_each_part() -> None:
    """The names are those that operators type."""
    assert [unit.name for unit in UNITS] == [f"arx-{part}.service" for part in ("gateway", "mint", "relay", "ship@")]


def test_no_unit_is_more_exposed_than_allowed() -> None:
    """As systemd itself counts it, from 0 to 100."""
    for unit in UNITS:
        analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)


def test_a_unit_without_its_hardening_is_exposed(tmp_path: Path) -> None:
    """The check above can fail."""
    bare = tmp_path / UNITS[0].name
    bare.write_text("[Service]\nType=notify\nExecStart=/bin/true\n")
    with pytest.raises(AssertionError, match="Overall exposure level"):
        analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", bare)


def test_systemd_understands_each_line(tmp_path: Path) -> None:
    """It only warns of a setting that it does not know, and starts the unit without it."""
    for unit in UNITS:
        text = unit.read_text("utf-8").replace("/usr/bin/arx ", "/bin/true ")
        (tmp_path / unit.name).write_text(text)
    paths = [tmp_path / unit.name for unit in UNITS]
    assert str(tmp_path) not in analyze("verify", "--man=no", *paths)
    paths[0].write_text(paths[0].read_text("utf-8").replace("ProtectClock=", "ProtectClocks="))
    assert f"{paths[0]}:" in analyze("verify", "--man=no", paths[0])


def test_all_units_are_hardened_alike() -> None:
    """From ``User`` to the end they differ in the file of their settings alone."""
    common = [re.sub(r"/etc/arx/\w+\.env", "", unit.read_text("utf-8").partition("\nUser=")[2]) for unit in UNITS]
    assert common[0]
    assert len(set(common)) == 1


def test_a_secret_comes_from_a_credential() -> None:
    """A variable that names one ends in ``_FILE``, is one that ARx knows, and names a file that is loaded."""
    for unit in UNITS:
        lines = lines_of(unit)
        loaded = {line.partition("=")[2].partition(":")[0] for line in lines if line.startswith("LoadCredential=")}
        given = dict(re.findall(r"\b(ARX_\w+)=(\S*)", "\n".join(line for line in lines if line.startswith("Env"))))
        secret = {name: value for name, value in given.items() if re.search("PASSWORD|PASSPHRASE|KEY|SECRET", name)}
        assert all(name.endswith("_FILE") and f"`{name}`" in SETTINGS for name in secret), unit
        assert set(secret.values()) == {f"%d/{name}" for name in loaded}, unit
        assert loaded or unit.name == "arx-ship@.service"  # which needs no password: its key is in its state


def test_a_unit_sees_its_own_state_alone() -> None:
    """All units have one user, and a gateway is nearer to an attacker than the root keys and their copies may be."""
    for unit in UNITS:
        lines = lines_of(unit)
        own = {"arx-mint.service": "realm", "arx-relay.service": None}.get(unit.name, "services")
        assert [line for line in lines if line.startswith("Bind")] == [f"BindPaths=/var/lib/arx/{own}"] * bool(own), (
            unit
        )
        [hidden] = [line.partition("=")[2].split() for line in lines if line.startswith("TemporaryFileSystem=")]
        assert "/var/lib:ro" in hidden, unit
    assert "Environment=ARX_HOME=/var/lib/arx/realm" in lines_of(next(unit for unit in UNITS if "mint" in unit.name))


def setting(unit: Path, name: str) -> str:
    """Return the value of a setting that a unit has once."""
    [value] = [line.partition("=")[2] for line in lines_of(unit) if line.startswith(f"{name}=")]
    return value


def test_a_unit_may_stop_as_long_as_its_process_does() -> None:
    """Then systemd kills it: a running call would have no answer, and its last records would wait."""
    reading = shipper.TIMEOUT.read or 0.0
    limits = {
        "arx-mint.service": child_process.GRACE_S
        + context.CATCH_UP_S
        + runtime.KEEPER_S
        + sender.STOP_S
        + runtime.LEAVE_S
        + log.STOP_S,
        "arx-gateway.service": 2 * gateway_serve._GRACE_S + gateway._GRACE_S + reading + refresh.CLOSE_S,
        "arx-ship@.service": 2 * reading + refresh.CLOSE_S,
    }
    for unit in UNITS:
        assert float(setting(unit, "TimeoutStopSec")) > limits.get(unit.name, 0.0), unit


def test_a_wrong_setting_does_not_restart_a_unit(tmp_path: Path) -> None:
    """The code of a command that cannot start for its settings; a store that is away, or a taken port, has another."""
    assert {setting(unit, "RestartPreventExitStatus") for unit in UNITS} == {str(exit_codes.USAGE)}
    away = ["--realm-dir", str(tmp_path / "realm"), "--store", "redis://127.0.0.1:1/0"]
    arx = [sys.executable, "-m", "arx_caps.cli"]
    subprocess.run([*arx, "init", str(tmp_path / "realm"), "--name", "acme"], check=True, capture_output=True)
    assert (
        subprocess.run([*arx, "mint", "serve", "--port", "0", *away], check=False).returncode == exit_codes.UNREACHABLE
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*arx, "mint", "serve", "--port", port, *away], check=False)
        assert done.returncode == exit_codes.UNREACHABLE
    (tmp_path / "realm" / "realm.toml").write_text("wrong = 1\n")
    assert subprocess.run([*arx, "mint", "serve", "--port", "0", *away], check=False).returncode == exit_codes.USAGE
    assert subprocess.run([*arx, "gateway", "run", "none.toml"], check=False).returncode == exit_codes.USAGE


def test_one_unit_alone_may_set_the_mode_of_a_folder() -> None:
    """/etc/arx is the package's; of several units with ``ConfigurationDirectory`` the last start would decide."""
    assert not any("ConfigurationDirectory" in unit.read_text("utf-8") for unit in UNITS)


def nfpm() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((PACKAGES / "nfpm.yaml").read_text("utf-8"))
    return read


def test_the_packages_have_what_the_units_name() -> None:
    """Each unit, the command that it runs, its user, and the folders of its settings."""
    contents = {each["dst"]: each for each in nfpm()["contents"]}
    assert {place for place in contents if place.endswith(".service")} == {
        f"/usr/lib/systemd/system/{unit.name}" for unit in UNITS
    }
    named = {word for unit in UNITS for word in re.findall(r"/(?:etc|usr)/[\w./-]+", "\n".join(lines_of(unit)))}
    parts = re.compile(r"/etc/arx/(credentials/[\w.-]+|\w+\.env|gateway\.toml)")  # the administrator writes these
    assert {place for place in named if not parts.fullmatch(place)} <= contents.keys()
    assert contents["/etc/arx/credentials"]["file_info"]["mode"] == 0o700
    assert re.search(r"(?m)^u arx ", (PACKAGES / "sysusers.conf").read_text("utf-8"))


def test_each_file_of_the_packages_is_there() -> None:
    """But for those that are built, and the target of a link."""
    sources = [each["src"] for each in nfpm()["contents"] if each.get("type") not in ("dir", "symlink")]
    sources += nfpm()["scripts"].values()
    built = {"build/packages/root/usr/lib/arx", "build/packages/changelog.gz"}
    assert [source for source in sources if source not in built and not (ROOT / source).exists()] == []
    assert built < set(sources)


def test_the_scripts_handle_each_unit() -> None:
    """A unit that one of them forgets runs on from files that are gone."""
    for name in ("postinstall", "preremove"):
        script = PACKAGES / f"{name}.sh"
        subprocess.run(["sh", "-n", script], check=True)
        for unit in UNITS:
            assert unit.name.replace("@", "@*") in script.read_text("utf-8"), f"{name}: {unit.name}"


def test_the_packages_are_of_this_version() -> None:
    """And of the Python whose wheels they have, which is that of the image."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert (PACKAGES / "changelog").read_text("utf-8").startswith(f"arx ({version}-1) ")
    python = re.search(r'^PYTHON: Final = "3\.(\d+)"', (ROOT / "deploy" / "image.py").read_text("utf-8"), re.MULTILINE)
    assert python is not None
    minor, needed = int(python[1]), nfpm()["overrides"]
    assert {f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})"} <= set(needed["deb"]["depends"])
    assert f"python(abi) = 3.{minor}" in needed["rpm"]["depends"]
