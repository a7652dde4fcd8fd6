// SPDX-License-Identifier: Apache-2.0
/** The bytes of a decision record: the kept part, the erasable body, and the journal's form of both.  SPEC 12. */

import { createHash, randomFillSync } from "node:crypto";
import { AuditError } from "../revocation/errors.ts";
import { encode, type Packable, Packer } from "./msgpack.ts";

export const MAX_RECORD_BYTES = 32 * 1024;
const MAX_FACTS_BYTES = 16 * 1024;
const CALL_BYTES = 4 * 1024; // the texts of a longer call are cut
const TEXT_POINTS = 128;
const FAILURES = 8;
const MAX_ARGUMENTS_BYTES = 8 * 1024;
const SALT_BYTES = 16;
const MAX_NESTING = 64;

/** One proven holder of a bound chain; what the holder before signed of it, empty for the first.  SPEC 16.2. */
export interface ProvenHolder { readonly key: string; readonly said: Uint8Array; readonly signature: Uint8Array }

/** A call that its holder signed, as evidence for others than the service.  SPEC 16.3. */
export interface SignedCall { readonly said: Uint8Array; readonly plain: Uint8Array; readonly signature: Uint8Array }

/** The facts of one token's chain, the same for each of its calls; an object that is never changed. */
export interface ChainFacts {
  readonly agent: string;
  readonly session: string;
  readonly named: readonly string[];
  readonly links: readonly string[];
  readonly task: string | null;
  readonly tasks: readonly string[];
  readonly token: string;
  readonly audience: string;
  readonly policy: string | null;
  readonly kid: string;
  readonly assurance: string;
  readonly model: string | null;
  readonly holders: readonly ProvenHolder[];
  readonly subject: readonly [string, string] | null;
  readonly meta: readonly (readonly [string, string])[];
  readonly caveats: readonly (readonly string[])[];
}

export interface Failure {
  readonly place: string;
  readonly rule: string;
  readonly expected: string;
  readonly came: string;
}

export interface RefusalCount { readonly code: string; readonly peer: string; readonly times: number }

/** Decisions that were made and have no record: `lost` with their file, or `dropped` without room.  SPEC 12.4. */
export interface Gap {
  readonly why: "lost" | "dropped";
  readonly first: number;
  readonly last: number;
  readonly times: number;
  readonly since: number;
  readonly until: number;
}

/** What is known of the effect of an allowed call.  SPEC 12.8. */
export interface EffectRecord {
  readonly result: string;
  readonly of: string;
  readonly status: number;
  readonly size: number;
  readonly digest: Uint8Array;
  readonly took: number;
}

/** One decision, allowed or refused; the journal sets `salt` and the last three members. */
export interface Decision {
  readonly code: string;
  readonly at: number;
  readonly facts: ChainFacts;
  readonly tool?: string;
  readonly argsDigest?: Uint8Array;
  salt?: Uint8Array;
  readonly incarnation?: string;
  readonly applied?: number;
  readonly ageMs?: number;
  readonly failures?: readonly Failure[];
  readonly peer?: string | null;
  readonly requestId?: string | null;
  readonly traceparent?: string | null;
  readonly arguments?: Uint8Array | null;
  readonly ends?: number;
  readonly counts?: readonly RefusalCount[];
  readonly gap?: Gap | null;
  readonly signed?: SignedCall | null;
  readonly watched?: boolean;
  readonly group?: string | null;
  readonly effect?: EffectRecord | null;
  readonly externalId?: string | null;
  sequence?: number;
  verifier?: string;
  boot?: string;
}

/** The facts of an unauthenticated call: none. */
export const UNPROVEN: ChainFacts = Object.freeze({
  agent: "", session: "", named: [], links: [], task: null, tasks: [], token: "", audience: "", policy: null, kid: "",
  assurance: "bearer", model: null, holders: [], subject: null, meta: [], caveats: [],
});

const EMPTY = new Uint8Array(0);
const PACKED = new WeakMap<ChainFacts, Buffer>();
const PACKER = new Packer(2 * MAX_RECORD_BYTES);

/** Returns the decision's bytes in a journal; sets a salt if it has none.  SPEC 12.6. */
export function pack(decision: Decision): Buffer {
  // Arguments are often few and known: without a salt their digest could be found by trying them all.
  decision.salt ??= newSalt();
  let call = encode(callOf(decision));
  if (call.length > CALL_BYTES + (decision.arguments?.length ?? 0)) call = encode(callOf(shortened(decision)));
  if (call.length > MAX_RECORD_BYTES - MAX_FACTS_BYTES) {
    throw new AuditError(`a call of ${call.length} bytes cannot be recorded`);
  }
  return PACKER.array(4).pack(versionOf(decision)).raw(packedFacts(decision.facts)).raw(call).take();
}

function versionOf(decision: Decision): number {
  // One form alone: a record that could be written in two versions would have two leaves.
  return decision.effect ? 3 : decision.watched ? 2 : 1;
}

