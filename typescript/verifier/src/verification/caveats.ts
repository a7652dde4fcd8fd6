// SPDX-License-Identifier: Apache-2.0
// Read the proven caveats of a chain, in their order.  SPEC 6.1, 16.2.

import { type Network, readNetwork } from "../addresses.ts";
import { OperandError } from "../constraints/scalars.ts";
import { compileRules, type Rule } from "../constraints/rule.ts";
import { Refusal, refuse } from "../errors.ts";
import { type Json, type JsonObject, own, readForm, writeCanonical } from "../json.ts";
import type { ProvenHolder } from "../journal/record.ts";
import { LIMITS } from "../limits.ts";
import {
  bytesOf, type Check, type Checked, isAgentPath, isOperator, isPathPattern, isPlain, matchesPath,
} from "../names.ts";
import { nextLink, type Packet, sha256 } from "../token/chain.ts";
import { ThirdParty } from "../token/discharge.ts";
import { hasSigned, messageOf } from "../token/holder.ts";
import { type Identifier, isNatural, isPair, isText } from "../token/identifier.ts";
import { Recent } from "../token/recent.ts";

export interface Allow {
  readonly place: string;
  readonly text: string;
  readonly rules: readonly Rule[];
}

/** What the caveats of a chain demand of every call, up to the first one that refuses them all. */
export class Restrictions {
  readonly allows: Allow[] = [];
  /** The first of each that are alike. */
  readonly distinct: Allow[] = [];
  /** How many tests all rules have (SPEC 7.4). */
  tests = 0;
  readonly nets: { readonly place: string; readonly networks: readonly Network[]; readonly text: string }[] = [];
  readonly onces: { readonly place: string; readonly name: string; readonly issuedAt: number }[] = [];
  readonly spends: string[] = [];
  readonly unanswered: { readonly place: string; readonly wanted: ThirdParty }[] = [];
  readonly approvals: { readonly wanted: ThirdParty; readonly key: Buffer }[] = [];
  readonly operators: string[] = [];
  readonly tasks: string[] = [];
  readonly named: string[] = [];
  readonly links: string[] = [];
  readonly holders: ProvenHolder[] = [];
  /** The caveats of each delegation, as their canonical JSON without hop, key and sig. */
  readonly steps: string[][] = [];
  exp: { at: number; place: string };
  nbf: { at: number; place: string };
  fresh: number | undefined;
  needsCall = false;
  needsSignature = false;
  refusal: Refusal | undefined;

  constructor(exp: number, iat: number) {
    this.exp = { at: exp, place: "identifier" };
    this.nbf = { at: iat - LIMITS.iat_ahead, place: "identifier" };
  }
}

/** What a chain is read with. */
export interface Proof {
  readonly realm: string;
  readonly audience: string;
  /** The token's signature before each of its caveats. */
  readonly signatures: readonly Buffer[];
  /** How many of the caveats are the token's own; the others are of its discharges. */
  readonly own: number;
  readonly answered: ReadonlyMap<number, Buffer>;
  readonly begins: readonly (readonly [number, Buffer])[];
}

const list = <T>(check: Check<T>): Check<T[]> => (value): value is T[] => {
  return Array.isArray(value) && value.length > 0 && value.every(check);
};
const isBytes = (length: number): Check<string> => (value): value is string => bytesOf(value, length) !== undefined;
const AMOUNT = /^(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{0,5}[1-9])?$/;
const UNIT = /^[a-z][a-z0-9_]{0,15}$/;

function isSpend(value: unknown): value is Json[] {
  if (!Array.isArray(value) || value.length !== 5) return false;
  const [pool, unit, most, per, opened] = value;
  if (!isPlain(pool) || typeof unit !== "string" || !UNIT.test(unit) || !isNatural()(opened)) return false;
  if (typeof most !== "string" || !AMOUNT.test(most) || Number(most) > LIMITS.amount) return false;
  return per === "task" || per === "hour" || per === "day";
}

