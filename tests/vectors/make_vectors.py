# SPDX-License-Identifier: Apache-2.0
"""Write the vectors of SPEC: one idea a file, refusals first.  Run as README.md says; the result never changes.

Keys, time and nonces are fixed, and the bytes come from ``second.py``, not from the code that the vectors test.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.vectors import (
    argument_vectors,
    caveat_vectors,
    discharge_vectors,
    edge_vectors,
    epoch_vectors,
    follower_vectors,
    form_vectors,
    grammar_vectors,
    holder_vectors,
    journal_vectors,
    json_vectors,
    limit_vectors,
    log_vectors,
    mark_vectors,
    memory_vectors,
    precedence_vectors,
    problem_vectors,
    record_vectors,
    request_vectors,
    rule_vectors,
    service_limit_vectors,
    signing_vectors,
    slip_vectors,
    spec_tables,
    spend_vectors,
)
from tests.vectors.second import AT, INCARNATION, KEY, Token

FOLDER = Path(__file__).parent / "tokens"
MEMORY = Path(__file__).parent / "memory"
RECORDS = Path(__file__).parent / "records"
REQUESTS = Path(__file__).parent / "requests"
JOURNAL = Path(__file__).parent / "journal"
LONG = 20_000  # characters; the vectors of the limits have up to 65 537 items
LOG = Path(__file__).parent / "log"


def whole(given: dict[str, Any]) -> dict[str, Any]:
    """Fill in what a vector does not say."""
    token = given["token"]
    request = {"args": {}, "at": AT, "peer": "192.0.2.7", "tool": "orders.get"} | given.get("request", {})
    epoch = {"applied": 7, "freezes": {}, "kills": {}, "incarnation": INCARNATION} | given.get("epoch", {})
    made = {
        "comment": given["comment"],
        "spec": given["spec"],
        "realm": "acme",
        "audience": given.get("audience", "orders"),
        "max_ttl_ms": 86_400_000,
        "keys": {"k1.0": KEY.hex()},
        "epoch": epoch,
        "token": token.text() if isinstance(token, Token) else token,
        "request": request,
        "times": given.get("times", 1),
        "expect": given["expect"],
    }
    # Without costs the service of a vector keeps no budgets; without `limits` it has none; without `before` it has seen
    # no token.
    return made | {name: given[name] for name in ("costs", "limits", "before", "calls") if name in given}


def written(made: dict[str, Any]) -> str:
    """A vector as text, one member a line; a long one without white space."""
    text = json.dumps(made, indent=1)
    return (text if len(text) <= LONG else json.dumps(made, separators=(",", ":"))) + "\n"


def build() -> dict[str, str]:
    """Make all vectors.

    Returns:
        File name to content.
    """
    files: dict[str, str] = {}
    modules = (
        form_vectors,
        caveat_vectors,
        discharge_vectors,
        rule_vectors,
        epoch_vectors,
        holder_vectors,
        spend_vectors,
        mark_vectors,
        precedence_vectors,
        argument_vectors,
        grammar_vectors,
        limit_vectors,
        service_limit_vectors,
        edge_vectors,
        slip_vectors,
    )
    for module in modules:
        for name, given in module.vectors().items():
            assert f"{name}.json" not in files, name
            files[f"{name}.json"] = written(whole(given))
    return files


def build_records() -> dict[str, str]:
    """Make the vectors of decision records.

    Returns:
        File name to content.
    """
    return {f"{name}.json": json.dumps(given, indent=1) + "\n" for name, given in record_vectors.vectors().items()}


def build_memory() -> dict[str, str]:
    """Make the vectors of stamps.

    Returns:
        File name to content.
    """
    made = memory_vectors.vectors() | {f"edge-{name}": given for name, given in edge_vectors.stamps().items()}
    return {f"{name}.json": json.dumps(given, indent=1) + "\n" for name, given in made.items()}


def build_requests() -> dict[str, str]:
    """Make the vectors of requests.

    Returns:
        File name to content.
    """
    made = request_vectors.vectors() | {
        f"edge-{name}": request_vectors.vector(*given) for name, given in edge_vectors.requests().items()
    }
    return {f"{name}.json": json.dumps(given, indent=1) + "\n" for name, given in made.items()}


def build_journal() -> dict[str, str]:
    """Make the vectors of journal segments.

    Returns:
        File name to content.
    """
    return {f"{name}.json": json.dumps(given, indent=1) + "\n" for name, given in journal_vectors.vectors().items()}


# Folder to the script that has its vectors.
FAMILIES = {
    "epochs": follower_vectors,
    "json": json_vectors,
    "problems": problem_vectors,
    "signing": signing_vectors,
}


def build_family(name: str) -> dict[str, str]:
    """Make the vectors of one of ``FAMILIES``.

    Returns:
        File name to content.
    """
    made = FAMILIES[name].vectors()
    if name == "epochs":
        made |= {f"edge-{vector}": given for vector, given in edge_vectors.epochs().items()}
    return {f"{vector}.json": written(given) for vector, given in made.items()}


def main() -> None:
    """Write the files, and take away what is no vector any more."""
    made = ((FOLDER, build()), (RECORDS, build_records()), (REQUESTS, build_requests()), (MEMORY, build_memory()))
    made += ((JOURNAL, build_journal()),)
    made += tuple((FOLDER.parent / name, build_family(name)) for name in FAMILIES)
    for folder, files in made:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.json"):
            if path.name not in files:
                path.unlink()
        for name, content in files.items():
            (folder / name).write_text(content)
        print(f"{len(files)} vectors in {folder}")
    shutil.rmtree(LOG, ignore_errors=True)
    for name, raw in log_vectors.files().items():
        (LOG / name).parent.mkdir(parents=True, exist_ok=True)
        (LOG / name).write_bytes(raw)
    print(f"a log in {LOG}")
    spec_tables.FILE.write_text(spec_tables.page(), encoding="utf-8")
    print(f"tables in {spec_tables.FILE}")


if __name__ == "__main__":
    main()
