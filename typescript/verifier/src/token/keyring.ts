// SPDX-License-Identifier: Apache-2.0
// The audience keys of a verifier.  SPEC 9.

import type { KeyObject } from "node:crypto";
import { derive, hkdf } from "./chain.ts";
import { agree, audiencePrivateKey, publicText } from "./holder.ts";
import { Recent } from "./recent.ts";

const MOST_SHARED = 1024;

/** One audience key, prepared; it shows no secret. */
export class AudienceKey {
  readonly #key: Buffer;
  readonly #derived: Buffer;
  #private: KeyObject | undefined;
  #public: string | undefined;
  readonly #shared = new Recent<Buffer | null>(MOST_SHARED);

  constructor(key: Uint8Array) {
    this.#key = Buffer.from(key);
    this.#derived = derive(key);
  }

  /** The key, passed through the key generator: a secret. */
  derived(): Buffer {
    return this.#derived;
  }

  /** The public half of the audience's X25519 key. */
  get publicKey(): string {
    this.#public ??= publicText(this.#x25519());
    return this.#public;
  }

  /** Return what this audience shares with a holder's key; undefined if no proof of it is right. */
  agree(holder: string): Buffer | undefined {
    let shared = this.#shared.get(holder);
    if (shared === undefined) this.#shared.keep(holder, shared = agree(this.#x25519(), holder) ?? null);
    return shared ?? undefined;
  }

  /** Return the derived caveat key of an approval by the mint (SPEC 6.5), passed through the key generator. */
  approvalKey(id: string): Buffer {
    return derive(hkdf(this.#key, `arx/1/discharge/${id}`));
  }

  #x25519(): KeyObject {
    this.#private ??= audiencePrivateKey(this.#key);
    return this.#private;
  }
}

/** The keys of one audience, by key id. */
export class KeyRing {
  readonly realm: string;
  readonly maxTtlMs: number;
  readonly #keys: ReadonlyMap<string, AudienceKey>;

  constructor(keys: { readonly [kid: string]: Uint8Array }, realm: string, maxTtlMs: number) {
    this.realm = realm;
    this.maxTtlMs = maxTtlMs;
    this.#keys = new Map(Object.entries(keys).map(([kid, key]) => [kid, new AudienceKey(key)]));
  }

  get(kid: string): AudienceKey | undefined {
    return this.#keys.get(kid);
  }
}
