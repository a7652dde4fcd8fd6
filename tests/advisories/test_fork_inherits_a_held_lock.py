# SPDX-License-Identifier: Apache-2.0
"""A worker that was forked while its parent decided could wait forever at its first new token.

The cache of proven parents has a lock.  A child that is forked in the moment in which another thread has it finds it
taken by a thread that does not exist: every decision of a token that it had not met hung, and so the worker.
"""

import os
import signal
import threading

from arx_verifier.verification import grant
from tests.support import access, mint, verifier

PATIENCE_S = 10


def in_a_child(do: object) -> int:
    """Fork, do something there, and return how the child ended: 0, or the signal that ended its waiting."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_S)
        assert callable(do)
        os._exit(0 if do() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_decides_whatever_its_parent_was_at() -> None:
    """It begins with an empty cache and a lock of its own; the parent's go on as they were."""
    checked, known = verifier(), mint().encode()
    assert checked.decide(known, access()).allowed
    new = mint(session="s-new").encode()
    with checked._authenticator._lock:  # as another thread would in the moment of the fork
        assert (
            in_a_child(lambda: checked.decide(new, access()).allowed and checked.decide(known, access()).allowed) == 0
        )
    assert list(checked._authenticator._wholes) == [known]
    assert checked.decide(new, access()).allowed


def test_a_child_hears_of_ends() -> None:
    """The lock of calls that end is free in a child, although threads of its parent take it all the time."""
    granted, stop = verifier().verify(mint().encode(), access()), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            granted.on_end(lambda _: None)
            granted._callbacks = None

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_a_child(lambda: not grant._ENDING.locked()) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