function packedFacts(facts: ChainFacts): Buffer {
  let packed = PACKED.get(facts);
  if (packed === undefined) {
    const { agent, session, named, links, task, tasks, token, audience, policy, kid, assurance, model } = facts;
    const kept: Packable[] = [agent, session, named, links, task, tasks, token, audience, policy, kid, assurance, model];
    const holders = facts.holders.map(({ key, said, signature }) => [key, said, signature]);
    if (holders.length > 0) kept.push(holders);
    packed = new Packer().pack(kept).pack([facts.subject, facts.meta, facts.caveats]).take();
    if (packed.length > MAX_FACTS_BYTES) {
      throw new AuditError(`a chain's facts of ${packed.length} bytes cannot be recorded`);
    }
    PACKED.set(facts, packed);
  }
  return packed;
}

/** Returns `[call, rest]`. */
function callOf(decision: Decision): Packable {
  const failures = decision.failures ?? [];
  const counts = decision.counts ?? [];
  const { gap, signed, effect } = decision;
  const call: Packable[] = [
    decision.at, decision.code, decision.tool ?? "", decision.argsDigest ?? EMPTY, decision.incarnation ?? "",
    decision.applied ?? 0, decision.ageMs ?? -1, failures.map(({ place, rule }) => [place, rule]), decision.ends ?? 0,
    counts.map(({ code, times }) => [code, times]),
    gap ? [gap.why, gap.first, gap.last, gap.times, gap.since, gap.until] : null,
  ];
  const rest: Packable[] = [
    decision.salt ?? EMPTY, failures.map(({ expected, came }) => [expected, came]), decision.peer ?? null,
    decision.requestId ?? null, decision.traceparent ?? null, counts.map(({ peer }) => peer), decision.arguments ?? null,
  ];
  const evidence = signed ? [signed.said, signed.plain, signed.signature] : null;
  const version = versionOf(decision);
  if (version > 1) {
    call.push(evidence, decision.watched ?? false);
    rest.push(decision.group ?? null);
  } else if (evidence) call.push(evidence);
  if (effect) {
    call.push([effect.result, effect.of, effect.status, effect.size, effect.digest, effect.took]);
    rest.push(decision.externalId ?? null);
  }
  return [call, rest];
}

function shortened(decision: Decision): Decision {
  const failures = (decision.failures ?? NO_FAILURES).slice(0, FAILURES).map((failure) => ({
    place: cut(failure.place), rule: cut(failure.rule), expected: cut(failure.expected), came: cut(failure.came),
  }));
  const { peer = null, requestId = null, traceparent = null, group = null, externalId = null } = decision;
  const texts = { peer, requestId, traceparent, group, externalId };
  const short = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, text === null ? null : cut(text)]));
  return { ...decision, ...short, tool: cut(decision.tool ?? ""), failures };
}

const NO_FAILURES: readonly Failure[] = [];

function cut(text: string): string {
  const points = [...text];
  return points.length > TEXT_POINTS ? `${points.slice(0, TEXT_POINTS - 1).join("")}…` : text;
}

/** Returns SHA-256 over salt and the arguments' form; empty without such a form.  SPEC 12.5. */
export function digestOf(salt: Uint8Array, form: Uint8Array | null): Uint8Array {
  return form === null ? EMPTY : createHash("sha256").update(salt).update(form).digest();
}

/** Returns the arguments' form for a record; empty if there is none, or it is too long. */
export function keptArguments(form: Uint8Array | null): Uint8Array {
  return form !== null && form.length <= MAX_ARGUMENTS_BYTES ? form : EMPTY;
}

/** Returns arguments as RFC 8785 writes them; null where there is no such form. */
export function formOf(args: unknown): Buffer | null {
  const text = jsonOf(args, 0);
  return text === null ? null : Buffer.from(text);
}

function jsonOf(value: unknown, depth: number): string | null {
  if (depth > MAX_NESTING) return null;
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return value.isWellFormed() ? JSON.stringify(value) : null;
  if (typeof value === "number") {
    const inexact = Number.isInteger(value) && !Number.isSafeInteger(value);
    return Number.isFinite(value) && !inexact ? JSON.stringify(value) : null;
  }
  if (Array.isArray(value)) return joined(value.map((item) => jsonOf(item, depth + 1)), "[", "]");
  const prototype = typeof value === "object" ? Object.getPrototypeOf(value) : undefined;
  if (prototype !== null && prototype !== Object.prototype) return JSON.stringify(`(${typeName(value)})`);
  const members = Object.entries(value as object).sort(([a], [b]) => (a < b ? -1 : 1)); // by UTF-16
  const parts = members.map(([name, item]) => {
    const text = jsonOf(item, depth + 1);
    return text === null || !name.isWellFormed() ? null : `${JSON.stringify(name)}:${text}`;
  });
  return joined(parts, "{", "}");
}

function joined(parts: readonly (string | null)[], open: string, close: string): string | null {
  return parts.includes(null) ? null : open + parts.join(",") + close;
}

function typeName(value: unknown): string {
  return typeof value === "object" ? "object" : typeof value; // no code of the value runs
}

const POOL = Buffer.allocUnsafe(SALT_BYTES * 256);
let left = 0;

/** Returns 16 random bytes, never returned before. */
export function newSalt(): Buffer {
  if (left === 0) {
    randomFillSync(POOL); // one question to the kernel serves many calls
    left = POOL.length;
  }
  left -= SALT_BYTES;
  const salt = Buffer.from(POOL.subarray(left, left + SALT_BYTES));
  POOL.fill(0, left, left + SALT_BYTES);
  return salt;
}
