// SPDX-License-Identifier: Apache-2.0
/** The part of MessagePack that a journal has: nil, booleans, integers, text, bytes and arrays.  SPEC 12.3. */

export type Packable = null | boolean | number | string | Uint8Array | readonly Packable[];

const LONE = /\p{Surrogate}/gu;
const MAX_DEPTH = 16;

/** Writes values one after another, each in its shortest form. */
export class Packer {
  #buffer: Buffer;
  #at = 0;

  constructor(size = 1024) {
    this.#buffer = Buffer.allocUnsafe(size);
  }

  /** Returns a copy of the bytes so far, and begins anew. */
  take(): Buffer {
    const made = Buffer.from(this.#buffer.subarray(0, this.#at));
    this.#at = 0;
    return made;
  }

  pack(value: Packable): this {
    if (value === null) this.#byte(0xc0);
    else if (typeof value === "boolean") this.#byte(value ? 0xc3 : 0xc2);
    else if (typeof value === "number") this.#integer(value);
    else if (typeof value === "string") this.#text(value);
    else if (value instanceof Uint8Array) this.#bytes(value);
    else {
      this.array(value.length);
      for (const item of value) this.pack(item);
    }
    return this;
  }

  /** Begins an array; its items follow. */
  array(length: number): this {
    if (length < 16) this.#byte(0x90 | length);
    else this.#head(0xdc, length, 2);
    return this;
  }

  raw(bytes: Uint8Array): this {
    this.#room(bytes.length);
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  #integer(value: number): void {
    if (!Number.isSafeInteger(value)) throw new RangeError(`not an integer of a record: ${value}`);
    if (value >= 0) {
      if (value < 0x80) this.#byte(value);
      else if (value < 0x100) this.#head(0xcc, value, 1);
      else if (value < 0x10000) this.#head(0xcd, value, 2);
      else if (value < 0x100000000) this.#head(0xce, value, 4);
      else this.#wide(0xcf, value);
    } else if (value >= -32) this.#byte(0x100 + value);
    else if (value >= -0x80) this.#head(0xd0, value & 0xff, 1);
    else if (value >= -0x8000) this.#head(0xd1, value & 0xffff, 2);
    else if (value >= -0x80000000) this.#head(0xd2, value >>> 0, 4);
    else this.#wide(0xd3, value);
  }

  #text(value: string): void {
    // A caller's odd text must not prevent a record.
    const text = value.isWellFormed() ? value : value.replace(LONE, (one) => `\\u${one.charCodeAt(0).toString(16)}`);
    const length = Buffer.byteLength(text);
    if (length < 32) this.#byte(0xa0 | length);
    else if (length < 0x100) this.#head(0xd9, length, 1);
    else if (length < 0x10000) this.#head(0xda, length, 2);
    else this.#head(0xdb, length, 4);
    this.#room(length);
    this.#at += this.#buffer.write(text, this.#at, "utf8");
  }

  #bytes(value: Uint8Array): void {
    const length = value.length;
    if (length < 0x100) this.#head(0xc4, length, 1);
    else if (length < 0x10000) this.#head(0xc5, length, 2);
    else this.#head(0xc6, length, 4);
    this.raw(value);
  }

  #byte(value: number): void {
    this.#room(1);
    this.#buffer[this.#at++] = value;
  }

  #head(kind: number, value: number, size: number): void {
    this.#room(1 + size);
    this.#buffer[this.#at] = kind;
    this.#at = this.#buffer.writeUIntBE(value, this.#at + 1, size);
  }

  #wide(kind: number, value: number): void {
    this.#room(9);
    this.#buffer[this.#at] = kind;
    this.#at = this.#buffer.writeBigInt64BE(BigInt(value), this.#at + 1);
  }

  #room(more: number): void {
    if (this.#at + more <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, this.#at + more));
    this.#buffer.copy(larger, 0, 0, this.#at);
    this.#buffer = larger;
  }
}

export function encode(value: Packable): Buffer {
  return new Packer(256).pack(value).take();
}

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
