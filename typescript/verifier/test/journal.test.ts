// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { crc32 } from "node:zlib";
import { after, mock, test } from "node:test";
import { AuditError, SettingsError } from "../src/errors.ts";
import { isListening } from "../src/journal/liveness.ts";
import { removeStale } from "../src/journal/quota.ts";
import { type Decision, formOf, MAX_RECORD_BYTES, newSalt, pack, UNPROVEN } from "../src/journal/record.ts";
import { encode, type Packable } from "../src/journal/msgpack.ts";
import { deniedIn, filesIn, packHeader } from "../src/journal/segment.ts";
import { readHeader, readSegment } from "./reader.ts";
import { Journal, type JournalOptions } from "../src/journal/writer.ts";
import { decode } from "./unpack.ts";

const KIB = 1024;
const AT = 1_800_000_000_000;
const TOP = fs.mkdtempSync(path.join(os.tmpdir(), "arx-"));
after(() => fs.rmSync(TOP, { recursive: true }));

function small(more: JournalOptions = {}): { journal: Journal; folder: string; logged: string[] } {
  const folder = fs.mkdtempSync(path.join(TOP, "j-"));
  const logged: string[] = [];
  const log = (text: string): void => void logged.push(text);
  const options = { segmentBytes: 64 * KIB, maxBytes: 256 * KIB, log, clock: () => AT, ...more };
  return { journal: new Journal(folder, "orders-1", "orders", options), folder, logged };
}

function made(code = "ok", tool = "orders.get", more: Partial<Decision> = {}): Decision {
  return { code, at: AT, facts: UNPROVEN, tool, ...more };
}

/** Code and tool of each record, and what a gap or counts say. */
function recordsIn(folder: string): unknown[][] {
  return filesIn(folder).flatMap((file) => readSegment(fs.readFileSync(file)).records.map(([, payload]) => {
    assert.ok(payload);
    const [, , , [call]] = decode(payload) as [number, unknown, unknown, [unknown[]]];
    return [call[1], call[2], ...(call[9] as unknown[]), ...(call[10] === null ? [] : [call[10]])];
  }));
}

test("a run has one sequence over its files, and ends in order", async () => {
  const { journal, folder } = small();
  const count = 1200;
  for (let number = 1; number <= count; number++) assert.equal(journal.append(made()), number);
  assert.ok(filesIn(folder).length > 1);
  await journal.close();
  const read = filesIn(folder).map((file) => readSegment(fs.readFileSync(file)));
  assert.deepEqual(read.flatMap(({ records }) => records.map(([sequence]) => sequence)), [...Array(count).keys()].map((n) => n + 1));
  assert.deepEqual(read.map(({ state }) => state), [...read.slice(1).map(() => "closed"), "ended"]);
  assert.deepEqual(fs.readdirSync(folder).filter((name) => !name.endsWith(".arxj")), []);
  const { boot } = journal;
  assert.equal(journal.append(made()), 1);
  assert.notEqual(journal.boot, boot); // another run
  await journal.close();
});

test("the first file of a run is small, as processes that die again and again leave one each", async () => {
  const { journal, folder } = small({ segmentBytes: 4096 * KIB, maxBytes: 8192 * KIB });
  const sizes = (): number[] => filesIn(folder).map((file) => fs.statSync(file).size);
  journal.append(made());
  assert.deepEqual(sizes(), [1024 * KIB]);
  while (sizes().length < 2) journal.append(made());
  assert.equal(sizes()[1], 4096 * KIB);
  await journal.close();
});

test("without room an allow is refused, and a denial is counted", async () => {
  const { journal, folder, logged } = small({ maxBytes: 64 * KIB });
  assert.throws(() => {
    for (;;) journal.append(made());
  }, AuditError);
  assert.ok(journal.append(made("revoked")) > 0); // from the room that is kept for denials
  assert.match(logged.join("\n"), /has used 65536 of its 65536 bytes: .*; until it can, calls are refused/);
  assert.ok(deniedIn(filesIn(folder)[0] as string) > 0);
  await journal.close();
});

