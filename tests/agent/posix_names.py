# SPDX-License-Identifier: Apache-2.0
"""Take from a process what Windows lacks, before anything of ARx is imported: run this file's text by ``python -c``.

Modules of Python that use these names on a POSIX system are imported first.  It shows imports and work without the
names; paths, sockets and processes are still those of this system.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import multiprocessing  # noqa: F401
import os
import random  # noqa: F401
import signal
import socket
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
SYSTEM = """
    O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fdatasync fork getegid geteuid getgid getgroups
    getuid killpg posix_fallocate pread pwrite register_at_fork sched_getaffinity setsid statvfs uname
""".split()
SIGNALS = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm".split()

os.process_cpu_count = os.cpu_count  # type: ignore[attr-defined,unused-ignore]  # as Python does without affinities
_pair, _unix = socket.socketpair, socket.AF_UNIX
socket.socketpair = lambda *words: _pair(*(words or (_unix,)))  # what Windows' Python makes of TCP, for its event loop
sys.modules.update(dict.fromkeys(MODULES))  # an import of None fails
for module, names in ((os, SYSTEM), (signal, SIGNALS), (socket, ["AF_UNIX"])):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for loop in asyncio.SelectorEventLoop.__mro__:
    if "add_signal_handler" in vars(loop) and loop is not asyncio.AbstractEventLoop:
        delattr(loop, "add_signal_handler")
