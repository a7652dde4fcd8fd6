# SPDX-License-Identifier: Apache-2.0
"""Tables of work: sessions, tasks, grants, approvals, proofs."""
