# SPDX-License-Identifier: Apache-2.0
"""``make vulnerabilities`` before an advisory service on loopback, in the form of OSV."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.house.pages import ROOT

KNOWN = {"id": "PYSEC-0000-1", "modified": "2026-01-01T00:00:00Z", "details": "a test", "affected": []}


@contextmanager
def advisories(of: str | None, missing: str = "") -> Iterator[str]:
    """Serve one advisory of a package, and an error for a missing one; yield the address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            known = [KNOWN | {"affected": [{"package": {"name": of, "ecosystem": "PyPI"}}]}] if asked == of else []
            body = json.dumps({"vulns": known}).encode()
            self.send_response(500 if asked == missing else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with an advisory service."""
    command = [ROOT / ".venv-release/bin/python", ROOT / "deploy/vulnerabilities.py", f"--osv-url={url}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_known_vulnerability_fails() -> None:
    """
    The package and the advisory are named; without any, every locked package was audited.
    """
    with advisories("cryptography") as url:
        done = audit(url)
    assert done.returncode == 1
    assert "cryptography" in done.stdout
    assert "PYSEC-0000-1" in done.stdout
    with advisories(None) as url:
        done = audit(url, "--required")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("audited: ")


def test_a_service_that_does_not_answer_audits_nothing() -> None:
    """
    Neither a service out of reach nor one that fails for a single package makes "none known" of it.
    """
    with advisories(None, missing="rich") as failing:
        for url in (failing, "http://127.0.0.1:9/v1/query"):
            done = audit(url)
            assert done.stdout.startswith("not audited: "), done.stdout
            assert done.returncode == 0
            assert audit(url, "--required").returncode == 1
