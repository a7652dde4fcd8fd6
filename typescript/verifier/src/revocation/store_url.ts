// SPDX-License-Identifier: Apache-2.0
/** Parses the URL of a store: one server, or the Sentinels that name it.  SPEC 15.2. */

import fs from "node:fs";
import path from "node:path";
import { SettingsError } from "../errors.ts";
import type { Password } from "./password.ts";

const FORMS = "unix://, redis://, rediss://, redis+sentinel:// or rediss+sentinel://";
const RESERVED = "`#`, `/`, `?`, `@` and `:`";
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

/** How to log in to a server. */
export interface Login { readonly username?: string | undefined; readonly password?: Password | undefined }
/** Where a server or a Sentinel is. */
export type Place = { readonly host: string; readonly port: number } | { readonly path: string };

/** Where a store is, and how to log in; a value that a worker thread can be given. */
export type StoreAddress = ReturnType<typeof parseStoreUrl>;

/**
 * Parses a store's URL.
 *
 * @param password Replaces a password in the URL.
 * @param ca File of a further authority for TLS, unless the URL has `ssl_ca_certs`.
 * @param name What the server is, for an error.  No error has a part of the URL but its scheme.
 */
export function parseStoreUrl(url: string, password?: Password, ca?: string, name = "store") {
  const [, scheme = "", rest = ""] = /^([a-z+]+):\/\/(.*)$/s.exec(url) ?? [];
  const refused = REFUSED.find(([form]) => form.test(scheme))?.[1];
  if (refused !== undefined) throw new SettingsError(`invalid ${name} URL: ${scheme}:// is ${refused}`);
  const [, user = "", secret = "", hosts = "", where = "", query = ""] = REST.exec(rest) ?? fail(name);
  const settings = readQuery(query, name);
  const tls = scheme.startsWith("rediss");
  const pem = (file: string | undefined): string | undefined => readPem(tls ? file : undefined);
  const login = (username = "", inUrl = "", given?: Password): Login => {
    return { username: username || undefined, password: given ?? (inUrl === "" ? undefined : { text: inUrl }) };
  };
  const inUrl = settings.get("password") ?? text(secret, name);
  const common = {
    tls,
    /** A further authority, this client's certificate and its key, PEM. */
    ca: pem(settings.get("ssl_ca_certs") ?? ca), cert: pem(settings.get("ssl_certfile")),
    key: pem(settings.get("ssl_keyfile")),
    login: login(settings.get("username") ?? text(user, name), inUrl, password),
    sentinelLogin: login(settings.get("sentinel_username"), settings.get("sentinel_password")),
  };
  if (scheme === "unix" && hosts === "" && where.length > 1) {
    const places: Place[] = [{ path: path.resolve(text(where, name)) }];
    return { ...common, service: undefined, db: readDb(settings.get("db") ?? "0", name), places };
  }
  if (!["redis", "rediss", "redis+sentinel", "rediss+sentinel"].includes(scheme)) fail(name);
  const sentinel = scheme.endsWith("+sentinel");
  const parts = where.split("/").filter((part) => part !== "");
  /** The service that Sentinels watch. */
  const service = sentinel ? text(parts.shift() ?? "", name) : undefined;
  if (parts.length > 1 || service === "") fail(name);
  const db = readDb(settings.get("db") ?? parts[0] ?? "0", name);
  const [listed, port] = sentinel ? [hosts.split(","), 26379] : [[hosts || "localhost"], 6379];
  return { ...common, service, db, places: listed.map((host) => readPlace(host, port, name)) };
}

function readQuery(query: string, name: string): Map<string, string> {
  const settings = new Map<string, string>();
  for (const field of query.split("&").filter((each) => each !== "")) {
    const [key = "", ...value] = field.split("=");
    // Without the text of the setting, too: it is a part of the password if that has a question mark.
    const known = [...SETTINGS].join(", ");
    if (!SETTINGS.has(key)) throw new SettingsError(`invalid ${name} URL: unknown setting: expected ${known}`);
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
  if (found === undefined || number < 1 || number > 65535) fail(name);
  return { host: text(found, name), port: number };
}

function readDb(db: string, name: string): number {
  if (!/^[0-9]{1,5}$/.test(db)) fail(name);
  return Number(db);
}

function text(encoded: string, name: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return fail(name);
  }
}

function readPem(file: string | undefined): string | undefined {
  try {
    return file === undefined ? undefined : fs.readFileSync(file, "utf8");
  } catch (error) {
    throw new SettingsError(`the file ${file} for TLS cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function fail(name: string): never {
  // Without the text that could not be parsed: it may be a part of a password.
  throw new SettingsError(`invalid ${name} URL: expected the form ${FORMS}; percent-encode ${RESERVED} in a login`);
}
