// SPDX-License-Identifier: Apache-2.0
// Tokens for the tests of guards, and the verifier that accepts them.

import { type KeyPairKeyObjectResult, sign } from "node:crypto";
import { type JsonObject, writeCanonical } from "../src/json.ts";
import type { AccessRequest } from "../src/request.ts";
import { FixedView, MemoryRecorder } from "./doubles.ts";
import { callDigest } from "../src/token/call.ts";
import { derive, fold, sha256 } from "../src/token/chain.ts";
import { messageOf } from "../src/token/holder.ts";
import { AudienceKey, KeyRing } from "../src/token/keyring.ts";
import type { Recorder } from "../src/verification/verifier.ts";
import { MemoryNonces } from "../src/verification/nonces.ts";
import { type LimitsInput, ServiceLimits } from "../src/verification/serviceLimits.ts";
import { Verifier } from "../src/verification/verifier.ts";

export const KEY = Buffer.alloc(32, 7);
export const TOKEN_ID = Buffer.alloc(16, 1).toString("base64url");
const HISTORY = "aW5jYXJuYXRpb24tMDAwMQ";

export class ChangingView extends FixedView {
  constructor() {
    super(HISTORY, 7);
  }

  kill(target: string): void {
    this.change({ do: "apply", seq: this.state.applied + 1, op: "kill", target });
  }
}

export interface Service {
  readonly verifier: Verifier;
  readonly view: ChangingView;
  readonly recorder: MemoryRecorder;
}

export function serviceOf(limits?: LimitsInput, effects: string[] = [], writer?: Recorder): Service {
  const [view, recorder] = [new ChangingView(), new MemoryRecorder()];
  const verifier = new Verifier({
    audience: "orders", keys: new KeyRing({ "k1.0": KEY }, "acme", 86_400_000), epochs: view,
    recorder: writer ?? recorder, effects, nonces: new MemoryNonces(Date.now() - 1000), limits: limits === undefined ? [] : [new ServiceLimits(limits)],
  });
  return { verifier, view, recorder };
}

/** Return a token with these rules and further caveats, and with a call if a request is given. */
export function mint(allow: JsonObject[], request?: AccessRequest, ...more: JsonObject[]): string {
  return seal({}, [{ allow }, ...more].map(writeCanonical), request);
}

/** Return a token that is bound to a key, with a call that another key may have signed. */
export function mintBound(allow: JsonObject[], request: AccessRequest, holder: KeyPairKeyObjectResult, signer = holder): string {
  const key = holder.publicKey.export({ format: "der", type: "spki" }).subarray(-32).toString("base64url");
  return seal({ holder: key, aud_key: new AudienceKey(KEY).publicKey }, [writeCanonical({ allow })], request, signer);
}

function seal(facts: JsonObject, caveats: string[], request?: AccessRequest, signer?: KeyPairKeyObjectResult): string {
  const now = Date.now();
  const identifier = writeCanonical({
    agent: "acme/support", aud: "orders", born: [HISTORY, 7], depth: 4, exp: now + 3_600_000, iat: now,
    id: TOKEN_ID, kid: "k1.0", session: "s-1", task: "t-1", v: 1, ...facts,
  });
  const lastOf = (): Buffer => {
    return fold(derive(KEY), Buffer.from(identifier), caveats.map((caveat) => ({ raw: Buffer.from(caveat) }))).at(-1) as Buffer;
  };
  if (request !== undefined) {
    const nonce = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("base64url");
    const plain = `{"call":["${callDigest("orders", request.at, nonce, request)}",${request.at},"${nonce}"]}`;
    const message = messageOf("signed", ["acme", "orders", TOKEN_ID], sha256(lastOf()), plain);
    const proof = signer === undefined ? "" : `,"${sign(null, message, signer.privateKey).toString("base64url")}"`;
    caveats.push(plain.replace("]}", `${proof}]}`));
  }
  const parts = [Buffer.of(2), field(1, "acme"), field(2, identifier), Buffer.of(0)];
  for (const caveat of caveats) parts.push(field(2, caveat), Buffer.of(0));
  return `arx1_${Buffer.concat([...parts, Buffer.of(0), field(6, lastOf())]).toString("base64url")}`;
}

export function field(tag: number, value: string | Uint8Array): Buffer {
  const bytes = Buffer.from(value as string);
  const length = bytes.length < 128 ? [bytes.length] : [(bytes.length & 127) | 128, bytes.length >> 7];
  return Buffer.concat([Buffer.from([tag, ...length]), bytes]);
}
