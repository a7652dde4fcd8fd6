// SPDX-License-Identifier: Apache-2.0
/** Makes records of what a journal has, as a shipper does; the verifier itself only writes journals. */

import { createHash } from "node:crypto";
import { type Packable, Packer } from "../src/journal/msgpack.ts";
import { digestOf, formOf } from "../src/journal/record.ts";
import { decode, Unpacker } from "./unpack.ts";

/** Both parts of a record in the log: the leaf, and the erasable body that it names by its digest. */
export interface Sealed { readonly kept: Buffer; readonly body: Buffer }

/** Returns the record of a decision in a journal, made by joining its bytes unchanged.  SPEC 12.3. */
export function seal(payload: Uint8Array, verifier: string, boot: string, sequence: number): Sealed {
  const { version, facts, person, call, rest } = split(payload);
  const body = new Packer().array(2).raw(person).raw(rest).take();
  const kept = new Packer().array(7).pack(version).pack(verifier).pack(boot).pack(sequence).raw(facts).raw(call);
  return { kept: kept.pack(createHash("sha256").update(body).digest()).take(), body };
}

interface Split { version: number; facts: Buffer; person: Buffer; call: Buffer; rest: Buffer }

function split(payload: Uint8Array): Split {
  const version = payload[1] ?? 0;
  const head = new Unpacker(payload.subarray(2));
  if (payload[0] !== 0x94 || version < 1 || version > 4) {
    throw new Error("not a decision record of version 1 to 4");
  }
  try {
    const facts = head.skip();
    const person = head.skip();
    const pair = head.skip();
    const inner = new Unpacker(pair.subarray(1));
    const call = inner.skip();
    const rest = inner.skip();
    if (pair[0] !== 0x92 || !inner.ended || !head.ended) throw new RangeError("another number of parts");
    return { version, facts, person, call, rest };
  } catch (error) {
    throw new Error("a decision record cannot be read", { cause: error });
  }
}

/** Returns the record in a journal with other arguments: their JSON, and its salted digest. */
export function withArguments(payload: Uint8Array, args: unknown): Buffer {
  const { version, facts, person, call, rest } = split(payload);
  const members = [...(decode(call) as Packable[])];
  const own = [...(decode(rest) as Packable[])];
  const form = formOf(args);
  members[3] = digestOf(own[0] as Uint8Array, form);
  const written = Buffer.from(form ?? "");
  own[6] = written.length <= 8 * 1024 ? written : new Uint8Array();
  return new Packer().array(4).pack(version).raw(facts).raw(person).pack([members, own]).take();
}

