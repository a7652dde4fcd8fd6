// SPDX-License-Identifier: Apache-2.0
/** One connection to the revocation store: subscribed, and used for probes.  SPEC 10. */

import tls from "node:tls";
import { createClient, type RedisClientOptions } from "@redis/client";
import { FeedError, SettingsError } from "./errors.ts";
import { type CopiedTargets, STATUSES, type StoreAnswer, UnattestedError } from "./follower_core.ts";
import type { EpochEntry, HistoryPlace } from "./history.ts";
import { readPassword } from "./password.ts";
import type { Place, StoreAddress } from "./store_url.ts";

const SCAN_PAGE = 1000;
const ENTRIES = 1000; // requested in one answer
const ASK_MS = 500; // longest wait for one Sentinel; then the next one is asked
const LEAVE_MS = 500; // longest wait for the answer to a goodbye; without it the store forgets this verifier with its lease
const LOGIN = "ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE or the login in `store` of the service file";
const ASCII = /^[!-~]+$/;

type Client = ReturnType<typeof createClient>;
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
    const place = address.service === undefined ? address.places[0] : await findPrimary(address, address.service);
    const client = clientOf(address, place, timeoutMs);
    const end = (error: Error): void => on.end(new FeedError(`the connection ended: ${kindOf(error)}`));
    client.on("error", end);
    const link = new StoreLink(client, realm, timeoutMs);
    try {
      await within(timeoutMs, link.#begin(address.service !== undefined, on));
    } catch (error) {
      link.close();
      throw explained(error, "cannot connect");
    }
    return link;
  }

  async #begin(isFound: boolean, on: Listeners): Promise<void> {
    await this.#client.connect();
    this.#client.unref();
    if (isFound && ((await this.#client.sendCommand(["ROLE"])) as unknown as unknown[])[0] !== "master") {
      throw new FeedError("the server that the Sentinels name is no primary yet");
    }
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
      if (typeof next !== "string" || typeof page !== "string") throw new FeedError("an answer of an unknown form");
      const listed = page === "" ? [] : page.split(" ");
      if (listed.length % 2 !== 0) throw new FeedError("an answer of an unknown form");
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

function clientOf(address: StoreAddress, place: Place | undefined, timeoutMs: number, sentinel = false): Client {
  const limits = { connectTimeout: timeoutMs, reconnectStrategy: false as const };
  const password = address.password;
  const login = sentinel
    ? { username: address.sentinelUsername, password: address.sentinelPassword }
    : { username: address.username, password: password === undefined ? undefined : readPassword(password) };
  // `ca` replaces the authorities of the system, and a further one must not.
  const authority = address.ca === undefined ? {} : { ca: [...tls.getCACertificates("default"), address.ca] };
  const own = address.cert === undefined ? {} : { cert: address.cert, key: address.key ?? address.cert };
  const secure = address.tls ? { tls: true as const, ...authority, ...own } : {};
  const options: RedisClientOptions = {
    RESP: 3, disableClientInfo: true, maintNotifications: "disabled", disableOfflineQueue: false,
    database: sentinel ? 0 : address.db,
    socket: place === undefined ? { path: address.path as string, ...limits } : { ...place, ...secure, ...limits },
    ...Object.fromEntries(Object.entries(login).filter(([, value]) => value !== undefined)),
  };
  return createClient(options) as unknown as Client;
}

/** Asks Sentinels for the primary, one after the other, in a random order. */
async function findPrimary(address: StoreAddress, service: string): Promise<Place> {
  let refused = false;
  for (const place of shuffled(address.places)) {
    const client = clientOf(address, place, ASK_MS, true);
    client.on("error", () => undefined);
    try {
      await within(ASK_MS, client.connect());
      const answer: unknown = await within(ASK_MS, client.sendCommand(["SENTINEL", "MASTER", service]));
      const facts = new Map(Array.isArray(answer) ? pairs(answer) : Object.entries(answer as object));
      const [host, port] = [facts.get("ip"), Number(facts.get("port"))];
      if (typeof host === "string" && Number.isInteger(port)) return { host, port };
    } catch (error) {
      refused ||= isLogin(error); // another one may know the user; or it is down, or does not know
    } finally {
      if (client.isOpen) client.destroy();
    }
  }
  const login = "the Sentinels refused the login: sentinel_username and sentinel_password in the store's URL are for them";
  throw new FeedError(refused ? login : "none of the Sentinels named can say which server is the primary");
}

function* pairs(flat: readonly unknown[]): Generator<[unknown, unknown]> {
  for (let at = 0; at + 1 < flat.length; at += 2) yield [flat[at], flat[at + 1]];
}

function shuffled<T>(items: readonly T[]): T[] {
  return items.map((item) => [Math.random(), item] as const).sort(([a], [b]) => a - b).map(([, item]) => item);
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
    return new FeedError("the store does not permit this user to do that: `arx redis acl --role verifier` prints what it needs");
  }
  return new FeedError(`${what}: ${kindOf(error)}`, { cause: error });
}

function isLogin(error: unknown): boolean {
  return error instanceof Error && /^(WRONGPASS|NOAUTH|ERR AUTH)/.test(error.message);
}

/** A code or a class, and the server's own refusal; no text that may have an address or a login. */
function kindOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  if ("code" in error && typeof error.code === "string") return error.code;
  const refusal = /^[A-Z]{3,20} .*/.exec(error.message)?.[0];
  return refusal === undefined ? error.constructor.name : refusal.slice(0, 500);
}

