# SPDX-License-Identifier: Apache-2.0
"""Forty ways to get a kill wrong, and the test that holds each; and what failing servers were seen to do."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIMULATED = "simulation/test_simulation.py::test_a_mistake_is_noticed"

TRAPS = {
    "lease counted from the answer": (
        SIMULATED,
        "faults/test_links.py::test_a_link_that_falls_silent_behind_a_late_answer",
    ),
    "lease extended by a push": (SIMULATED, "verifier/test_epochs_entries.py::test_a_push_never_touches_the_lease"),
    "clock read before the kills": (SIMULATED, "verifier/test_epochs.py::test_the_clock_is_read_after_the_kills"),
    "deadline read after the kills": (SIMULATED, "verifier/test_epochs.py::test_the_lease_is_read_before_the_kills"),
    "deadline published before the entries": (
        SIMULATED,
        "verifier/test_epochs_entries.py::test_no_lease_before_everything_is_applied",
    ),
    "lease though behind": (SIMULATED, "revocation/test_following.py::test_a_long_absence_is_copied_or_replayed"),
    "applied moved over a gap": (
        SIMULATED,
        "verifier/test_epochs_entries.py::test_a_gap_kills_at_once_and_thaws_later",
    ),
    "fields of two states mixed": ("verifier/test_epochs.py::test_one_state_is_read",),
    "incarnation not compared": (SIMULATED, "verifier/test_epochs_entries.py::test_a_history_never_returns"),
    "numbers given twice": (
        SIMULATED,
        "advisories/test_sequence_number_given_twice.py::test_a_number_that_was_given_twice_is_noticed",
    ),
    "born read after authority": (SIMULATED,),
    "child with fewer targets": (
        "advisories/test_sub_task_too_long_to_kill.py",
        "advisories/test_child_outlives_a_revoked_parent.py",
    ),
    "subscribed after the copy": (
        "simulation/test_simulation.py::test_the_bound_holds_and_service_comes_back",
        "revocation/test_failures.py::test_a_killed_connection_is_replaced",
    ),
    "copy taken for a moment": (
        "simulation/test_simulation.py::test_the_bound_holds_and_service_comes_back",
        "verifier/test_epochs_entries.py::test_a_copy_of_the_same_history_keeps_higher_kills",
    ),
    "log trimmed past applied": (
        "revocation/test_functions.py::test_the_log_is_trimmed_but_not_before_it_is_taken",
        "revocation/test_following.py::test_a_long_absence_is_copied_or_replayed",
    ),
    "invisible reconnect": (
        "verifier/test_feed.py::test_a_dropped_connection_is_never_opened_again",
        "faults/test_server.py::test_killed_clients",
    ),
    "probe that is a read": (
        SIMULATED,
        "revocation/test_functions.py::test_none_is_a_read",
        "faults/test_replicas.py::test_a_probe_through_a_replica",
    ),
    "connection kept after a refusal": (
        "faults/test_replicas.py::test_a_primary_made_a_replica",
        "verifier/test_feed.py::test_an_answer_it_does_not_know_drops_the_connection",
    ),
    "answer of WAITAOF ignored": (
        "revocation/test_store.py::test_a_kill_is_on_disk_before_it_is_reported",
        "revocation/test_store.py::test_missing_replicas_are_not_durable",
    ),
    "WAITAOF on another connection": (
        "topologies/test_replicas.py::test_a_kill_is_on_both_disks_and_a_replica_grants_nothing",
    ),
    "function half done": (
        "revocation/test_functions_probe.py::test_a_probe_notices_damage",
        "revocation/test_functions.py::test_a_wrong_bump_changes_nothing",
    ),
    "no kill in a full store": (
        "revocation/test_functions.py::test_a_kill_works_in_a_full_store",
        "faults/test_server.py::test_a_full_store",
    ),
    "eviction": (
        "faults/test_server.py::test_a_store_that_lost_something",
        "topologies/test_doctor_settings.py::test_settings_that_lose_kills",
    ),
    "0 of 0 confirmed": (
        "revocation/test_following.py::test_a_young_or_empty_registry_confirms_nothing",
        "advisories/test_kill_confirmed_past_an_empty_relay.py",
    ),
    "verifier id used again": (
        "revocation/test_functions_probe.py::test_what_was_applied_under_another_history_confirms_nothing",
        "advisories/test_revocation_misses_a_verifier.py::test_the_report_counts_all_of_them",
    ),
    "registry pruned by a stepped clock": (
        "revocation/test_functions_probe.py::test_a_step_of_the_store_s_clock_forgets_no_verifier",
        "topologies/test_doctor.py::test_verifiers_that_lag_and_a_registry_that_lies",
    ),
    "lease lowered under old ones": ("revocation/test_store.py::test_a_lowered_lease_is_waited_for_in_full",),
    "one clock alone": (
        "verifier/test_epochs.py::test_either_clock_ends_the_lease",
        "faults/test_verifiers.py::test_a_stepped_wall_clock",
    ),
    "fork with lease and socket": ("faults/test_verifiers.py::test_a_forked_child",),
    "decision taken for its effect": ("faults/test_streams.py::test_a_long_call_stops_at_its_checkpoint",),
    "stream authorised once": ("faults/test_streams.py::test_an_open_stream_of_a_killed_session_is_cut",),
    "cached decision": (
        "verifier/test_verify_seen.py",
        "verifier/test_verify_again.py::test_warm_tokens_meet_every_check_of_the_moment",
        "advisories/test_expiry_is_not_enforced.py::test_a_token_ends_while_it_is_in_use",
    ),
    "wall clock back after pruning": ("verifier/test_epochs.py::test_time_is_bounded_by_both_clocks",),
    "herd after an outage": (
        "relay/test_hub.py::test_after_an_outage_all_ask_at_once",
        "faults/test_server.py::test_a_frozen_server",
    ),
    "fresh by a probe in flight": (
        "revocation/test_following.py::test_fresh_awaits_a_probe_sent_after_the_request",
        "revocation/test_fresh.py",
    ),
    "unknown outcome not retried": (
        "revocation/test_kill_paths.py::test_an_unknown_outcome_is_asked_for_until_it_is_settled",
    ),
    "PUBLISH in a cluster": ("topologies/test_cluster.py::test_each_realm_lives_at_its_owner",),
    "retry across histories": ("revocation/test_store.py::test_another_history_is_refused_until_it_is_known",),
    "rights over other realms": ("topologies/test_servers.py::test_each_role_can_do_nothing_else",),
    "instance shared with others": ("faults/test_server.py::test_another_holds_the_server",),
}

SEEN = {
    "clients killed": ("faults/test_server.py::test_killed_clients",),
    "server stopped": ("faults/test_server.py::test_a_frozen_server",),
    "server killed, with and without a file": (
        "faults/test_server.py::test_a_killed_server_with_its_file",
        "faults/test_server.py::test_a_killed_server_without_its_file",
    ),
    "fsync once a second": ("topologies/test_doctor_settings.py::test_settings_that_lose_kills",),
    "file cut": ("faults/test_server.py::test_a_file_whose_tail_is_cut",),
    "subscriber stopped": (
        "faults/test_server.py::test_a_slow_consumer",
        "faults/test_server.py::test_no_room_for_one_that_is_far_behind",
    ),
    "replica promoted with a hole": ("faults/test_replicas.py::test_a_replica_promoted_with_a_hole",),
    "replica stopped": ("topologies/test_replicas.py::test_a_kill_is_on_both_disks_and_a_replica_grants_nothing",),
    "primary deposed": ("faults/test_replicas.py::test_a_deposed_primary",),
    "Sentinels, primary stopped": ("topologies/test_sentinel.py::test_a_failover_ends_the_history_and_everyone_moves",),
    "Sentinels, primary restarted": ("topologies/test_sentinel.py::test_a_primary_that_restarts_keeps_its_history",),
    "cluster, owner cut off": (
        "topologies/test_cluster.py::test_an_owner_that_is_cut_off_grants_nothing_and_its_replica_takes_over",
    ),
    "out of memory": ("faults/test_server.py::test_a_full_store",),
    "eviction": ("faults/test_server.py::test_a_store_that_lost_something",),
    "verifier stopped": ("faults/test_verifiers.py::test_a_suspended_verifier",),
    "verifier forked": ("faults/test_verifiers.py::test_a_forked_child",),
    "threads that do not yield": ("faults/test_verifiers.py::test_sixteen_busy_threads",),
    "store back after a lease": ("revocation/test_failures.py::test_a_frozen_store_ends_every_lease",),
}


@pytest.mark.parametrize("trap", [*TRAPS, *SEEN])
def test_it_is_held_by_a_test_that_there_is(trap: str) -> None:
    """
    Renaming or removing a test that covers a trap fails here, until the table names its successor.
    """
    for named in (*TRAPS.get(trap, ()), *SEEN.get(trap, ())):
        path, _, test = named.partition("::")
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert test in tests if test else any(name.startswith("test_") for name in tests), named


def test_there_are_forty() -> None:
    """None is dropped silently."""
    assert len(TRAPS) == 40
