# SPDX-License-Identifier: Apache-2.0
"""Try other ways out of a box than the front: ``python ways_out.py TARGETS``, which prints those that led out.

It needs the standard library alone.  Outside of a box it may harm the machine: ``only`` names the ways to try there.
"""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x20000
AF_VSOCK, AF_BLUETOOTH, AF_ALG, AF_TIPC, AF_XDP = 40, 31, 38, 30, 44
IO_URING_SETUP, BPF, PERF_EVENT_OPEN = 425, 321, 298  # of x86-64, and the first of all
TIOCSTI = 0x5412
GIVEN: dict[str, Any] = json.loads(sys.argv[1])
WAYS: dict[str, Callable[[], Any]] = {}


def way(look: Callable[[], Any]) -> Callable[[], Any]:
    """Add a way: it returns whether it led out; an error led nowhere."""
    WAYS[look.__name__] = look
    return look


def connects(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> bool:
    """Return whether a socket reaches an address."""
    with socket.socket(family, kind) as client:
        client.settimeout(5)
        client.connect(address)
        return True


def sends(family: int, address: Any, data: bytes = b"canary") -> bool:
    """Return whether the kernel has a route for a datagram to another one than this network's loopback."""
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        return client.sendto(data, address) > 0


def add(name: str, look: Callable[[], Any]) -> None:
    """Add a way by its name."""
    WAYS[name] = look


for number, host in enumerate(("127.0.0.1", *GIVEN["hosts"])):
    add(f"tcp_of_the_host_{number}", lambda host=host: connects(socket.AF_INET, (host, GIVEN["tcp"])))
add("tcp_v6_of_the_host", lambda: connects(socket.AF_INET6, ("::1", GIVEN["tcp6"])))
add("tcp_by_any_address", lambda: connects(socket.AF_INET, ("0.0.0.0", GIVEN["tcp"])))
add("tcp_by_a_mapped_address", lambda: connects(socket.AF_INET6, ("::ffff:127.0.0.1", GIVEN["tcp"])))
add("tcp_v4_abroad", lambda: connects(socket.AF_INET, ("192.0.2.1", 443)))
add("tcp_v6_abroad", lambda: connects(socket.AF_INET6, ("2001:db8::1", 443)))
add("metadata_service", lambda: connects(socket.AF_INET, ("169.254.169.254", 80)))
add("udp_v4_abroad", lambda: sends(socket.AF_INET, ("192.0.2.1", 443)))
add("udp_v6_abroad", lambda: sends(socket.AF_INET6, ("2001:db8::1", 443)))
add("dns_abroad", lambda: sends(socket.AF_INET, ("192.0.2.53", 53)))
add("multicast", lambda: sends(socket.AF_INET, ("224.0.0.251", 5353)))
add("dns_by_libc", lambda: socket.getaddrinfo("example.com", 443))
add("dns_stub_of_the_host", lambda: connects(socket.AF_INET, ("127.0.0.53", 53)))
add("abstract_socket", lambda: connects(socket.AF_UNIX, "\0" + GIVEN["abstract"]))
add("socket_in_tmp", lambda: connects(socket.AF_UNIX, GIVEN["socket"]))
add("vsock_of_the_host", lambda: socket.socket(AF_VSOCK, socket.SOCK_STREAM))
add("bluetooth", lambda: socket.socket(AF_BLUETOOTH, socket.SOCK_RAW, 1))
add("kernel_crypto", lambda: socket.socket(AF_ALG, socket.SOCK_SEQPACKET))
add("tipc", lambda: socket.socket(AF_TIPC, socket.SOCK_STREAM))
add("xdp", lambda: socket.socket(AF_XDP, socket.SOCK_RAW))
add("raw_socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
add("raw_socket_v6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
add("packet_socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
add("io_uring", lambda: LIBC.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(256)) >= 0)
add("bpf", lambda: LIBC.syscall(BPF, 0, struct.pack("IIIIQ", 1, 4, 4, 1, 0) + bytes(96), 120) >= 0)
add(
    "perf_events_of_all",
    lambda: LIBC.syscall(PERF_EVENT_OPEN, bytes(4) + struct.pack("I", 128) + bytes(120), -1, 0, -1, 0) >= 0,
)
add("other_interfaces", lambda: len(socket.if_nameindex()) > 1)
add("routes_in_proc", lambda: len(Path("/proc/net/route").read_text().splitlines()) > 1)
add("ports_in_proc", lambda: f":{GIVEN['tcp']:04X} " in Path("/proc/net/tcp").read_text())
add("sockets_in_proc", lambda: GIVEN["abstract"] in Path("/proc/net/unix").read_text())
add("network_of_the_starter", lambda: LIBC.setns(os.open(f"/proc/{GIVEN['pid']}/ns/net", os.O_RDONLY), 0) == 0)
add("signal_to_the_starter", lambda: os.kill(GIVEN["pid"], 0) is None)
add("first_process_of_the_host", lambda: str(Path("/proc/1/ns/net").readlink()) == GIVEN["net"])
add("trace_the_first_process", lambda: LIBC.ptrace(16, 1, None, None) == 0)
add("memory_of_the_first_process", lambda: os.open("/proc/1/mem", os.O_RDONLY) >= 0)
add("host_s_tmp", lambda: Path(GIVEN["file"]).read_text())
add("link_to_outside", lambda: Path("link").read_text())
add("hard_link_to_outside", lambda: os.link(GIVEN["file"], "hard"))
add("system_is_writable", lambda: Path("/usr/arx-canary").touch() is None or True)
add("own_code_is_writable", lambda: os.open(GIVEN["code"], os.O_WRONLY) >= 0)
add("own_front_is_writable", lambda: (Path(os.environ["SSL_CERT_FILE"]).parent / "x").touch() is None)
add("device_node", lambda: os.mknod("device", 0o60600, os.makedev(254, 0)) is None)
add("mount", lambda: LIBC.mount(b"none", b".", b"tmpfs", 0, None) == 0)
add("no_new_privileges", lambda: "NoNewPrivs:\t1" not in Path("/proc/self/status").read_text())
add("core_dumps", lambda: resource.getrlimit(resource.RLIMIT_CORE) != (0, 0))
add("kernel_settings", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) >= 0)
add("inherited_descriptors", lambda: len([*Path("/proc/self/fd").iterdir()]) > 4)  # the streams, and this listing
add("type_into_the_terminal", lambda: [fcntl.ioctl(number, TIOCSTI, b"\n") for number in (0, 1, 2)])
for path in ("/dev/kmsg", "/dev/mem", "/dev/vsock", "/dev/net/tun", "/dev/fuse", "/dev/kvm", "/dev/vda", "/dev/sda"):
    add(path, lambda path=path: os.open(path, os.O_RDONLY) >= 0)
for path in ("/run/dbus/system_bus_socket", "/run/docker.sock", "/var/run/docker.sock", "/run/systemd/private"):
    add(path, lambda path=path: connects(socket.AF_UNIX, path))
for name in (
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "GPG_AGENT_INFO",
):
    add(name, lambda name=name: os.environ[name])
for path in ("/sys", "/boot", "/etc/shadow", "/etc/ssh", "/var/log", "/tmp/.X11-unix", "/opt", "/srv", "/mnt"):
    add(path, lambda path=path: Path(path).stat())


@way
def namespaces_inside_lead_out() -> bool:
    """A user namespace gives all capabilities in it: a network, mounts and /proc of its own, none of them outside."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    with contextlib.suppress(BaseException):
        LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)
        LIBC.umount2(b"/tmp", 2)
        LIBC.mount(b"proc", b"/tmp", b"proc", 0, None)
        routes = Path("/proc/net/route").read_text().splitlines()
        outside = Path(GIVEN["file"]).exists() or Path(f"/tmp/{GIVEN['pid']}/environ").exists()
        os._exit(0 if len(routes) > 1 or outside else 1)
    os._exit(1)


@way
def calls_of_32_bits() -> bool:
    """The socket call of another kind of program, which a filter by number alone would pass."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov eax, 359 (socket); mov ebx, AF_VSOCK; mov ecx, 1; xor edx, edx; int 0x80; ret
    memory.write(bytes.fromhex("53b867010000bb28000000b90100000031d2cd805bc3"))
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    os._exit(0 if call() >= 0 else 1)


@way
def programs_with_more_rights() -> bool:
    """A setuid program gives nothing."""
    done = subprocess.run(["su", "-c", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return done.returncode == 0 and os.geteuid() != 0


def main() -> None:
    """Print the ways that led out, and how many there are."""
    led, tried = [], GIVEN["only"] or [*WAYS]
    for name in tried:
        with contextlib.suppress(Exception):
            if WAYS[name]() not in (False, "", []):
                led.append(name)
    print(json.dumps({"led": led, "tried": len(tried)}))


main()
