# SPDX-License-Identifier: Apache-2.0
"""Measure the audit trail: ``make bench-audit``, or ``python -m benchmarks.audit [--quick] [--large] [--write]``.

From a verifier's record to an operator's answer: what a record costs the call that it is of, how many a second get into
the signed log, what they take there, what proofs and questions cost.  Real processes, real HTTP, SQLite and PostgreSQL.
Figures go to ``benchmarks/results/audit.json``, tables to stdout and with ``--write`` into docs/audit.md.  About three
minutes; ``--large`` also asks a log of ten million records, which takes some minutes and 6 GB more.
"""

import argparse
import contextlib
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from arx_caps.audit.merkle import note
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.query import questions
from arx_caps.audit.query.node_search import Question, reach
from arx_caps.audit.query.questions import total
from arx_caps.audit.query.views import show_nodes, show_record
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_verifier.journal.writer import Journal
from arx_verifier.token.targets import subject_target
from benchmarks import draw, record
from benchmarks.audit_fill import A_SESSION, OPEN, WHALE, batches, facts, session_of
from benchmarks.audit_stage import Service, stage
from benchmarks.kill_report import DOCS, put, table
from benchmarks.measure import about, load, percentiles, save, say
from tests import postgres

SIZES: Final = (100, 500, 2000)
MILLION: Final = 1_000_000
PAGE, PLOT = "audit.md", "audit-ingest.svg"
PLACES: Final = ("SQLite", "PostgreSQL")


def journal() -> dict[str, Any]:
    """What a record costs the call that it is of, us: the median and the fastest of many turns."""
    one = record.decision(*record.digest_arguments(record.ARGS))
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for mode in ("strict", "best_effort", "durable"):
            journal = Journal(Path(folder) / mode, "orders-1", "orders", mode=mode)  # type: ignore[arg-type]
            median, least = record.measure(lambda sink=journal: sink.append(one), 5 if mode == "durable" else 400)  # type: ignore[misc]
            found[mode] = {"median_us": median, "least_us": least}
            journal.close()
    return found | {"bytes": len(one.pack())}


def ingest(place: str, size: int, records: int) -> dict[str, Any]:
    """How many records a second get from a service's journal into the signed, published log."""
    with contextlib.ExitStack() as left:
        server = left.enter_context(postgres.running()) if place == "PostgreSQL" else None
        service = left.enter_context(stage(server.database() if server is not None else None, size))
        service.record(4 * size)
        service.ship()
        before = _signed(service, 4 * size)
        service.record(records)
        began = time.perf_counter()
        service.ship()
        taken = time.perf_counter() - began
        _signed(service, before + records)
        signed = time.perf_counter() - began
    return {
        "place": place,
        "batch": size,
        "records": records,
        "taken_per_s": records / taken,
        "signed_per_s": records / signed,
    }


def _signed(service: Service, size: int) -> int:
    until = time.monotonic() + 60
    while (signed := service.signed()) < size:
        assert time.monotonic() < until, "the log was not signed"
        time.sleep(0.005)
    return signed


def filled(folder: Path, records: int) -> Iterator[tuple[LogStore, Publisher, dict[str, Any]]]:
    """Fill a log in a SQLite file, and say what it took; then what is measured in it is the caller's."""
    key = note.Signer("bench.example/log", Ed25519PrivateKey.generate(), note.LOG)
    with LogStore(f"sqlite:///{folder}/audit.db") as store:
        store.create()
        publisher = Publisher(store, key, folder / "log")
        spent = 0.0
        for number, batch in enumerate(batches(records, 2000)):
            began = time.perf_counter()
            store.take(batch, "statement")
            spent += time.perf_counter() - began
            if number % 50 == 49:
                publisher.step()
                say(f"{batch.last:,} of {records:,}")
        publisher.step()
        rows = sum(file.stat().st_size for file in folder.glob("audit.db*"))
        tiles = sum(file.stat().st_size for file in (folder / "log").rglob("*") if file.is_file())
        facts_ = {
            "records": records,
            "bytes": rows / records,
            "file_bytes": tiles / records,
            "take_per_s": records / spent,
        }
        yield store, publisher, facts_


