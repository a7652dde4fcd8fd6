# SPDX-License-Identifier: Apache-2.0
"""Install the ``.deb`` of ``make packages`` in a fresh Debian, and start its units: ``make packages-try``.

systemd-nspawn boots the Debian, without a network but loopback.  What ``docs/packages.md`` has an operator type is
typed there, from the page.  An earlier version is installed first, so that the package is an upgrade; at the end it is
removed, and nothing of it may be left but ``/var/lib/arx``.  Limits of memory and processes are not tried.  Takes root,
mmdebstrap, systemd-container and lintian.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "packages.md").read_text(encoding="utf-8")
TOOLS: Final = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "lintian": "lintian"}
DEBIAN: Final = (
    "deb http://deb.debian.org/debian trixie main",
    "deb http://deb.debian.org/debian trixie-updates main",
    "deb http://deb.debian.org/debian-security trixie-security main",
)
# What the package depends on, so that apt needs no network; and the store.
INCLUDED: Final = "systemd,systemd-sysv,dbus,python3,ca-certificates,libssl3t64,libstdc++6,zlib1g,valkey-server"
UNITS: Final = ("arx-mint", "arx-relay", "arx-ship@orders", "arx-gateway")
# Of /var/lib.
SEEN: Final = {
    "arx-mint": ["/var/lib/arx", "/var/lib/arx/realm"],
    "arx-gateway": ["/var/lib/arx", "/var/lib/arx/services"],
    "arx-relay": [],
}
SECRETS: Final = ("mint.store-password", "root.store-password", "verifier.store-password")
LONGEST_S: Final = 600.0  # for a command, on a loaded machine
BOOT_S: Final = 60.0  # from boot to a call that is allowed and one that is refused, on a quiet machine
SLOW: Final = 5  # times longer, on a loaded one
KEPT: Final = ("/var/lib/arx",)
SECRET_FOLDERS: Final = ("/etc/arx/credentials", "/var/lib/arx/realm", "/var/lib/arx/services")
# Files that a running system makes by itself.
OTHERS: Final = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/dpkg")
OTHERS_TOO: Final = ("/var/lib/systemd", "/var/lib/apt", "/var/lib/valkey", "/var/lib/private", "/root", "/etc/valkey")
STALE: Final = Path("usr/lib/arx/lib/python3.13/site-packages/arx_caps/of_an_earlier_version.py")

UPSTREAM: Final = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Orders(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
ThreadingHTTPServer(("127.0.0.1", 9010), Orders).serve_forever()
"""
AGENT: Final = """
import json, time, httpx
from arx_caps import Agent
with Agent.from_key_file("/var/lib/arx/agent.key") as agent, agent.open_session(purpose="a try") as session:
    task = session.start_task("lookup", order_id="o-1")
    at = "http://127.0.0.1:9001/orders/orders/"
    answers = [httpx.get(at + order, auth=task.auth(), timeout=60) for order in ("o-1", "o-2")]
    print(json.dumps([answer.status_code for answer in answers]))
"""


def require(fact: bool, text: str) -> None:
    """End if something is not as it must be."""
    if not fact:
        sys.exit(f"packages: {text}")


def run(*words: str | Path, **options: object) -> str:
    """Run a command of this machine, and return what it wrote to stdout; end with all of it if it fails."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    require(done.returncode == 0, f"{' '.join(map(str, words))} failed\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def block(heading: str, language: str = "sh", number: int = 0) -> str:
    """Return a fenced block of a section of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    require(len(found) > number, f"docs/packages.md: expected a block of {language} in {heading!r}")
    return str(found[number])