/** The form of each member's value; `allow` is compiled instead. */
const FORMS = {
  allow: (value: unknown): value is Json[] => Array.isArray(value),
  aud: list(isText(64)),
  call: (_: unknown): _ is never => false, // it is alone and last, where `readCall` reads it
  depth: isNatural(LIMITS.delegations),
  exp: isNatural(),
  fresh: isNatural(LIMITS.fresh),
  delegate_to: list(isPathPattern),
  hop: isBytes(9),
  to: isAgentPath,
  key: isBytes(32),
  sig: isBytes(64),
  nbf: isNatural(),
  net: list((value): value is string => readNetwork(value) !== undefined),
  once: isPair(isPlain, isNatural()),
  operators: list(isOperator),
  require: list((value): value is string => typeof value === "string"),
  spend: isSpend,
  task: isPlain,
};
export const CAVEAT_MEMBERS: readonly string[] = Object.keys(FORMS);
export const NOT_IN_DISCHARGE: readonly string[] = [
  "call", "depth", "delegate_to", "hop", "key", "require", "sig", "spend", "to",
];
const PROOFS = new Set(["call", "holder", "signature"]);

/** The members of a caveat whose form was checked. */
type Members = Partial<Checked<typeof FORMS>>;

/** A caveat that says the same in each chain. */
interface Caveat {
  readonly written: JsonObject;
  readonly rules: readonly Rule[] | undefined;
  /** The rules as written. */
  readonly text: string;
  /** What a record has of it. */
  readonly step: string;
}

const HOP = /^[A-Za-z0-9_-]{12}$/;
const [HOP_MARK, HOP_CHARS] = [8, 12];
/** Proven caveats by their bytes without the hop; a holder can make as many as it likes, so they are bounded. */
const [MOST_KNOWN, LONGEST_KNOWN] = [512, 512];
const KNOWN = new Recent<Caveat>(MOST_KNOWN);

/** The reader of one chain's caveats. */
export class CaveatReader {
  readonly #identifier: Identifier;
  readonly #proof: Proof;
  readonly #made: Restrictions;
  readonly #delegateTo: { readonly place: string; readonly patterns: string[] }[] = [];
  #step: string[] = [];
  #depth: number;
  #link: string;

  constructor(identifier: Identifier, proof: Proof) {
    this.#identifier = identifier;
    this.#proof = proof;
    this.#made = new Restrictions(identifier.exp, identifier.iat);
    this.#depth = identifier.depth;
    this.#link = identifier.id;
    if (identifier.holder !== undefined) {
      this.#made.holders.push({ key: identifier.holder, said: new Uint8Array(), signature: new Uint8Array() });
    }
  }

