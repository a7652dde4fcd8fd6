// SPDX-License-Identifier: Apache-2.0
/** One file of a decision journal: its bytes, its writing, its end.  SPEC 15.3. */

import fs from "node:fs";
import path from "node:path";
import { crc32 } from "node:zlib";
import { AuditError } from "../errors.ts";
import { encode } from "./msgpack.ts";
import { MAX_RECORD_BYTES } from "./record.ts";

export const SUFFIX = ".arxj";
export const HEADER_BYTES = 256;
export const MAGIC = Buffer.from("ARXJRNL2");
export const [STATE_AT, DENIED_AT, LENGTHS_AT, BODY_AT] = [8, 12, 16, 24];
const [CLOSED, ENDED] = [1, 2]; // 0 while it is written
const RECORD_HEADER = 8;
const ZEROS = Buffer.alloc(1 << 20);
const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = fs.constants;

export interface SegmentHeader {
  readonly verifier: string;
  readonly audience: string;
  readonly boot: string;
  readonly first: number;
  readonly created: number;
  readonly budget: number;
}

/** Returns a segment's name; names sort by time. */
export function nameOf(header: SegmentHeader): string {
  const [created, first] = [String(header.created).padStart(14, "0"), String(header.first).padStart(12, "0")];
  return `${created}-${header.boot}-${first}${SUFFIX}`;
}

export function packHeader(header: SegmentHeader): Buffer {
  const body = encode([header.verifier, header.audience, header.boot, header.first, header.created, header.budget]);
  if (BODY_AT + body.length > HEADER_BYTES) {
    throw new AuditError("the verifier's id or audience is too long for a journal");
  }
  const made = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(made);
  made.writeUInt32LE(body.length, LENGTHS_AT);
  made.writeUInt32LE(crc32(body), LENGTHS_AT + 4);
  body.copy(made, BODY_AT);
  return made;
}

/** The CRC-32 of a record covers its sequence, so that a misplaced record is detected. */
export function checksumOf(payload: Uint8Array, sequence: number): number {
  return crc32(payload, sequence % 2 ** 32);
}

export function storedSize(payload: number): number {
  return (RECORD_HEADER + payload + 3) & ~3;
}

/** A segment that this process writes.  Its run's socket shows that the writer lives. */
export class Segment {
  readonly path: string;
  readonly header: SegmentHeader;
  readonly #size: number;
  readonly #record = Buffer.allocUnsafe(storedSize(MAX_RECORD_BYTES));
  #fd: number;
  #end = HEADER_BYTES;
  #denied = 0;
  #named = false;

  constructor(folder: string, header: SegmentHeader, size: number) {
    this.path = path.join(folder, nameOf(header));
    this.header = header;
    this.#size = size;
    const making = this.path.slice(0, -SUFFIX.length) + ".making";
    const start = packHeader(header);
    this.#fd = fs.openSync(making, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      // Written, not only made as long: a disk that fills up later would refuse a record.
      for (let at = 0; at < size; at += ZEROS.length) writeAll(this.#fd, ZEROS.subarray(0, size - at), at);
      writeAll(this.#fd, start, 0);
      fs.renameSync(making, this.path); // readers never see a half-made file
    } catch (error) {
      fs.closeSync(this.#fd);
      fs.rmSync(making, { force: true });
      throw error;
    }
  }

  /** Bytes left. */
  get room(): number {
    return this.#size - this.#end;
  }

  /** Appends a record; the caller has checked that there is room. */
  write(payload: Uint8Array, sequence: number): void {
    const size = storedSize(payload.length);
    const record = this.#record.subarray(0, size);
    record.writeUInt32LE(payload.length, 0);
    record.writeUInt32LE(checksumOf(payload, sequence), 4);
    record.set(payload, RECORD_HEADER);
    record.fill(0, RECORD_HEADER + payload.length);
    writeAll(this.#fd, record.subarray(4), this.#end + 4);
    writeAll(this.#fd, record.subarray(0, 4), this.#end); // the length, written last, makes the record valid
    this.#end += size;
  }

  /** Counts bytes of denials in the file, because all writers of the folder share one quota. */
  deny(bytes: number): void {
    this.#denied += bytes;
    writeAll(this.#fd, new Uint8Array(Uint32Array.of(this.#denied).buffer), DENIED_AT); // in the machine's byte order
  }

  /** Whether the file is still in its folder, at its full length; records of a deleted or cut file are lost. */
  healthy(): boolean {
    try {
      const there = fs.lstatSync(this.path, { bigint: true });
      const here = fs.fstatSync(this.#fd, { bigint: true });
      return there.ino === here.ino && there.dev === here.dev && here.size === BigInt(this.#size);
    } catch {
      return false;
    }
  }

  /** Waits, off the event loop, until all written records are on disk. */
  async sync(): Promise<void> {
    if (!this.#named) {
      const folder = await fs.promises.open(path.dirname(this.path), "r"); // the file's name must be on disk as well
      try {
        await folder.sync();
      } finally {
        await folder.close();
      }
      this.#named = true;
    }
    await new Promise<void>((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => (error ? reject(error) : resolve()));
    });
  }

  /**
   * Marks the segment closed, so that its readers do not wait for more.  Idempotent.
   *
   * @param cuts Whether it releases the unused room: not of a file that others have cut.
   */
  close(ended: boolean, cuts = true): void {
    if (this.#fd < 0) return;
    try {
      if (cuts) fs.ftruncateSync(this.#fd, this.#end);
      writeAll(this.#fd, Buffer.of(ended ? ENDED : CLOSED), STATE_AT);
    } catch {
      // The records are safe; only room is lost, or a reader waits until the run ends.
    }
    this.abandon();
  }

  /** Leaves a file as it is. */
  abandon(): void {
    if (this.#fd >= 0) fs.closeSync(this.#fd);
    this.#fd = -1;
  }
}

function writeAll(fd: number, bytes: Uint8Array, at: number): void {
  for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done, bytes.length - done, at + done);
}

/** The files of a journal's folder by name; none without the folder. */
export function filesIn(folder: string, ending = SUFFIX): string[] {
  try {
    return fs.readdirSync(folder).filter((name) => name.endsWith(ending)).sort().map((name) => path.join(folder, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Bytes of denials in a segment, as its writer counted them; 0 if the file is gone. */
export function deniedIn(file: string): number {
  let fd: number;
  try {
    fd = fs.openSync(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0; // shipped since
    throw error;
  }
  try {
    const word = new Uint32Array(1);
    fs.readSync(fd, word, 0, word.byteLength, DENIED_AT);
    return word[0] as number;
  } finally {
    fs.closeSync(fd);
  }
}
