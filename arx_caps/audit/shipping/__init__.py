# SPDX-License-Identifier: Apache-2.0
"""Ship a verifier's journal to the mint in signed batches, and detect a forked log.  LOG 2."""