class Machine:
    """A Debian that systemd-nspawn has booted.

    Args:
        leader: The id of its first process.
    """

    def __init__(self, leader: int) -> None:
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--"]
        self._enter += ["env", "--chdir=/", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]

    def run(self, *words: str, exits: int | None = 0, text: str | None = None) -> str:
        """Run a command there to its end, and return what it wrote.

        Args:
            words: The command.
            exits: The expected exit code; None for any.
            text: Its standard input.
        """
        given: dict[str, object] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        done = subprocess.run(
            [*self._enter, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_S,
            check=False,
            **given,  # type: ignore[call-overload]
        )
        output = str(done.stdout)
        if exits is not None and done.returncode != exits:
            log = subprocess.run([*self._enter, "journalctl", "-n", "60", "-o", "cat"], capture_output=True, text=True)
            sys.exit(f"packages: {' '.join(words)}: expected {exits}, got {done.returncode}\n{output}\n{log.stdout}")
        return output

    def type(self, script: str) -> str:
        """Type lines as root, each of which must succeed."""
        return self.run("sh", "-eu", text=script)

    def start(self, *words: str) -> None:
        """Start a command there as a unit."""
        self.run("systemd-run", "--quiet", "--collect", "--uid=nobody", *words)

    def is_active(self, unit: str) -> bool:
        """Return whether a unit is active."""
        return self.run("systemctl", "is-active", unit, exits=None).strip() == "active"

    def main_pid(self, unit: str) -> str:
        """Return the process of a unit."""
        return self.run("systemctl", "show", "-P", "MainPID", unit).strip()


@contextmanager
def booted(root: Path, log: Path) -> Iterator[Machine]:
    """Boot a root until the end of the block, when it is powered off."""
    command = ["systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", "--keep-unit", "--private-network"]
    with log.open("a") as output:
        nspawn = subprocess.Popen(
            [*command, "--boot"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        leader = 0

        def is_up() -> bool:
            nonlocal leader
            require(nspawn.poll() is None, f"systemd-nspawn ended\n{log.read_text(errors='replace')}")
            children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text("utf-8").split()
            for child in children:
                if Path(f"/proc/{child}/comm").read_text("utf-8").strip() == "systemd":
                    leader = int(child)
            return leader != 0 and Machine(leader).is_active("multi-user.target")

        wait_until(is_up, "the machine boots", LONGEST_S)
        yield Machine(leader)
        Machine(leader).run("systemctl", "poweroff", exits=None)
        nspawn.wait(LONGEST_S)
    finally:
        nspawn.terminate()
        nspawn.wait(60)


def wait_until(holds: Callable[[], bool], text: str, within_s: float) -> None:
    """Wait for another process; end if it takes too long."""
    deadline = time.monotonic() + within_s
    while not holds():
        require(time.monotonic() < deadline, f"expected within {within_s:.0f} s: {text}")
        time.sleep(0.2)


def other_versions(deb: Path, work: Path) -> tuple[Path, Path]:
    """Return an earlier version, with a module that the later one has no more, and one that cannot be installed."""
    tree = work / "earlier"
    run("dpkg-deb", "--raw-extract", deb, tree)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1~earlier", control.read_text("utf-8")), "utf-8")
    (tree / STALE).write_text("# no more\n", "utf-8")
    build = ("dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree)
    run(*build, work / "earlier.deb")
    shutil.rmtree(tree / "usr")
    (tree / "DEBIAN" / "md5sums").unlink()
    preinst = tree / "DEBIAN" / "preinst"
    preinst.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    preinst.chmod(0o755)
    run(*build, work / "broken.deb")
    shutil.rmtree(tree)
    return work / "earlier.deb", work / "broken.deb"


def files_of(root: Path) -> set[str]:
    """Return the paths in a root that a package may have made."""
    found = set()
    for top, folders, names in os.walk(root):
        place = Path("/") / Path(top).relative_to(root)
        folders[:] = [name for name in folders if str(place / name) not in (*OTHERS, *OTHERS_TOO)]
        found |= {str(place / name) for name in (*folders, *names)}
    # sysusers keeps the files of before, and systemd remembers that a unit was once enabled.
    return {path for path in found if not re.fullmatch(r"/etc/\.?(passwd|group|g?shadow|sub[ug]id)(-|\.lock)?", path)}


def call(machine: Machine) -> list[int]:
    """Call an order that the agent's task allows, and one that it does not; return the answers."""
    agent = ("runuser", "-u", "arx", "--", "/usr/lib/arx/bin/python3", "-P", "-")
    answers: list[int] = json.loads(machine.run(*agent, text=AGENT).splitlines()[-1])
    return answers


def install(machine: Machine) -> None:
    """Install the earlier version as the page does; no unit runs."""
    typed = re.sub(r"\./arx_\S+\.deb", "/root/earlier.deb", block("Install"))
    machine.type(typed.replace("apt-get install", "apt-get install -y"))
    for unit in UNITS:
        require(not machine.is_active(unit), f"{unit} runs after an installation")
    for folder in ("/var/lib/arx", "/var/lib/arx/realm", "/var/lib/arx/services"):
        found = machine.run("stat", "-c", "%U %a", folder).strip()
        require(found == "arx 700", f"{folder}: expected it to be the user's alone, got {found}")


def configure(machine: Machine) -> None:
    """Make store, realm and service as the page does, and start the units."""
    toml = block("A service behind a gateway", "toml")
    write = f"cat > {toml.partition(chr(10))[0].removeprefix('# ')} <<'TOML'\n{toml}TOML\n"
    service, start = (block("A service behind a gateway", number=number) for number in (0, 1))
    # In one shell, as an operator does.  The mint's last line asks for its health: the unit is active when it serves.
    machine.type(block("The store") + block("The mint") + service + write + start)
    for unit in UNITS:
        require(machine.is_active(unit), f"{unit} is not active")
    enrol = ("arx", "agent", "enrol", "acme/support/triage", "--key-out", "/var/lib/arx/agent.key")
    machine.run("runuser", "-u", "arx", "--", "env", "ARX_HOME=/var/lib/arx/realm", *enrol)


def check_secrets(machine: Machine) -> None:
    """Check that no password is in an environment or a log, and that another user reaches none."""
    for name in SECRETS:
        secret = machine.run("cat", f"/etc/arx/credentials/{name}").strip()
        require(len(secret) > 15, f"{name} is no password")
        for unit in UNITS:
            shown = machine.run("cat", f"/proc/{machine.main_pid(unit)}/environ")
            shown += machine.run("systemctl", "show", unit) + machine.run("journalctl", "-u", unit)
            require(secret not in shown, f"{unit}: its environment or log has {name}")
    for path in ("/etc/arx/credentials", "/run/credentials/arx-mint.service", "/var/lib/arx", "/run/arx-relay"):
        shown = machine.run("runuser", "-u", "nobody", "--", "ls", path, exits=None)
        require("Permission denied" in shown, f"another user lists {path}: {shown}")
    for unit in UNITS:  # all have one user, but the realm's keys are for the mint alone
        inside = ("nsenter", "-t", machine.main_pid(unit), "-m", "--")
        shown = machine.run(*inside, "find", "/var/lib", "-mindepth", "1", "-maxdepth", "2").split()
        require(shown == SEEN.get(unit, SEEN["arx-gateway"]), f"{unit} sees {shown}")
        shown = machine.run(*inside, "runuser", "-u", "arx", "--", "ls", "/etc/arx/credentials", exits=None)
        require("Permission denied" in shown, f"{unit} lists all credentials: {shown}")
    # Without its credential a unit does not start: it does not go on without a password.
    machine.type("mv /etc/arx/credentials/verifier.store-password /root/kept; systemctl stop arx-relay")
    machine.run("systemctl", "start", "arx-relay", exits=1)
    machine.type("mv /root/kept /etc/arx/credentials/verifier.store-password")
    machine.type("systemctl reset-failed arx-relay; systemctl start arx-relay")


def check_wrong_setting(machine: Machine) -> None:
    """Check that a unit with a wrong setting ends for good, and starts again once it is right."""
    machine.type("echo wrong >> /etc/arx/gateway.toml")
    machine.run("systemctl", "restart", "arx-gateway", exits=1)
    shown = machine.run("systemctl", "show", "-p", "ActiveState", "-p", "NRestarts", "arx-gateway").split()
    require(sorted(shown) == ["ActiveState=failed", "NRestarts=0"], f"a wrong gateway.toml: {shown}")
    machine.type("sed -i '$d' /etc/arx/gateway.toml; systemctl start arx-gateway")


def reload(machine: Machine) -> None:
    """Reload mint and gateway as the page does: each process goes on, with its new settings."""
    before = [machine.main_pid(unit) for unit in UNITS]
    machine.run("sed", "-i", 's/ttl = "8h"/ttl = "7h"/', "/var/lib/arx/realm/policy.toml")
    machine.type(block("Reload, upgrade, remove"))

    def has_reloaded() -> bool:
        logs = [machine.run("journalctl", "-o", "cat", "-u", unit) for unit in ("arx-mint", "arx-gateway")]
        return '"reloaded": true' in logs[0] and "reloaded /etc/arx/gateway.toml" in logs[1]

    wait_until(has_reloaded, "mint and gateway reload", LONGEST_S)
    wait_until(lambda: all(map(machine.is_active, UNITS)), "all units are active after a reload", LONGEST_S)
    require([machine.main_pid(unit) for unit in UNITS] == before, "a reload restarted a unit")


def upgrade(machine: Machine) -> None:
    """Install the package over the earlier version: what ran runs on, from the new files."""
    before = {unit: machine.main_pid(unit) for unit in UNITS}
    machine.run("dpkg", "-i", "/root/broken.deb", exits=1)
    check_byte_code(machine, "an upgrade that failed")
    require({unit: machine.main_pid(unit) for unit in UNITS} == before, "an upgrade that failed restarted a unit")
    machine.run("test", "-e", f"/{STALE}")
    machine.type("apt-get install -y --no-install-recommends /root/new.deb")
    for unit, process in before.items():
        require(machine.is_active(unit), f"{unit} is not active after an upgrade")
        require(machine.main_pid(unit) != process, f"{unit} was not restarted by an upgrade")
    left = machine.run("find", "/usr/lib/arx", "-name", "of_an_earlier_version*")
    require(left == "", f"an upgrade left {left}")
    check_byte_code(machine, "an upgrade")


def check_byte_code(machine: Machine, after: str) -> None:
    """Check that each module is compiled: the units cannot do it, and would compile it at each start."""
    written = machine.run("find", "/usr/lib/arx", "-name", "*.pyc").count("\n")
    require(written > 1000, f"expected byte code of all modules after {after}, got {written} files")


def stop(machine: Machine) -> None:
    """Stop each unit: it ends in order and in time."""
    for unit in reversed(UNITS):
        began = time.monotonic()
        machine.run("systemctl", "stop", unit)
        result = machine.run("systemctl", "show", "-P", "Result", unit).strip()
        require(result == "success", f"{unit}: expected to stop with success, got {result}")
        print(f"  {unit}: stopped in {time.monotonic() - began:.1f} s", flush=True)


def remove(machine: Machine, root: Path, before: set[str]) -> None:
    """Remove the package, while its units run, and purge it: nothing is left but ``KEPT``."""
    machine.run("systemctl", "start", *UNITS)
    check_left_folders(machine.run("apt-get", "remove", "-y", "arx"), *SECRET_FOLDERS)
    for unit in UNITS:
        require(not machine.is_active(unit), f"{unit} runs after a removal")
    left = files_of(root) - before
    require(
        all(path.startswith(("/etc/arx", *KEPT)) for path in left), f"a removal left {sorted(left)[:20]}, {len(left)}"
    )
    check_left_folders(machine.run("apt-get", "purge", "-y", "arx"), *SECRET_FOLDERS[1:])
    left = files_of(root) - before
    require(left != set() and all(path.startswith(KEPT) for path in left), f"a purge left {sorted(left)[:20]}")
    machine.run("test", "-s", "/var/lib/arx/realm/realm.toml")


def check_left_folders(output: str, *folders: str) -> None:
    """Check that a removal names the folders with secrets that it leaves."""
    found = re.findall(r"^arx: (\S+) is left, and has secrets$", output, re.MULTILINE)
    require(found == [*folders], f"expected a removal to name {folders}\n{output}")


def try_package(deb: Path, work: Path) -> None:
    """Install, configure, reload, upgrade and remove the package in a fresh Debian."""
    root, log = work / "root", work / "boot.log"
    began = time.monotonic()

    def done(text: str) -> None:
        print(f"  {time.monotonic() - began:5.0f} s  {text}", flush=True)

    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDED}", "trixie", root, *DEBIAN)
    done("a fresh Debian")
    for made in other_versions(deb, work):
        shutil.copy(made, root / "root")
    shutil.copy(deb, root / "root" / "new.deb")
    with booted(root, log):
        pass  # a first boot makes files of its own
    before = files_of(root)
    with booted(root, log) as machine:
        done("booted")
        install(machine)
        done("installed an earlier version")
        configure(machine)
        done(f"active: {', '.join(UNITS)}")
        machine.type(block("Operate"))  # the doctor ends with 0: all is well
        check_secrets(machine)
        check_wrong_setting(machine)
        machine.start("python3", "-c", UPSTREAM)
        require(call(machine) == [200, 403], "expected one call to be allowed and one to be refused")
        done("one call allowed, one refused")
        reload(machine)
        done("reloaded")
        upgrade(machine)
        require(call(machine) == [200, 403], "expected one call to be allowed and one to be refused, upgraded")
        done("upgraded")
        stop(machine)
    with booted(root, log) as machine:
        again = time.monotonic()
        machine.start("python3", "-c", UPSTREAM)
        wait_until(lambda: all(map(machine.is_active, UNITS)), "all units start at boot", LONGEST_S)
        require(call(machine) == [200, 403], "expected one call to be allowed and one to be refused, after a boot")
        took = time.monotonic() - again
        done(f"booted again: all units, one call allowed, one refused, {took:.0f} s after the system was up")
        require(took < BOOT_S * SLOW, f"expected at most {BOOT_S * SLOW:.0f} s, got {took:.0f} s")
        trail = machine.run("runuser", "-u", "arx", "--", "env", "ARX_HOME=/var/lib/arx/realm", "arx", "audit", "trail")
        require("allow" in trail and "deny" in trail, f"the signed log has no decision\n{trail}")
        remove(machine, root, before)
        done("removed, and nothing left but /var/lib/arx")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="make packages-try", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="the .deb [the one in dist]")
    deb = parser.parse_args().file or next((ROOT / "dist").glob("arx_*.deb"), None)
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    require(not missing, f"not installed: {' '.join(missing)}")
    require(os.geteuid() == 0 and deb is not None, "it takes root, and a package in dist: make packages")
    print(run("lintian", "--allow-root", "--fail-on", "error", str(deb)), end="")
    # In memory if there is room: dpkg waits for the disk after each of 3,000 files.
    place = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 4 << 30 else None
    with tempfile.TemporaryDirectory(prefix="arx-packages-", dir=place) as name:
        try_package(Path(str(deb)).resolve(), Path(name))
    print(f"{deb}: installed, upgraded and removed in Debian; its units ran under systemd")


if __name__ == "__main__":
    main()
