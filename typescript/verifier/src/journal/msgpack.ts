// SPDX-License-Identifier: Apache-2.0
/** The part of MessagePack that a journal has: nil, booleans, integers, text, bytes and arrays.  SPEC 12.3. */

export type Packable = null | boolean | number | string | Uint8Array | readonly Packable[];

const LONE = /\p{Surrogate}/gu;

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
    else if (value instanceof Uint8Array) this.#sized(0xc4, value.length).raw(value);
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
    if (!Number.isSafeInteger(value) || value < -32) throw new RangeError(`not an integer of a record: ${value}`);
    if (value >= 0) {
      if (value < 0x80) this.#byte(value);
      else if (value < 0x100000000) this.#sized(0xcc, value);
      else this.#wide(0xcf, value);
    } else this.#byte(0x100 + value); // -1: not known
  }

  #text(value: string): void {
    // A caller's odd text must not prevent a record.
    const text = value.isWellFormed() ? value : value.replace(LONE, (one) => `\\u${one.charCodeAt(0).toString(16)}`);
    const length = Buffer.byteLength(text);
    if (length < 32) this.#byte(0xa0 | length);
    else this.#sized(0xd9, length);
    this.#room(length);
    this.#at += this.#buffer.write(text, this.#at, "utf8");
  }

  /** Writes a number in one, two or four bytes; `kind` is of the first, and the next two are of the others. */
  #sized(kind: number, value: number): this {
    if (value < 0x100) this.#head(kind, value, 1);
    else if (value < 0x10000) this.#head(kind + 1, value, 2);
    else this.#head(kind + 2, value, 4);
    return this;
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
