// SPDX-License-Identifier: Apache-2.0
// The constants of this verifier are those of SPEC's tables, and what it does not have it refuses by name.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CONSTRAINT_MEMBERS } from "../src/constraints/constraint.ts";
import { RULE_MEMBERS } from "../src/constraints/rule.ts";
import { REASONS } from "../src/errors.ts";
import { ADVICE, ARGUMENTS, ENDED, RULES, WHY } from "../src/enforcement/texts.ts";
import { LIMITS } from "../src/limits.ts";
import { SERVICE_MEMBERS } from "../src/service.ts";
import { IDENTIFIER_MEMBERS } from "../src/token/identifier.ts";
import { CAVEAT_MEMBERS, NOT_IN_DISCHARGE, UNSUPPORTED } from "../src/verification/caveats.ts";

const TABLES = JSON.parse(readFileSync(new URL("../../../tests/vectors/tables.json", import.meta.url), "utf8"));

test("each reason has its status, error, retry and meaning", () => {
  const reasons = TABLES.reasons.map(({ code, status, oauth_error, retry }: Record<string, string>) => {
    return [code, { status, oauthError: oauth_error, retry, meaning: TABLES.texts.meaning[code as string] }];
  });
  assert.deepEqual(structuredClone(REASONS), Object.fromEntries(reasons));
});

test("each limit has its value", () => {
  const limits = Object.entries<{ value: number }>(TABLES.limits).map(([name, { value }]) => [name, value]);
  assert.deepEqual({ ...LIMITS }, Object.fromEntries(limits));
});

for (const [name, members] of Object.entries({
  identifier: IDENTIFIER_MEMBERS, caveat: [...CAVEAT_MEMBERS, ...UNSUPPORTED], caveat_not_in_discharge: [...NOT_IN_DISCHARGE, ...UNSUPPORTED],
  rule: RULE_MEMBERS, constraint: CONSTRAINT_MEMBERS, service_file: SERVICE_MEMBERS,
})) {
  test(`each member of ${name} is known`, () => {
    assert.deepEqual([...members].sort(), [...TABLES.members[name]].sort());
  });
}

test("each text for models is that of SPEC", () => {
  const { advice, ended, why, rule, argument } = TABLES.texts;
  assert.deepEqual([{ ...ADVICE }, { ...ENDED }, { ...WHY }, { ...RULES }, { ...ARGUMENTS }], [advice, ended, why, rule, argument]);
});
