# SPDX-License-Identifier: Apache-2.0
"""What the application of a WSGI adapter's page does under gunicorn with two workers."""

import contextlib
import http.client
from pathlib import Path

import pytest

from arx_verifier import Constraint, Rule
from tests.servers import LONG_LEASE_MS, begun_store, free_ports, nonce_store, until
from tests.workers import SESSION, WAYS, Holder, deciders, gunicorn, write_service_file

REFUND = Rule(tool="orders.refund", args={"order_id": 7, "amount": Constraint(max=20)})
GET = Rule(tool="orders.get", args={"order_id": 7})


def check_workers(folder: Path, application: str, way: str) -> None:
    """Accept a call once in both workers together, refuse in both after a kill, and cut the open answer.

    Args:
        folder: The folder of the application, whose service file is ``orders.json``.
        application: Its name for gunicorn; it streams at ``/orders/7/events``, beside the page's routes.
        way: A key of ``WAYS``.
    """
    with (
        nonce_store(folder / "valkey") as server,
        begun_store(server.url, "acme", lease_ms=LONG_LEASE_MS) as store,
    ):
        write_service_file(folder, store, server.url)
        holder = Holder(store, GET, REFUND, Rule(tool="orders.events"))
        with gunicorn(folder, application, free_ports(1)[0], *WAYS[way]) as service:
            health = service.ask("GET", "/healthz")
            assert health.status == 200, health
            first = service.call(holder, "POST", "/orders/7/refund", b'{"amount": 5}')
            assert (first.status, first.json) == (200, {"refunded": 5}), first
            headers = holder.sign("GET", "/orders/7")
            answers = [service.ask("GET", "/orders/7", headers) for _ in range(8)]
            assert [answer.status for answer in answers] == [200, *[401] * 7], answers
            until(lambda: service.call(holder, "GET", "/orders/7") and len(store.verifiers()) == 2)
            connection, answer = service.open("GET", "/orders/7/events", holder.sign("GET", "/orders/7/events"))
            assert answer.read(5) == b"event"
            bump = store.kill([f"session:{SESSION}"], "test", "operator:ada")
            with contextlib.closing(connection), pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()
            store.wait_confirmed(bump)
            deciders(service, holder, "/orders/7", "revoked")
        assert "Traceback" not in service.log
        assert headers["Authorization"][-40:] not in service.log
