-- mint 0017_b1964f2f4359
CREATE TABLE agents (
  path VARCHAR(64) NOT NULL,
  status VARCHAR(16) NOT NULL,
  owner TEXT,
  metadata TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  ended_at BIGINT,
  PRIMARY KEY (path)
);
CREATE TABLE alarms (
  name VARCHAR(160) NOT NULL,
  at_ms BIGINT NOT NULL,
  PRIMARY KEY (name)
);
CREATE TABLE audience_keys (
  audience VARCHAR(64) NOT NULL,
  n INTEGER NOT NULL,
  created_at BIGINT NOT NULL,
  used_at BIGINT NOT NULL,
  retired_at BIGINT,
  PRIMARY KEY (audience, n)
);
CREATE TABLE connection_links (
  digest VARCHAR(64) NOT NULL,
  name VARCHAR(32) NOT NULL,
  subject VARCHAR(64) NOT NULL,
  person TEXT NOT NULL,
  scopes TEXT NOT NULL,
  until BIGINT NOT NULL,
  cookie VARCHAR(64),
  used_at BIGINT,
  account TEXT,
  granted TEXT,
  nonce TEXT,
  sealed TEXT,
  incarnation VARCHAR(32) NOT NULL,
  born BIGINT NOT NULL,
  PRIMARY KEY (digest),
  UNIQUE (cookie)
);
CREATE INDEX ix_connection_links_subject ON connection_links (subject);
CREATE INDEX ix_connection_links_until ON connection_links (until);
CREATE TABLE connections (
  id VARCHAR(32) NOT NULL,
  name VARCHAR(32) NOT NULL,
  subject VARCHAR(64) NOT NULL,
  person TEXT NOT NULL,
  issuer TEXT NOT NULL,
  account TEXT NOT NULL,
  scopes TEXT NOT NULL,
  status VARCHAR(16) NOT NULL,
  nonce TEXT,
  sealed TEXT,
  created_at BIGINT NOT NULL,
  used_at BIGINT,
  refreshed_at BIGINT,
  refresher VARCHAR(32),
  refresh_until BIGINT DEFAULT '0' NOT NULL,
  ended_at BIGINT,
  ended_why VARCHAR(16),
  incarnation VARCHAR(32) NOT NULL,
  born BIGINT NOT NULL,
  PRIMARY KEY (id)
);
CREATE INDEX connections_by_time ON connections (created_at, id);
CREATE INDEX connections_of_accounts ON connections (name, status);
CREATE INDEX connections_of_people ON connections (subject, name, status);
CREATE TABLE enrolments (
  digest VARCHAR(64) NOT NULL,
  audience VARCHAR(64) NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  until BIGINT NOT NULL,
  PRIMARY KEY (digest)
);
CREATE TABLE epoch_followed (
  realm VARCHAR(32) NOT NULL,
  incarnation VARCHAR(32) NOT NULL,
  seq BIGINT NOT NULL,
  chain VARCHAR(40) NOT NULL,
  PRIMARY KEY (realm)
);
CREATE TABLE epoch_freezes (
  target VARCHAR(96) NOT NULL,
  at_ms BIGINT NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  why TEXT NOT NULL,
  op VARCHAR(16) DEFAULT 'freeze' NOT NULL,
  seq BIGINT DEFAULT '0' NOT NULL,
  PRIMARY KEY (target)
);
CREATE INDEX epoch_freezes_by_time ON epoch_freezes (at_ms, target);
CREATE TABLE epoch_high_water (
  realm VARCHAR(32) NOT NULL,
  incarnation VARCHAR(32) NOT NULL,
  seq BIGINT NOT NULL,
  chain VARCHAR(40) DEFAULT '' NOT NULL,
  max_ttl_ms BIGINT NOT NULL,
  PRIMARY KEY (realm)
);
CREATE TABLE epoch_kills (
  seq BIGINT NOT NULL,
  incarnation VARCHAR(32) NOT NULL,
  first BIGINT NOT NULL,
  op VARCHAR(16) NOT NULL,
  targets TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  why TEXT NOT NULL,
  settled_at BIGINT,
  report TEXT,
  PRIMARY KEY (seq, incarnation)
);
CREATE INDEX epoch_kills_unsettled ON epoch_kills (settled_at, at_ms);
CREATE TABLE holder_keys (
  kid VARCHAR(64) NOT NULL,
  holder VARCHAR(96) NOT NULL,
  x VARCHAR(64) NOT NULL,
  added_at BIGINT NOT NULL,
  used_at BIGINT,
  until BIGINT,
  PRIMARY KEY (kid)
);
CREATE INDEX ix_holder_keys_holder ON holder_keys (holder);
CREATE TABLE key_fetches (
  holder_key VARCHAR(96) NOT NULL,
  audience VARCHAR(64) NOT NULL,
  kids TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (holder_key)
);
CREATE TABLE memory_keys (
  kid VARCHAR(32) NOT NULL,
  created_at BIGINT NOT NULL,
  nonce TEXT NOT NULL,
  sealed TEXT NOT NULL,
  PRIMARY KEY (kid)
);
CREATE TABLE meta (
  name VARCHAR(32) NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (name)
);
CREATE TABLE operators (
  id VARCHAR(64) NOT NULL,
  status VARCHAR(16) NOT NULL,
  created_at BIGINT NOT NULL,
  role VARCHAR(32) DEFAULT 'admin' NOT NULL,
  rules TEXT,
  ended_at BIGINT,
  issuer VARCHAR(256),
  subject VARCHAR(512),
  claims TEXT,
  PRIMARY KEY (id)
);
CREATE TABLE outbox (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  at_ms BIGINT NOT NULL,
  mint VARCHAR(64) NOT NULL,
  kind VARCHAR(64) NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX outbox_by_time ON outbox (at_ms);
CREATE TABLE person_keys (
  subject VARCHAR(64) NOT NULL,
  created_at BIGINT NOT NULL,
  nonce TEXT NOT NULL,
  sealed TEXT NOT NULL,
  PRIMARY KEY (subject)
);
CREATE TABLE policies (
  digest VARCHAR(32) NOT NULL,
  text TEXT NOT NULL,
  first_at BIGINT NOT NULL,
  in_force_at BIGINT NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  PRIMARY KEY (digest)
);
CREATE TABLE repeats (
  caller VARCHAR(96) NOT NULL,
  "key" VARCHAR(64) NOT NULL,
  digest VARCHAR(64) NOT NULL,
  facts TEXT NOT NULL,
  recipe TEXT,
  until BIGINT NOT NULL,
  PRIMARY KEY (caller, "key")
);
CREATE INDEX ix_repeats_until ON repeats (until);
CREATE TABLE root_keys (
  name VARCHAR(16) NOT NULL,
  created_at BIGINT NOT NULL,
  mints_from BIGINT,
  waits INTEGER NOT NULL,
  used_at BIGINT NOT NULL,
  retired_at BIGINT,
  nonce TEXT,
  sealed TEXT,
  PRIMARY KEY (name)
);
CREATE TABLE services (
  audience VARCHAR(64) NOT NULL,
  enrolled_at BIGINT NOT NULL,
  enrolled_by VARCHAR(96) NOT NULL,
  PRIMARY KEY (audience)
);
CREATE TABLE signing_keys (
  kid VARCHAR(64) NOT NULL,
  algorithm VARCHAR(8) NOT NULL,
  jwk TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  signs_from BIGINT NOT NULL,
  retired_at BIGINT,
  nonce TEXT,
  sealed TEXT,
  PRIMARY KEY (kid)
);
CREATE TABLE used_jti (
  digest VARCHAR(64) NOT NULL,
  until BIGINT NOT NULL,
  PRIMARY KEY (digest)
);
CREATE INDEX ix_used_jti_until ON used_jti (until);
CREATE TABLE webhooks (
  id VARCHAR(32) NOT NULL,
  origin TEXT NOT NULL,
  format VARCHAR(16) NOT NULL,
  kinds TEXT NOT NULL,
  nonce TEXT,
  sealed TEXT,
  created_at BIGINT NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  delivered_at BIGINT,
  failed_at BIGINT,
  error TEXT,
  ended_at BIGINT,
  ended_why VARCHAR(16),
  heartbeat_ms BIGINT,
  beat_at BIGINT,
  PRIMARY KEY (id)
);
CREATE TABLE console_sessions (
  id VARCHAR(32) NOT NULL,
  secret VARCHAR(64) NOT NULL,
  operator VARCHAR(64) NOT NULL,
  "key" VARCHAR(64),
  fresh_until BIGINT NOT NULL,
  draft TEXT,
  created_at BIGINT NOT NULL,
  signed_in_at BIGINT,
  used_at BIGINT NOT NULL,
  until BIGINT NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (secret),
  FOREIGN KEY(operator) REFERENCES operators (id)
);
CREATE INDEX ix_console_sessions_operator ON console_sessions (operator);
CREATE INDEX ix_console_sessions_until ON console_sessions (until);
CREATE TABLE notifications (
  id VARCHAR(32) NOT NULL,
  webhook VARCHAR(32) NOT NULL,
  kind VARCHAR(64) NOT NULL,
  at_ms BIGINT NOT NULL,
  facts TEXT NOT NULL,
  status VARCHAR(16) NOT NULL,
  tries INTEGER NOT NULL,
  next_at BIGINT NOT NULL,
  error TEXT,
  failed_at BIGINT,
  PRIMARY KEY (id),
  FOREIGN KEY(webhook) REFERENCES webhooks (id)
);
CREATE INDEX notifications_due ON notifications (webhook, status, next_at);
CREATE INDEX notifications_failed ON notifications (status, failed_at);
CREATE TABLE oauth_clients (
  id VARCHAR(32) NOT NULL,
  agent VARCHAR(64) NOT NULL,
  secret VARCHAR(64),
  jwks TEXT,
  scopes TEXT NOT NULL,
  introspects TEXT NOT NULL,
  redirects TEXT DEFAULT '[]' NOT NULL,
  url TEXT,
  name TEXT,
  created_at BIGINT NOT NULL,
  "by" VARCHAR(96) NOT NULL,
  used_at BIGINT,
  expires_at BIGINT,
  ended_at BIGINT,
  PRIMARY KEY (id),
  CONSTRAINT oauth_clients_by_url UNIQUE (url, agent),
  FOREIGN KEY(agent) REFERENCES agents (path)
);
CREATE INDEX ix_oauth_clients_agent ON oauth_clients (agent);
CREATE INDEX ix_oauth_clients_by ON oauth_clients ("by");
CREATE TABLE sessions (
  id VARCHAR(32) NOT NULL,
  agent VARCHAR(64) NOT NULL,
  jkt VARCHAR(64) NOT NULL,
  opened_with TEXT,
  subject_issuer TEXT,
  subject TEXT,
  subject_claims TEXT,
  subject_until BIGINT,
  status VARCHAR(16) NOT NULL,
  purpose TEXT,
  policy VARCHAR(32) NOT NULL,
  opened_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  ends_at BIGINT DEFAULT '0' NOT NULL,
  ended_at BIGINT,
  incarnation VARCHAR(32) NOT NULL,
  born BIGINT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(agent) REFERENCES agents (path)
);
CREATE INDEX sessions_by_time ON sessions (opened_at, id);
CREATE INDEX sessions_of_agents ON sessions (agent, opened_at, id);
CREATE INDEX sessions_of_subjects ON sessions (subject, opened_at, id);
CREATE TABLE oauth_consents (
  id VARCHAR(32) NOT NULL,
  cookie VARCHAR(64) NOT NULL,
  client VARCHAR(32) NOT NULL,
  redirect TEXT NOT NULL,
  state TEXT,
  challenge VARCHAR(64) NOT NULL,
  jkt VARCHAR(64),
  resource TEXT NOT NULL,
  audience VARCHAR(64) NOT NULL,
  template TEXT NOT NULL,
  params TEXT NOT NULL,
  tools TEXT,
  subject_issuer TEXT,
  subject TEXT,
  subject_claims TEXT,
  subject_until BIGINT,
  policy VARCHAR(32) NOT NULL,
  incarnation VARCHAR(32) NOT NULL,
  born BIGINT NOT NULL,
  until BIGINT NOT NULL,
  code VARCHAR(64),
  used_at BIGINT,
  replayed_at BIGINT,
  session VARCHAR(32),
  PRIMARY KEY (id),
  UNIQUE (cookie),
  FOREIGN KEY(client) REFERENCES oauth_clients (id),
  UNIQUE (code),
  FOREIGN KEY(session) REFERENCES sessions (id)
);
CREATE INDEX ix_oauth_consents_until ON oauth_consents (until);
CREATE TABLE tasks (
  id VARCHAR(32) NOT NULL,
  session VARCHAR(32) NOT NULL,
  agent VARCHAR(64) NOT NULL,
  subject_target VARCHAR(64),
  above TEXT DEFAULT '[]' NOT NULL,
  template TEXT NOT NULL,
  params TEXT NOT NULL,
  audiences TEXT NOT NULL,
  link VARCHAR(32) NOT NULL,
  status VARCHAR(16) NOT NULL,
  policy VARCHAR(32) NOT NULL,
  started_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  ended_at BIGINT,
  incarnation VARCHAR(32) NOT NULL,
  born BIGINT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(session) REFERENCES sessions (id)
);
CREATE INDEX tasks_by_template ON tasks (session, template);
CREATE INDEX tasks_by_time ON tasks (started_at, id);
CREATE INDEX tasks_of_agents ON tasks (agent, started_at, id);
CREATE INDEX tasks_of_sessions ON tasks (session, started_at, id);
CREATE INDEX tasks_of_templates ON tasks (template, started_at, id);
CREATE TABLE approvals (
  id VARCHAR(32) NOT NULL,
  task VARCHAR(32) NOT NULL,
  session VARCHAR(32) NOT NULL,
  agent VARCHAR(64) NOT NULL,
  subject_issuer TEXT,
  subject TEXT,
  template VARCHAR(64) NOT NULL,
  audience VARCHAR(64) NOT NULL,
  caveat TEXT NOT NULL,
  tool VARCHAR(96) NOT NULL,
  args TEXT NOT NULL,
  why TEXT,
  need INTEGER NOT NULL,
  ttl_ms BIGINT NOT NULL,
  once INTEGER NOT NULL,
  status VARCHAR(16) NOT NULL,
  asked_at BIGINT NOT NULL,
  "by" TEXT NOT NULL,
  denied_by VARCHAR(64),
  answer_why TEXT,
  approved_at BIGINT,
  expires_at BIGINT,
  handle VARCHAR(64),
  marks TEXT,
  PRIMARY KEY (id),
  FOREIGN KEY(task) REFERENCES tasks (id)
);
CREATE INDEX approvals_by_time ON approvals (asked_at, id);
CREATE INDEX approvals_in_state ON approvals (status, asked_at, id);
CREATE INDEX approvals_of_sessions ON approvals (session, asked_at, id);
CREATE INDEX approvals_waiting ON approvals (session, status);
CREATE INDEX ix_approvals_task ON approvals (task);
CREATE TABLE oauth_handles (
  jti VARCHAR(32) NOT NULL,
  client VARCHAR(32) NOT NULL,
  session VARCHAR(32) NOT NULL,
  task VARCHAR(32) NOT NULL,
  audience VARCHAR(64) NOT NULL,
  issued_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  recipe TEXT NOT NULL,
  PRIMARY KEY (jti),
  FOREIGN KEY(client) REFERENCES oauth_clients (id),
  FOREIGN KEY(session) REFERENCES sessions (id),
  FOREIGN KEY(task) REFERENCES tasks (id)
);
CREATE INDEX ix_oauth_handles_expires_at ON oauth_handles (expires_at);
CREATE INDEX oauth_handles_of_clients ON oauth_handles (client, issued_at);
CREATE TABLE oauth_refreshes (
  digest VARCHAR(64) NOT NULL,
  client VARCHAR(32) NOT NULL,
  session VARCHAR(32) NOT NULL,
  resource TEXT NOT NULL,
  audience VARCHAR(64) NOT NULL,
  template TEXT NOT NULL,
  terms VARCHAR(64) NOT NULL,
  params TEXT NOT NULL,
  tools TEXT,
  jkt VARCHAR(64),
  until BIGINT NOT NULL,
  parent VARCHAR(64),
  task VARCHAR(32) NOT NULL,
  used_at BIGINT,
  replaced_at BIGINT,
  PRIMARY KEY (digest),
  FOREIGN KEY(client) REFERENCES oauth_clients (id),
  FOREIGN KEY(session) REFERENCES sessions (id),
  FOREIGN KEY(task) REFERENCES tasks (id)
);
CREATE INDEX ix_oauth_refreshes_parent ON oauth_refreshes (parent);
CREATE INDEX ix_oauth_refreshes_session ON oauth_refreshes (session);
CREATE INDEX ix_oauth_refreshes_until ON oauth_refreshes (until);
CREATE TABLE task_grants (
  link VARCHAR(32) NOT NULL,
  task VARCHAR(32) NOT NULL,
  content TEXT NOT NULL,
  policy VARCHAR(32) NOT NULL,
  granted_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  ended_at BIGINT,
  replaced_by VARCHAR(32),
  PRIMARY KEY (link),
  FOREIGN KEY(task) REFERENCES tasks (id)
);
CREATE INDEX ix_task_grants_task ON task_grants (task);
-- log 3
CREATE TABLE log_batch (
  idx INTEGER NOT NULL,
  source INTEGER NOT NULL,
  first BIGINT NOT NULL,
  last BIGINT NOT NULL,
  taken_ms BIGINT NOT NULL,
  since_ms BIGINT NOT NULL,
  until_ms BIGINT NOT NULL,
  statement BLOB,
  PRIMARY KEY (idx)
);
CREATE TABLE log_checkpoint (
  size BIGINT NOT NULL,
  signed_ms BIGINT NOT NULL,
  note BLOB NOT NULL,
  edge BLOB,
  PRIMARY KEY (size)
);
CREATE TABLE log_meta (
  name VARCHAR(32) NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (name)
);
CREATE TABLE log_node (
  id INTEGER NOT NULL,
  path BLOB NOT NULL,
  "key" BLOB NOT NULL,
  parent BIGINT,
  kind VARCHAR(16) NOT NULL,
  ref TEXT NOT NULL,
  name TEXT NOT NULL,
  session TEXT NOT NULL,
  task TEXT NOT NULL,
  agent TEXT NOT NULL,
  subject VARCHAR(64),
  allow BIGINT NOT NULL,
  deny BIGINT NOT NULL,
  other BIGINT NOT NULL,
  first_ms BIGINT NOT NULL,
  last_ms BIGINT NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (path),
  UNIQUE ("key")
);
CREATE TABLE log_pruned (
  block BIGINT NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (block)
);
CREATE TABLE log_record (
  idx INTEGER NOT NULL,
  at_ms BIGINT NOT NULL,
  node BIGINT NOT NULL,
  source INTEGER NOT NULL,
  sequence BIGINT NOT NULL,
  outcome SMALLINT NOT NULL,
  code VARCHAR(64) NOT NULL,
  tool TEXT NOT NULL,
  kept BLOB NOT NULL,
  body BLOB,
  PRIMARY KEY (idx)
);
CREATE TABLE log_source (
  id INTEGER NOT NULL,
  verifier TEXT NOT NULL,
  boot VARCHAR(128) NOT NULL,
  audience TEXT NOT NULL,
  high_water BIGINT NOT NULL,
  lost BIGINT NOT NULL,
  seen_ms BIGINT NOT NULL,
  closed_ms BIGINT,
  PRIMARY KEY (id)
);
CREATE TABLE log_state (
  id INTEGER NOT NULL,
  size BIGINT NOT NULL,
  edge BLOB NOT NULL,
  nodes BIGINT NOT NULL,
  first BIGINT NOT NULL,
  counted BIGINT DEFAULT '0' NOT NULL,
  erasures BIGINT NOT NULL,
  PRIMARY KEY (id)
);
CREATE TABLE log_total (
  what SMALLINT NOT NULL,
  span SMALLINT NOT NULL,
  at BIGINT NOT NULL,
  name TEXT NOT NULL,
  allow BIGINT NOT NULL,
  deny BIGINT NOT NULL,
  ended BIGINT NOT NULL,
  counted BIGINT NOT NULL,
  other BIGINT NOT NULL,
  PRIMARY KEY (what, span, at, name)
)
 WITHOUT ROWID;
