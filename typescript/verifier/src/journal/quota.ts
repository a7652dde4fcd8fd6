// SPDX-License-Identifier: Apache-2.0
/** Quotas of a journal's folder, which all its writers share, and what dead runs left.  SPEC 12, 15.3. */

import fs from "node:fs";
import { AuditError } from "../errors.ts";
import { isListening, SOCKET } from "./liveness.ts";
import { deniedIn, filesIn } from "./segment.ts";

const DENIED_SHARE = 4; // denials may use a quarter: refused callers must not use up the room for allowed calls
const DENIED_PARTS = 64; // a process takes a 64th of the rest before it counts again what others took
const STALE_MS = 3_600_000; // age of a half-made file or a refused socket whose process must have died

/** Requires room in a journal's folder. */
export function holdBudget(folder: string, more: number, maxBytes: number): void {
  const sizes = filesIn(folder).map((file) => fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0);
  const used = sizes.reduce((sum, size) => sum + size, 0);
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

/** Removes half-made files and dead sockets; files of dead runs are a shipper's, which can ask for their locks. */
export async function removeStale(folder: string): Promise<void> {
  for (const file of [...filesIn(folder, ".making"), ...filesIn(folder, SOCKET)]) {
    try {
      const old = Date.now() - fs.lstatSync(file).mtimeMs > STALE_MS;
      if (old && !(file.endsWith(SOCKET) && (await isListening(file)))) fs.unlinkSync(file);
    } catch {
      // Removed since, or of another user.
    }
  }
}
