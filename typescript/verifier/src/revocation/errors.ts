// SPDX-License-Identifier: Apache-2.0
/** A setting, a URL or a file that cannot be used: the program does not start. */
export class SettingsError extends Error {
  override name = "SettingsError";
}

/** A decision that cannot be recorded. */
export class AuditError extends Error {
  override name = "AuditError";
}

/** The connection failed, timed out or broke the protocol, and must be dropped. */
export class FeedError extends Error {}
