# SPDX-License-Identifier: Apache-2.0
"""Keep an epoch view current: the thread that follows the store, its connection, and its waiters.  SPEC 10.

``follower_core`` has the rules, ``epoch`` the view, ``store_link`` and ``relay_link`` the connections.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import random
import socket
import threading
from concurrent.futures import Future, InvalidStateError
from typing import Final, NamedTuple

from arx_verifier._platform import reset_at_fork
from arx_verifier.errors import SettingsError
from arx_verifier.names import is_realm
from arx_verifier.revocation.epoch import EpochRefusal, EpochState, RegistryName
from arx_verifier.revocation.follower_core import MS, PROBES, Following, StoreQuestion
from arx_verifier.revocation.password import Password
from arx_verifier.revocation.relay_link import RelayAddress, RelayLink, each_relay, is_relay
from arx_verifier.revocation.store_link import EpochEntry, FeedError, Link, UnattestedError
from arx_verifier.revocation.store_url import FOLLOWER, Address

BACKOFF_S: Final = (0.02, 0.5)  # first and longest pause before a new connection
JOIN_S: Final = 3.0

_log = logging.getLogger(__name__)


class _Waiter(NamedTuple):
    """A caller that waits for a probe sent at or after ``sent_after`` and for ``born`` to be applied."""

    sent_after: int
    born: int
    asked: int
    done: "Future[bool]"


# Pushes make kills fast, but correctness rests on the *probe*, a question that this process asks.  Its answer contains
# what was missed, its sending confirms what was applied, and the lease runs from the moment before it left.  A delayed
# network could extend a lease that was counted from something received.
class Follower(Following):
    """An epoch view that keeps itself current.  It starts at its first use, and again in a forked child.

    Args:
        url: URL of the store (``store_url``), or of a relay or several (``relay_link``).
        realm: The realm's name.
        verifier_id: This process's name in the store's registry; no other process may use it.
        password: Replaces a password in the URL.
        lease_ms: The longest time to use one answer, ms; the realm's lease if that is shorter, or when omitted.
        probes: Number of probes in a lease.
        ca: File of a further authority for TLS.
        role: The role of the store's user, for errors.

    Raises:
        SettingsError: The URL, a name or the authority is unusable.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        verifier_id: str,
        *,
        password: Password | None = None,
        lease_ms: int | None = None,
        probes: int = PROBES,
        ca: str | None = None,
        role: str = FOLLOWER,
    ) -> None:
        super().__init__(lease_ms=lease_ms, probes=probes)
        named = verifier_id.isprintable() and 0 < len(verifier_id) <= 200 and not verifier_id.startswith("!")
        if not is_realm(realm) or not named:
            raise SettingsError("a follower needs a realm's name and an id of its own, not beginning with '!'")
        self.realm, self._role = realm, role
        self.verifier_id = self._given_id = verifier_id
        self._addresses: list[RelayAddress] | list[Address] = (
            [RelayAddress(each, password, ca=ca) for each in each_relay(url)]
            if is_relay(url)
            else [Address(url, password, realm, ca=ca)]
        )
        self.several = len(self._addresses) > 1
        # The first relay is chosen at random, so that each serves a part of the verifiers; then they take turns.
        self._turn = random.randrange(len(self._addresses))  # noqa: S311  keeps no secret
        self._lazy = True
        self._reset()
        _FOLLOWERS.add(self)

    def __repr__(self) -> str:
        return f"Follower(realm={self.realm!r}, verifier_id={self.verifier_id!r})"

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._waiters: list[_Waiter] = []
        self._pair: tuple[socket.socket, socket.socket] | None = (
            None  # a byte sent to the first wakes the thread at the second
        )
        self._link: Link | RelayLink | None = None
        self._unattested = False  # whether the last connection ended so; the follower's thread writes it
        self._is_down = False  # whether an outage was logged and no lease was granted since

    # For any thread.

    def is_unattested(self) -> bool:
        """Return whether the last connection ended because no mint has attested the store's server."""
        return self._unattested

    def start(self) -> None:
        """Start following; do nothing if it is following."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            super().start()
            self._lazy = True
            self._stop = threading.Event()
            self._pair = pair = socket.socketpair()
            for end in pair:
                end.setblocking(False)
            self._thread = threading.Thread(
                target=self._run, args=(pair, self._stop), name=f"arx-follower-{self.realm}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop following; every check refuses as ``closed`` until the next ``start``."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._lazy = False
            self._stop.set()
        self._rouse()
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)
        super().close()
        self._answer_all(False)

    def catch_up(self, sent_after: int, born: int, timeout: float) -> bool:
        """Wait until a probe sent at or after ``sent_after`` was answered and ``born`` is applied.

        Args:
            sent_after: Boot clock, ns.
            born: A sequence.
            timeout: How long to wait, s.

        Returns:
            Whether that happened in time.
        """
        waiter = self._wait_for(sent_after, born)
        try:
            return waiter.done.result(timeout)
        except TimeoutError:
            return self._give_up(waiter)

    async def catch_up_async(self, sent_after: int, born: int, timeout: float) -> bool:  # noqa: ASYNC109 - as catch_up
        """As ``catch_up``, without blocking the event loop."""
        waiter = self._wait_for(sent_after, born)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiter.done), timeout)
        except TimeoutError:
            return self._give_up(waiter)

    def _wait_for(self, sent_after: int, born: int) -> _Waiter:
        waiter = _Waiter(sent_after, born, self._boot(), Future())
        if super().catch_up(sent_after, born, 0):
            waiter.done.set_result(True)
        elif not self._lazy:
            waiter.done.set_result(False)
        else:
            self.start()
            with self._lock:
                self._waiters.append(waiter)
            self._rouse()
        return waiter

    def _give_up(self, waiter: _Waiter) -> bool:
        with self._lock:
            self._waiters = [other for other in self._waiters if other is not waiter]
        return False

    def _unleased(self, state: EpochState) -> EpochRefusal:
        thread = self._thread
        if self._lazy and (thread is None or not thread.is_alive()):
            self.start()
        return super()._unleased(state)

    def _rouse(self) -> None:
        if self._pair is not None:
            with contextlib.suppress(OSError):  # full: the thread is awake; closed: it has ended
                self._pair[0].send(b"!")

    def _after_fork(self) -> None:
        """In a forked child: use no lease and no socket of the parent, and be another verifier from now on."""
        if self._link is not None:
            self._link.close()
        for end in self._pair or ():
            end.close()
        lazy = self._lazy
        self._reset()
        self._lazy = lazy
        self.verifier_id = f"{self._given_id}.{os.getpid()}"
        super().close()

    # The follower's thread.

    def _run(self, pair: tuple[socket.socket, socket.socket], stop: threading.Event) -> None:
        pause = 0.0
        with pair[0], pair[1]:
            while not stop.is_set():
                before, unattested, is_new = self._last_grant(), False, True
                link = self._new_link(pair[1])
                try:
                    self._link = link.open()
                    self._follow(link, stop)
                    if self._stop is stop:  # else another thread was started meanwhile
                        self._say_goodbye(link)
                except FeedError as error:
                    unattested = isinstance(error, UnattestedError)
                    # A server that answers again is attested soon, if a mint runs: the pauses begin anew.
                    granted = self._last_grant() != before
                    is_new = not pause or granted or (unattested and not self._unattested)
                    level = logging.WARNING if is_new else logging.DEBUG  # once for each outage
                    _log.log(level, "%s: connection to %s dropped: %s", self, self._followed(), error)
                    self._is_down = True
                    self._turn += 1
                finally:
                    self._link = None
                    link.close()
                pause = BACKOFF_S[0] if is_new else min(2 * pause, BACKOFF_S[1])
                self._unattested = unattested
                stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads a herd, keeps no secret

    def _new_link(self, wake: socket.socket) -> Link | RelayLink:
        address = self._address()
        if isinstance(address, RelayAddress):
            return RelayLink(address, self._timeout_s, self.realm, wake)
        return Link(address.connection(self._timeout_s), self.realm, wake, self._role)

    def _address(self) -> RelayAddress | Address:
        return self._addresses[self._turn % len(self._addresses)]

    def _followed(self) -> str:
        address = self._address()
        return f"the relay {address.place}" if isinstance(address, RelayAddress) else "the revocation store"

    def _follow(self, link: Link | RelayLink, stop: threading.Event) -> None:
        self.begin()
        before = self._last_grant()
        while not stop.is_set():
            question = self.ask(hurry=bool(self._waiters))
            if question is not None:
                self._send(link, question)
            link.wait((self.next_at(hurry=bool(self._waiters)) - self._boot()) / 1e9)
            for frame in link.frames():
                if isinstance(frame, EpochEntry):
                    self.take_push(frame)
                else:
                    self.take_answer(frame, link.scan)
                    self._answer_waiters()
            if self._is_down and self._last_grant() != before:
                self._is_down = False
                _log.warning("%s: follows the revocation store again", self)

    def _send(self, link: Link | RelayLink, question: StoreQuestion) -> None:
        link.probe(self._name(), question.place, hurry=question.hurry)

    def _answer_waiters(self) -> None:
        state = self._state
        lease = state.lease
        if lease is None or not self._waiters:
            return
        with self._lock:
            waiting, self._waiters = self._waiters, []
            for waiter in waiting:
                if lease.sent >= waiter.sent_after and state.applied >= waiter.born:
                    _settle(waiter, True)
                elif lease.sent >= max(waiter.asked, waiter.sent_after):
                    _settle(waiter, False)  # the store was asked after this wait began, and had no such entry
                else:
                    self._waiters.append(waiter)

    def _answer_all(self, value: bool) -> None:
        with self._lock:
            waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            _settle(waiter, value)

    def _say_goodbye(self, link: Link | RelayLink) -> None:
        super().close()  # ends the lease first: after the goodbye no kill waits for this verifier
        link.leave(self._name())

    def _name(self) -> str:
        """Return the name in the registry, which shows limits and a watch."""
        # Under the former name the store waits for it for at most one lease more.
        until_ms, limits = self.watch_until_ms, "+".join(self.limits)
        return str(RegistryName(self.verifier_id, limits or None, until_ms if until_ms > self._wall() // MS else None))


def _settle(waiter: _Waiter, value: bool) -> None:
    with contextlib.suppress(InvalidStateError):  # its caller was cancelled
        waiter.done.set_result(value)


_FOLLOWERS: Final = reset_at_fork(Follower._after_fork)  # noqa: SLF001 - of this module


def _close_all() -> None:
    """At the end of the process: leave each registry, so that no operator looks for a verifier that has ended."""
    for follower in tuple(_FOLLOWERS):
        follower.close()


atexit.register(_close_all)
