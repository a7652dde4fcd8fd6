// SPDX-License-Identifier: Apache-2.0
/** One connection to the revocation store: subscribed, and used for probes.  SPEC 10. */

import { FeedError, SettingsError } from "../errors.ts";
import { type CopiedTargets, STATUSES, type StoreAnswer, UnattestedError } from "./follower_core.ts";
import type { EpochEntry, HistoryPlace } from "./history.ts";
import { type Client, connect, isLogin, kindOf, pairs, within } from "./store_client.ts";
import type { StoreAddress } from "./store_url.ts";

const SCAN_PAGE = 1000;
const ENTRIES = 1000; // requested in one answer
const LEAVE_MS = 500; // longest wait for the answer to a goodbye; without one the store forgets it with its lease
const LOGIN = "ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE or the login in `store` of the service file";
const ASCII = /^[!-~]+$/;

interface Listeners { readonly push: (entry: EpochEntry) => void; readonly end: (error: FeedError) => void }

/** A connection, subscribed to a realm's channel.  It is never opened again: a hidden reconnect would lose pushes. */
export class StoreLink {
  readonly #client: Client;
  readonly #tag: string;
  readonly #timeoutMs: number;

  private constructor(client: Client, realm: string, timeoutMs: number) {
    this.#client = client;
    this.#tag = `arx:{${realm}}:`;
    this.#timeoutMs = timeoutMs;
  }

  static async open(address: StoreAddress, realm: string, timeoutMs: number, on: Listeners): Promise<StoreLink> {
    let client: Client | undefined;
    try {
      const end = (error: Error): void => on.end(new FeedError(`the connection ended: ${kindOf(error)}`));
      client = await connect(address, timeoutMs, end);
      const link = new StoreLink(client, realm, timeoutMs);
      await within(timeoutMs, link.#subscribe(on));
      return link;
    } catch (error) {
      if (client?.isOpen) client.destroy();
      throw explained(error, "cannot connect");
    }
  }

  async #subscribe(on: Listeners): Promise<void> {
    // Before the first probe: no entry falls between the two.
    await this.#client.sSubscribe(`${this.#tag}ch`, (message) => {
      try {
        on.push(readPush(message));
      } catch (error) {
        on.end(error instanceof FeedError ? error : new FeedError("a push that cannot be applied", { cause: error }));
      }
    });
  }

  close(): void {
    if (this.#client.isOpen) this.#client.destroy();
  }

  async probe(verifierId: string, place: HistoryPlace): Promise<StoreAnswer> {
    const keys = ["h", "k", "f", "log", "v", "a"].map((part) => this.#tag + part);
    const own = [verifierId, place.incarnation, String(place.seq), place.chain, String(ENTRIES)];
    return readAnswer(await this.#ask(["FCALL", "arx1_probe", String(keys.length), ...keys, ...own]));
  }

  /** Returns a copy of all kills and freezes; it may lack changes that happen meanwhile. */
  async copy(): Promise<CopiedTargets> {
    return { kills: await this.#scan("k"), freezes: await this.#scan("f") };
  }

  /** Reports to the store that this verifier has given up its lease. */
  async leave(verifierId: string): Promise<void> {
    this.#client.ref();
    const words = ["FCALL", "arx1_leave", "2", `${this.#tag}v`, `${this.#tag}a`, verifierId];
    await within(LEAVE_MS, this.#client.sendCommand(words));
  }

  async #scan(part: string): Promise<Map<string, number>> {
    const copied = new Map<string, number>();
    for (let cursor = "0"; ; ) {
      const words = ["FCALL", "arx1_copy", "1", this.#tag + part, cursor, String(SCAN_PAGE)];
      const answer = await within(this.#timeoutMs, this.#ask(words));
      const [next, page] = Array.isArray(answer) ? (answer as unknown[]) : [];
      if (typeof next !== "string" || typeof page !== "string") throw odd();
      const listed = page === "" ? [] : page.split(" ");
      // A target that comes twice has the higher sequence the second time, because sequences only rise.
      for (let at = 0; at < listed.length; at += 2) copied.set(listed[at] as string, sequence(listed[at + 1]));
      if (next === "0") return copied;
      cursor = next;
    }
  }

  async #ask(words: string[]): Promise<unknown> {
    try {
      return await this.#client.sendCommand(words);
    } catch (error) {
      throw explained(error, "the store refused");
    }
  }
}

function explained(error: unknown, what: string): FeedError {
  if (error instanceof FeedError) return error;
  if (error instanceof SettingsError) return new FeedError(`${what}: ${error.message}`);
  const text = error instanceof Error ? error.message : "";
  if (text.startsWith("UNATTESTED")) {
    return new UnattestedError("the store restarted or failed over, and no mint has attested it since: start the mint");
  }
  if (isLogin(error)) return new FeedError(`the store refused the user or password: set ${LOGIN}`);
  if (text.startsWith("NOPERM")) {
    return new FeedError("the store refused a command to this user: `arx redis acl --role verifier` prints its rights");
  }
  return new FeedError(`${what}: ${kindOf(error)}`, { cause: error });
}

const odd = (): FeedError => new FeedError("an answer of an unknown form");

function readPush(message: string): EpochEntry {
  const [incarnation, seq, op, target, ...more] = message.split(" ");
  if (incarnation === undefined || op === undefined || target === undefined || more.length > 0) {
    throw new FeedError("a push of an unknown form");
  }
  return { incarnation, seq: sequence(seq), op, target };
}

function readAnswer(frame: unknown): StoreAnswer {
  if (!Array.isArray(frame) || frame.length !== 9) throw odd();
  const [incarnation, seq, at, leaseMs, named, keepMs, chain, askers, entries] = frame as unknown[];
  const status = STATUSES.find((each) => each === named);
  const numbers = [seq, at, leaseMs, keepMs, askers].every((number) => Number.isSafeInteger(number));
  const texts = typeof incarnation === "string" && typeof chain === "string";
  if (status === undefined || !numbers || !texts || !Array.isArray(entries)) throw odd();
  const listed = entries.map((entry: unknown) => readEntry(incarnation, entry));
  const known = { seq, at, leaseMs, keepMs, askers } as Record<"seq" | "at" | "leaseMs" | "keepMs" | "askers", number>;
  return { ...known, incarnation, status, chain, entries: listed, ageMs: 0 };
}

function readEntry(incarnation: string, entry: unknown): EpochEntry {
  const [key, fields] = Array.isArray(entry) ? (entry as unknown[]) : [];
  if (typeof key !== "string" || !Array.isArray(fields)) throw odd();
  const values = new Map(pairs(fields));
  const [op, target] = [values.get("op"), values.get("s")];
  if (typeof op !== "string" || typeof target !== "string" || !ASCII.test(target)) throw odd();
  return { incarnation, seq: sequence(key.split("-")[0]), op, target };
}

function sequence(text: string | undefined): number {
  const number = Number(text);
  if (text === undefined || !/^[0-9]{1,16}$/.test(text) || !Number.isSafeInteger(number)) {
    throw new FeedError("a sequence of an unknown form");
  }
  return number;
}
