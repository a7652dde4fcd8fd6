// SPDX-License-Identifier: Apache-2.0
// The constants of this verifier are those of SPEC's tables, and what it does not have it refuses by name.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CONSTRAINT_MEMBERS } from "../src/constraints/constraint.ts";
import { RULE_MEMBERS } from "../src/constraints/rule.ts";
import { SERVICE_MEMBERS } from "../src/service.ts";
import { IDENTIFIER_MEMBERS } from "../src/token/identifier.ts";
import { CAVEAT_MEMBERS, NOT_IN_DISCHARGE, UNSUPPORTED } from "../src/verification/caveats.ts";
import { OWN, TABLES, tables } from "./make_tables.ts";

test("reasons, limits and texts are those of SPEC", () => {
  assert.deepEqual(JSON.parse(readFileSync(OWN, "utf8")), tables(), "run `node test/make_tables.ts`");
});

for (const [name, members] of Object.entries({
  identifier: IDENTIFIER_MEMBERS, caveat: [...CAVEAT_MEMBERS, ...UNSUPPORTED], caveat_not_in_discharge: [...NOT_IN_DISCHARGE, ...UNSUPPORTED],
  rule: RULE_MEMBERS, constraint: CONSTRAINT_MEMBERS, service_file: SERVICE_MEMBERS,
})) {
  test(`each member of ${name} is known`, () => {
    assert.deepEqual([...members].sort(), [...TABLES.members[name]].sort());
  });
}
