// SPDX-License-Identifier: Apache-2.0
// Operands, arguments and bodies that no vector has, and that one changed line would read in another way.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { xsalsa20poly1305 } from "@noble/ciphers/salsa.js";
import { ed25519 } from "@noble/curves/ed25519.js";
import { readAddress, readNetwork, writeAddress } from "../src/addresses.ts";
import { compileConstraint, judge } from "../src/constraints/constraint.ts";
import { compileRules, Rule, shorten } from "../src/constraints/rule.ts";
import { FAILS, HOLDS, OperandError, UNSPOKEN } from "../src/constraints/scalars.ts";
import { Refusal } from "../src/errors.ts";
import { type Json, JsonError, type JsonObject, readBody, writeCanonical } from "../src/json.ts";
import { isPathPattern } from "../src/names.ts";
import { readCall } from "../src/token/call.ts";
import { fold, hmac } from "../src/token/chain.ts";
import { openDischarges } from "../src/token/discharge.ts";
import { hasSigned } from "../src/token/holder.ts";
import { readIdentifier } from "../src/token/identifier.ts";
import { field, mint, serviceOf } from "./mint.ts";

test("a rule of another form is refused", () => {
  const odd: Json[] = [
    "x", null, [], { tool: "*", x: 1 }, { tool: "*", open: false }, { tool: "*", args: [] }, { tool: "*", args: "x" },
    { tool: "*", args: { "": 1 } }, { tool: "*", args: { "\u{1f600}": 1 } }, { tool: "*", args: { a: { equal: null } } },
    { tool: "*", args: { a: { range: [1, 2, 3] } } }, { tool: "*", args: { a: { fields: [] } } },
    { tool: "*", args: { a: { fields: "x" } } }, { tool: "*", args: { a: { fields: { "": 1 } } } },
  ];
  for (const rule of odd) assert.throws(() => compileRules([rule]), OperandError, JSON.stringify(rule));
});

test("a value at the edge of a constraint", () => {
  for (const [constraint, value, expected] of [
    [{ each: ["a"] }, "a", UNSPOKEN],
    [{ min: "0.5" }, Number.MAX_SAFE_INTEGER, HOLDS],
    [{ min_length: 0 }, "", HOLDS],
    [{ not: { min_length: 1 } }, 5, UNSPOKEN],
    [{ glob: "o-*" }, "o-", HOLDS],
    [{ glob: "a*b" }, "ab", HOLDS],
    [{ glob: "*a*" }, "ab", HOLDS],
    [{ glob: "*a*" }, "bb", FAILS],
  ] as const) assert.equal(judge(compileConstraint(constraint as unknown as Json), value), expected, JSON.stringify(constraint));
});

test("what arguments violate is counted up to a bound, and open rules allow others", () => {
  const closed = new Rule({ tool: "*", args: { a: 1, b: 1 } });
  assert.equal(closed.explain({ a: 2, b: 2, c: 1, d: 1 }, "caveat 1", 1).length, 1);
  assert.equal(closed.explain({ a: 1, b: 1, c: 1, d: 1 }, "caveat 1", 1).length, 1);
  assert.equal(new Rule({ tool: "*", args: { a: 1 }, open: true }).explain({ a: 2, c: 1 }, "caveat 1", 9).length, 1);
  assert.equal(shorten("x".repeat(78)), `"${"x".repeat(78)}"`);
});

test("a body that is almost JSON is refused", () => {
  const zeros = (count: number): string => "0".repeat(count);
  for (const text of ['{a":1}', '{"a":"\u0001n"}', '{"a":"\\u00g1"}', `{"a":1.5${zeros(126)}}`, `{"a":1e${zeros(126)}1}`]) {
    assert.throws(() => readBody(Buffer.from(text)), Refusal, text);
  }
  for (const text of [`{"a":1.5${zeros(125)}}`, `{"a":1e${zeros(125)}1}`]) readBody(Buffer.from(text));
  assert.throws(() => writeCanonical("\ud800"), JsonError);
});

test("addresses, networks and names at their edges", () => {
  assert.equal(readAddress("1::2::3"), undefined);
  for (const text of ["1:0:3:4:5:6:7:8", "1:2:3:4:5:6:7::"]) assert.ok(readAddress(text));
  assert.equal(writeAddress(readAddress("1:0:3:4:5:6:7:8") as NonNullable<ReturnType<typeof readAddress>>), "1:0:3:4:5:6:7:8");
  for (const odd of [5, "0.0.0.0/33", "::/129"]) assert.equal(readNetwork(odd), undefined);
  for (const text of ["10.0.0.1/32", "::1/128", "0.0.0.0/0"]) assert.ok(readNetwork(text));
  assert.equal(isPathPattern("a".repeat(64)), true);
  assert.equal(isPathPattern("a".repeat(65)), false);
});

