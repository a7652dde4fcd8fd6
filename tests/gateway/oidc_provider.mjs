// SPDX-License-Identifier: Apache-2.0
// oidc-provider with one client: node oidc_provider.mjs MODULE PORT, and a JSON object of the client on standard input.
// Its own forms for development let any name log in, and ask for consent.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [module, port] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(module).href);
const client = JSON.parse(readFileSync(0, "utf8"));
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [{ grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], ...client }],
  claims: { openid: ["sub"], email: ["email"], profile: ["name"], address: ["address"] },
  features: { introspection: { enabled: true }, revocation: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: () => true,
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 300 },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
