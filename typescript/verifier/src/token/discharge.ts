// SPDX-License-Identifier: Apache-2.0
// Third-party caveats and their discharges.  SPEC 6.4 to 6.7.

import { xsalsa20poly1305 } from "@noble/ciphers/salsa.js";
import { refuse } from "../errors.ts";
import { lengthOf, own, readForm } from "../json.ts";
import { LIMITS } from "../limits.ts";
import { isToolPattern, matchesTool } from "../names.ts";
import { extend, fold, hmac, isEqual, type Packet } from "./chain.ts";
import { type Parts, readToken } from "./wire.ts";

const ZEROS = Buffer.alloc(32);
const [NONCE, SEALED] = [24, 72];

/** What a third-party caveat asks for. */
export class ThirdParty {
  readonly id: string;
  readonly tools: readonly string[] | undefined;

  /** Read the identifier of a third-party caveat, or refuse it with `unknown_caveat`. */
  constructor(raw: Buffer) {
    const read = readForm(raw, "unknown_caveat");
    const id = own(read, "id");
    const tools = own(read, "tools");
    if (Object.keys(read).some((name) => name !== "id" && name !== "tools")) refuse("unknown_caveat");
    if (typeof id !== "string" || id === "" || lengthOf(id) > LIMITS.third_party_id) refuse("unknown_caveat");
    if (tools !== undefined && !(Array.isArray(tools) && tools.length > 0 && tools.every(isToolPattern))) {
      refuse("unknown_caveat");
    }
    this.id = id;
    this.tools = tools as string[] | undefined;
  }

  binds(tool: string): boolean {
    return this.tools === undefined || this.tools.some((pattern) => matchesTool(pattern, tool));
  }
}

/** A token's caveats, then those of its discharges, all proven. */
export interface Opened {
  readonly packets: readonly Packet[];
  /** By index in `packets` the third-party caveats with a discharge, each with its derived caveat key: secrets. */
  readonly answered: ReadonlyMap<number, Buffer>;
  /** For each discharge the index of its first caveat, and the identifier that it answers. */
  readonly begins: readonly (readonly [number, Buffer])[];
}

interface Given {
  readonly parts: Parts;
  readonly at: number;
}

/** Prove discharges against a proven token (SPEC 6.7), or refuse. */
export function openDischarges(
  texts: readonly string[], token: Parts, packets: readonly Packet[], derived: Uint8Array, parent: Uint8Array,
  room: number,
): Opened {
  const waiting = new Map<string, Given>();
  const all = [...packets];
  const begins: [number, Buffer][] = [];
  for (const text of texts) {
    const parts = readToken(text);
    const name = parts.identifier.toString("latin1");
    if (parts.location !== token.location || waiting.has(name)) refuse("malformed");
    waiting.set(name, { parts, at: all.length });
    begins.push([all.length, parts.identifier]);
    all.push(...parts.packets);
  }
  if (all.length > room) refuse("malformed");
  const answered = new Map<number, Buffer>();
  const answer = (first: Buffer, own: readonly Packet[], at: number, depth: number): void => {
    let signature = first;
    for (const [index, packet] of own.entries()) {
      const name = packet.raw.toString("latin1");
      const given = packet.verificationId === undefined ? undefined : waiting.get(name);
      if (given !== undefined) {
        waiting.delete(name); // before it is proven: two that name each other would not end
        if (depth === LIMITS.discharge_depth) refuse("malformed");
        answered.set(at + index, prove(signature, packet, given, depth + 1));
      }
      signature = extend(signature, packet);
    }
  };
  const prove = (signature: Buffer, packet: Packet, { parts, at }: Given, depth: number): Buffer => {
    const key = unseal(signature, packet.verificationId as Buffer) ?? refuse("bad_signature");
    const last = fold(key, parts.identifier, parts.packets).at(-1) as Buffer;
    if (!isEqual(hmac(ZEROS, hmac(ZEROS, parent), hmac(ZEROS, last)), parts.signature)) refuse("bad_signature");
    answer(hmac(key, parts.identifier), parts.packets, at, depth);
    return key;
  };
  answer(hmac(derived, token.identifier), packets, 0, 0);
  if (waiting.size > 0) refuse("malformed"); // a discharge that no caveat took
  return { packets: all, answered, begins };
}

/** Return the derived caveat key in a verification id; undefined if it was sealed under another signature. */
function unseal(signature: Uint8Array, verificationId: Uint8Array): Buffer | undefined {
  if (verificationId.length !== SEALED) return undefined;
  try {
    const box = xsalsa20poly1305(signature, verificationId.subarray(0, NONCE));
    return Buffer.from(box.decrypt(verificationId.subarray(NONCE)));
  } catch {
    return undefined;
  }
}
