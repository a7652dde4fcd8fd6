# SPDX-License-Identifier: Apache-2.0
"""What happens in the rehearsal, act by act: each a fault, then the remedy of ``docs/operations.md``, typed."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx

from arx_caps.agent import Agent, Session
from arx_caps.agent.tasks.task import Task
from arx_verifier.errors import ArxError, RevokedError
from tests.faults.rehearsal.drills import Drills
from tests.faults.rehearsal.load import AGENTS, PATHS, Crowd
from tests.faults.rehearsal.site import READY_S, Service, Site

OFF: Final = ("+40s", "-40s")


class Rehearsal:
    """The site, those who call, and what is done to it.

    Args:
        site: An open site.
        say: Receives each event.
    """

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        self.site, self.say = site, say
        self.crowd = Crowd(site.services)
        self.drills = Drills(site, say)
        self.marked: list[tuple[Agent, Session]] = []
        self.dead: list[str] = []  # agents that were killed or frozen
        self.answered: Counter[str] = Counter()  # calls that the acts made themselves, by session
        self.kills: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Enrol the agents and put them to work."""
        with ThreadPoolExecutor() as pool:
            self.crowd.employ(list(pool.map(self._enrol, AGENTS)))
        self.goes_on("the load")
        self.drills.start()

    def _key(self, path: str) -> Path:
        return self.site.folder / (path.replace("/", "-") + ".key.json")

    def _enrol(self, path: str) -> Path:
        key = self._key(path)
        self.site.arx("agent", "enrol", path, "--key-out", str(key))
        return key

    def goes_on(self, after: str) -> None:
        """Wait until every agent has done a whole round that began after now."""
        before = self.crowd.rounds()
        deadline = time.monotonic() + 2 * READY_S

        def done() -> bool:
            return all(now >= then + 2 for now, then in zip(self.crowd.rounds(), before, strict=True))

        while not done():
            failures = [dict(worker.failures) for worker in self.crowd.workers]
            assert time.monotonic() < deadline, f"{after}: the load does not go on: {failures}"
            time.sleep(0.05)
        self.say(f"  {after}: every agent has opened sessions, started tasks and called all services since")

    # Kills, and who is killed.

    def doomed(self, path: str) -> tuple[Session, Task]:
        """Enrol an agent and start a task of its own, whose tokens are used at every service until the end."""
        self._enrol(path)
        task = self._task_of(path)
        return self.marked[-1][1], task  # kept open: a session that is collected ends by itself

    def kill(self, verb: str, target: str, task: Task, *options: str) -> None:
        """Kill or freeze something whose tokens are accepted everywhere, and have its holders go on trying."""
        holders = self.crowd.hold(f"{verb} {target}", task)
        self.site.until(f"{target} is accepted everywhere", lambda: all(each.accepted for each in holders))
        answer = self.site.ask(verb, target, "--reason", "rehearsal", "--yes", *options, ends=(0, 3))
        now = time.monotonic()
        for holder in holders:
            holder.killed_at = now
        self.kills.append(answer)
        self.say(f"  {verb} {target} {' '.join(options)}: {answer.get('summary') or answer.get('status')}")

    def killings(self) -> None:
        """Kill a session, a task past the mint, an agent; freeze another."""
        session, task = self.doomed("acme/lost/session")
        self.kill("kill", f"session:{session.id}", task)
        _, task = self.doomed("acme/lost/task")
        self.kill("kill", f"task:{task.id}", task, "--direct")
        for verb, path in (("kill", "acme/lost/agent"), ("freeze", "acme/lost/frozen")):
            _, task = self.doomed(path)
            self.kill(verb, f"agent:{path}", task)
            self.dead.append(path)

    # Acts.

    def rolling_restart(self) -> None:
        """Restart everything, one after the other."""
        for place in range(2):
            self.site.mints[place].stop()
            self.goes_on(f"mint {'ab'[place]} stopped")
            self.site.start_mint(place)
        for service in self.site.services:
            service.stop()
            self.site.start_service(service)
        self.site.nginx.stop()
        self.site.nginx.start()
        self.site.redis.stop()
        self.site.start_store()
        self.site.postgres.restart()
        self.goes_on("everything restarted")

    def wrong_clocks(self) -> None:
        """Start a mint and a service with clocks that are 40 s off; set them right."""
        place, service = 1, self.site.services[1]
        self.site.mints[place].stop()
        self.site.start_mint(place, clock=OFF[1])
        self.site.until("mint b says that its clock is wrong", lambda: "clock is" in self._why_not(place))
        self.say(f"  mint b is not ready: {self._why_not(place)}")
        self.goes_on("mint b's clock 40 s behind")
        service.stop()
        self.site.start_service(service, clock=OFF[0])
        self.refuses(service, "its clock is 40 s ahead")
        service.stop()
        self.site.start_service(service)
        self.site.mints[place].stop()
        self.site.start_mint(place)
        self.goes_on("clocks set right")

    def _why_not(self, place: int) -> str:
        return "; ".join(self.site.readiness(place)["because"])

    def refuses(self, service: Service, why: str) -> None:
        """Require that a service refuses whatever comes, while the load calls it."""
        refused = self._refused_at(service)
        assert refused, f"{service.name} accepted a call although {why}"
        self.say(f"  {service.name} refuses: {why}")

    def _refused_at(self, service: Service) -> bool:
        task = self._task_of(AGENTS[0])
        with httpx.Client(auth=task.auth(), timeout=10) as client:
            answers = [client.get(service.url + PATHS[service.audience]) for _ in range(20)]
        return not any(answer.is_success for answer in answers)

    def _task_of(self, path: str) -> Task:
        """Start a task for an agent at whichever mint can; one whose clock is off refuses every proof."""
        found: list[Task] = []

        def started() -> bool:
            with contextlib.suppress(ArxError):
                agent = Agent.from_key_file(self._key(path))
                session = agent.open_session(purpose="a look")
                self.marked.append((agent, session))
                found.append(session.start_task("refund", order_id="o-1001", amount=1))
            return bool(found)

        self.site.until(f"{path} starts a task", started)
        return found[-1]

    def lost_mint_folder(self) -> None:
        """Lose the folder of one mint; make it again from the files that are backed up."""
        self.site.mints[1].kill()
        shutil.rmtree(self.site.realms[1])
        self.site.copy_realm(self.site.realms[1])
        self.site.start_mint(1)
        self.goes_on("mint b's folder lost")
        self.signs()

    def older_mint_folder(self) -> None:
        """Put an older copy of one mint's whole folder back."""
        older = self.site.folder / "older-mint-a"
        with contextlib.suppress(shutil.Error):  # a running mint drops partial tiles; all else is copied
            shutil.copytree(self.site.realms[0], older)
        self.goes_on("mint a's folder copied")
        self.site.mints[0].stop()
        shutil.rmtree(self.site.realms[0])
        older.rename(self.site.realms[0])
        self.site.start_mint(0)
        self.goes_on("mint a's older folder put back")
        self.signs()

    def lost_journal(self) -> None:
        """Lose a service's journal, after it ended in order."""
        service = self.site.services[3]
        service.stop()  # it ships what it has before it ends
        self.site.arx("ship", str(service.file), "--once", password=self.site.passwords["verifier"])
        shutil.rmtree(service.journal)
        self.site.start_service(service)
        self.goes_on(f"{service.name}'s journal lost")

    def older_store(self) -> None:
        """Put an older file of the store back; what was killed since, past the mint, stays dead."""
        data, older = self.site.folder / "redis" / "data", self.site.folder / "older-redis"
        self.site.redis.stop()
        shutil.copytree(data, older)
        self.site.start_store()
        self.goes_on("the store's file copied")
        _, task = self.doomed("acme/lost/since")
        self.kill("kill", f"task:{task.id}", task, "--direct")
        self.site.redis.stop()
        shutil.rmtree(data)
        older.rename(data)
        self.site.start_store()
        self.goes_on("the store's older file put back")
        self.stays_dead()

    def lost_store(self) -> None:
        """Lose the store's disk; load the functions as its administrator."""
        data = self.site.folder / "redis" / "data"
        self.site.redis.stop()
        shutil.rmtree(data)
        data.mkdir()
        self.site.start_store()
        self.site.load_functions()
        self.goes_on("the store's disk lost")
        self.stays_dead()

    def lost_database(self) -> None:
        """Lose the database; put a backup of before back."""
        backup = self.site.postgres.backup(self.site.database)
        self.goes_on("the database backed up")
        for mint in self.site.mints:
            mint.stop()
        self.site.postgres.put_back(backup, self.site.database)
        for realm in self.site.realms:
            words = ("audit", "reindex", "--reason", "the database was lost", "--yes", "--realm-dir", str(realm))
            self.site.arx(*words)
        for place in range(2):
            self.site.start_mint(place)
        self.goes_on("the database's backup put back")
        self.stays_dead()
        self.signs()

    # What has to be found.

    def kill_never_sent(self) -> None:
        """Watch a token as if it had been killed, and kill nothing: the rehearsal has to fail."""
        _, task = self.doomed("acme/lost/never")
        holders = self.crowd.hold("kill that was never sent", task)
        for holder in holders:
            holder.killed_at = time.monotonic()
        self.site.until("it is accepted after the bound", lambda: all(holder.late for holder in holders))

    def journal_never_sent(self) -> None:
        """Lose a service's journal before it was shipped: the rehearsal has to fail."""
        service, task = self.site.services[3], self._task_of(AGENTS[0])
        for mint in self.site.mints:
            mint.kill()  # nothing is taken any more
        with httpx.Client(auth=task.auth(), timeout=10) as client:
            client.get(service.url + PATHS[service.audience]).raise_for_status()
        self.answered[self.marked[-1][1].id] += 1
        service.kill()
        shutil.rmtree(service.journal)
        for place in range(2):
            self.site.start_mint(place)
        self.site.start_service(service)
        self.goes_on(f"{service.name}'s journal lost before it was shipped")

    def stays_dead(self) -> None:
        """Require that killed and frozen agents open no session."""
        for path in self.dead:
            try:
                with Agent.from_key_file(self._key(path)) as agent:
                    agent.open_session(purpose="although it was killed")
            except RevokedError as error:
                self.say(f"  {path} is still refused: {error.code}")
            else:
                raise AssertionError(f"{path} opened a session although it was killed or frozen")

    def signs(self) -> None:
        """Require that every mint signs its log."""
        for place in range(2):
            answer = self.site.readiness(place)
            assert answer["log"] == "ok", answer

    # The end.

    def end(self) -> dict[str, Any]:
        """Stop all, and count: killed tokens that were accepted, and calls whose record is missing.

        Returns:
            The figures, with ``lost`` and ``late`` at 0 when every promise held.
        """
        self.crowd.close()
        answered = self.crowd.answered + self.answered
        refunds = self._refunds()
        missing: list[str] = []

        def all_there() -> bool:
            allowed, decisions = self._logged()
            missing[:] = [session for session, count in answered.items() if allowed[session] < count]
            missing.extend(refunds - decisions)
            return not missing

        try:
            self.site.until("every record is in the log", all_there)
        except AssertionError:
            self.say(f"  missing in the log: {missing[:5]}")
        self.say(f"  arx audit check: {self.site.arx('audit', 'check').strip()}")  # ends with 0, or this does not
        calls, rounds = sum(answered.values()), sum(self.crowd.rounds())
        late = self.crowd.late
        drilled = self.drills.close()
        return (
            {"rounds": rounds, "calls": calls, "refunds": len(refunds), "kills": len(self.kills)}
            | drilled
            | {
                "lost": len(missing),
                "late": len(late),
                "tried": sum(holder.refused for holder in self.crowd.holders),
            }
        )

    def _refunds(self) -> set[str]:
        found: set[str] = set()
        for service in self.site.services:
            if service.audience == "payments":
                with closing(sqlite3.connect(self.site.folder / f"{service.name}.db")) as db:
                    found |= {decision for (decision,) in db.execute("SELECT decision FROM refunds")}
        return found

    def _logged(self) -> tuple[Counter[str], set[str]]:
        out = self.site.folder / "allowed.jsonl"
        out.unlink(missing_ok=True)
        self.site.arx("audit", "export", "--format", "jsonl", "--reason", "allow", "--out", str(out))
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        sessions = Counter(line["session"] for line in lines if line.get("session"))
        return sessions, {line["id"] for line in lines if line.get("id")}
