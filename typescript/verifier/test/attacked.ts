// SPDX-License-Identifier: Apache-2.0
/**
 * `node test/attacked.ts` serves a guarded application of Express with lenient parsers, for requests that no client sends.
 *
 * It prints its port and a token that allows everything.  It ends with 1 if a handler got what was not judged.
 */

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import express from "express";
import { type ExpressApplication, grantOf, guard } from "../src/enforcement/express.ts";
import { mint, serviceOf } from "./mint.ts";

const service = serviceOf();
const judged = new WeakMap<object, Record<string, unknown>>();
const authorize = service.verifier.authorize.bind(service.verifier);
service.verifier.authorize = async (credential, request) => {
  const decision = await authorize(credential, request);
  if (decision.grant !== undefined) judged.set(decision.grant, { ...request.args });
  return decision;
};

const app = express();
app.use(express.json({ strict: false, type: () => true }), express.urlencoded({ extended: true, type: () => true }));
const saw: express.RequestHandler = (req, res) => {
  const got = { ...req.params, ...req.query, ...req.body };
  const wanted = judged.get(grantOf(req) ?? {}) ?? {};
  const isSame = Object.keys({ ...got, ...wanted }).every((name) => JSON.stringify(got[name]) === JSON.stringify(wanted[name]));
  if (!isSame) {
    process.stdout.write(`confused: ${req.method} ${req.originalUrl} got ${JSON.stringify(got)}, judged ${JSON.stringify(wanted)}\n`);
    process.exit(1);
  }
  res.json({ ran: true });
};
app.route("/orders/:order_id").get(saw).post(saw).delete(saw).put(saw);
app.route("/orders").get(saw).post(saw);
app.all("/{*rest}", () => {
  process.stdout.write("confused: a route without a tool ran\n");
  process.exit(1);
});
app.use(((_error, _req, res, _next) => void res.status(500).end()) as express.ErrorRequestHandler);

const server = guard(app as unknown as ExpressApplication, service.verifier, {
  tools: {
    "GET /orders/{order_id}": "orders.get", "POST /orders/{order_id}": "orders.refund", "DELETE /orders/{order_id}": "orders.drop",
    "GET /orders": "orders.list", "POST /orders": "orders.add",
  },
  maxBody: 1 << 16,
});
await once(server.listen(0, "127.0.0.1"), "listening");
process.stdout.write(`${(server.address() as AddressInfo).port} ${mint([{ tool: "*" }])}\n`);
process.stdin.resume().once("end", () => process.exit(0));
