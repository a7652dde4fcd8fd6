// SPDX-License-Identifier: Apache-2.0
/** Reads MessagePack, for what the verifier only writes. */

import type { Packable } from "../src/journal/msgpack.ts";

const MAX_DEPTH = 16;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads values; each method throws for bytes that a journal never has. */
export class Unpacker {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get ended(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** Returns the bytes of the next value. */
  skip(): Buffer {
    const start = this.#at;
    this.read();
    return this.#bytes.subarray(start, this.#at);
  }

  read(depth = 0): Packable {
    if (depth > MAX_DEPTH) throw new RangeError("a record nests too deep");
    const kind = this.#take(1)[0] as number;
    if (kind < 0x80) return kind;
    if (kind >= 0xe0) return kind - 0x100;
    if (kind >= 0xa0 && kind < 0xc0) return UTF8.decode(this.#take(kind & 31));
    if (kind >= 0x90 && kind < 0xa0) return this.#items(kind & 15, depth);
    switch (kind) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return Buffer.from(this.#take(this.#unsigned(1 << (kind - 0xc4))));
      case 0xcc: case 0xcd: case 0xce: return this.#unsigned(1 << (kind - 0xcc));
      case 0xcf: return this.#safe(this.#take(8).readBigUInt64BE());
      case 0xd0: return this.#take(1).readInt8();
      case 0xd1: return this.#take(2).readInt16BE();
      case 0xd2: return this.#take(4).readInt32BE();
      case 0xd3: return this.#safe(this.#take(8).readBigInt64BE());
      case 0xd9: case 0xda: case 0xdb: return UTF8.decode(this.#take(this.#unsigned(1 << (kind - 0xd9))));
      case 0xdc: return this.#items(this.#unsigned(2), depth);
      default: throw new RangeError("a record has a value of another kind");
    }
  }

  #items(length: number, depth: number): Packable[] {
    const items: Packable[] = [];
    for (let index = 0; index < length; index++) items.push(this.read(depth + 1));
    return items;
  }

  #unsigned(size: number): number {
    return this.#take(size).readUIntBE(0, size);
  }

  #safe(value: bigint): number {
    if (BigInt.asIntN(54, value) !== value) throw new RangeError("a record has an integer beyond 2^53-1");
    return Number(value);
  }

  #take(length: number): Buffer {
    if (this.#at + length > this.#bytes.length) throw new RangeError("a record is cut short");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}

/** Returns the one value that the bytes are. */
export function decode(bytes: Uint8Array): Packable {
  const reader = new Unpacker(bytes);
  const value = reader.read();
  if (!reader.ended) throw new RangeError("bytes follow the value");
  return value;
}
