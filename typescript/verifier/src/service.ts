// SPDX-License-Identifier: Apache-2.0
// Open a verifier from a service file.  SPEC 15.2.

import cluster from "node:cluster";
import { randomBytes } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { isMainThread } from "node:worker_threads";
import { Journal, type JournalMode, MODES, SEGMENT_BYTES } from "./journal/writer.ts";
import { isObject, type JsonObject, own, readBody } from "./json.ts";
import { Refusal, SettingsError } from "./errors.ts";
import { bytesOf, type Check, type Checked, isAudience, isKeyId, isRealm } from "./names.ts";
import { Follower } from "./revocation/follower.ts";
import { findPassword } from "./revocation/password.ts";
import { KeyRing } from "./token/keyring.ts";
import { MemoryNonces, type Nonces } from "./verification/nonces.ts";
import { type LimitsInput, ServiceLimits } from "./verification/serviceLimits.ts";
import { SharedNonces } from "./verification/sharedNonces.ts";
import { Verifier } from "./verification/verifier.ts";

const isText = (value: unknown): value is string => typeof value === "string" && value !== "";
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 1000;

const REQUIRED_FORMS = {
  v: (value: unknown): value is 1 => value === 1,
  realm: isRealm,
  audience: isAudience,
  max_ttl_ms: isCount,
  keys: (value: unknown): value is Readonly<Record<string, string>> => {
    const keys = isObject(value) ? Object.entries(value) : [];
    return keys.length > 0 && keys.every(([kid, key]) => isKeyId(kid) && bytesOf(key, 32) !== undefined);
  },
};
const OPTIONAL_FORMS = {
  store: isText,
  journal: isText,
  journal_mode: (value: unknown): value is JournalMode => MODES.some((mode) => mode === value),
  journal_bytes: isCount,
  issuer: isText, // another process refreshes the keys and ships the records
  key_file: isText,
  ca: isText,
  nonces: isText,
  // A token with a budget is refused, so that nothing is lost with these.
  ledger: isText,
  ledger_mode: (value: unknown): value is string => value === "strict" || value === "leased",
  costs: isObject,
};
/** The form of each member; those of `REFUSED` need a part of a verifier that this one does not have. */
const FORMS: Record<string, Check<unknown>> = { ...REQUIRED_FORMS, ...OPTIONAL_FORMS };
const REFUSED: Record<string, string> = {
  record_arguments: "arguments are recorded by their digest alone",
  memory: "stamps of a memory are not checked",
};
export const REQUIRED: readonly string[] = Object.keys(REQUIRED_FORMS);
export const SERVICE_MEMBERS: readonly string[] = [...Object.keys(FORMS), ...Object.keys(REFUSED)];
const [LOOK_MS, PAGE, SEGMENTS] = [200, 4096, 16];

type ServiceFile = Checked<typeof REQUIRED_FORMS> & Partial<Checked<typeof OPTIONAL_FORMS>>;

export interface OpenOptions {
  /** What the service requires of each call beside its token (SPEC 20). */
  readonly limits?: LimitsInput;
  /** Tools, or patterns of them, whose effects are recorded too (SPEC 12.8). */
  readonly effects?: readonly string[];
  /** Whether the follower has a thread of its own. */
  readonly thread?: boolean;
}

/** Read a service file, or throw `SettingsError`, which has no key. */
export function readServiceFile(file: string): ServiceFile {
  let read: JsonObject;
  try {
    if ((statSync(file).mode & 0o077) !== 0) {
      throw new SettingsError(`${file} has keys and can be read by others; run \`chmod 600 ${file}\``);
    }
    read = readBody(readFileSync(file));
  } catch (error) {
    if (error instanceof SettingsError) throw error;
    const why = error instanceof Refusal ? "it is not one JSON object" : (error as NodeJS.ErrnoException).code;
    throw new SettingsError(`${file} is not a service file: ${why}`);
  }
  for (const name of Object.keys(read)) {
    const [missing, isForm] = [own(REFUSED, name), own(FORMS, name)];
    if (missing !== undefined) throw new SettingsError(`${file} has \`${name}\`, which is refused: ${missing}`);
    if (isForm === undefined) throw new SettingsError(`${file} has an unknown member: ${JSON.stringify(name)}`);
    if (!isForm(read[name])) throw new SettingsError(`${file}: \`${name}\` has no form of SPEC 15.2`);
  }
  const lacks = REQUIRED.find((name) => !Object.hasOwn(read, name));
  if (lacks !== undefined) throw new SettingsError(`${file} lacks \`${lacks}\``);
  return read as unknown as ServiceFile;
}

