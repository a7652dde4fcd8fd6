# SPDX-License-Identifier: Apache-2.0
"""The mint: it authenticates callers, issues tokens and revokes them. CONTROL 1.

No tool call passes through it. Its packages, each of which imports only those before it
(tests/house/test_package_graph.py):

* ``db``: tables, transactions and repositories;
* ``policy``: the policy file, what it grants, and which policy is in force;
* ``html``: the base of all pages, and how templates are rendered;
* ``audit``: the realm's audit log, and the mint's own records in it;
* ``revocation``: kills, freezes and the store's history;
* ``keys``: root keys and their schedule, and the public keys of issuers;
* ``context``: the parts of all these that handlers need;
* ``identity``: the caller, and the subject on whose behalf it calls;
* ``tasks``: sessions, tasks and approvals, from issue to revocation;
* ``oauth``: the authorization server for stock clients, whose access tokens stand for tasks;
* ``runtime``: start, background thread and end of the context;
* ``api``: the HTTP routes;
* ``server``: the processes.
"""
