// SPDX-License-Identifier: Apache-2.0
// Prove a presented credential: SPEC 11, steps 1 to 3, and step 4 a and b.

import { refuse } from "../errors.ts";
import { lengthOf } from "../json.ts";
import type { ChainFacts } from "../journal/record.ts";
import { LIMITS } from "../limits.ts";
import { endingOf, type PresentedCall, readCall } from "../token/call.ts";
import { extend, fold, isEqual, sha256 } from "../token/chain.ts";
import { type Opened, openDischarges } from "../token/discharge.ts";
import { callProof, hasSigned, messageOf } from "../token/holder.ts";
import { checkIdentifier, type Identifier, readIdentifier } from "../token/identifier.ts";
import type { AudienceKey, KeyRing } from "../token/keyring.ts";
import { Recent } from "../token/recent.ts";
import { type Parts, readToken } from "../token/wire.ts";
import { CaveatReader, type Restrictions } from "./caveats.ts";

const ABOUT = ["version", "owner", "purpose"];
const [MAC, SIGNATURE] = [16, 64];

/** A chain whose signatures hold, and the call that it carries. */
export interface Proven {
  readonly identifier: Identifier;
  readonly key: AudienceKey;
  readonly restrictions: Restrictions;
  readonly call: PresentedCall | undefined;
  /** The token's last signature: what is spent of a one-shot token. */
  readonly signature: Buffer;
  /** The signature before the call, a secret. */
  readonly parent: Buffer;
  readonly targets: readonly string[];
  readonly facts: ChainFacts;
}

/** What is proven of a chain, whatever call comes with it. */
type Chain = Omit<Proven, "call" | "signature">;
type KnownChain = Chain & { readonly head: string };
const [MOST_BYTES, BYTES_OF_CHARACTER, BYTES_OF_TEST] = [32 << 20, 20, 350];

/** Proven chains of each ring of keys, by the memory that they take: a holder can make many, and heavy ones. */
const KNOWN = new WeakMap<KeyRing, Recent<KnownChain>>();

function weigh({ head, restrictions }: KnownChain): number {
  return BYTES_OF_CHARACTER * head.length + BYTES_OF_TEST * restrictions.tests;
}

/** Prove a credential, or refuse it before anything of it is proven. */
export function prove(credential: string, audience: string, keys: KeyRing): Proven {
  if (credential.length > LIMITS.credential) refuse("malformed");
  const ended = endingOf(credential);
  let known = KNOWN.get(keys);
  if (known === undefined) KNOWN.set(keys, known = new Recent(MOST_BYTES));
  const head = ended?.ending.head ?? credential;
  const chain = known.get(nameOf(head));
  // The keys may have been replaced, and another audience may have the same ones.
  if (chain?.head === head && keys.get(chain.identifier.kid) === chain.key && chain.identifier.aud === audience) {
    if (ended === undefined) return { ...chain, call: undefined, signature: chain.parent };
    const { call, ending: { packet, signature } } = ended;
    if (!isEqual(extend(chain.parent, packet), signature)) refuse("bad_signature");
    return { ...chain, call, signature };
  }
  const [text = "", ...discharges] = credential.split("~");
  if (discharges.length > LIMITS.discharges) refuse("malformed");
  const token = readToken(text);
  const call = readCall(token.packets.at(-1));
  const proven = proveChain(token, discharges, call, audience, keys);
  const made = { ...proven, head: call === undefined ? credential : head };
  // A known chain must not outlive its discharges.
  if (discharges.length === 0) known.keep(nameOf(made.head), made, weigh(made));
  return { ...made, call, signature: token.signature };
}

/** Return what distinguishes most chains, the token's id and its last caveat: Node hashes a whole text slowly. */
function nameOf(head: string): string {
  return head.slice(0, 384) + head.slice(-96);
}

