# SPDX-License-Identifier: Apache-2.0
"""The audit log: a Merkle tree of records in C2SP's formats, and how anyone checks it offline.  SPEC 17.

``tree`` is the tree, ``tiles`` its files, ``note`` and ``checkpoint`` what is signed, ``proof`` and ``selection`` what
is handed out, ``verify`` the offline check, ``witness`` a second party that lets no log show two histories.
"""
