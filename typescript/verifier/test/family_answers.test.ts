// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Decision, pack } from "../src/journal/record.ts";
import { follow, journal, record, type Vector, vectorsOf } from "./family_answers.ts";
import { decode } from "./unpack.ts";

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

/** The decision whose record in a journal this is; undefined for one that this verifier never makes. */
function decisionOf(payload: Buffer): Decision | undefined {
  const [version, facts, [subject, meta, caveats], [call, rest]] = decode(payload) as Vector;
  const [agent, session, named, links, task, tasks, token, audience, policy, kid, assurance, model, held = []] = facts;
  const [at, code, tool, argsDigest, incarnation, applied, ageMs, rules, ends, counted, gap, signed] = call;
  const [salt, details, peer, requestId, traceparent, peers, args] = rest;
  if (version !== 1 || ends !== 0 || args !== null) return undefined;
  const chain = { agent, session, named, links, task, tasks, token, audience, policy, kid, assurance, model };
  const holders = held.map(([key, said, signature]: Vector) => ({ key, said, signature }));
  return {
    at, code, tool, argsDigest, incarnation, applied, ageMs, salt, peer, requestId, traceparent,
    facts: { ...chain, holders, subject, meta, caveats },
    failures: rules.map(([place, rule]: Vector, at: number) => ({ place, rule, expected: details[at][0], came: details[at][1] })),
    counts: counted.map(([code, times]: Vector, at: number) => ({ code, times, peer: peers[at] })),
    gap: gap && { why: gap[0], first: gap[1], last: gap[2], times: gap[3], since: gap[4], until: gap[5] },
    signed: signed && { said: signed[0], plain: signed[1], signature: signed[2] },
  };
}