/** The keys of a service file, which is read again when a token has an unknown key id. */
class FileKeys extends KeyRing {
  readonly #file: string;
  #keys: KeyRing;
  #seen: string;
  #looked = performance.now();

  constructor(file: string, read: ServiceFile) {
    super({}, read.realm, read.max_ttl_ms);
    this.#file = file;
    this.#seen = identify(file);
    this.#keys = keysOf(read);
  }

  override get(kid: string): ReturnType<KeyRing["get"]> {
    const key = this.#keys.get(kid);
    if (key !== undefined || performance.now() - this.#looked < LOOK_MS) return key;
    this.#looked = performance.now();
    const seen = identify(this.#file);
    if (seen === this.#seen) return undefined;
    this.#seen = seen;
    try {
      const read = readServiceFile(this.#file);
      if (read.realm === this.realm) this.#keys = keysOf(read); // the view belongs to the realm of the start
    } catch (error) {
      // A mistake in the file must not end a service that has usable keys.
      process.emitWarning(`the keys stay as they were: ${(error as Error).message}`, "ArxWarning");
    }
    return this.#keys.get(kid);
  }
}

/** Open the verifier of a service file.  It follows the store of the file, and writes its journal. */
export function openVerifier(file: string, options: OpenOptions = {}): Verifier {
  const odd = Object.keys(options).find((name) => !["limits", "effects", "thread"].includes(name));
  if (odd !== undefined) throw new SettingsError(`openVerifier has no option ${odd}`);
  const read = readServiceFile(file);
  const { limits: written, effects = [], thread = true } = options;
  const limits = written === undefined ? [] : [new ServiceLimits(written)];
  // The id shows whether other processes share its used calls (SPEC 8.3), and which limits it has (SPEC 20.1).
  const own = [read.nonces === undefined ? "-own-nonces" : "", ...limits.map(({ digest }) => `~limits-${digest}`)];
  const id = `${read.audience}-${process.pid}-${randomBytes(3).toString("hex")}${own.join("")}`;
  const [nonces, recorder] = [noncesOf(file, read), journalOf(file, read, id)];
  const epochs = follow(file, read, id, thread); // last, because it has a thread
  const keys = new FileKeys(file, read);
  return new Verifier({ audience: read.audience, keys, epochs, recorder, nonces, limits, effects });
}

function follow(file: string, read: ServiceFile, id: string, thread: boolean): Follower {
  if (read.store === undefined) throw new SettingsError(`${file} lacks \`store\`: enrol the service again`);
  const [password, ca] = [findPassword("ARX_STORE_PASSWORD"), authorityOf(file, read)];
  return new Follower(read.store, read.realm, id, { thread, password, ca });
}

function noncesOf(file: string, read: ServiceFile): Nonces {
  if (read.nonces !== undefined) {
    // Services that share a server must not use up each other's nonces.
    const prefix = `arx:nonce:${read.realm}:${read.audience}:`;
    return new SharedNonces(read.nonces, prefix, findPassword("ARX_NONCES_PASSWORD"), authorityOf(file, read));
  }
  if (isMainThread && !cluster.isWorker) return new MemoryNonces();
  throw new SettingsError(`${file} lacks \`nonces\`, which processes and threads of a service share: enrol it again`);
}

function authorityOf(file: string, { ca }: ServiceFile): string | undefined {
  return process.env["ARX_CA"] ?? (ca === undefined ? undefined : path.join(path.dirname(file), ca));
}

function journalOf(file: string, read: ServiceFile, id: string): Journal {
  if (read.journal === undefined) throw new SettingsError(`${file} lacks \`journal\`: enrol the service again`);
  const { journal, journal_mode: mode, journal_bytes: maxBytes } = read;
  // Many small files, so that shipping frees room early.
  const share = Math.floor((maxBytes ?? SEGMENTS * SEGMENT_BYTES) / SEGMENTS / PAGE) * PAGE;
  const segmentBytes = Math.max(PAGE * 16, Math.min(SEGMENT_BYTES, share));
  return new Journal(journal, id, read.audience, { mode, maxBytes, segmentBytes });
}

function keysOf({ keys, realm, max_ttl_ms }: ServiceFile): KeyRing {
  const read = Object.entries(keys).map(([kid, key]) => [kid, Buffer.from(key, "base64url")] as const);
  return new KeyRing(Object.fromEntries(read), realm, max_ttl_ms);
}

function identify(file: string): string {
  const { ino, mtimeMs, size } = statSync(file, { throwIfNoEntry: false }) ?? {};
  return `${ino} ${mtimeMs} ${size}`;
}
