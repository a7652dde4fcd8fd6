# SPDX-License-Identifier: Apache-2.0
"""The registry of all metrics: each process exports its families, and no other metric.

The tables of the pages and the dashboard are written from it: ``python -m tests.house.tables``.
``deploy/monitoring/alerts.toml`` has the alerts, which name these families alone.
"""

from typing import Final

from arx_verifier.metrics.families import BUILD, VERIFIER, Family

CERTIFICATE: Final = Family(
    "arx_certificate_expires_seconds", "gauge", "time until the certificate of a server ends", ("certificate",), "Realm"
)
MINT: Final = (
    BUILD,
    Family("arx_mint_ready", "gauge", "1 when `/readyz` answers 200", (), "Realm"),
    Family(
        "arx_mint_requests",
        "counter",
        "requests answered, by the template of their path",
        ("method", "route", "status"),
    ),
    Family("arx_mint_request_seconds", "histogram", "from a request's first byte to its answer's last", ("route",)),
    Family("arx_mint_refusals", "counter", "refusals of the mint, by their code", ("code",), "Calls"),
    Family("arx_mint_sessions_open", "gauge", "sessions that are neither ended nor expired", (), "Calls"),
    Family("arx_mint_tasks_open", "gauge", "tasks that are neither ended nor expired", (), "Calls"),
    Family("arx_approvals_waiting", "gauge", "requests that wait for an operator's answer", (), "Calls"),
    Family(
        "arx_notifications",
        "gauge",
        "[notifications](notifications.md) that no receiver has taken: `waiting`, and `failed` after a day",
        ("state",),
        "Calls",
    ),
    Family("arx_epoch", "gauge", "kills, freezes and thaws that the mint's view has applied", (), "Kills"),
    Family(
        "arx_epoch_age_seconds", "gauge", "age of the mint's view of the kill epoch; below 0 without one", (), "Kills"
    ),
    Family("arx_store_history_info", "gauge", "1, with the name of the store's history", ("history",)),
    Family(
        "arx_clock_offset_seconds", "gauge", "the store's clock less this mint's; beyond 30 s both refuse", (), "Realm"
    ),
    Family("arx_kills", "counter", "kills, freezes and thaws that this mint added to the log", ("op",), "Kills"),
    Family("arx_kill_reports", "counter", "reports of kills by their result, `confirmed` or not", ("status",), "Kills"),
    Family("arx_kill_confirm_seconds", "histogram", "from a kill to its last confirmation", (), "Kills"),
    Family(
        "arx_verifiers",
        "gauge",
        "verifiers by service, `live`, `late` or `gone`; all 0 if none was seen for 10 minutes",
        ("service", "state"),
        "Verifiers",
    ),
    Family("arx_verifiers_behind", "gauge", "those that lack the last kill", ("service",), "Verifiers"),
    Family(
        "arx_verifiers_watching",
        "gauge",
        "when the watch mode of each process that has it ends, seconds since 1970",
        ("verifier",),
    ),
    Family(
        "arx_service_unshipped", "gauge", "1 for a service with a live verifier and no record in the log", ("service",)
    ),
    Family(
        "arx_decisions",
        "counter",
        "decisions that this mint added to the log: its own, and those of the services that ship to it",
        ("decision", "reason"),
        "Calls",
    ),
    Family("arx_log_halted", "gauge", "1 when the log's database contradicts what was signed", (), "Log"),
    Family("arx_log_size", "gauge", "records of the audit log", (), "Log"),
    Family("arx_log_signed", "gauge", "records of it that are signed, by any mint", (), "Log"),
    Family("arx_checkpoint_age_seconds", "gauge", "time since any mint signed the last checkpoint", (), "Log"),
    Family("arx_witness_missing", "gauge", "1 when the last checkpoint lacks a witness's cosignature", (), "Log"),
    Family("arx_mint_outbox_events", "gauge", "events that wait for the audit log", (), "Log"),
    Family("arx_journal_bytes", "gauge", "size of the journals of this mint's own decisions", (), "Log"),
    Family("arx_database_errors", "counter", "transactions that a database failed", ("database",), "Realm"),
    Family("arx_key_age_seconds", "gauge", "age of the `root` key and `signing` key in use", ("key",), "Realm"),
    Family("arx_backup_age_seconds", "gauge", "time since the last `backup` and `drill`, if any", ("what",), "Realm"),
    CERTIFICATE,
)
GATEWAY: Final = (
    BUILD,
    Family("arx_gateway_ready", "gauge", "whether calls can be allowed", ("upstream",), "Gateway"),
    Family("arx_gateway_decisions", "counter", "decisions", ("upstream", "decision", "reason"), "Gateway"),
    Family(
        "arx_gateway_answers",
        "counter",
        "answers; 429, 502 and 504 are limits and upstreams that failed, or are the upstream's own",
        ("upstream", "status"),
        "Gateway",
    ),
    Family(
        "arx_gateway_seconds",
        "histogram",
        "from a request to the last byte of its answer, with the upstream's work",
        ("upstream",),
        "Gateway",
    ),
    Family("arx_gateway_open", "gauge", "requests and streams that are open", ("upstream",), "Gateway"),
    Family("arx_gateway_journal_fill", "gauge", "how full the journal is, 0 to 1", ("upstream",), "Gateway"),
    Family(
        "arx_gateway_watching",
        "gauge",
        "until when calls go on that would be refused, seconds since 1970",
        ("upstream",),
    ),
    CERTIFICATE,
)
RELAY: Final = (
    BUILD,
    Family("arx_relay_followers", "gauge", "verifiers and relays that are connected", (), "Relay"),
    Family("arx_relay_verifiers", "gauge", "verifiers that the relay confirms for", (), "Relay"),
    Family("arx_relay_late", "gauge", "those that are late, which the relay reports by name", (), "Relay"),
    Family(
        "arx_relay_epoch_age_seconds", "gauge", "age of its view of the kill epoch; below 0 without one", (), "Relay"
    ),
    CERTIFICATE,
)
SHIP: Final = (
    BUILD,
    Family("arx_ship_records", "counter", "records that the mint took", ("service",), "Ship"),
    Family("arx_ship_lost_records", "counter", "records that were declared lost", ("service",), "Ship"),
    Family("arx_ship_journal_fill", "gauge", "how full the journal is, 0 to 1", ("service",), "Ship"),
    Family("arx_ship_journal_bytes", "gauge", "size of the journal", ("service",)),
    Family("arx_ship_behind_seconds", "gauge", "how long shipping has failed; 0 if it works", ("service",), "Ship"),
    Family("arx_ship_forked", "gauge", "1 when the log contradicts a checkpoint that was verified", ("service",)),
    Family("arx_ship_standby", "gauge", "1 while another process ships the journal", ("service",)),
    Family("arx_ship_keys_age_seconds", "gauge", "time since the mint last answered with the keys", ("service",)),
)
PROCESSES: Final = {"mint": MINT, "gateway": GATEWAY, "relay": RELAY, "ship": SHIP, "verifier": VERIFIER}
