// SPDX-License-Identifier: Apache-2.0
/** Opens one connection to a server of Redis or Valkey, found by Sentinels if its address has them. */

import tls from "node:tls";
import { createClient, type RedisClientOptions } from "@redis/client";
import { FeedError } from "../errors.ts";
import { readPassword } from "./password.ts";
import type { Place, StoreAddress } from "./store_url.ts";

const ASK_MS = 500; // longest wait for one Sentinel; then the next one is asked

export type Client = ReturnType<typeof createClient>;

/** Opens a connection to a primary; it is never opened again by itself, and the end of it is an `error` event. */
export async function connect(address: StoreAddress, timeoutMs: number, end: (error: Error) => void): Promise<Client> {
  const { service, places: [first] } = address;
  const place = service === undefined ? first as Place : await findPrimary(address, service);
  const client = clientOf(address, place, timeoutMs);
  client.on("error", end);
  try {
    await within(timeoutMs, client.connect());
    client.unref();
    if (service === undefined) return client;
    const [role] = (await within(timeoutMs, client.sendCommand(["ROLE"]))) as unknown as unknown[];
    if (role !== "master") throw new FeedError("the server that the Sentinels name is no primary yet");
    return client;
  } catch (error) {
    if (client.isOpen) client.destroy();
    throw error;
  }
}

function clientOf(address: StoreAddress, place: Place, timeoutMs: number, isSentinel = false): Client {
  const { username, password } = isSentinel ? address.sentinelLogin : address.login;
  const { tls: isSecure, ca, cert, key = cert } = address;
  // `ca` replaces the authorities of the system, and a further one must not.
  const authorities = ca === undefined ? undefined : [...tls.getCACertificates("default"), ca];
  const secure = isSecure ? { tls: true, ca: authorities, cert, key } : {};
  const options = {
    RESP: 3, disableClientInfo: true, maintNotifications: "disabled", disableOfflineQueue: false,
    database: isSentinel ? 0 : address.db, username, password: password && readPassword(password),
    socket: { ...place, ...secure, connectTimeout: timeoutMs, reconnectStrategy: false },
  };
  return createClient(options as RedisClientOptions) as unknown as Client;
}

/** Asks Sentinels for the primary, one after the other, in a random order. */
async function findPrimary(address: StoreAddress, service: string): Promise<Place> {
  let refused = false;
  const order = address.places.map((place) => ({ place, at: Math.random() })).sort((one, other) => one.at - other.at);
  for (const { place } of order) {
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
  const login = "the Sentinels refused the login: set sentinel_username and sentinel_password in the store's URL";
  throw new FeedError(refused ? login : "none of the Sentinels named can say which server is the primary");
}

export function* pairs(flat: readonly unknown[]): Generator<[unknown, unknown]> {
  for (let at = 0; at + 1 < flat.length; at += 2) yield [flat[at], flat[at + 1]];
}

export function isLogin(error: unknown): boolean {
  return error instanceof Error && /^(WRONGPASS|NOAUTH|ERR AUTH)/.test(error.message);
}

/** A code or a class, and the server's own refusal; no text that may have an address or a login. */
export function kindOf(error: unknown): string {
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