  /** Read all caveats; the first that refuses every call is the last that is read. */
  read(packets: readonly Packet[]): Restrictions {
    const made = this.#made;
    try {
      for (const [index, packet] of packets.entries()) this.#readOne(packet, index);
      const first = placeOf(0);
      if (made.allows[0]?.place !== first) refuse("malformed", first, "allow", "what the token allows", "nothing");
      if (made.named.length < (this.#identifier.vouched ?? 0)) {
        refuse("malformed", "identifier", "vouched", "the delegations that the mint vouches for", "fewer");
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      made.refusal = error;
    }
    return made;
  }

  #readOne(packet: Packet, index: number): void {
    const place = placeOf(index);
    if (packet.verificationId !== undefined) {
      const wanted = new ThirdParty(packet.raw);
      const key = this.#proof.answered.get(index);
      if (key === undefined) this.#made.unanswered.push({ place, wanted });
      else this.#made.approvals.push({ wanted, key });
      return;
    }
    const { written, rules, text, step, hop } = this.#readCaveat(packet.raw, index, place);
    const caveat = written as Members;
    if (index > 0) this.#step.push(step);
    if (caveat.to !== undefined) this.#delegate(caveat, hop, written, index, place);
    if (rules !== undefined) this.#allow({ place, rules, text });
    this.#take(caveat, index, place);
  }

  /** Steps 1 to 4 of SPEC 6.1, once for all tokens of a policy: their caveats are the same but for the hops. */
  #readCaveat(raw: Buffer, index: number, place: string): Caveat & { readonly hop: string } {
    const text = raw.toString("latin1");
    const at = Math.max(text.lastIndexOf(',"hop":"'), text.lastIndexOf('{"hop":"')) + HOP_MARK;
    const hop = at < HOP_MARK ? "" : text.slice(at, at + HOP_CHARS);
    const name = hop === "" ? text : text.slice(0, at) + text.slice(at + HOP_CHARS);
    const known = hop === "" || HOP.test(hop) ? KNOWN.get(name) : undefined;
    const written = known?.written ?? readMembers(raw, place);
    if (index >= this.#proof.own && NOT_IN_DISCHARGE.some((member) => Object.hasOwn(written, member))) {
      refuse("malformed", place, "member", "no member about holders", "one");
    }
    if (known !== undefined) return { ...known, hop };
    const rules = this.#checkForm(written as Members, place);
    const made = { written, rules, text: writeCanonical(own(written, "allow") ?? []), step: withoutHolder(written) };
    // A holder's key and signature are those of one token.  An argument that is named `hop` is no hop.
    if (text.length <= LONGEST_KNOWN && !Object.hasOwn(written, "key") && hop === (own(written, "hop") ?? "")) {
      KNOWN.keep(name, made);
    }
    return { ...made, hop: (own(written, "hop") ?? "") as string };
  }