def proofs(store: LogStore, publisher: Publisher, count: int) -> dict[str, Any]:
    """What it costs to make and to check a proof, ms, each of another record; and how long it is."""
    head = publisher.head()
    assert head is not None
    dice, build, check, size = random.Random(5), [], [], 0
    for _ in range(count):
        index = dice.randrange(head.size)
        row = store.record(index)
        assert row is not None
        reader = TileReader(fetch_from(publisher.folder), head.size)  # as each call of a mint makes one
        build.append(_took(lambda index=index, reader=reader: reader.inclusion(index)))  # type: ignore[misc]
        proof = publisher.prove(index, bytes(row.kept), bytes(row.body))
        raw, size = proof.encode(), max(size, len(proof.path))
        check.append(_took(lambda raw=raw: RecordProof.parse(raw).check(publisher.signer.key)))  # type: ignore[misc]
    old = [
        _took(lambda: TileReader(fetch_from(publisher.folder), head.size).consistency(head.size // 3))
        for _ in range(20)
    ]
    return {"hashes": size, "build": percentiles(build), "check": percentiles(check), "consistency": percentiles(old)}


def asked(store: LogStore, records: int, times: int) -> dict[str, Any]:
    """What questions cost, ms, warm: each name to its spread."""
    dice = random.Random(3)
    sessions = (records - records // 100) // A_SESSION  # a hundredth is the whale's
    whole = range(OPEN, sessions - OPEN)  # the first ones are short, the last ones not over
    ada = subject_target("https://idp.example", "person-10")

    def page(question: Callable[[], Question], limit: int = 50) -> Callable[[], Any]:
        def ask() -> Any:
            with store.reading() as c:
                return [show_record(found) for found in questions.records(c, question(), limit=limit)]

        return ask

    def tree() -> Any:
        with store.reading() as c:
            reached = reach(c, Question(session=session_of(dice.choice(whole))))
        assert reached is not None
        return show_nodes(reached.nodes)

    def count(question: Question) -> Callable[[], Any]:
        def ask() -> Any:
            with store.reading() as c:
                return total(c, question)

        return ask

    def link() -> Question:
        number = dice.choice(whole)
        return Question(link=facts(session_of(number), number, 1, ("w1", "h1")).links[0])

    cases: dict[str, Callable[[], Any]] = {
        "all that a session and its delegates did, with bodies": page(
            lambda: Question(session=session_of(dice.choice(whole))), 1000
        ),
        "a delegation, what is above and below it": page(link, 1000),
        "a session's tree with its counts": tree,
        "newest 50 of the whale, 1 % of all records": page(lambda: Question(session=WHALE)),
        "the whale's total": count(Question(session=WHALE)),
        "newest 50 denials": page(lambda: Question(reason="deny")),
        "newest 50 of a reason": page(lambda: Question(reason="argument_not_allowed")),
        "newest 50 of an agent": page(lambda: Question(agent="acme/support/bot-3")),
        "newest 50 for a person": page(lambda: Question(subject=ada)),
        "newest 50 of a tool": page(lambda: Question(tool="orders.get")),
        "newest 50 before a time": page(lambda: Question(until_ms=1_800_000_000_000 + records // 2)),
    }
    found = {}
    for name, ask in cases.items():
        ask()
        found[name] = percentiles([_took(ask) for _ in range(times)])
    return found


def _took(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    assert work()
    return (time.perf_counter() - began) * 1000


def run(*, quick: bool, large: bool) -> dict[str, Any]:
    """Measure everything."""
    results: dict[str, Any] = about("sqlalchemy", "psycopg") | {"journal": journal(), "ingest": [], "logs": []}
    records = 20_000 if quick else 200_000
    for place, size in itertools.product(PLACES, SIZES):
        say(f"{place}, batches of {size}")
        results["ingest"].append(ingest(place, size, records if place == "SQLite" else records // 2))
    for rows in [50_000 if quick else MILLION] + ([10 * MILLION] if large else []):
        with tempfile.TemporaryDirectory(prefix="arx-bench-") as folder:
            for store, publisher, log in filled(Path(folder), rows):
                times = 20 if quick else 100
                log |= {"proofs": proofs(store, publisher, times), "questions": asked(store, rows, times)}
                results["logs"].append(log)
    return results


def tables(found: dict[str, Any]) -> str:
    """Write the tables for docs/audit.md."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    journaled = [
        (mode, f"{found['journal'][mode]['median_us']:.2f}", f"{found['journal'][mode]['least_us']:.2f}")
        for mode in ("strict", "best_effort", "durable")
    ]
    taken = [
        (row["place"], row["batch"], f"{row['taken_per_s']:,.0f}", f"{row['signed_per_s']:,.0f}")
        for row in found["ingest"]
    ]
    kept = [
        (f"{log['records']:,}", f"{log['bytes']:.0f}", f"{log['file_bytes']:.0f}", f"{log['take_per_s']:,.0f}")
        for log in found["logs"]
    ]
    parts = [
        f"{found['machine']}; Python {found['python']}; {versions}.",
        f"**A record in the journal**, {found['journal']['bytes']} bytes, us\n\n"
        + table(("mode", "median", "least"), journaled),
        "**Into the log**, records/s: over HTTP until all were taken; until the checkpoint over all of them was"
        " published\n\n" + table(("database", "batch", "taken", "signed"), taken),
        "**What they take**, bytes a record, and how fast a database alone takes batches of 2 000, records/s\n\n"
        + table(("records", "database, bodies and indexes", "the log's files", "taken"), kept),
    ]
    names = ("build", "check", "consistency")
    proven = [
        (f"{log['records']:,}", log["proofs"]["hashes"], *(_ms(log["proofs"][name]) for name in names))
        for log in found["logs"]
    ]
    heads = ("records", "hashes", "build a proof", "check a proof file", "prove that it only grew")
    parts.append("**Proofs**, ms, p50 (p95)\n\n" + table(heads, proven))
    asked_ = [(name, *(_ms(log["questions"][name]) for log in found["logs"])) for name in found["logs"][0]["questions"]]
    heads = ("question", *(f"{log['records']:,} records" for log in found["logs"]))
    return "\n\n".join([*parts, "**Questions**, ms, warm, p50 (p95)\n\n" + table(heads, asked_)])


def _ms(spread: dict[str, float]) -> str:
    return f"{spread['p50']:.2f} ({spread['p95']:.2f})"


def page(found: dict[str, Any]) -> str:
    """Write what stands between the page's markers."""
    return f"{tables(found)}\n\n![records a second into the signed log]({PLOT})"


def write(found: dict[str, Any]) -> None:
    """Write page and plot anew."""
    put(PAGE, "figures", page(found))
    (DOCS / PLOT).write_text(plot(found), "utf-8")


def plot(found: dict[str, Any]) -> str:
    """Draw how many records a second get into the signed log."""
    rows = [(f"{row['place']}, batches of {row['batch']}", float(row["signed_per_s"])) for row in found["ingest"]]
    return draw.bars("records a second, from HTTP to a published checkpoint", rows, ours="SQLite")


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--large", action="store_true", help="also ask ten million records")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/audit.md")
    parser.add_argument("--page", action="store_true", help="only write docs/audit.md anew, from the last figures")
    given = parser.parse_args()
    if given.page:
        write(load("audit"))
        return
    found = run(quick=given.quick, large=given.large)
    if not given.quick:
        save("audit", found)
    print(tables(found))
    if given.write:
        write(found)


if __name__ == "__main__":
    main()