test("denials take at most a quarter, and further ones are counted", async () => {
  const { journal, folder } = small({ maxBytes: 128 * KIB });
  let written = 0;
  while (journal.append(made("frozen", "t", { peer: "192.0.2.1" })) > 0) written++;
  journal.append(made("frozen", "t", { peer: "192.0.2.1" }));
  const denied = deniedIn(filesIn(folder)[0] as string);
  assert.ok(denied <= 32 * KIB && denied > 31 * KIB, String(denied));
  assert.equal(journal.append(made()), written + 1); // an allow has room
  await journal.close();
  const counted = recordsIn(folder).filter(([code]) => code === "counted");
  assert.deepEqual(counted, [["counted", "", ["frozen", 2]]]);
});

test("in mode best_effort a call goes on, and its gap is recorded once there is room", async () => {
  const { journal, folder } = small({ mode: "best_effort", maxBytes: 64 * KIB });
  let written = 0;
  while (journal.append(made()) > 0) written++;
  assert.equal(journal.append(made()), 0);
  await journal.close();
  const gaps = recordsIn(folder).filter(([code]) => code === "gap");
  assert.deepEqual(gaps, [["gap", "", ["dropped", 0, 0, 2, AT, AT]]]);
  assert.ok(written > 0);
});

test("a folder that cannot be used is tried once a second, and its gap is kept", async () => {
  const file = path.join(TOP, "no-folder");
  fs.writeFileSync(file, "");
  const journal = new Journal(file, "orders-1", "orders", { mode: "best_effort", log: () => undefined });
  const tried = mock.method(fs, "mkdirSync"); // called through: it is only counted
  assert.deepEqual([journal.append(made()), journal.append(made())], [0, 0]);
  await journal.close();
  assert.equal(tried.mock.callCount(), 1);
  tried.mock.restore();
});

test("a file that is gone or was cut is lost, and the run says which records", async () => {
  const replace = (file: string): void => {
    fs.copyFileSync(file, `${file}.copy`);
    fs.renameSync(`${file}.copy`, file);
  };
  for (const spoil of [fs.unlinkSync, (file: string) => fs.truncateSync(file, 300), replace]) {
    let now = AT;
    const { journal, folder, logged } = small({ clock: () => now });
    journal.append(made());
    journal.append(made());
    const { boot } = journal;
    const [file] = filesIn(folder) as [string];
    spoil(file);
    now += 1000;
    assert.equal(journal.append(made("ok", "later")), 4); // behind the gap
    assert.equal(journal.boot, boot);
    assert.match(logged.join(), /is gone or was cut: decisions are lost/);
    assert.deepEqual(recordsIn(folder).at(-2), ["gap", "", ["lost", 1, 2, 2, AT, now]]);
    if (spoil !== replace && fs.existsSync(file)) assert.equal(readSegment(fs.readFileSync(file)).state, "closed");
    await journal.close();
  }
});

test("a file with one record is lost as well", async () => {
  let now = AT;
  const { journal, folder } = small({ clock: () => now });
  journal.append(made());
  fs.unlinkSync(filesIn(folder)[0] as string);
  now += 1000;
  assert.equal(journal.append(made()), 3); // behind the gap
  assert.deepEqual(recordsIn(folder)[0], ["gap", "", ["lost", 1, 1, 1, AT, now]]);
  await journal.close();
});

test("a run whose socket is gone goes on as another run", async () => {
  let now = AT;
  const { journal, folder } = small({ clock: () => now });
  journal.append(made());
  const { boot } = journal;
  assert.equal(await isListening(path.join(folder, `${boot}.sock`)), true);
  fs.unlinkSync(path.join(folder, `${boot}.sock`));
  now += 1000;
  assert.equal(journal.append(made()), 1);
  assert.notEqual(journal.boot, boot);
  assert.deepEqual(filesIn(folder).map((file) => readSegment(fs.readFileSync(file)).state).sort(), ["ended", "open"]);
  await journal.close();
});

