// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { pack } from "../src/journal/record.ts";
import { decisionOf, follow, journal, record, vectorsOf } from "./family_answers.ts";

for (const [family, answer] of [["epochs", follow], ["journal", journal]] as const) {
  for (const [name, vector] of vectorsOf(family)) {
    test(`${family}/${name}: ${vector.comment}`, () => assert.deepEqual(answer(vector), vector.expect));
  }
}

for (const [name, vector] of vectorsOf("records")) {
  test(`records/${name}: ${vector.comment}`, () => {
    const { kept, body, journal: payload } = vector;
    assert.deepEqual(record(vector), { kept, body });
    const decision = decisionOf(Buffer.from(payload, "hex"));
    if (decision !== undefined) assert.equal(pack(decision).toString("hex"), payload);
  });
}
