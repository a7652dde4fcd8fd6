// SPDX-License-Identifier: Apache-2.0
// A chain that was proven before is not proven again, and proves no more than before.

import assert from "node:assert/strict";
import { test } from "node:test";
import { KeyRing } from "../src/token/keyring.ts";
import { bytesOf } from "../src/names.ts";
import { prove } from "../src/verification/prove.ts";
import { nextLink } from "../src/token/chain.ts";
import { KEY, mint, serviceOf, TOKEN_ID } from "./mint.ts";

const request = () => ({ tool: "orders.get", args: { id: "o-1" }, at: Date.now() });
const code = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return "ok";
};

function altered(token: string, at: number): string {
  const bytes = bytesOf(token.slice(5)) as Buffer;
  bytes[at] = (bytes[at] as number) ^ 1;
  return `arx1_${bytes.toString("base64url")}`;
}

class ChangingKeys extends KeyRing {
  now: KeyRing | undefined = new KeyRing({ "k1.0": KEY }, "acme", 86_400_000);

  constructor() {
    super({}, "acme", 86_400_000);
  }

  override get(kid: string): ReturnType<KeyRing["get"]> {
    return this.now?.get(kid);
  }
}

test("each byte of a token with a known chain counts", async () => {
  const { verifier } = serviceOf();
  const asked = request();
  for (const token of [mint([{ tool: "*" }]), mint([{ tool: "*" }], asked)]) {
    assert.equal((await verifier.authorize(token, asked)).code, "ok");
    const size = (bytesOf(token.slice(5)) as Buffer).length;
    for (let at = 0; at < size; at += 1) {
      assert.notEqual((await verifier.authorize(altered(token, at), asked)).code, "ok", `byte ${at}`);
    }
  }
});

test("what ends the token of a call counts too, if its chain is known", async (context) => {
  context.mock.timers.enable({ apis: ["Date"], now: Date.now() }); // so that the chains are one
  const { verifier } = serviceOf();
  const asked = request();
  assert.equal((await verifier.authorize(mint([{ tool: "*" }], asked), asked)).code, "ok");
  for (const at of [33, 34, 35, 36]) {
    const token = mint([{ tool: "*" }], asked);
    assert.equal((await verifier.authorize(altered(token, (bytesOf(token.slice(5)) as Buffer).length - at), asked)).code, "malformed");
    assert.equal((await verifier.authorize(token, asked)).code, "ok");
  }
});

test("two calls of one chain are two calls", async () => {
  const { verifier } = serviceOf();
  const [first, second] = [request(), { ...request(), args: { id: "o-2" } }];
  const [one, other] = [mint([{ tool: "*" }], first), mint([{ tool: "*" }], second)];
  assert.equal((await verifier.authorize(one, first)).code, "ok");
  assert.equal((await verifier.authorize(other, first)).code, "proof_invalid");
  assert.equal((await verifier.authorize(other, second)).code, "ok");
  assert.equal((await verifier.authorize(one, first)).code, "replayed");
});

test("a chain is known to one audience, and as long as its key is there", () => {
  const [keys, token] = [new ChangingKeys(), mint([{ tool: "*" }])];
  assert.equal(prove(token, "orders", keys).restrictions, prove(token, "orders", keys).restrictions); // it was known
  assert.equal(code(() => prove(token, "payments", keys)), "wrong_audience");
  keys.now = new KeyRing({ "k1.0": Buffer.alloc(32, 8) }, "acme", 86_400_000);
  assert.equal(code(() => prove(token, "orders", keys)), "bad_signature");
  keys.now = undefined;
  assert.equal(code(() => prove(token, "orders", keys)), "unknown_key");
});

test("a chain in use stays known, however many another holder makes", () => {
  const [keys, token] = [new KeyRing({ "k1.0": KEY }, "acme", 86_400_000), mint([{ tool: "*" }])];
  const { restrictions } = prove(token, "orders", keys);
  for (let number = 0; number < 120; number += 1) {
    const heavy = { any_of: [...new Array<number>(1900).fill(1), number], optional: true }; // 48 of them fill it
    prove(mint([{ tool: "*", open: true, args: { z: heavy } }]), "orders", keys);
    assert.equal(prove(token, "orders", keys).restrictions, restrictions);
  }
});

test("a caveat that differs in its hop alone is another delegation", async () => {
  const { verifier, view } = serviceOf();
  const delegated = (hop: string) => mint([{ tool: "*" }], undefined, { hop, to: "acme/worker" });
  assert.equal((await verifier.authorize(delegated("AAAAAAAAAAAA"), request())).code, "ok");
  view.kill(`link:${nextLink(TOKEN_ID, Buffer.from("BBBBBBBBBBBB", "base64url"))}`);
  assert.equal((await verifier.authorize(delegated("BBBBBBBBBBBB"), request())).code, "revoked");
  assert.equal((await verifier.authorize(delegated("AAAAAAAAAAAA"), request())).code, "ok");
  assert.equal((await verifier.authorize(delegated("AAAAAAAAAA=="), request())).failures[0]?.rule, "hop");
});

test("an argument that is named hop is no hop", async () => {
  const { verifier } = serviceOf();
  const [one, other] = ["AAAAAAAAAAAA", "BBBBBBBBBBBB"];
  const decide = async (wanted: string, hop: string): Promise<string> => {
    return (await verifier.authorize(mint([{ tool: "orders.get", args: { hop: wanted } }]), { ...request(), args: { hop } })).code;
  };
  assert.equal(await decide(one, one), "ok");
  assert.equal(await decide(other, one), "argument_not_allowed");
  assert.equal(await decide(other, other), "ok");
});
