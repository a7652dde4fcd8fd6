// SPDX-License-Identifier: Apache-2.0
/** Quotas of a journal's folder, which all its writers share, and the files of dead runs.  SPEC 12, 15.3. */

import fs from "node:fs";
import path from "node:path";
import { AuditError } from "../revocation/errors.ts";
import { isListening, SOCKET } from "./liveness.ts";
import { readSegment } from "./reader.ts";
import { CLOSED, deniedIn, filesIn, finish, HEADER_BYTES, OPEN, readHeader, startOf, stateOf } from "./segment.ts";

const DENIED_SHARE = 4; // denials may use a quarter: refused callers must not use up the room for allowed calls
const DENIED_PARTS = 64; // a process takes a 64th of the rest before it counts again what others took
const STALE_MS = 3_600_000; // age of a half-made file or a refused socket whose process must have died

/** The size of all files in a journal's folder, bytes. */
export function usedIn(folder: string): number {
  let used = 0;
  for (const file of filesIn(folder)) used += fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  return used;
}

/** Requires room in a journal's folder. */
export function holdBudget(folder: string, more: number, maxBytes: number): void {
  const used = usedIn(folder);
  if (used + more > maxBytes) {
    const mend = "ship old decisions, or allow it more";
    throw new AuditError(`the decision journal ${folder} has used ${used} of its ${maxBytes} bytes: ${mend}`);
  }
}

/** Returns how many bytes of denials one process may write before it asks again. */
export function denialsShare(folder: string, maxBytes: number, needed: number): number {
  let left = Math.floor(maxBytes / DENIED_SHARE);
  try {
    for (const file of filesIn(folder)) left -= deniedIn(file);
  } catch (error) {
    throw new AuditError(`the decision journal ${folder} cannot be read`, { cause: error });
  }
  return Math.min(left, Math.max(Math.floor(left / DENIED_PARTS), needed));
}

/**
 * Closes what dead runs of this kind left open, and removes half-made files and dead sockets.
 *
 * A file without a socket of its run stays: its writer may hold a lock, which Node cannot ask for.  The shipper, which
 * can, takes such files.
 */
export async function finishStale(folder: string): Promise<void> {
  for (const file of filesIn(folder)) await quietly(() => finishDead(file));
  for (const file of [...filesIn(folder, ".making"), ...filesIn(folder, SOCKET)]) {
    await quietly(async () => {
      const old = Date.now() - fs.lstatSync(file).mtimeMs > STALE_MS;
      if (old && !(file.endsWith(SOCKET) && (await isListening(file)))) fs.unlinkSync(file);
    });
  }
}

async function finishDead(file: string): Promise<void> {
  const start = startOf(file, HEADER_BYTES);
  if (start === null || stateOf(start) !== OPEN) return;
  const socket = path.join(path.dirname(file), `${readHeader(start).boot}${SOCKET}`);
  // Asked before the file is read: a writer that dies in between has written nothing since.
  if (!fs.existsSync(socket) || (await isListening(socket))) return;
  const fd = fs.openSync(file, fs.constants.O_RDWR | fs.constants.O_NOFOLLOW);
  try {
    const { end } = readSegment(fs.readFileSync(fd)); // a file that may be damaged stays unchanged
    if (end !== null) finish(fd, end, CLOSED);
  } finally {
    fs.closeSync(fd);
  }
}

async function quietly(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch {
    // Shipped since, damaged, or of another user: each of them stays.
  }
}
