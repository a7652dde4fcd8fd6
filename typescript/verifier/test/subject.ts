// SPDX-License-Identifier: Apache-2.0
// This verifier as a command of `python -m tests.vectors.run`: it answers each line of its standard input by one line.

import { createInterface } from "node:readline";
import { problemOf } from "../src/enforcement/problems.ts";
import { Refusal } from "../src/errors.ts";
import { readBody } from "../src/json.ts";
import { type AccessRequest, UNSEEN_BODY } from "../src/request.ts";
import { sha256 } from "../src/token/chain.ts";
import { KeyRing } from "../src/token/keyring.ts";
import { MemoryNonces } from "../src/verification/nonces.ts";
import { ServiceLimits } from "../src/verification/serviceLimits.ts";
import { Verifier } from "../src/verification/verifier.ts";
import { RouteMap } from "../src/enforcement/routes.ts";
import { follow, journal, record, type Vector } from "./family_answers.ts";
import { FixedView, MemoryRecorder } from "./doubles.ts";

const AT = 1_800_000_000_000;

function verifierOf(vector: Vector): Verifier {
  const { incarnation, applied, kills, freezes, age_ms } = vector.epoch;
  const keys = Object.fromEntries(
    Object.entries<string>(vector.keys).map(([kid, key]) => [kid, Buffer.from(key, "hex")] as const),
  );
  return new Verifier({
    audience: vector.audience,
    keys: new KeyRing(keys, vector.realm, vector.max_ttl_ms),
    epochs: new FixedView(incarnation, applied, kills, freezes, age_ms),
    recorder: new MemoryRecorder(),
    nonces: new MemoryNonces(AT - 60_000),
    limits: vector.limits === undefined ? [] : [new ServiceLimits(vector.limits)],
    clock: () => vector.request.at, // also for what is checked last
  });
}

function requestOf({ http, ...asked }: Vector): AccessRequest {
  if (http === undefined) return asked;
  const bodyDigest = http.body === null ? UNSEEN_BODY : sha256(http.body);
  return { ...asked, http: { method: http.method, target: Buffer.from(http.target), bodyDigest } };
}

async function decide(vector: Vector, levels: string[]): Promise<object> {
  const verifier = verifierOf(vector);
  const request = requestOf(vector.request);
  for (const token of vector.before ?? []) {
    const { allowed, code } = await verifier.authorize(token, request);
    if (!allowed && code !== "budget_unsupported") throw new Error("a token before was not allowed");
  }
  let code = "";
  for (let time = 0; time < vector.times; time += 1) {
    const decision = await verifier.authorize(vector.token, request);
    code = decision.allowed ? "grant" : decision.code;
  }
  const missing = ["marks", "budgets"].find((level) => levels.includes(level)); // the highest one is named
  return missing === undefined ? { code } : { unsupported: missing, code };
}

function attempt(run: () => object): object {
  try {
    return run();
  } catch (error) {
    if (error instanceof Refusal) return { code: error.code };
    throw error;
  }
}

function answerRefusal({ refusal, realm, decision }: Vector): object {
  const { status, headers, body } = problemOf(refusal.code, realm, refusal.failures, decision);
  const { "content-length": length, "x-content-type-options": _, ...rest } = headers;
  const shown: Record<string, unknown> = rest;
  const { detail, ...problem } = JSON.parse(body);
  if (Number(length) !== Buffer.byteLength(body) || !detail) throw new Error("another length, or no sentence");
  const found = /^Bearer realm="([^"]*)"(?:, error="(\w+)", error_description="[^"]+")?$/.exec(rest["www-authenticate"] ?? "");
  if (found !== null) shown["www-authenticate"] = { realm: found[1], ...(found[2] === undefined ? {} : { error: found[2] }) };
  return { output: { status, headers: shown, body: problem } };
}

function argumentsOf({ route, target }: Vector): object {
  const [method = ""] = route.split(" ");
  const found = new RouteMap({ [route]: "orders.refund" }).find(method, target);
  return { output: found === undefined ? null : found.args };
}

const ANSWERS: Record<string, (vector: Vector, levels: string[]) => object | Promise<object>> = {
  tokens: decide,
  problems: (vector, levels) => (levels.includes("budgets") ? { unsupported: "budgets" } : answerRefusal(vector)),
  json: (vector) => attempt(() => ({ output: readBody(Buffer.from(vector.body, "hex")) })),
  requests: (vector) => attempt(() => argumentsOf(vector)),
  records: (vector) => ({ output: record(vector) }),
  journal: (vector) => ({ output: journal(vector) }),
  epochs: (vector) => ({ output: follow(vector) }),
  memory: () => ({ unsupported: "memory" }),
  signing: () => ({ unsupported: "holder" }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { family, name, levels, input } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify({ family, name, ...(await ANSWERS[family]?.(input, levels)) })}\n`);
}
