// SPDX-License-Identifier: Apache-2.0
/** The bytes of a decision record: the kept part, the erasable body, and the journal's form of both.  SPEC 12. */

import { randomFillSync } from "node:crypto";
import { AuditError, type Failure, Refusal } from "../errors.ts";
import { cut, writeArguments } from "../json.ts";
import { sha256 } from "../token/chain.ts";
import { encode, type Packable, Packer } from "./msgpack.ts";

export const MAX_RECORD_BYTES = 32 * 1024;
const MAX_FACTS_BYTES = 16 * 1024;
const CALL_BYTES = 4 * 1024; // the texts of a longer call are cut
const TEXT_POINTS = 128;
const FAILURES = 8;
const SALT_BYTES = 16;

/** One proven holder of a bound chain; what the holder before signed of it, empty for the first.  SPEC 16.2. */
export interface ProvenHolder { readonly key: string; readonly said: Uint8Array; readonly signature: Uint8Array }

/** A call that its holder signed, as evidence for others than the service.  SPEC 16.3. */
export interface SignedCall { readonly said: Uint8Array; readonly plain: Uint8Array; readonly signature: Uint8Array }

/** The facts of one token's chain, the same for each of its calls: two lists of SPEC 12.3 that are never changed. */
export interface ChainFacts { readonly kept: readonly Packable[]; readonly erasable: readonly Packable[] }

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

export type EffectResult = "done" | "failed" | "unknown";

/** What is known of the effect of an allowed call: `awaited` in the record of its decision.  SPEC 12.8. */
export interface EffectRecord {
  readonly result: "awaited" | EffectResult;
  /** The decision that allowed the call; empty in its own record. */
  readonly of: string;
  readonly status: number;
  readonly size: number;
  readonly digest: Uint8Array;
  readonly took: number;
}

/** One decision, allowed or refused; the journal sets a `salt` if there is none. */
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
  readonly counts?: readonly RefusalCount[];
  readonly gap?: Gap | null;
  readonly signed?: SignedCall | null;
  readonly effect?: EffectRecord | null;
  /** The name that the tool itself gave to the effect. */
  readonly externalId?: string | null;
}

/** The facts of an unauthenticated call: none. */
export const UNPROVEN: ChainFacts = {
  kept: ["", "", [], [], null, [], "", "", null, "", "bearer", null], erasable: [null, [], []],
};

const EMPTY = new Uint8Array(0);
export const AWAITED: EffectRecord = { result: "awaited", of: "", status: 0, size: -1, digest: EMPTY, took: -1 };
const PACKED = new WeakMap<ChainFacts, Buffer>();
const PACKER = new Packer(2 * MAX_RECORD_BYTES);

/** Returns the decision's bytes in a journal; sets a salt if it has none.  SPEC 12.6. */
export function pack(decision: Decision): Buffer {
  // Arguments are often few and known: without a salt their digest could be found by trying them all.
  decision.salt ??= newSalt();
  let call = encode(callOf(decision));
  if (call.length > CALL_BYTES) call = encode(callOf(shortened(decision)));
  if (call.length > MAX_RECORD_BYTES - MAX_FACTS_BYTES) {
    throw new AuditError(`a call of ${call.length} bytes cannot be recorded`);
  }
  return PACKER.array(4).pack(decision.effect ? 3 : 1).raw(packedFacts(decision.facts)).raw(call).take();
}

function packedFacts(facts: ChainFacts): Buffer {
  let packed = PACKED.get(facts);
  if (packed === undefined) {
    packed = new Packer().pack(facts.kept).pack(facts.erasable).take();
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
    decision.applied ?? 0, decision.ageMs ?? -1, failures.map(({ place, rule }) => [place, rule]), 0,
    counts.map(({ code, times }) => [code, times]),
    gap ? [gap.why, gap.first, gap.last, gap.times, gap.since, gap.until] : null,
  ];
  if (signed || effect) call.push(signed ? [signed.said, signed.plain, signed.signature] : null);
  if (effect) call.push(false, [effect.result, effect.of, effect.status, effect.size, effect.digest, effect.took]);
  const rest: Packable[] = [
    decision.salt ?? EMPTY, failures.map(({ expected, came }) => [expected, came]), decision.peer ?? null,
    decision.requestId ?? null, decision.traceparent ?? null, counts.map(({ peer }) => peer), null,
  ];
  if (effect) rest.push(null, decision.externalId ?? null);
  return [call, rest];
}

function shortened(decision: Decision): Decision {
  const short = <T>(text: T): T => (typeof text === "string" ? (cut(text, TEXT_POINTS) as T) : text);
  const failures = (decision.failures ?? []).slice(0, FAILURES).map(({ place, rule, expected, came }) => {
    return { place: short(place), rule: short(rule), expected: short(expected), came: short(came) };
  });
  const { tool = "", peer = null, requestId = null, traceparent = null } = decision;
  const call = { tool: short(tool), peer: short(peer), requestId: short(requestId), traceparent: short(traceparent) };
  return { ...decision, ...call, failures };
}

/** Returns SHA-256 over salt and the arguments' form; empty without such a form.  SPEC 12.5. */
export function digestOf(salt: Uint8Array, form: string | null): Uint8Array {
  return form === null ? EMPTY : sha256(salt, form);
}

/** Returns arguments as RFC 8785 writes them; null where there is no such form. */
export function formOf(args: unknown): string | null {
  try {
    return writeArguments(args);
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
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