  #allow(allow: Allow): void {
    const { allows, distinct } = this.#made;
    allows.push(allow);
    if (!distinct.some(({ text }) => text === allow.text)) distinct.push(allow);
    for (const rule of allow.rules) this.#made.tests += rule.tests;
  }

  /** Steps 3 and 4 of SPEC 6.1, behind the form of each value: what belongs together. */
  #checkForm(caveat: Members, place: string): readonly Rule[] | undefined {
    if ((caveat.to === undefined) !== (caveat.hop === undefined)) malformed(place, "to");
    const isSigned = caveat.key !== undefined;
    if (isSigned !== (caveat.sig !== undefined) || (isSigned && caveat.to === undefined)) malformed(place, "key");
    const rules = caveat.allow === undefined ? undefined : rulesOf(caveat.allow, place);
    if (isSigned && this.#identifier.holder === undefined) malformed(place, "sig");
    if (caveat.require?.some((name) => !PROOFS.has(name))) {
      refuse("unknown_caveat", place, "require", "proofs that this version knows", "another one");
    }
    return rules;
  }

  /** Steps 5 and 6 of SPEC 6.1. */
  #delegate(caveat: Members, hop: string, written: JsonObject, index: number, place: string): void {
    const to = caveat.to as string;
    if (this.#depth === 0) refuse("too_deep", place, "depth", "no further delegation", to);
    for (const earlier of this.#delegateTo) {
      if (!earlier.patterns.some((pattern) => matchesPath(pattern, to))) {
        refuse("name_not_allowed", place, `delegate_to of ${earlier.place}`, earlier.patterns.join(" or "), to);
      }
    }
    const { holder, vouched = 0 } = this.#identifier;
    const needsSignature = holder !== undefined && this.#made.named.length >= vouched;
    if ((caveat.key !== undefined) !== needsSignature) malformed(place, "sig");
    const link = nextLink(this.#link, Buffer.from(hop, "base64url"));
    if (caveat.key !== undefined) this.#made.holders.push(this.#provenHolder(caveat, written, link, index, place));
    this.#link = link;
    this.#depth -= 1;
    this.#made.named.push(to);
    this.#made.links.push(link);
    this.#made.steps.push(this.#step);
    this.#step = [];
  }

  #provenHolder(caveat: Members, written: JsonObject, link: string, index: number, place: string): ProvenHolder {
    const { sig: _, ...unsigned } = written;
    const [to, key] = [caveat.to as string, caveat.key as string];
    const said = sha256(this.#proof.signatures[index] as Buffer, writeCanonical(unsigned));
    const message = messageOf("hop", [this.#proof.realm, this.#identifier.aud, link, to, key], said);
    const signature = Buffer.from(caveat.sig as string, "base64url");
    const before = this.#made.holders.at(-1) as ProvenHolder;
    if (!hasSigned(before.key, message, signature)) {
      refuse("bad_signature", place, "sig", "the signature of the holder before", "another one");
    }
    return { key, said, signature };
  }

  /** Step 7 of SPEC 6.1, and what the caveat demands of calls. */
  #take(caveat: Members, index: number, place: string): void {
    const made = this.#made;
    const { audience } = this.#proof;
    if (caveat.aud !== undefined && !caveat.aud.includes(audience)) {
      refuse("wrong_audience", place, "aud", caveat.aud.join(" or "), audience);
    }
    if (caveat.require !== undefined) {
      const missing = this.#identifier.holder === undefined && caveat.require.find((name) => name !== "call");
      if (missing) refuse("proof_missing", place, "require", missing, "a bearer token");
      made.needsCall = true;
      made.needsSignature ||= caveat.require.includes("signature");
    }
    if (caveat.once !== undefined) {
      if (made.onces.length === LIMITS.once) malformed(place, "once");
      const [name, issuedAt] = caveat.once;
      made.onces.push({ place, name: this.#ownName(name, index), issuedAt });
    }
    if (caveat.spend !== undefined) {
      if (made.spends.length === LIMITS.spend) malformed(place, "spend");
      made.spends.push(place);
    }
    if (caveat.depth !== undefined) this.#depth = Math.min(this.#depth, caveat.depth);
    if (caveat.delegate_to !== undefined) this.#delegateTo.push({ place, patterns: caveat.delegate_to });
    if (caveat.exp !== undefined && caveat.exp < made.exp.at) made.exp = { at: caveat.exp, place };
    if (caveat.nbf !== undefined && caveat.nbf > made.nbf.at) made.nbf = { at: caveat.nbf, place };
    if (caveat.fresh !== undefined) made.fresh = Math.min(made.fresh ?? caveat.fresh, caveat.fresh);
    if (caveat.net !== undefined) {
      const networks = caveat.net.map((one) => readNetwork(one) as Network);
      made.nets.push({ place, networks, text: caveat.net.join(" or ") });
    }
    made.operators.push(...(caveat.operators ?? []));
    if (caveat.task !== undefined) made.tasks.push(caveat.task);
  }

  /** The name of a `once` in a discharge belongs to the third-party caveat that it answers (SPEC 6.8). */
  #ownName(name: string, index: number): string {
    const answers = this.#proof.begins.findLast(([begin]) => begin <= index)?.[1];
    return answers === undefined ? name : `${sha256(answers).subarray(0, 16).toString("base64url")}:${name}`;
  }
}

export function placeOf(index: number): string {
  return `caveat ${index + 1}`;
}

function malformed(place: string, rule: string): never {
  return refuse("malformed", place, rule, "a form of SPEC 6.1", "another one");
}

/** Steps 1, 2 and the first part of step 3 of SPEC 6.1. */
function readMembers(raw: Buffer, place: string): JsonObject {
  const written = readForm(raw, "malformed", place);
  const names = Object.keys(written);
  if (names.length === 0) malformed(place, "form");
  if (names.some((name) => !Object.hasOwn(FORMS, name))) {
    refuse("unknown_caveat", place, "member", "members that this version knows", "another one");
  }
  for (const name of names) {
    if (!FORMS[name as keyof Members](own(written, name))) malformed(place, name);
  }
  return Object.assign(Object.create(null), written);
}

function rulesOf(written: Json, place: string): Rule[] {
  try {
    return compileRules(written);
  } catch (error) {
    if (error instanceof OperandError) malformed(place, "allow");
    throw error;
  }
}

function withoutHolder({ hop: _hop, key: _key, sig: _sig, ...rest }: JsonObject): string {
  return writeCanonical(rest);
}
