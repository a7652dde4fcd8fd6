# SPDX-License-Identifier: Apache-2.0
"""What the command's tests share: how to run it, and files that hold what agents and services hold."""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.cli.app import cli
from arx_verifier import Caveat, Constraint, Identifier, Macaroon, Rule
from arx_verifier.token import wire
from arx_verifier.token.discharge import ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge

KEY = b"k" * 32
SESSION, TASK = "s-abcdefghijklmnop", "t-abcdefghijklmnop"
INCARNATION = "A" * 22
REQUIRED = ThirdPartyCaveat(id=f"k1.0:{TASK}", tools=("payments.refund",))


class Ran(NamedTuple):
    """One command line and what came of it."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert value["schema"].startswith("arx/")
        return value


def arx(*args: str | Path, stdin: str | bytes = "", env: dict[str, str] | None = None) -> Ran:
    """Run a command line in this process."""
    clean = {name: None for name in os.environ if name.startswith("ARX_")}
    result = CliRunner(env={**clean, **(env or {})}).invoke(cli, [str(arg) for arg in args], input=stdin)
    return Ran(result.exit_code, result.stdout, result.stderr)


def macaroon(audience: str, *rules: Rule, **identifier: Any) -> Macaroon:
    """Mint a token that lives ten minutes."""
    now = time.time_ns() // 1_000_000
    facts = {"agent": "acme/support", "aud": audience, "born": (INCARNATION, 0), "depth": 4, "kid": "k1.0", "v": 1}
    facts |= {"iat": now, "exp": now + 600_000, "id": wire.text_of(b"i" * 16), "session": SESSION, "task": TASK}
    caveat = Caveat(allow=rules, require=("call",), delegate_to=("acme/**",))
    return Macaroon.mint(Identifier(**(facts | identifier)), key=KEY, realm="acme", caveats=(caveat,))


def orders(**identifier: Any) -> Macaroon:
    """Mint a token for one order."""
    rule = Rule(tool="orders.get", args={"order_id": "o-1"})
    return macaroon("orders", rule, Rule(tool="orders.list", args={}), **identifier)


def bundle(required: ThirdPartyCaveat | None = None) -> Bundle:
    """Mint a bundle for two services; of one of them every refund may have to be approved."""
    payments = macaroon("payments", Rule(tool="payments.refund", args={"amount": Constraint(range=(0, 50))}))
    if required is not None:
        payments = require_discharge(payments, required.encode(), caveat_key(KEY, required.id))
    return Bundle(
        agent="acme/support",
        issuer="http://127.0.0.1:8700",
        origins={"orders": ("http://127.0.0.1:9001",), "payments": ("http://127.0.0.1:9002",)},
        realm="acme",
        task=TASK,
        tokens={"orders": orders(), "payments": payments},
    )


def approval(amount: int, *, required: ThirdPartyCaveat = REQUIRED, ttl_ms: int = 600_000) -> str:
    """Make the discharge of an approved refund."""
    now = time.time_ns() // 1_000_000
    rule = Rule(tool="payments.refund", args={"amount": amount})
    caveat = Caveat(allow=(rule,), exp=now + ttl_ms, once=("a-abcdefghijklmnop", now), task="a-abcdefghijklmnop")
    key = caveat_key(KEY, required.id)
    return issue_discharge(required.encode(), key, realm="acme", caveats=(caveat,)).encode()


def service_file(
    path: Path, key: bytes = KEY, store: str | None = None, audience: str = "orders", ledger: str | None = None
) -> Path:
    """Write a service file, of ``orders`` unless another is named."""
    content = {"v": 1, "realm": "acme", "audience": audience, "max_ttl_ms": 3_600_000, "store": store, "ledger": ledger}
    path.write_text(json.dumps({**content, "keys": {"k1.0": wire.text_of(key)}}))
    path.chmod(0o600)
    return path
