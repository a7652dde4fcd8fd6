# SPDX-License-Identifier: Apache-2.0
"""The revocation store as it is run in earnest: replicas, Sentinels, a cluster, TLS, other servers than the wheel's."""