test("a URL at the edge of its form", () => {
  const at = (operand: Json, value: string) => judge(compileConstraint({ url: operand }), value);
  assert.throws(() => compileConstraint({ url: null }), OperandError);
  assert.equal(at({ scheme: "https", host: "tpso" }, "httpso"), UNSPOKEN);
  for (const port of [1, 65535]) assert.equal(at({ scheme: "https", host: "a.example", port }, `https://a.example:${port}/`), HOLDS);
});

test("a token without a caveat, or whose last one is a third party's, carries no call", () => {
  assert.equal(readCall(undefined), undefined);
  const text = (size: number): string => Buffer.alloc(size).toString("base64url");
  const raw = Buffer.from(`{"call":["${text(32)}",1800000000000,"${text(16)}"]}`);
  assert.ok(readCall({ raw }));
  assert.equal(readCall({ raw, verificationId: Buffer.alloc(72) }), undefined);
});

test("members of an identifier are text where text is expected", () => {
  const read = (more: JsonObject): object => readIdentifier(Buffer.from(writeCanonical({
    agent: "acme/support", aud: "orders", born: ["h", 7], depth: 4, exp: 2, iat: 1, id: "i".repeat(22), kid: "k1.0", session: "s-1",
    task: "t-1", v: 1, ...more,
  })));
  assert.throws(() => read({ model: ["x"] }), Refusal);
  assert.ok(read({ model: "x", meta: ["1"] }));
});

test("a key or a signature with a point of small order signs nothing", () => {
  const [identity, message] = [Buffer.alloc(32), Buffer.from("message")];
  identity[0] = 1;
  assert.equal(hasSigned(identity.toString("base64url"), message, Buffer.concat([identity, Buffer.alloc(32)])), false);
  // s = h a, so that the first half of a signature is the identity: the equation holds for the owner of a.
  const secret = Buffer.alloc(32, 9);
  const { scalar, pointBytes } = ed25519.utils.getExtendedPublicKey(secret);
  const order = ed25519.Point.CURVE().n;
  const hash = createHash("sha512").update(identity).update(pointBytes).update(message).digest().reverse().toString("hex");
  const s = Buffer.from((((BigInt(`0x${hash}`) % order) * scalar) % order).toString(16).padStart(64, "0"), "hex").reverse();
  const key = Buffer.from(pointBytes);
  assert.equal(hasSigned(key.toString("base64url"), message, Buffer.concat([identity, s])), false);
  assert.equal(hasSigned(key.toString("base64url"), message, Buffer.from(ed25519.sign(message, secret))), true);
});

test("a caveat of 128 bytes, whose length is the first of two bytes", async () => {
  const { verifier } = serviceOf();
  const rule = (a: string): JsonObject => ({ tool: "*", args: { a } });
  const a = "x".repeat(128 - writeCanonical({ allow: [rule("")] }).length);
  assert.equal((await verifier.authorize(mint([rule(a)]), { tool: "orders.get", args: { a }, at: Date.now() })).code, "ok");
});

test("a discharge whose key was sealed with another length is refused", () => {
  const third = Buffer.from('{"id":"a"}');
  const [identifier, derived] = [Buffer.from("identifier"), Buffer.alloc(32, 3)];
  const open = (size: number): unknown => {
    const [key, nonce, first] = [Buffer.alloc(size, 5), Buffer.alloc(24, 6), hmac(derived, identifier)];
    const verificationId = Buffer.concat([nonce, xsalsa20poly1305(first, nonce).encrypt(key)]);
    const packets = [{ raw: third, verificationId }];
    const parent = fold(derived, identifier, packets).at(-1) as Buffer;
    const zeros = Buffer.alloc(32);
    const signature = hmac(zeros, hmac(zeros, parent), hmac(zeros, hmac(key, third)));
    const body = Buffer.concat([Buffer.of(2), field(1, "acme"), field(2, third), Buffer.of(0, 0), field(6, signature)]);
    const token = { body, location: "acme", identifier, packets, signature: parent };
    return openDischarges([`arx1_${body.toString("base64url")}`], token, packets, derived, parent, 64);
  };
  assert.ok(open(32));
  for (const size of [31, 33]) assert.throws(() => open(size), Refusal);
});
