// SPDX-License-Identifier: Apache-2.0
// The constants of this verifier are those of SPEC's tables, and what it does not have it refuses by name.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { compileConstraint, CONSTRAINT_MEMBERS } from "../src/constraints/constraint.ts";
import { RULE_MEMBERS } from "../src/constraints/rule.ts";
import type { Refusal } from "../src/errors.ts";
import { writeCanonical } from "../src/json.ts";
import { REQUIRED, SERVICE_MEMBERS } from "../src/service.ts";
import { ThirdParty } from "../src/token/discharge.ts";
import { IDENTIFIER_MEMBERS } from "../src/token/identifier.ts";
import { CAVEAT_MEMBERS, NOT_IN_DISCHARGE } from "../src/verification/caveats.ts";
import { OWN, TABLES, tables } from "./make_tables.ts";

test("reasons, limits and texts are those of SPEC", () => {
  assert.deepEqual(JSON.parse(readFileSync(OWN, "utf8")), tables(), "run `node test/make_tables.ts`");
});

const SOURCE = path.join(import.meta.dirname, "..", "src");
const CODE = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
  .map((name) => readFileSync(path.join(SOURCE, name), "utf8")).join("\n");

/** Members of the level marks: `unknown_caveat`, as each other name. */
const UNSUPPORTED = ["after", "distinct", "marks", "only_after", "opened", "shown"];
const MEMBERS: Record<string, readonly string[]> = {
  identifier: IDENTIFIER_MEMBERS, caveat: [...CAVEAT_MEMBERS, ...UNSUPPORTED], caveat_not_in_discharge: [...NOT_IN_DISCHARGE, ...UNSUPPORTED.filter((name) => name !== "shown")],
  rule: RULE_MEMBERS, constraint: CONSTRAINT_MEMBERS, service_file: SERVICE_MEMBERS, service_file_required: REQUIRED,
};
/** What is tested in another way, or is of a part that this verifier does not have. */
const OTHERS: Record<string, string> = {
  third_party: "below", url: "below", variables: "below", record: "the vectors of records",
  bundle: "no holder", stamp: "no memory",
};
const LIMITS_ELSEWHERE: Record<string, string> = {
  packet: "a length of two bytes", target: "the mint", token_life: "max_ttl_ms of a service file", clock_skew: "SKEW_MS",
  behind_wait: "WAITS", syncing_wait: "WAITS", amount_decimals: "AMOUNT",
  ...Object.fromEntries(["rows", "row_items", "row_names"].map((name) => [`mark_${name}`, "no marks"])),
  distinct_values: "no marks", mark_fields: "no marks", marks_kept: "no marks",
  pool_holds: "no budgets", pool_holds_with_once: "no budgets", pool_kept: "no budgets",
  record_arguments: "refused in a service file", shared_kept_longer: "sharedNonces",
  stamp: "no memory", stamp_groups: "no memory", stamp_digests: "no memory",
};
const NOT_GIVEN: Record<string, string> = {
  insufficient_budget: "budget_unsupported", budget_exhausted: "budget_unsupported", after_mark: "unknown_caveat",
  mark_missing: "unknown_caveat", mark_unsupported: "unknown_caveat", withheld: "a gateway's",
};

test("each table of members is tested", () => {
  assert.deepEqual([...Object.keys(MEMBERS), ...Object.keys(OTHERS)].sort(), Object.keys(TABLES.members).sort());
});

for (const [name, members] of Object.entries(MEMBERS)) {
  test(`each member of ${name} is known`, () => {
    assert.deepEqual([...members].sort(), [...TABLES.members[name]].sort());
  });
}

test("each member of a third-party caveat and of a URL is read, and no other", () => {
  const third: Record<string, string | string[]> = { id: "a", tools: ["orders.get"] };
  const url: Record<string, string | number> = { scheme: "https", host: "a.example", port: 443, path: "/v1" };
  const ofMarks = { when: [["read"]], opened: 1_800_000_000_000 }; // a level that is not here
  assert.deepEqual(Object.keys({ ...third, ...ofMarks }).sort(), [...TABLES.members.third_party].sort());
  assert.deepEqual(Object.keys(url).sort(), [...TABLES.members.url].sort());
  const read = (more: object): unknown => new ThirdParty(Buffer.from(writeCanonical({ ...third, ...more })));
  assert.ok(read({}));
  assert.ok(compileConstraint({ url }));
  assert.throws(() => read({ other: "a" }));
  assert.throws(() => read(ofMarks), (error: Refusal) => error.code === "unknown_caveat");
  assert.throws(() => compileConstraint({ url: { ...url, other: "a" } }));
});

test("each limit is used by its name, or is elsewhere", () => {
  const unused = Object.keys(TABLES.limits).filter((name) => !new RegExp(`LIMITS\\.${name}\\b`).test(CODE));
  assert.deepEqual(unused.sort(), Object.keys(LIMITS_ELSEWHERE).sort());
});

test("each reason is given, or is of a part that is refused with another one", () => {
  const codes = TABLES.reasons.map(({ code }: { code: string }) => code).filter((code: string) => !CODE.includes(`"${code}"`));
  assert.deepEqual(codes.sort(), Object.keys(NOT_GIVEN).sort());
});

test("each variable is read, or is of a part that a service file cannot ask for", () => {
  const unread = TABLES.members.variables.filter((name: string) => !CODE.includes(`"${name}"`));
  assert.deepEqual(unread, ["ARX_LEDGER_PASSWORD"]);
});
