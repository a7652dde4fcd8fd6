// SPDX-License-Identifier: Apache-2.0
/** The epoch view of a process: one follower, in a thread of its own, and a view for each thread that decides.  SPEC 10. */

import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { isRealm } from "../names.ts";
import { SettingsError } from "./errors.ts";
import { CLOCKS, type Clocks, EpochTable, type Wait } from "./epoch.ts";
import { FollowerLoop, type FollowerSettings, type FromFollower, type Order } from "./follower_loop.ts";
import type { Password } from "./password.ts";
import { parseStoreUrl } from "./store_url.ts";

const JOIN_MS = 3_000;
const NAME = /^(?!!)[^\p{C}\p{Z}]{1,200}$/u;

export type Log = (level: "warn" | "error", text: string) => void;

export interface ViewOptions { readonly log?: Log; readonly clocks?: Clocks }

const print: Log = (level, text) => console[level](`arx: ${text}`);

/** A view that a follower in another thread keeps.  Each read first takes what has come by its port. */
export class FollowedView extends EpochTable {
  readonly #port: MessagePort;
  readonly #waiting = new Map<Wait, (caughtUp: boolean) => void>();
  readonly #log: Log;
  #isOpen = true;

  /** @param port The result of `Follower.port()`, transferred to this thread. */
  constructor(port: MessagePort, { log = print, clocks = CLOCKS }: ViewOptions = {}) {
    super(clocks);
    this.#port = port;
    this.#log = log;
    port.on("message", (message: FromFollower) => this.#take(message)); // so that a thread that never checks has no queue
    port.on("close", () => {
      this.#isOpen = false;
      this.change({ do: "close" });
    });
    port.unref();
  }

  /** Waits until a probe sent at or after `sentAfter` was answered and `born` is applied; returns whether that happened. */
  catchUp(sentAfter: number, born: number, timeoutMs: number): Promise<boolean> {
    this.refresh();
    const wait = { sentAfter, born, asked: this.bootMs() };
    const known = this.answer(wait);
    if (known !== undefined) return Promise.resolve(known);
    return new Promise<boolean>((resolve) => {
      const settle = (caughtUp: boolean): void => {
        clearTimeout(timer);
        this.#waiting.delete(wait);
        resolve(caughtUp);
      };
      const timer = setTimeout(settle, timeoutMs, false);
      this.#waiting.set(wait, settle);
      this.#port.postMessage(wait);
    });
  }

  protected override change(change: Parameters<EpochTable["change"]>[0]): boolean {
    const inOrder = super.change(change);
    for (const [wait, settle] of this.#waiting) {
      const answer = this.answer(wait);
      if (answer !== undefined) settle(answer);
    }
    return inOrder;
  }

  protected override refresh(): void {
    if (!this.#isOpen) return; // Node crashes when it reads a port while that is closed
    for (let got = receiveMessageOnPort(this.#port); got !== undefined; got = receiveMessageOnPort(this.#port)) {
      this.#take(got.message as FromFollower);
    }
  }

  #take(message: FromFollower): void {
    if (message.do === "log") this.#log(message.level, message.text);
    else this.change(message);
  }
}

export interface FollowerOptions extends ViewOptions {
  /** Replaces a password in the URL. */
  readonly password?: Password | undefined;
  /** File of a further authority for TLS. */
  readonly ca?: string | undefined;
  /** The longest time to use one answer, ms; the realm's lease if that is shorter. */
  readonly leaseMs?: number | undefined;
  /** Whether the follower has a thread of its own.  Without it a blocked event loop delays confirmations of kills. */
  readonly thread?: boolean;
}

/** The follower of this process, with the view of the thread that made it. */
export class Follower extends FollowedView {
  readonly #order: (order: Order) => void;
  readonly #join: () => Promise<void>;
  #closing: Promise<void> | undefined;

  /**
   * @param name This process's name in the store's registry; no other process may use it.
   * @throws SettingsError The URL or a name is unusable.
   */
  constructor(url: string, realm: string, name: string, options: FollowerOptions = {}) {
    const { password, ca, leaseMs, thread = true, log = print } = options;
    if (!isRealm(realm) || !NAME.test(name)) {
      throw new SettingsError("a follower needs a realm's name and an id of its own, not beginning with '!'");
    }
    const settings: FollowerSettings = { address: parseStoreUrl(url, password, ca), realm, name, leaseMs };
    const { port1, port2 } = new MessageChannel();
    super(port2, options);
    [this.#order, this.#join] = thread ? inThread(settings, log) : inLoop(settings);
    this.#order({ port: port1 });
    process.once("beforeExit", this.#leave);
  }

  /** Returns a port for the view of another thread: `new FollowedView(port)` there, which decides as this one does. */
  port(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.#order({ port: port1 });
    return port2;
  }

  /** Stops following: every check of every thread refuses as `closed`, and the store waits for this process no more. */
  close(): Promise<void> {
    process.off("beforeExit", this.#leave);
    this.change({ do: "close" });
    if (this.#closing === undefined) {
      this.#order({ stop: true });
      this.#closing = this.#join();
    }
    return this.#closing;
  }

  readonly #leave = (): void => void this.close();
}

type Running = readonly [order: (order: Order) => void, join: () => Promise<void>];

function inLoop(settings: FollowerSettings): Running {
  const loop = new FollowerLoop(settings);
  let stopped: Promise<void> | undefined;
  const order = (given: Order): void => {
    stopped = loop.take(given) ?? stopped;
  };
  return [order, async () => stopped];
}

function inThread(settings: FollowerSettings, log: Log): Running {
  const kind = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const worker = new Worker(new URL(`./follower_thread.${kind}`, import.meta.url), { workerData: settings, env: {} });
  // Its end closes the ports, and so each view.
  worker.on("error", () => log("error", "the thread of the follower has ended, and each call is refused: restart this process"));
  worker.unref();
  const order = (given: Order): void => worker.postMessage(given, "port" in given ? [given.port] : []);
  const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  return [
    order,
    async () => {
      worker.ref();
      const late = setTimeout(() => void worker.terminate(), JOIN_MS);
      await ended;
      clearTimeout(late);
    },
  ];
}
