# SPDX-License-Identifier: Apache-2.0
"""What ``arx NOUN`` runs: one file, or one package, for each noun.  None imports another noun's."""
