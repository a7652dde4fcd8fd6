// SPDX-License-Identifier: Apache-2.0
/** Shows readers and other writers that a run lives: it listens on a socket in the journal's folder.  SPEC 15.3. */

import fs from "node:fs";
import net from "node:net";
import path from "node:path";

export const SOCKET = ".sock";

/** The socket of a run, from before its first segment has its name until its last one is closed. */
export class Liveness {
  readonly #path: string;
  readonly #server: net.Server;
  readonly #inode: bigint;

  constructor(folder: string, boot: string) {
    this.#path = path.join(folder, `${boot}${SOCKET}`);
    const making = path.join(folder, `${boot}.making`);
    this.#server = net.createServer((connection) => connection.destroy());
    this.#server.on("error", () => undefined); // such as a connection without a free descriptor, which shows life
    // An address has room for 107 bytes of a path, and a folder may have more.
    const fd = fs.openSync(folder, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    try {
      // `exclusive`: the primary of a cluster must not listen for a worker that may die.
      this.#server.listen({ path: `/proc/self/fd/${fd}/${boot}.making`, exclusive: true }).unref();
      if (!this.#server.listening) throw new Error("a journal's socket cannot be opened");
      fs.chmodSync(making, 0o600);
      this.#inode = fs.lstatSync(making, { bigint: true }).ino;
      fs.renameSync(making, this.#path);
    } catch (error) {
      this.#server.close();
      fs.rmSync(making, { force: true });
      throw error;
    } finally {
      fs.closeSync(fd);
    }
  }

  /** Whether others still find the socket. */
  healthy(): boolean {
    try {
      return fs.lstatSync(this.#path, { bigint: true }).ino === this.#inode;
    } catch {
      return false;
    }
  }

  close(): void {
    if (this.healthy()) fs.rmSync(this.#path, { force: true });
    if (this.#server.listening) this.#server.close();
  }
}

/** Whether a process listens on a socket; true unless it is certain that none does. */
export function isListening(socket: string): Promise<boolean> {
  const fd = fs.openSync(path.dirname(socket), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  return new Promise<boolean>((resolve) => {
    const probe = net.connect({ path: `/proc/self/fd/${fd}/${path.basename(socket)}` });
    const settle = (listens: boolean): void => {
      probe.destroy();
      resolve(listens);
    };
    probe.once("connect", () => settle(true));
    probe.once("error", ({ code }: NodeJS.ErrnoException) => {
      // Without /proc a path cannot be asked, which shows no death.
      settle(code !== "ECONNREFUSED" && (code !== "ENOENT" || fs.existsSync(socket)));
    });
  }).finally(() => fs.closeSync(fd));
}
