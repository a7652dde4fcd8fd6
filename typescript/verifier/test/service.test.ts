// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { once } from "node:events";
import path from "node:path";
import { after, test } from "node:test";
import { Worker } from "node:worker_threads";
import { SettingsError } from "../src/errors.ts";
import { openVerifier } from "../src/service.ts";
import { KEY, mint } from "./mint.ts";
import { readSegment } from "./reader.ts";

const folder = mkdtempSync(path.join(tmpdir(), "arx-"));
after(() => rmSync(folder, { recursive: true }));
const file = path.join(folder, "orders.arx.json");
const [journal, store] = [path.join(folder, "journal"), `unix://${path.join(folder, "none")}`];
const whole = { v: 1, journal, store, realm: "acme", audience: "orders", max_ttl_ms: 86_400_000, keys: { "k1.0": KEY.toString("base64url") } };

function write(members: object, mode = 0o600): void {
  writeFileSync(file, JSON.stringify(members));
  chmodSync(file, mode);
}

test("a service file opens a verifier, whose name shows whether others share its used calls", async () => {
  const enrolled = { ...whole, ledger: "redis://127.0.0.1:1", ledger_mode: "strict", costs: {} };
  for (const [nonces, name] of [[{}, /^orders-\d+-[0-9a-f]{6}-own-nonces$/], [{ nonces: store }, /^orders-\d+-[0-9a-f]{6}$/]] as const) {
    write({ ...enrolled, ...nonces });
    const verifier = openVerifier(file);
    const request = { tool: "orders.get", args: {}, at: Date.now() };
    assert.equal((await verifier.authorize(mint([{ tool: "*" }]), request)).code, "syncing"); // no store answers
    await verifier.close();
    const [written = ""] = readdirSync(journal);
    assert.match(readSegment(readFileSync(path.join(journal, written))).header?.verifier ?? "", name);
    rmSync(journal, { recursive: true });
  }
});

for (const name of ["memory", "record_arguments", "limits", "effects", "__proto__"]) {
  test(`a file with ${name} is an error that names it`, () => {
    write(whole);
    const text = JSON.stringify(whole).replace(/}$/, `,"${name}":"x"}`);
    writeFileSync(file, text);
    assert.throws(() => openVerifier(file), (error: Error) => {
      return error instanceof SettingsError && error.message.includes(name) && !error.message.includes(whole.keys["k1.0"]);
    });
  });
}

test("a member that needs another verifier is refused with its reason, and a span of one second is the shortest", async () => {
  for (const [name, why] of [["memory", /is refused: stamps of a memory/], ["record_arguments", /is refused: arguments are recorded/]] as const) {
    write({ ...whole, [name]: "x" });
    assert.throws(() => openVerifier(file), why);
  }
  write({ ...whole, max_ttl_ms: 999 });
  assert.throws(() => openVerifier(file), /`max_ttl_ms` has no form/);
  write({ ...whole, max_ttl_ms: 1000 });
  await openVerifier(file, { thread: false }).close();
});

for (const name of ["v", "realm", "audience", "max_ttl_ms", "keys"] as const) {
  test(`a file without ${name}, or with another form of it, is an error`, () => {
    const { [name]: _, ...rest } = whole;
    write(rest);
    assert.throws(() => openVerifier(file), SettingsError);
    write({ ...whole, [name]: [] });
    assert.throws(() => openVerifier(file), SettingsError);
  });
}

test("a file with a key of another form is an error", () => {
  const key = whole.keys["k1.0"];
  for (const keys of [{}, { k: key }, { "k1.0": key.slice(2) }, { "k1.0": `${key}AA` }, { "k1.0": 1 }]) {
    write({ ...whole, keys });
    assert.throws(() => openVerifier(file), SettingsError, JSON.stringify(keys));
  }
  for (const other of [{ realm: "Acme" }, { audience: "Orders" }, { max_ttl_ms: 0.5 }, { journal_mode: "lazy" }]) {
    write({ ...whole, ...other });
    assert.throws(() => openVerifier(file), SettingsError, JSON.stringify(other));
  }
});

test("a file that others can read, without a store or a journal, or with a relay is an error", () => {
  write(whole, 0o644);
  assert.throws(() => openVerifier(file), /chmod 600/);
  for (const name of ["store", "journal"] as const) {
    const { [name]: _, ...rest } = whole;
    write(rest);
    assert.throws(() => openVerifier(file), new RegExp(`lacks \`${name}\``));
  }
  write({ ...whole, store: "relay://127.0.0.1:1" });
  assert.throws(() => openVerifier(file), SettingsError);
});

test("an option or a limit that is unknown is an error", () => {
  write(whole);
  assert.throws(() => openVerifier(file, { watch: true } as never), /watch/);
  for (const limits of [{}, { nett: [] }, { net: [] }, { net: ["10.0.0.1/8"] }, { hours: ["18:00-08:00"] }, { rules: [{}] }]) {
    assert.throws(() => openVerifier(file, { limits: limits as never }), SettingsError, JSON.stringify(limits));
  }
});

test("a key that another process adds to the file is found", async () => {
  write({ ...whole, keys: { "k0.0": whole.keys["k1.0"] } });
  const verifier = openVerifier(file);
  const ask = async (): Promise<string> => {
    return (await verifier.authorize(mint([{ tool: "*" }]), { tool: "orders.get", args: {}, at: Date.now() })).code;
  };
  assert.equal(await ask(), "unknown_key");
  write(whole);
  while ((await ask()) === "unknown_key") await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await ask(), "syncing");
});

test("one of several processes or threads needs `nonces`", async () => {
  write(whole);
  const open = `
    const { workerData, parentPort } = require("node:worker_threads");
    import(workerData.module).then(({ openVerifier }) => openVerifier(workerData.file))
      .then(() => parentPort.postMessage("open"), ({ name, message }) => parentPort.postMessage(name + message));`;
  const workerData = { file, module: new URL("../src/service.ts", import.meta.url).href };
  const ask = async (): Promise<unknown> => (await once(new Worker(open, { eval: true, workerData }), "message"))[0];
  assert.match(String(await ask()), /^SettingsError.*`nonces`/);
  write({ ...whole, nonces: "redis+cluster://127.0.0.1:1" });
  assert.match(String(await ask()), /^SettingsError.*cluster/);
  write({ ...whole, nonces: "redis://127.0.0.1:1" });
  assert.equal(await ask(), "open");
});
