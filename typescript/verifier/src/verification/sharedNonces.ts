// SPDX-License-Identifier: Apache-2.0
// Used calls and used names in a server of Redis or Valkey, which all processes of a service share.  SPEC 8.3.

import { FeedError } from "../errors.ts";
import type { Password } from "../revocation/password.ts";
import { type Client, connect, isLogin, kindOf, within } from "../revocation/store_client.ts";
import { parseStoreUrl, type StoreAddress } from "../revocation/store_url.ts";
import { BRIEF_MS, type Nonces, type Spent } from "./nonces.ts";

const APART_MS = 60_000; // two processes' clocks, each as far from the right time as allowed
const [ANSWER_MS, OPEN_MS] = [250, 1000];
const CANNOT_CALL = /unction not found|unknown command|permission|^NOPERM/i; // then nothing ran
const LOGIN = "ARX_NONCES_PASSWORD, ARX_NONCES_PASSWORD_FILE or the login in `nonces` of the service file";

/** Nonces that verifiers in Python and TypeScript can share.  A server that does not answer refuses each call. */
export class SharedNonces implements Nonces {
  readonly #address: StoreAddress;
  readonly #prefix: string;
  #link: Promise<Client> | undefined;
  #started = 0;
  #hasFunction = true;
  #isDown = false;

  /**
   * @param prefix The beginning of each key, such as `arx:nonce:acme:orders:`.
   * @param password Replaces a password in the URL.
   * @param ca File of a further authority for TLS.
   */
  constructor(url: string, prefix: string, password?: Password, ca?: string) {
    this.#address = parseStoreUrl(url, password, ca, "nonce store");
    this.#prefix = prefix;
  }

  async spend(key: string, until: number, now: number): Promise<Spent> {
    try {
      const client = await within(OPEN_MS, this.#open());
      // A holder can make names that are remembered for a day: calls have half of the memory, so that they go on.
      if (until - now > BRIEF_MS && !(await within(ANSWER_MS, hasRoom(client)))) return "full";
      const name = Buffer.from(this.#prefix + key, "latin1");
      // By this clock: by another one, which may be behind, the call is valid for longer.
      const fresh = await within(ANSWER_MS, this.#put(client, name, String(Math.max(1, until - now) + APART_MS)));
      this.#isDown = false;
      return fresh ? "new" : "used";
    } catch (error) {
      const text = `each call is refused (store_unavailable): ${explained(error)}`;
      if (!this.#isDown) process.emitWarning(text, "ArxWarning");
      this.#isDown = true; // one line for each outage
      return "full";
    }
  }

  /** When the server started; calls that were issued before are unknown to it. */
  notBefore(): number {
    return this.#started;
  }

  close(): void {
    const link = this.#link;
    this.#link = undefined;
    void link?.then((client) => client.isOpen && client.destroy(), () => undefined);
  }

  #open(): Promise<Client> {
    if (this.#link !== undefined) return this.#link;
    const link = connect(this.#address, OPEN_MS, () => this.#forget(link)).then(async (client) => {
      try {
        this.#started = Math.max(this.#started, await within(ANSWER_MS, startOf(client)));
        return client;
      } catch (error) {
        client.destroy();
        throw error;
      }
    });
    link.catch(() => this.#forget(link));
    this.#link = link;
    return link;
  }

  #forget(link: Promise<Client>): void {
    if (this.#link === link) this.#link = undefined;
  }

  /** Set a key unless it exists; a revocation store has a function for that, which does not wait for its disk. */
  async #put(client: Client, name: Buffer, keep: string): Promise<boolean> {
    if (this.#hasFunction) {
      try {
        return (await client.sendCommand(["FCALL", "arx1_spend", "1", name, keep])) !== null;
      } catch (error) {
        if (!(error instanceof Error) || !CANNOT_CALL.test(error.message)) throw error;
        this.#hasFunction = false;
      }
    }
    return (await client.sendCommand(["SET", name, "", "NX", "PX", keep])) !== null;
  }
}

/** Return when a server started at the latest, ms since the Unix epoch; throw if it may forget what is used. */
async function startOf(client: Client): Promise<number> {
  const facts = { ...(await factsOf(client, "server")), ...(await factsOf(client, "memory")) };
  const policy = facts["maxmemory_policy"];
  if (policy !== undefined && policy !== "noeviction") {
    throw new FeedError("the nonce store may evict live nonces: set its maxmemory-policy to noeviction");
  }
  // It subtracts its start from its clock, both in whole seconds: since the end of the second in which it started.
  const part = Math.floor(Number(facts["server_time_usec"] ?? 0) / 1000) % 1000;
  return Date.now() - Math.max(0, 1000 * (Number(facts["uptime_in_seconds"] ?? 0) - 1) + part);
}

async function hasRoom(client: Client): Promise<boolean> {
  const facts = await factsOf(client, "memory");
  const most = Number(facts["maxmemory"] ?? 0) || Number(facts["total_system_memory"] ?? 0);
  return most === 0 || 2 * Number(facts["used_memory"] ?? 0) <= most;
}

/** Return what a server states; nothing if its user may not ask: then its start counts as now. */
async function factsOf(client: Client, section: string): Promise<Record<string, string | undefined>> {
  try {
    const text = String(await client.sendCommand(["INFO", section]));
    return Object.fromEntries(text.split("\r\n").map((line) => line.split(":", 2) as [string, string]));
  } catch (error) {
    if (error instanceof Error && CANNOT_CALL.test(error.message)) return {};
    throw error;
  }
}

function explained(error: unknown): string {
  if (error instanceof FeedError) return error.message;
  if (isLogin(error)) return `the nonce store refused the user or password: set ${LOGIN}`;
  return `the nonce store: ${kindOf(error)}`;
}
