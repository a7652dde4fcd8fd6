// SPDX-License-Identifier: Apache-2.0
// The proof of a call.  SPEC 8.1, 8.2.

import { hash } from "node:crypto";
import { refuse } from "../errors.ts";
import { writeArguments } from "../json.ts";
import type { AccessRequest } from "../request.ts";
import type { Packet } from "./chain.ts";
import { type Ending, readEnding } from "./wire.ts";

// The last letters are those of the one base64url text of 32, 16 or 64 bytes.
const [LONG, SHORT] = ["[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", "[A-Za-z0-9_-]{21}[AQgw]"];
const PROOF = `${SHORT}|[A-Za-z0-9_-]{64}${SHORT}`;
const FORM = new RegExp(`^{"call":\\["(${LONG})",([1-9][0-9]{12}),"(${SHORT})"(?:,"(${PROOF})")?\\]}$`);

// biome-ignore lint: each is one byte
const ASCII = /^[\0-\x7f]*$/;
const SIZES = [95, 120, 184]; // without a proof of the holder, and with one of each kind

/** The call that a one-shot token carries. */
export interface PresentedCall {
  readonly digest: string;
  readonly issuedAt: number;
  readonly nonce: string;
  /** The holder's proof, 16 or 64 bytes; undefined without one. */
  readonly proof: Buffer | undefined;
  /** The caveat without the holder's proof. */
  readonly plain: string;
}

/** Read the call that is a token's last caveat; undefined if that is no call of this form. */
export function readCall(packet: Packet | undefined): PresentedCall | undefined {
  if (packet === undefined || packet.verificationId !== undefined) return undefined;
  const found = FORM.exec(packet.raw.toString("latin1"));
  if (found === null) return undefined;
  const [, digest = "", issuedAt = "", nonce = "", proofText] = found;
  const proof = proofText === undefined ? undefined : Buffer.from(proofText, "base64url");
  const plain = `{"call":["${digest}",${issuedAt},"${nonce}"]}`;
  return { digest, issuedAt: Number(issuedAt), nonce, proof, plain };
}

/** Read the call at a token's end without the chain before it; undefined without one. */
export function endingOf(credential: string): { readonly call: PresentedCall; readonly ending: Ending } | undefined {
  const ending = readEnding(credential, SIZES);
  const call = readCall(ending?.packet);
  return ending === undefined || call === undefined ? undefined : { call, ending };
}

/** Return the digest of a call, or refuse arguments without a form with `malformed_request`. */
export function callDigest(
  audience: string, issuedAt: number, nonce: string, request: AccessRequest, form: string | null = null,
): string {
  const { http } = request;
  if (!request.tool.isWellFormed()) refuse("malformed_request");
  const fields: (string | Uint8Array)[] = ["arx/1/call", audience, String(issuedAt), nonce];
  if (http === undefined) fields.push("tool", request.tool, form ?? writeArguments(request.args));
  else fields.push("http", http.method, withoutEmptyQuery(http.target), http.bodyDigest);
  return hash("sha256", Buffer.from(fields.map(withLength).join(""), "latin1"), "base64url");
}

/** Return a field behind its length, four bytes, a character for each byte. */
function withLength(field: string | Uint8Array): string {
  const isAscii = typeof field === "string" && ASCII.test(field);
  const bytes = isAscii ? field : Buffer.from(field as string).toString("latin1");
  const { length } = bytes;
  return String.fromCharCode(length >>> 24, (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff) + bytes;
}

function withoutEmptyQuery(target: string | Uint8Array): Buffer {
  const bytes = typeof target === "string" ? Buffer.from(target, "latin1") : Buffer.from(target);
  return bytes.indexOf("?") === bytes.length - 1 && bytes.length > 0 ? bytes.subarray(0, -1) : bytes;
}
