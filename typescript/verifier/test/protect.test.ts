// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { currentGrant, protect } from "../src/enforcement/protect.ts";
import type { Refusal } from "../src/errors.ts";
import { mint, serviceOf } from "./mint.ts";

const ALLOW = [{ tool: "orders.refund", args: { amount: { max: 20 } } }];

async function codeOf(call: Promise<unknown>): Promise<string> {
  return call.then(() => "ok", (error: Refusal) => error.code);
}

test("a function runs for an allowed call alone, with its grant", async () => {
  const { verifier, recorder } = serviceOf();
  const refund = protect(verifier, "orders.refund", ({ amount }) => [amount, currentGrant().holder]);
  assert.deepEqual(await refund(mint(ALLOW), { amount: 20 }), [20, "acme/support"]);
  assert.equal(await codeOf(refund(mint(ALLOW), { amount: 21 })), "argument_not_allowed");
  assert.equal(await codeOf(refund(undefined, { amount: 20 })), "missing_token");
  assert.deepEqual(recorder.decisions.map(({ code }) => code), ["ok", "argument_not_allowed"]);
});

test("a function gets the arguments that were judged, read once", async () => {
  const { verifier } = serviceOf();
  const refund = protect(verifier, "orders.refund", ({ amount }) => amount);
  let read = 0;
  const args = { get amount() { return ++read === 1 ? 5 : 5000; } };
  assert.equal(await refund(mint(ALLOW), args), 5);
});

test("an argument that an object inherits is none", async () => {
  const { verifier } = serviceOf();
  const run = protect(verifier, "orders.get", () => true);
  const allow = [{ tool: "*", args: { toString: { any: true } } }];
  assert.equal(await codeOf(run(mint(allow), {})), "argument_not_allowed");
});

test("a kill ends the call, and its result is withheld", async () => {
  const { verifier, view } = serviceOf();
  const waits = protect(verifier, "orders.refund", async () => {
    const { signal } = currentGrant();
    view.kill("agent:acme");
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    return "done";
  });
  assert.equal(await codeOf(waits(mint(ALLOW), { amount: 1 })), "revoked");
  assert.equal(await codeOf(waits(mint(ALLOW), { amount: 1 })), "revoked");
});

test("limits of the service apply beside the token", async () => {
  const { verifier } = serviceOf({ rules: [{ tool: "*" }, { tool: "orders.refund", args: { amount: { max: 10 } } }] });
  const refund = protect(verifier, "orders.refund", ({ amount }) => amount);
  assert.equal(await codeOf(refund(mint(ALLOW), { amount: 11 })), "over_service_limit");
  assert.equal(await refund(mint(ALLOW), { amount: 10 }), 10);
});
