// SPDX-License-Identifier: Apache-2.0
// The limits of SPEC 14, by the names that `tests/vectors/tables.json` has; times in ms.

import tables from "./tables.json" with { type: "json" };

export const LIMITS = Object.freeze(tables.limits);
