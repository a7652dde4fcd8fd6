# SPDX-License-Identifier: Apache-2.0
"""Type docs/production.md from its first line to its last, each machine in a network namespace of its own.

``make afternoon`` runs it as root, with the Debian packages that the page names.  Its network, its mounts and its
processes are in namespaces that end with it.  ``scp`` and ``ssh`` alone are not the real ones.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.house.pages import ROOT, Block, blocks
from tests.house.reader import environment

PAGE: Final = ROOT / "docs" / "production.md"
PROGRAMS: Final = ("openssl", "valkey-server", "nginx", "prometheus", "promtool", "curl", "ip", "runuser")
NETWORK: Final = "10.77.0"
HERE: Final = Path("/srv/arx")  # the page's folder, which is each machine's own
OWNERS: Final = {"db-1": "postgres", "db-2": "postgres"}
NAMESPACES: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
BLOCK_S: Final = 600.0  # for one block, on a busy machine
PLACE: Final = re.compile(r"# (?:on (?P<machines>[\w, -]+?)(?:: |$))?(?P<file>[\w.-]+\.\w+)?$")
COPY: Final = """\
#!/usr/bin/env bash
# Copy files from or to the folders of machines, as `scp` does with hosts.
set -eu
paths=()
for path; do
  case $path in
  -r) ;;
  *:*) paths+=("{folder}/${path%%:*}/${path#*:}") ;;
  *) paths+=("$path") ;;
  esac
done
cp -r "${paths[@]}"
to=${paths[-1]}
[ $UID != 0 ] || chown -R --reference="$to" "$to"
"""
RUN: Final = """\
#!/usr/bin/env bash
# Run a command in the folder of a machine, as `ssh` does on a host.
set -eu
cd {folder}/$1
shift
"$@"
"""


class Machine:
    """A machine with an address, a folder and a shell of its own.

    Args:
        name: Its name.
        number: The last part of its address.
        folder: The folder of all machines.
    """

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name, self.folder, self.log = name, folder / name, folder / f"{name}.log"
        self.folder.mkdir(mode=0o755)
        owner = OWNERS.get(name, "root")
        shutil.chown(self.folder, owner)
        for words in (
            f"netns add {name}",
            f"link add to-{number} type veth peer name eth0 netns {name}",
            f"link set to-{number} master hub up",
            f"-n {name} address add {NETWORK}.{number}/24 dev eth0",
            f"-n {name} link set eth0 up",
            f"-n {name} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        script = f"mount --bind {self.folder} {HERE} && cd {HERE} && exec runuser -u {owner} -- bash"
        self._typed = 0
        with self.log.open("w") as log:
            self._shell = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "--mount", "bash", "-c", script],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment() | {"PATH": f"{folder}/bin:{environment()['PATH']}", "HOME": str(HERE)},
            )
        self.type("set -eu -o pipefail")

    def write(self, name: str, text: str) -> None:
        """Write one of the page's files."""
        (self.folder / name).write_text(text)
        shutil.chown(self.folder / name, OWNERS.get(self.name, "root"))

    def type(self, text: str) -> None:
        """Type a block into the shell, and wait until it has run.

        Raises:
            AssertionError: A command failed, or did not end.
        """
        self._typed += 1
        script, done = self.folder / f".typed-{self._typed}", self.folder / f".done-{self._typed}"
        script.write_text(text)
        script.chmod(0o644)
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"source ./{script.name} < /dev/null; touch {done.name}\n")
        self._shell.stdin.flush()
        deadline = time.monotonic() + BLOCK_S
        while not done.exists():
            assert self._shell.poll() is None, f"{self.name}: a command failed:\n{text}\n{self.written()[-6000:]}"
            assert time.monotonic() < deadline, f"{self.name}: it did not end:\n{text}\n{self.written()[-6000:]}"
            time.sleep(0.05)

    def written(self) -> str:
        """Return what its commands wrote."""
        return self.log.read_text(errors="replace")


class Site:
    """All machines of the page.

    Args:
        folder: An empty folder that each user may enter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = re.findall(r"^\| (`[^|]+)\|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        found = [(name, other) for names, other in rows for name in re.findall(r"`([\w-]+)\.example`", names)]
        hosts = "127.0.0.1 localhost\n"
        for number, (name, other) in enumerate(found, 1):
            names = [name, f"{name}.example", *re.findall(r"`([\w.-]+)`", other)]
            hosts += f"{NETWORK}.{number} {' '.join(names)}\n"
        self._make_network(hosts)
        for name, text in (("scp", COPY), ("ssh", RUN)):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("{folder}", str(folder)))
            path.chmod(0o755)
        self.machines = {name: Machine(name, number, folder) for number, (name, _) in enumerate(found, 1)}
        self.machines["orders-1"].write("service.py", (ROOT / "arx_caps" / "demo" / "service.py").read_text())
        self.machines["ops"].write("arx-alerts.yaml", (ROOT / "deploy" / "monitoring" / "arx-alerts.yaml").read_text())

    def _make_network(self, hosts: str) -> None:
        (self.folder / "hosts").write_text(hosts)
        for words in (
            "mount --make-rprivate /",
            "mount -t tmpfs none /srv",
            f"mkdir {HERE}",
            "mkdir -p /run/netns",
            "mount -t tmpfs none /run/netns",
            f"mount --bind {self.folder}/hosts /etc/hosts",
            "ip link set lo up",
            "ip link add hub type bridge",
            "ip link set hub up",
        ):
            subprocess.run(words.split(), check=True)

    def play(self, block: Block) -> None:
        """Write a block's file, or type its commands, on the machine that its first line names."""
        first, _, rest = block.text.partition("\n")
        match = PLACE.fullmatch(first)
        assert match is not None, f"a block names no machine: {first}"
        for name in (match["machines"] or "proxy").split(", "):
            if match["file"]:
                self.machines[name].write(match["file"], rest)
            else:
                self.machines[name].type(rest)


def main() -> None:
    """Type the page, or enter the namespaces first."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.afternoon", description=__doc__)
    parser.add_argument("--inside", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        assert not missing, f"not installed: {', '.join(missing)}"
        assert os.getuid() == 0, "it makes network namespaces, which takes root"
        with tempfile.TemporaryDirectory(prefix="arx-afternoon-") as folder:
            Path(folder).chmod(0o755)
            words = [*NAMESPACES, sys.executable, "-m", "tests.house.afternoon", "--inside", folder]
            done = subprocess.run(words, check=False)
            sys.exit(done.returncode)
    os.umask(0o022)
    site, began = Site(given.inside), time.monotonic()
    for step in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title = step.partition("\n")[0]
        for block in blocks(step):
            site.play(block)
        print(f"{time.monotonic() - began:6.1f} s  {title}", flush=True)
    agent, operator = site.machines["agent"].written(), site.machines["mint-1"].written()
    assert agent.count('"id": "i-1001"') == 3, agent
    assert "refused, as it must be" in agent, agent
    assert re.search(r"agent:acme/support/triage: confirmed: \d+ of \d+ verifiers", operator), operator
    assert "BAD" not in operator, operator
    assert "unknown" not in operator, operator
    print("each block was typed, and did what the page says")


if __name__ == "__main__":
    main()
