// SPDX-License-Identifier: Apache-2.0
/** Passwords from the environment, or from files that are read again at each login.  SPEC 15.2. */

import fs from "node:fs";
import path from "node:path";
import { SettingsError } from "../errors.ts";

const MAX_BYTES = 4096;
const PRINTABLE = /^[^\p{C}\p{Zl}\p{Zp}]+$/u;

/** A password, or the file of one. */
export type Password = { readonly text: string } | { readonly file: string };

/** Returns the password of a variable, or of the file that its `_FILE` names. */
export function findPassword(variable: string, env: NodeJS.ProcessEnv = process.env): Password | undefined {
  const [text, file] = [env[variable], env[`${variable}_FILE`]];
  if (!file) return text ? { text } : undefined;
  if (text) throw new SettingsError(`expected one of ${variable} and ${variable}_FILE, got both: unset the first`);
  if (file.startsWith("command:")) {
    throw new SettingsError(`${variable}_FILE: expected a file, got a command, which no login waits for`);
  }
  const found = { file: path.resolve(file) };
  readPassword(found); // a wrong path ends the start, not the first login
  return found;
}

/** Returns the text of a password, which a file has now. */
export function readPassword(password: Password): string {
  if ("text" in password) return password.text;
  const { file } = password;
  let fd: number;
  try {
    // A pipe without a writer would stop the program.
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch (error) {
    throw new SettingsError(`${file}: ${(error as NodeJS.ErrnoException).code}`);
  }
  try {
    const found = fs.fstatSync(fd);
    if (!found.isFile()) throw new SettingsError(`${file}: expected a regular file, which is read again at each login`);
    if (isOpen(file, found)) {
      throw new SettingsError(`${file} holds a secret and can be read by others; run \`chmod 600 ${file}\``);
    }
    const raw = Buffer.alloc(MAX_BYTES + 1);
    const length = fs.readSync(fd, raw, 0, raw.length, 0);
    const text = raw.toString("utf8", 0, length).trim();
    if (text === "") throw new SettingsError(`${file}: expected a secret, got an empty one`);
    if (length > MAX_BYTES || !PRINTABLE.test(text) || text.includes("\ufffd")) {
      throw new SettingsError(`${file}: expected a secret of one line of UTF-8, got another text`);
    }
    return text;
  } finally {
    fs.closeSync(fd);
  }
}

function isOpen(file: string, found: fs.Stats): boolean {
  if ((found.mode & 0o077) === 0) return false;
  if (found.uid === 0 && (found.mode & 0o037) === 0) return false; // as Kubernetes mounts a secret
  const folder = fs.statSync(path.dirname(fs.realpathSync(file)));
  return (folder.uid !== process.geteuid?.() && folder.uid !== 0) || (folder.mode & 0o077) !== 0;
}