test("unauthenticated refusals are counted by reason and peer", async () => {
  const { journal, folder } = small();
  for (let number = 0; number < 70; number++) journal.count("malformed", `192.0.2.${number}`);
  journal.count("bad_signature", null);
  await journal.close();
  const counts = recordsIn(folder).flatMap(([, , ...more]) => more as [string, number][]);
  assert.equal(counts.length, 1 + 64 + 1 + 1); // the first at once, 64 peers, and the others together by reason
  assert.equal(counts.reduce((sum, [code, times]) => sum + (code === "malformed" ? times : 0), 0), 70);
  assert.deepEqual(counts.filter(([code]) => code === "bad_signature"), [["bad_signature", 1]]);
});

test("in mode durable a decision waits for the disk", async () => {
  const { journal, folder } = small({ mode: "durable" });
  const synced = mock.method(fs, "fdatasync"); // called through: it is only counted
  const sequences = Array.from({ length: 300 }, () => journal.append(made()));
  await Promise.all(sequences.map((sequence) => journal.settle(sequence)));
  assert.equal(recordsIn(folder).length, 300);
  assert.ok(synced.mock.callCount() >= 1 && synced.mock.callCount() < 30, "one sync serves all that wait");
  synced.mock.restore();
  await journal.close();
});

test("what a dead run left half-made is removed after an hour, and its files are left to a shipper", async () => {
  const { journal, folder } = small();
  journal.append(made());
  const [file] = filesIn(folder) as [string];
  const size = fs.statSync(file).size;
  const [half, dead] = ["0.making", `${"0".repeat(12)}.sock`].map((name) => path.join(folder, name)) as [string, string];
  for (const name of [half, dead]) fs.writeFileSync(name, "");
  await removeStale(folder);
  assert.ok(fs.existsSync(half) && fs.existsSync(dead));
  for (const name of [half, dead, path.join(folder, `${journal.boot}.sock`)]) fs.utimesSync(name, 1, 1);
  await removeStale(folder);
  assert.deepEqual([half, dead].map((name) => fs.existsSync(name)), [false, false]);
  assert.ok(fs.existsSync(path.join(folder, `${journal.boot}.sock`))); // its run lives
  assert.equal(fs.statSync(file).size, size);
  await journal.close();
});

test("odd and long texts of a caller prevent no record", () => {
  const long = "\u{1F600}".repeat(20_000);
  const failures = Array.from({ length: 32 }, () => ({ place: long, rule: long, expected: long, came: "\ud800" }));
  const payload = pack(made("argument_not_allowed", long, { peer: long, requestId: "\udfffx", failures }));
  assert.ok(payload.length <= MAX_RECORD_BYTES);
  const [, , , [call, rest]] = decode(payload) as [number, unknown, unknown, [unknown[], unknown[]]];
  assert.equal(call[2], `${"\u{1F600}".repeat(127)}…`);
  assert.equal((call[7] as unknown[]).length, 8);
  assert.equal(rest[3], "\\udfffx");
});

test("each value of a record has its shortest form", () => {
  const sizes = (values: Packable[]): number[] => values.map((value) => {
    const bytes = encode(value);
    assert.deepEqual(decode(bytes), value);
    return bytes.length;
  });
  assert.deepEqual(sizes([0, 127, 128, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32]), [1, 1, 2, 2, 3, 3, 5, 5, 9]);
  assert.deepEqual(sizes([-1, -32]), [1, 1]);
  assert.deepEqual(sizes([15, 16, 65535].map((count) => new Array<null>(count).fill(null))), [16, 19, 65538]);
  assert.deepEqual(sizes([31, 32, 255, 256, 65535, 65536].map((count) => "x".repeat(count))), [32, 34, 257, 259, 65538, 65541]);
  for (const odd of [-33, 1.5, 2 ** 53]) assert.throws(() => encode(odd), RangeError);
});