function proveChain(
  token: Parts, discharges: readonly string[], call: PresentedCall | undefined, audience: string, keys: KeyRing,
): Chain {
  const unproven = readIdentifier(token.identifier);
  if (token.location !== keys.realm) refuse("malformed");
  if (unproven["aud"] !== audience) refuse("wrong_audience");
  const key = keys.get(unproven["kid"] as string) ?? refuse("unknown_key");
  const signatures = fold(key.derived(), token.identifier, token.packets);
  if (!isEqual(signatures.at(-1) as Buffer, token.signature)) refuse("bad_signature");
  const packets = call === undefined ? token.packets : token.packets.slice(0, -1);
  const parent = signatures[packets.length] as Buffer;
  const room = LIMITS.caveats - (token.packets.length - packets.length);
  let opened: Opened = { packets, answered: new Map(), begins: [] };
  if (discharges.length > 0) opened = openDischarges(discharges, token, packets, key.derived(), parent, room);
  const identifier = checkIdentifier(unproven, keys);
  const proof = { realm: keys.realm, audience, signatures, own: packets.length, ...opened };
  const restrictions = new CaveatReader(identifier, proof).read(opened.packets);
  const [targets, facts] = [targetsOf(identifier, restrictions), factsOf(identifier, restrictions)];
  return { identifier, key, restrictions, parent, targets, facts };
}

/** Refuse a call that the last holder has not made (SPEC 16.3); of a bearer token, one with a holder's proof. */
export function judgeHolder(proven: Proven, call: PresentedCall, keys: KeyRing): void {
  const { restrictions, identifier, parent } = proven;
  const holder = restrictions.holders.at(-1)?.key;
  if (holder === undefined) {
    if (call.proof !== undefined) refuse("malformed", "call", "holder", "no proof of a holder: a bearer token", "one");
    return;
  }
  const { length } = call.proof ?? [];
  if (call.proof === undefined || (restrictions.needsSignature && length !== SIGNATURE)) {
    refuse("proof_missing", "call", "holder", "a proof by the holder's key", "none");
  }
  if (length === MAC) {
    const shared = proven.key.agree(holder);
    if (shared !== undefined && isEqual(callProof(shared, parent, identifier.aud, call.plain), call.proof)) return;
  } else {
    const link = restrictions.links.at(-1) ?? identifier.id;
    const message = messageOf("signed", [keys.realm, identifier.aud, link], sha256(parent), call.plain);
    if (hasSigned(holder, message, call.proof)) return;
  }
  refuse("proof_invalid", "call", "holder", "a proof by the key that the token is bound to", "another one");
}

/** The targets whose kill or freeze ends a token (SPEC 10.1). */
function targetsOf(it: Identifier, { operators, tasks, named, links }: Restrictions): string[] {
  const targets = ["realm", `key:${it.kid}`, `session:${it.session}`, `link:${it.id}`];
  if (it.task !== undefined) targets.push(`task:${it.task}`);
  if (it.subject !== undefined) {
    targets.push(`subject:${sha256(it.subject.join("\0")).toString("hex").slice(0, 32)}`);
  }
  if (it.policy !== undefined) targets.push(`policy:${it.policy}`);
  for (const path of [it.agent, ...named]) {
    const segments = path.split("/");
    targets.push(...segments.map((_, at) => `agent:${segments.slice(0, at + 1).join("/")}`));
  }
  targets.push(...tasks.map((task) => `task:${task}`), ...operators.map((name) => `operator:${name}`));
  targets.push(...links.map((link) => `link:${link}`));
  return targets;
}

function factsOf(it: Identifier, { tasks, named, links, holders, steps }: Restrictions): ChainFacts {
  const size = steps.flat().reduce((sum, text) => sum + lengthOf(text), 0);
  const meta = (it.meta ?? []).map((text, at) => [ABOUT[at] as string, text]).filter(([, text]) => text !== "");
  const proofs = holders.map(({ key, said, signature }) => [key, said, signature]);
  const kept = [
    it.agent, it.session, named, links, it.task ?? null, tasks, it.id, it.aud, it.policy ?? null, it.kid,
    it.holder === undefined ? "bearer" : "bound", it.model ?? null, ...(proofs.length > 0 ? [proofs] : []),
  ];
  return { kept, erasable: [it.subject ?? null, meta, size <= LIMITS.record_caveats ? steps : []] };
}
