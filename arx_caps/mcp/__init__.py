# SPDX-License-Identifier: Apache-2.0
"""Messages of the Model Context Protocol as bytes, headers and revisions, for gateway and bridge."""
