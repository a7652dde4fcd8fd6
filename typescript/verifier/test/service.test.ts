// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { once } from "node:events";
import path from "node:path";
import { after, test } from "node:test";
import { Worker } from "node:worker_threads";
import { SettingsError } from "../src/errors.ts";
import { type OpenOptions, openVerifier } from "../src/service.ts";
import { MemoryRecorder } from "./doubles.ts";
import { ChangingView, KEY, mint } from "./mint.ts";

const folder = mkdtempSync(path.join(tmpdir(), "arx-"));
after(() => rmSync(folder, { recursive: true }));
const file = path.join(folder, "orders.arx.json");
const whole = { v: 1, realm: "acme", audience: "orders", max_ttl_ms: 86_400_000, keys: { "k1.0": KEY.toString("base64url") } };
const given = (): OpenOptions => ({ epochs: new ChangingView(), recorder: new MemoryRecorder() });

function write(members: object, mode = 0o600): void {
  writeFileSync(file, JSON.stringify(members));
  chmodSync(file, mode);
}

test("a service file opens a verifier", async () => {
  write({ ...whole, ledger: "redis://127.0.0.1:1", ledger_mode: "strict", costs: {} }); // as enrolled
  const request = { tool: "orders.get", args: {}, at: Date.now() };
  assert.equal((await openVerifier(file, given()).authorize(mint([{ tool: "*" }]), request)).code, "ok");
});

for (const name of ["memory", "record_arguments", "limits", "effects", "__proto__"]) {
  test(`a file with ${name} is an error that names it`, () => {
    write(whole);
    const text = JSON.stringify(whole).replace(/}$/, `,"${name}":"x"}`);
    writeFileSync(file, text);
    assert.throws(() => openVerifier(file, given()), (error: Error) => {
      return error instanceof SettingsError && error.message.includes(name) && !error.message.includes(whole.keys["k1.0"]);
    });
  });
}

for (const name of ["v", "realm", "audience", "max_ttl_ms", "keys"] as const) {
  test(`a file without ${name}, or with another form of it, is an error`, () => {
    const { [name]: _, ...rest } = whole;
    write(rest);
    assert.throws(() => openVerifier(file, given()), SettingsError);
    write({ ...whole, [name]: [] });
    assert.throws(() => openVerifier(file, given()), SettingsError);
  });
}

test("a file that others can read, without a store or a journal, or with a relay is an error", () => {
  write(whole, 0o644);
  assert.throws(() => openVerifier(file, given()), /chmod 600/);
  write(whole);
  assert.throws(() => openVerifier(file, { recorder: new MemoryRecorder() }), /`store`/);
  assert.throws(() => openVerifier(file, { epochs: new ChangingView() }), /`journal`/);
  write({ ...whole, store: "relay://127.0.0.1:1" });
  assert.throws(() => openVerifier(file, { recorder: new MemoryRecorder() }), SettingsError);
});

test("an option or a limit that is unknown is an error", () => {
  write(whole);
  assert.throws(() => openVerifier(file, { ...given(), watch: true } as never), /watch/);
  for (const limits of [{}, { nett: [] }, { net: [] }, { net: ["10.0.0.1/8"] }, { hours: ["18:00-08:00"] }, { rules: [{}] }]) {
    assert.throws(() => openVerifier(file, { ...given(), limits: limits as never }), SettingsError, JSON.stringify(limits));
  }
});

test("a key that another process adds to the file is found", async () => {
  write({ ...whole, keys: { "k0.0": whole.keys["k1.0"] } });
  const verifier = openVerifier(file, given());
  const ask = async (): Promise<string> => {
    return (await verifier.authorize(mint([{ tool: "*" }]), { tool: "orders.get", args: {}, at: Date.now() })).code;
  };
  assert.equal(await ask(), "unknown_key");
  write(whole);
  while ((await ask()) === "unknown_key") await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await ask(), "ok");
});

test("one of several processes or threads needs `nonces`", async () => {
  write(whole);
  const open = `
    const { workerData, parentPort } = require("node:worker_threads");
    import(workerData.module).then(({ openVerifier }) => openVerifier(workerData.file, { epochs: {}, recorder: {} }))
      .then(() => parentPort.postMessage("open"), ({ name, message }) => parentPort.postMessage(name + message));`;
  const workerData = { file, module: new URL("../src/service.ts", import.meta.url).href };
  const ask = async (): Promise<unknown> => (await once(new Worker(open, { eval: true, workerData }), "message"))[0];
  assert.match(String(await ask()), /^SettingsError.*`nonces`/);
  write({ ...whole, nonces: "redis+cluster://127.0.0.1:1" });
  assert.match(String(await ask()), /^SettingsError.*cluster/);
  write({ ...whole, nonces: "redis://127.0.0.1:1" });
  assert.equal(await ask(), "open");
});
