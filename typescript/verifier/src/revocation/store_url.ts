// SPDX-License-Identifier: Apache-2.0
/** Parses the URL of a store: one server, or the Sentinels that name it.  SPEC 15.2. */

import fs from "node:fs";
import path from "node:path";
import { SettingsError } from "./errors.ts";
import type { Password } from "./password.ts";

const FORMS = "unix://, redis://, rediss://, redis+sentinel:// or rediss+sentinel://";
const REFUSED = [
  [/^relay/, "a relay: this follower asks the store itself"],
  [/\+cluster$/, "a cluster: name one server, or Sentinels"],
] as const;
const SETTINGS = new Set([
  "db", "username", "password", "sentinel_username", "sentinel_password",
  "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile",
]);
const REST = /^(?:([^:/?#]*)(?::([^/?#]*))?@)?([^@/?#]*)([^?#]*)(?:\?([^#]*))?$/s;
const HOST = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\],\s]+))(?::([0-9]{1,5}))?$/;

export interface Place { readonly host: string; readonly port: number }

/** Where a store is, and how to log in; a value that a worker thread can be given. */
export interface StoreAddress {
  /** Its socket's path, one server, or Sentinels. */
  readonly path?: string | undefined;
  readonly places: readonly Place[];
  /** The service that Sentinels watch. */
  readonly service?: string | undefined;
  readonly tls: boolean;
  /** A further authority for TLS, PEM. */
  readonly ca?: string | undefined;
  /** This client's certificate and its key, PEM. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly db: number;
  readonly username?: string | undefined;
  readonly password?: Password | undefined;
  readonly sentinelUsername?: string | undefined;
  readonly sentinelPassword?: string | undefined;
}

/**
 * Parses a store's URL.
 *
 * @param password Replaces a password in the URL.
 * @param ca File of a further authority for TLS, unless the URL has `ssl_ca_certs`.
 * @param name What the server is, for an error.  No error has a part of the URL but its scheme.
 */
export function parseStoreUrl(url: string, password?: Password, ca?: string, name = "store"): StoreAddress {
  const [, scheme = "", rest = ""] = /^([a-z+]+):\/\/(.*)$/s.exec(url) ?? [];
  const refused = REFUSED.find(([form]) => form.test(scheme))?.[1];
  if (refused !== undefined) throw new SettingsError(`invalid ${name} URL: ${scheme}:// is ${refused}`);
  const [, user = "", secret = "", hosts = "", where = "", query = ""] = REST.exec(rest) ?? [];
  const settings = readQuery(query, name);
  const tls = scheme.startsWith("rediss");
  const inUrl = settings.get("password") ?? text(secret, name);
  const pem = (setting: string, other?: string): string | undefined => readPem(tls ? (settings.get(setting) ?? other) : undefined);
  const common = {
    tls, ca: pem("ssl_ca_certs", ca), cert: pem("ssl_certfile"), key: pem("ssl_keyfile"),
    username: (settings.get("username") ?? text(user, name)) || undefined,
    password: password ?? (inUrl === "" ? undefined : { text: inUrl }),
    sentinelUsername: settings.get("sentinel_username"), sentinelPassword: settings.get("sentinel_password"),
  };
  if (scheme === "unix" && hosts === "" && where.length > 1) {
    return { ...common, path: path.resolve(text(where, name)), places: [], db: readDb(settings.get("db") ?? "0", name) };
  }
  if (!["redis", "rediss", "redis+sentinel", "rediss+sentinel"].includes(scheme)) throw invalid(name);
  const sentinel = scheme.endsWith("+sentinel");
  const parts = where.split("/").filter((part) => part !== "");
  const service = sentinel ? text(parts.shift() ?? "", name) : undefined;
  if (parts.length > 1 || service === "") throw invalid(name);
  const db = readDb(settings.get("db") ?? parts[0] ?? "0", name);
  const places = sentinel ? hosts.split(",").map((host) => readPlace(host, 26379, name)) : [readPlace(hosts || "localhost", 6379, name)];
  return { ...common, service, db, places };
}

function readQuery(query: string, name: string): Map<string, string> {
  const settings = new Map<string, string>();
  for (const field of query.split("&").filter((each) => each !== "")) {
    const [key = "", ...value] = field.split("=");
    if (!SETTINGS.has(key)) throw new SettingsError(`invalid ${name} URL: unknown setting ${JSON.stringify(key.slice(0, 40))}`);
    if (settings.has(key)) throw new SettingsError(`invalid ${name} URL: ${key} is there twice`);
    settings.set(key, text(value.join("=").replaceAll("+", " "), name));
  }
  if ((settings.get("ssl_cert_reqs") ?? "required") !== "required") {
    // A server that is not authenticated could answer every probe, and withhold every kill.
    throw new SettingsError(`${name} URL must not disable TLS certificate verification`);
  }
  return settings;
}

function readPlace(host: string, port: number, name: string): Place {
  const [, literal, named, given] = HOST.exec(host) ?? [];
  const found = literal ?? named;
  const number = given === undefined ? port : Number(given);
  if (found === undefined || number < 1 || number > 65535) throw invalid(name);
  return { host: text(found, name), port: number };
}

function readDb(db: string, name: string): number {
  if (!/^[0-9]{1,5}$/.test(db)) throw invalid(name);
  return Number(db);
}

function text(encoded: string, name: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw invalid(name);
  }
}

function readPem(file: string | undefined): string | undefined {
  try {
    return file === undefined ? undefined : fs.readFileSync(file, "utf8");
  } catch (error) {
    throw new SettingsError(`the file ${file} for TLS cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function invalid(name: string): SettingsError {
  // Without the text that could not be parsed: it may be a part of a password.
  return new SettingsError(`invalid ${name} URL: expected the form ${FORMS}`);
}