test("what is too long for a record is cut or refused, and nothing that is not", () => {
  const call = (decision: Decision): number => encode((decode(pack(decision)) as Packable[])[3] as Packable).length;
  const padded = (size: number): Decision => made("ok", "t", { traceparent: "x".repeat(size), salt: Buffer.alloc(16) });
  const rest = call(padded(1000)) - 1000;
  assert.deepEqual([4096, 4097].map((size) => call(padded(size - rest)) === size), [true, false]);
  const digest = (size: number): Decision => made("ok", "t", { argsDigest: new Uint8Array(size), salt: Buffer.alloc(16) });
  const others = call(digest(1000)) - 1000;
  assert.equal(call(digest(16 * KIB - others)), 16 * KIB);
  assert.throws(() => pack(digest(16 * KIB - others + 1)), AuditError);
  const facts = (size: number): Decision => made("ok", "t", { facts: { kept: ["x".repeat(size)], erasable: [] } });
  pack(facts(16 * KIB - 5)); // the heads of two lists and of a text
  assert.throws(() => pack(facts(16 * KIB - 4)), AuditError);
  const header = (size: number): Buffer => packHeader({ verifier: "v".repeat(size), audience: "a", boot: "b", first: 1, created: 1, budget: 1 });
  assert.equal(header(222).length, 256);
  assert.throws(() => header(223), AuditError);
});

test("an error of the program is none of the journal, and a run without a record leaves no file", async () => {
  const { journal, folder } = small({ mode: "best_effort" });
  await journal.close();
  assert.deepEqual(filesIn(folder), []);
  assert.throws(() => journal.append(made("ok", { a: 1 } as never)), TypeError);
});

test("only this user reads a journal", async () => {
  const folder = path.join(TOP, "made", "journal");
  const journal = new Journal(folder, "orders-1", "orders");
  journal.append(made());
  const files = fs.readdirSync(folder).map((name) => path.join(folder, name));
  assert.equal(files.length, 2);
  assert.deepEqual([folder, ...files].map((file) => fs.statSync(file).mode & 0o777), [0o700, 0o600, 0o600]);
  await journal.close();
});

test("each record has a salt of its own", () => {
  const salts = new Set(Array.from({ length: 1_000 }, () => newSalt().toString("hex")));
  assert.equal(salts.size, 1_000);
  const decision = made();
  pack(decision);
  assert.equal(decision.salt?.length, 16);
});

test("arguments without a form have no digest", () => {
  for (const args of [{ a: 1e300 }, { a: 2 ** 53 }, { a: "\ud800" }, { "\ud800": 1 }, { a: Number.NaN }, { a: new Date(0) }]) {
    assert.equal(formOf(args), null, JSON.stringify(args));
  }
});

test("a header of another number of members is damaged", () => {
  const header = { verifier: "v", audience: "a", boot: "b", first: 1, created: 1, budget: 1 };
  const raw = packHeader(header);
  assert.deepEqual(readHeader(raw), header);
  raw[24] = 0x95;
  raw.writeUInt32LE(crc32(raw.subarray(24, 24 + raw.readUInt32LE(16))), 20);
  assert.throws(() => readHeader(raw), AuditError);
});

test("a folder or a file that is gone has no bytes", () => {
  assert.deepEqual(filesIn(path.join(TOP, "none")), []);
  assert.equal(deniedIn(path.join(TOP, "none.arxj")), 0);
  assert.throws(() => filesIn(path.join(TOP, "\0")), { code: "ERR_INVALID_ARG_VALUE" });
  assert.throws(() => deniedIn(path.join(TOP, "\0")), { code: "ERR_INVALID_ARG_VALUE" });
});

test("what the process must not be started with", () => {
  const { platform } = process;
  Object.defineProperty(process, "platform", { value: "darwin" });
  try {
    assert.throws(() => small(), /needs Linux, got darwin/);
  } finally {
    Object.defineProperty(process, "platform", { value: platform });
  }
  assert.throws(() => small({ segmentBytes: 4096 }), SettingsError);
  assert.throws(() => small({ segmentBytes: 64 * KIB + 1 }), SettingsError);
  assert.throws(() => small({ maxBytes: 32 * KIB }), SettingsError);
});
