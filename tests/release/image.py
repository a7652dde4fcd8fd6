# SPDX-License-Identifier: Apache-2.0
"""Look into an image that ``make image`` made, and start its parts: ``python -m tests.release.image [FILE]``.

No container engine is needed, and none is tried: the image's root is bound read-only in a mount namespace, with /data
and /tmp as the only writable places, and each command is process 1 of a PID namespace, as the user 10001 without
capabilities.  Limits of memory and processes are not tried.  Takes root and redis-server.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from zstandard import ZstdDecompressor

ROOT: Final = Path(__file__).resolve().parents[2]
USER: Final = 10001
LONGEST_S: Final = 60.0  # until a part answers, on a loaded machine
STOP_S: Final = 40.0  # from SIGTERM, on a loaded machine; Docker sends SIGKILL after 10 s
SECRET: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}")
# The parts of a container engine that matter here.  `exec` all along: the command is process 1.
ENTER: Final = """
mount --bind "$ROOT" "$ROOT" && mount -o remount,bind,ro,nosuid,nodev "$ROOT" && mount --bind "$DATA" "$ROOT/data" &&
mount -t tmpfs -o mode=1777,nosuid,nodev none "$ROOT/tmp" && mount -t proc none "$ROOT/proc" &&
mount --bind /dev "$ROOT/dev" && cd "$ROOT" &&
exec setpriv --no-new-privs chroot --userspec="$USER:$USER" "$ROOT" env -i -C /data "$@"
"""
WRITES: Final = (  # by the image's own user, with the image's own Python
    "import os, sys\n"
    "places = [os.path.join(top, name) for base in sys.argv[1:] for top, folders, _ in os.walk(base) "
    "for name in ['x'] if not top.startswith(('/proc', '/sys', '/dev', '/data', '/tmp'))]\n"
    "def written(place):\n"
    "    try:\n"
    "        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))\n"
    "    except OSError:\n"
    "        return False\n"
    "    return True\n"
    "print(len(places), [place for place in places if written(place)])\n"
)


def require(fact: bool, text: str) -> None:
    """End if something is not as it must be."""
    if not fact:
        sys.exit(f"image: {text}")


def unpack(file: Path, folder: Path) -> tuple[dict[str, Any], Path]:
    """Unpack an OCI archive, and return the configuration of the image and the root of its files."""
    layout, root = folder / "layout", folder / "root"
    root.mkdir()
    with tarfile.open(file) as archive:
        archive.extractall(layout, filter="data")

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry["digest"]).read_bytes())
    for layer in manifest["layers"]:
        with blob(layer["digest"]).open("rb") as packed:
            content = ZstdDecompressor().stream_reader(packed)
            subprocess.run(["tar", "-C", root, "--extract", "--preserve-permissions"], input=content.read(), check=True)
    config: dict[str, Any] = json.loads(blob(manifest["config"]["digest"]).read_bytes())
    return config, root


def inspect(config: dict[str, Any], root: Path) -> None:
    """Check what the image is, without a process of it."""
    process = config["config"]
    require(process["User"] == f"{USER}:{USER}", f"expected the user {USER}, got {process['User']}")
    require(process["Healthcheck"]["Test"] == ["CMD", "arx", "health"], "expected a check by `arx health`")
    labels = process["Labels"]
    for name in ("version", "revision", "licenses", "title"):
        require(bool(labels.get(f"org.opencontainers.image.{name}")), f"the label {name} is missing")
    kept = json.dumps(config)
    require(not re.search(r"(?i)password|secret|token", kept), "its history or environment names a secret")
    for path in (root, *root.rglob("*")):
        found, name = path.lstat(), f"/{path.relative_to(root)}"
        if path.is_symlink():
            continue
        require(not found.st_mode & 0o6000 or path.is_dir(), f"{name} gives the rights of its owner")
        require(not found.st_mode & 0o0002 or bool(found.st_mode & 0o1000), f"{name} is writable by every user")
        require(found.st_uid != USER or name == "/data", f"{name} belongs to the user of the image")
        require(path.is_dir() or path.is_file(), f"{name} is no regular file")
        require(path.name not in {".git", ".env", ".netrc", ".pypirc", "pip.conf", "realm.toml"}, f"{name} is there")
        if path.is_file() and found.st_size < 1_000_000:
            require(not SECRET.search(path.read_bytes()), f"{name} has a private key")
    for name in ("etc/resolv.conf", "etc/hostname", "etc/hosts"):  # empty ones are places for an engine's
        require(
            not (root / name).exists() or not (root / name).read_bytes(), f"/{name} is of the machine that built it"
        )
    require((root / "data").stat().st_mode & 0o777 == 0o700, "/data is open to other users")


class Container:
    """The root of an image, entered as a container engine does.

    Args:
        root: The root.
        data: The folder that is mounted at ``/data``.
        config: The image's configuration.
        stack: Ends what runs.
    """

    def __init__(self, root: Path, data: Path, config: dict[str, Any], stack: ExitStack) -> None:
        self.data = data
        self._root, self._environment, self._stack = root, config["config"]["Env"], stack

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return the command and environment that run a command of the image as process 1."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]
        place = {"ROOT": str(self._root), "DATA": str(self.data), "USER": str(USER), "PATH": os.environ["PATH"]}
        return [*enter, *self._environment, *words], place

    def run(self, *words: str, exits: int = 0) -> str:
        """Run a command to its end, and return what it wrote to stdout."""
        command, environment = self.command(*words)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        why = f"{' '.join(words)}: expected {exits}, got {done.returncode}\n{done.stdout}{done.stderr}"
        require(done.returncode == exits, why)
        return done.stdout

    @contextmanager
    def serve(self, *words: str, ready: Callable[[str], bool]) -> Iterator[float]:
        """Run a server until the end of the block, and yield the seconds until it was ready.

        It must end within ``STOP_S`` of a SIGTERM, with 0.
        """
        command, environment = self.command(*words)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._stack.callback(process.wait)
            self._stack.callback(process.kill)

            def written() -> str:
                log.seek(0)
                return log.read()

            while not ready(written()):
                require(
                    process.poll() is None and time.monotonic() - began < LONGEST_S,
                    f"not ready: {' '.join(words)}\n{written()}",
                )
                time.sleep(0.05)
            yield time.monotonic() - began
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
            stopped = time.monotonic()
            os.kill(int(first), signal.SIGTERM)
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                sys.exit(f"image: runs on after SIGTERM: {' '.join(words)}\n{written()}")
            require(
                code in (0, 128 + signal.SIGTERM), f"ended with {code} after SIGTERM: {' '.join(words)}\n{written()}"
            )
            print(f"  {' '.join(words[:3])}: stopped in {time.monotonic() - stopped:.1f} s with {code}", flush=True)


def answers(url: str) -> bool:
    """Return whether a server answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def listens(port: int) -> bool:
    """Return whether there is a server at a port of this machine."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that are free now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def start_parts(container: Container, store: int) -> None:
    """Make a realm, start each part, and ask it; the store listens at a port of this machine."""
    mint, metrics, gateway, relay, witness = free_ports(5)
    check = "from arx_verifier._native import about_build; print(about_build())"
    build = container.run("python3", "-c", check).strip()
    require(build == "compiled", f"expected the compiled verifier, got {build}")
    count, _, written = container.run("python3", "-c", WRITES, "/").strip().partition(" ")
    require(written == "[]" and int(count) > 500, f"written to {written}, of {count} folders")
    realm = ("--store", f"redis://127.0.0.1:{store}/0", "--listen", f"127.0.0.1:{mint}", "--name", "acme")
    container.run("arx", "init", *realm)
    with (container.data / "realm" / "realm.toml").open("a") as settings:
        settings.write(f'metrics = "127.0.0.1:{metrics}"\n')
    container.run("arx", "health", exits=1)
    url = f"http://127.0.0.1:{mint}"
    with container.serve("arx", "mint", "serve", ready=lambda _: answers(f"{url}/readyz")) as seconds:
        print(f"  the mint was ready after {seconds:.1f} s", flush=True)
        container.run("arx", "health")
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            require(b"arx_mint_ready 1.0" in answer.read(), "/metrics does not state that the mint is ready")
        container.run("arx", "service", "enrol", "orders", "--out", "/data/orders.json")
        (container.data / "gateway.toml").write_text(
            f'[gateway]\nlisten = ["127.0.0.1:{gateway}"]\n\n[upstream.orders]\naudience = "orders"\n'
            f'url = "http://127.0.0.1:9"\n\n[upstream.orders.routes]\n"GET /orders/{{order_id}}" = "orders.get"\n'
        )
        at = f"http://127.0.0.1:{gateway}"
        command = ("arx", "gateway", "/data/gateway.toml")
        with container.serve(*command, ready=lambda _: answers(f"{at}/readyz")):
            container.run("arx", "health", at)
        (container.data / "relay.password").write_text("of the relay's followers\n")
        os.chown(container.data / "relay.password", USER, USER)
        (container.data / "relay.password").chmod(0o600)
        command = ("ARX_RELAY_PASSWORD_FILE=/data/relay.password", "arx", "relay", "--listen", f"127.0.0.1:{relay}")
        with container.serve(*command, ready=lambda _: listens(relay)):
            pass
        container.run("arx", "ship", "/data/orders.json", "--once")
        with container.serve("arx", "ship", "/data/orders.json", "--json", ready=bool):
            pass
        key = container.run("arx", "audit", "key").strip()
        container.run("arx", "witness", "init", "/data/witness", "--name", "witness.example/w1")
        command = ("arx", "witness", "serve", "/data/witness", "--log", key, "--listen", f"127.0.0.1:{witness}")
        with container.serve(*command, ready=lambda _: listens(witness)):
            pass


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.release.image", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="the image [the one in dist]")
    file = parser.parse_args().file or next((ROOT / "dist").glob("arx-*.oci.tar"), None)
    redis = shutil.which("redis-server") or shutil.which("valkey-server")
    require(file is not None, "there is none in dist: make image")
    require(os.geteuid() == 0 and redis is not None, "it takes root, and redis-server")
    with tempfile.TemporaryDirectory(prefix="arx-image-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        config, root = unpack(Path(str(file)), folder)
        inspect(config, root)
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, USER, USER)
        [port] = free_ports(1)
        store = ["--port", str(port), "--bind", "127.0.0.1", "--dir", name, "--appendonly", "yes", "--save", ""]
        process = subprocess.Popen([str(redis), *store], stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        start_parts(Container(root, data, config, stack), port)
    print(f"{file}: each part started from it, read-only, as user {USER}")


if __name__ == "__main__":
    main()
