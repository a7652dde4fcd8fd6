# SPDX-License-Identifier: Apache-2.0
"""systemd in namespaces of its own, for a machine that another program started: a container or a virtual machine.

It starts no service of the machine, and sees the machine's disk read only.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.servers import until

PROGRAMS: Final = ("/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/nsenter", "/usr/bin/unshare")
_BOOT: Final = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro /
for folder in /run /var/lib/systemd /var/log; do mount -t tmpfs tmpfs $folder; done
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system /run/dbus
cd /run/systemd/system
ln -s /dev/null tmp.mount
for name in sysinit basic shutdown; do printf '[Unit]\\nDefaultDependencies=no\\n' > $name.target; done
printf '[Unit]\\nDefaultDependencies=no\\nAllowIsolate=yes\\nWants=dbus.service\\n' > arx.target
printf '[Unit]\\nDefaultDependencies=no\\n[Socket]\\nListenStream=/run/dbus/system_bus_socket\\n' > dbus.socket
printf '[Unit]\\nDefaultDependencies=no\\nRequires=dbus.socket\\n[Service]\\nType=notify\\n' > dbus.service
echo 'ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --syslog-only' >> dbus.service
exec env -i container=arx PATH="$PATH" /lib/systemd/systemd --system --unit=arx.target --log-target=console \
    --show-status=no
"""


def why_not() -> str | None:
    """Return why it cannot run here."""
    if os.geteuid() != 0:
        return "systemd in namespaces needs root"
    missing = [path for path in PROGRAMS if not Path(path).exists()]
    return f"expected {', '.join(missing)}" if missing else None


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[list[str]]:
    """Run systemd; yield the words that start a program beside it.

    Args:
        folder: What programs there may write.
    """
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc", "--cgroup"]
    with (folder / "systemd.log").open("w") as log:
        command = [*unshare, "sh", "-c", _BOOT, "sh", str(folder)]
        outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        until(lambda: children.read_text().split() or outer.poll() is not None)
        [inner] = children.read_text().split()
        words = [str(shutil.which("nsenter")), "-t", inner, "-m", "-p", "-i", "-u", "-C", "--"]

        def runs() -> bool:
            assert outer.poll() is None, (folder / "systemd.log").read_text()
            asked = [*words, "systemctl", "is-active", "dbus.service"]
            return subprocess.run(asked, capture_output=True, check=False).stdout == b"active\n"

        until(runs)
        yield words
    finally:
        outer.kill()
        outer.wait()
