# SPDX-License-Identifier: Apache-2.0
"""Back a realm up while the rehearsal runs, drill each backup, and restore one at its end."""

import itertools
import subprocess
import threading
from collections.abc import Callable
from typing import Any, Final

from tests.faults.rehearsal.site import Site

PAUSE_S: Final = 5.0  # between two backups: they share the processors with the load
FOUND: Final = ("tampered", "incomplete", "malformed_log")  # codes of what is wrong in a backup itself


class Drills(threading.Thread):
    """Makes backups one after the other, and drills each as soon as it is made.

    A fault may end a command, for example a database that restarts or that lacks signed records.  A backup that was
    made must hold for ever: one whose drill was ended by a fault is drilled again at the end.

    Attributes:
        made: What ``arx backup`` answered, oldest first.
        held: Files whose drill succeeded.
        ended: How many commands a fault ended.
        broken: What drills found to be wrong: the rehearsal fails.
    """

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        super().__init__(daemon=True, name="drills")
        self._site, self._say = site, say
        self._over = threading.Event()
        self.made: list[dict[str, Any]] = []
        self.held: list[str] = []
        self.ended = 0
        self.broken: list[str] = []

    def run(self) -> None:
        """Back up and drill until the end."""
        for number in itertools.count():
            if self._over.wait(PAUSE_S):
                return
            answer = self._type("backup", "--out", str(self._site.folder / f"realm-{number}.arx-backup"))
            if answer is not None:
                self.made.append(answer)
                self._drill(answer["file"])

    def _drill(self, file: str) -> None:
        if self._type("backup", "drill", file) is not None:
            self.held.append(file)

    def _type(self, *words: str) -> dict[str, Any] | None:
        """Run a command; return its answer, or None if a fault ended it."""
        try:
            answer: dict[str, Any] = self._site.ask(*words)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            text = str(error).strip()
            self.ended += 1
            self._say(f"  ended: {text.splitlines()[0]}: {text.splitlines()[-1][:200]}")
            if words[1] == "drill" and any(code in text for code in FOUND):
                self.broken.append(text)
            return None
        return answer

    def close(self) -> dict[str, Any]:
        """Stop, drill what no drill has tried to its end, and restore the last backup.

        Returns:
            The figures.

        Raises:
            AssertionError: No backup was made, or one does not hold.
        """
        self._over.set()
        self.join()
        assert self.made, "no backup was made while the load ran"
        for file in [each["file"] for each in self.made if each["file"] not in self.held]:
            self._site.arx("backup", "drill", file)
            self.held.append(file)
        assert not self.broken, self.broken
        return {"backups": len(self.made), "drilled": len(self.held), "ended": self.ended} | self._restore()

    def _restore(self) -> dict[str, Any]:
        """Restore the last backup beside the realm; check its rows, and that the realm's log continues it."""
        backup, folder, copy = self.made[-1], self._site.folder / "restored", self._site.folder / "log-copy"
        self._site.arx("audit", "copy", str(copy))
        for mint in self._site.mints:
            mint.stop()  # as a restore demands
        key = self._site.realms[0] / "keys" / "root.key"
        words = ("--into", str(folder), "--into", self._site.postgres.database(), "--root-key-file", str(key))
        restored = self._site.ask("restore", backup["file"], *words)
        checked = self._site.arx("audit", "check", "--realm-dir", str(folder))
        self._say(f"  arx audit check of the restored realm: {checked.strip()}")
        vkey = self._site.arx("audit", "key").strip()
        earlier = ("--checkpoint", str(folder / "log" / "checkpoint"))
        verified = self._site.ask("audit", "verify", str(copy), "--key", vkey, *earlier)
        assert restored["records"] >= restored["checked"] == restored["signed"] > 0, restored
        return {"restored": restored["records"], "continued": verified["size"]}