/** Rejects when a time is over, but not before what has arrived by then was read. */
export function within<T>(ms: number, work: Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const late = (): void => reject(new FeedError("no answer in time"));
    const timer = setTimeout(() => setImmediate(late), ms);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function readPush(message: string): EpochEntry {
  const [incarnation, seq, op, target, ...more] = message.split(" ");
  if (incarnation === undefined || op === undefined || target === undefined || more.length > 0) {
    throw new FeedError("a push of an unknown form");
  }
  return { incarnation, seq: sequence(seq), op, target };
}

function readAnswer(frame: unknown): StoreAnswer {
  if (!Array.isArray(frame) || frame.length !== 9) throw new FeedError("an answer of an unknown form");
  const [incarnation, seq, at, leaseMs, named, keepMs, chain, askers, entries] = frame as unknown[];
  const status = STATUSES.find((each) => each === named);
  const numbers = [seq, at, leaseMs, keepMs, askers].every((number) => Number.isSafeInteger(number));
  if (status === undefined || !numbers || typeof incarnation !== "string" || typeof chain !== "string" || !Array.isArray(entries)) {
    throw new FeedError("an answer of an unknown form");
  }
  const listed = entries.map((entry: unknown) => readEntry(incarnation, entry));
  const known = { seq, at, leaseMs, keepMs, askers } as Record<"seq" | "at" | "leaseMs" | "keepMs" | "askers", number>;
  return { ...known, incarnation, status, chain, entries: listed, ageMs: 0 };
}

function readEntry(incarnation: string, entry: unknown): EpochEntry {
  const [key, fields] = Array.isArray(entry) ? (entry as unknown[]) : [];
  if (typeof key !== "string" || !Array.isArray(fields)) throw new FeedError("an answer of an unknown form");
  const values = new Map(pairs(fields));
  const [op, target] = [values.get("op"), values.get("s")];
  if (typeof op !== "string" || typeof target !== "string" || !ASCII.test(target)) {
    throw new FeedError("an answer of an unknown form");
  }
  return { incarnation, seq: sequence(key.split("-")[0]), op, target };
}

function sequence(text: string | undefined): number {
  const number = Number(text);
  if (text === undefined || !/^[0-9]{1,16}$/.test(text) || !Number.isSafeInteger(number)) {
    throw new FeedError("a sequence of an unknown form");
  }
  return number;
}
