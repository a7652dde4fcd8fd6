// SPDX-License-Identifier: Apache-2.0
// The HTTP answer to a refusal: RFC 6750 in the header, RFC 9457 in the body.  SPEC 13.

import { STATUS_CODES } from "node:http";
import { type Code, type Failure, REASONS } from "../errors.ts";

export function problemOf(code: Code, realm: string, failures: readonly Failure[] = [], decision = "") {
  const { status, oauthError, retry, meaning } = REASONS[code];
  const body = JSON.stringify({
    type: "about:blank", title: STATUS_CODES[status], status, detail: meaning, code, retry,
    ...(decision === "" ? {} : { decision }),
    ...(failures.length === 0 ? {} : { failures }),
  });
  const headers: Record<string, string> = {
    "content-type": "application/problem+json",
    "content-length": String(Buffer.byteLength(body)),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff", // the failures have the caller's values: no browser may run them
  };
  if (status === 401 || status === 403 || oauthError !== null) {
    const error = oauthError === null ? "" : `, error="${oauthError}", error_description="${meaning}"`;
    headers["www-authenticate"] = `Bearer realm="${realm}"${error}`;
  }
  if (status === 503) headers["retry-after"] = "1";
  return { status, headers, body };
}
