# SPDX-License-Identifier: Apache-2.0
"""The mint: who an agent is, what it may start, and how it ends; never on the path of a tool call.  CONTROL 1.

Its packages, each of which imports only those before it (tests/house/test_package_graph.py):

* ``db``: tables, transactions and repositories;
* ``policy``: what the policy file says and grants, and which policy is in force;
* ``audit``: the realm's audit log, and what the mint itself records;
* ``revocation``: kills, freezes and the store's history;
* ``keys``: root keys and their schedule, and the public keys of issuers;
* ``context``: what a handler needs of all these;
* ``identity``: who calls, and on whose behalf;
* ``tasks``: sessions, tasks and approvals, from issue to revocation;
* ``runtime``: what keeps the context alive;
* ``api``: the HTTP routes;
* ``server``: the processes.
"""
