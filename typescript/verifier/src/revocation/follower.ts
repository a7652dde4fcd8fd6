// SPDX-License-Identifier: Apache-2.0
/** The epoch view of a thread that decides, and its follower, in another thread.  SPEC 10. */

import { once } from "node:events";
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { SettingsError } from "../errors.ts";
import { isRealm } from "../names.ts";
import { CLOCKS, type Clocks, EpochTable, type ViewChange, type Wait } from "./epoch.ts";
import { FollowerLoop, type FollowerSettings, type FromView } from "./follower_loop.ts";
import type { Password } from "./password.ts";
import { parseStoreUrl } from "./store_url.ts";

const JOIN_MS = 3_000;
const NAME = /^(?!!)[^\p{C}\p{Z}]{1,200}$/u;

/** A view that a follower in another thread keeps.  Each read first takes what has come by its port. */
export class FollowedView extends EpochTable {
  /** Resolves when the follower has ended. */
  protected readonly ended: Promise<unknown>;
  protected readonly follower: MessagePort;
  readonly #waiting = new Map<Wait, (caughtUp: boolean) => void>();
  #isOpen = true;

  /** @param port The follower's, by which each change comes. */
  constructor(port: MessagePort, clocks: Clocks = CLOCKS) {
    super(clocks);
    this.follower = port;
    this.ended = once(port, "close");
    port.on("message", (change: ViewChange) => this.change(change)); // so that a thread that never checks has no queue
    port.on("close", () => {
      this.#isOpen = false;
      this.change({ do: "close" });
    });
    port.unref();
  }

  /** Waits until a probe sent at or after `sentAfter` was answered and `born` is applied; returns whether it was. */
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
      this.follower.postMessage(wait satisfies FromView);
    });
  }

  protected override change(change: ViewChange): boolean {
    const inOrder = super.change(change);
    for (const [wait, settle] of this.#waiting) {
      const answer = this.answer(wait);
      if (answer !== undefined) settle(answer);
    }
    return inOrder;
  }

  protected override refresh(): void {
    if (!this.#isOpen) return; // Node crashes when it reads a port while that is closed
    for (let got = receiveMessageOnPort(this.follower); got; got = receiveMessageOnPort(this.follower)) {
      this.change(got.message as ViewChange);
    }
  }
}

export interface FollowerOptions {
  /** Replaces a password in the URL. */
  readonly password?: Password | undefined;
  /** File of a further authority for TLS. */
  readonly ca?: string | undefined;
  /** Whether the follower has a thread of its own.  Without it a blocked event loop delays confirmations of kills. */
  readonly thread?: boolean;
}

/** A follower, with the view of the thread that made it. */
export class Follower extends FollowedView {
  readonly #worker: Worker | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param name Its name in the store's registry; no other follower may use it.
   * @throws SettingsError The URL or a name is unusable.
   */
  constructor(url: string, realm: string, name: string, options: FollowerOptions = {}) {
    const { password, ca, thread = true } = options;
    if (!isRealm(realm) || !NAME.test(name)) {
      throw new SettingsError("a follower needs a realm's name and an id of its own, not beginning with '!'");
    }
    const settings = { address: parseStoreUrl(url, password, ca), realm, name };
    const { port1, port2 } = new MessageChannel();
    super(port2);
    if (thread) this.#worker = startThread(settings, port1);
    else {
      new FollowerLoop(settings, port1);
      port1.unref();
    }
    process.once("beforeExit", this.#leave);
  }

  /** Stops following: every check refuses as `closed`, and the store waits for this follower no more. */
  close(): Promise<void> {
    process.off("beforeExit", this.#leave);
    this.change({ do: "close" });
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async #end(): Promise<void> {
    this.follower.ref(); // the process lives until the store knows
    this.follower.postMessage({ stop: true } satisfies FromView);
    const late = setTimeout(() => void this.#worker?.terminate(), JOIN_MS);
    await this.ended;
    clearTimeout(late);
  }

  readonly #leave = (): void => void this.close();
}

function startThread(settings: FollowerSettings, port: MessagePort): Worker {
  const file = new URL(`./follower_thread.${import.meta.url.endsWith(".ts") ? "ts" : "js"}`, import.meta.url);
  const worker = new Worker(file, { workerData: { settings, port }, transferList: [port], env: {} });
  // Its end closes the port, and so the view.
  const text = "the thread of the follower has ended, and each call is refused: restart this process";
  worker.on("error", () => process.emitWarning(text, "ArxWarning"));
  worker.unref();
  return worker;
}
