-- The mint's database in its first form, with rows: what a realm of that time holds.  Runs on SQLite and PostgreSQL.
CREATE TABLE agents (
	path VARCHAR(64) NOT NULL,
	status VARCHAR(16) NOT NULL,
	owner TEXT,
	metadata TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	ended_at BIGINT,
	PRIMARY KEY (path)
);
INSERT INTO "agents" VALUES('acme/support/triage','active','o@acme.example','{"model":"m-1"}',1790000000000,NULL);
INSERT INTO "agents" VALUES('acme/gone','deactivated',NULL,'{}',1790000000000,1790000000000);
CREATE TABLE epoch_high_water (
	realm VARCHAR(32) NOT NULL,
	inc VARCHAR(32) NOT NULL,
	seq BIGINT NOT NULL,
	max_ttl_ms BIGINT NOT NULL,
	PRIMARY KEY (realm)
);
INSERT INTO "epoch_high_water" VALUES('acme','AAAAAAAAAAAAAAAAAAAAAA',4,86400000);
CREATE TABLE holder_keys (
	kid VARCHAR(64) NOT NULL,
	holder VARCHAR(96) NOT NULL,
	x VARCHAR(64) NOT NULL,
	added_at BIGINT NOT NULL,
	PRIMARY KEY (kid)
);
INSERT INTO "holder_keys" VALUES('UDDReOZl1ipXAfp9wYsm13sDBMK5og--QWdBjzuf6o4','operator:root','iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w',1790000000000);
INSERT INTO "holder_keys" VALUES('aVBtapLd11SUVKIMGJfPzOEDuN0sXcmzJQNVT-_sKEU','acme/support/triage','gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q',1790000000000);
INSERT INTO "holder_keys" VALUES('nRIE2VmKdMjL1JD7tbV7fXVgXxmv0GKnMFWRUJMTf9Q','acme/support/triage','7UkoxijRwsbq6QM4kFmVYSlZJzpcY_k2NsFGFKyHN9E',1790000000000);
INSERT INTO "holder_keys" VALUES('d8Me3uJ82jhdsCstWyVMr3_I2ueeTYG5agM1-2r1_bY','acme/gone','ypOsFwUYcHHWe4PH_w7-gQjo7EUwV113JoeTM9vavnw',1790000000000);
CREATE TABLE meta (
	name VARCHAR(32) NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE operators (
	id VARCHAR(64) NOT NULL,
	status VARCHAR(16) NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "operators" VALUES('root','active',1790000000000);
CREATE TABLE services (
	audience VARCHAR(64) NOT NULL,
	n INTEGER NOT NULL,
	enrolled_at BIGINT NOT NULL,
	enrolled_by VARCHAR(96) NOT NULL,
	PRIMARY KEY (audience)
);
INSERT INTO "services" VALUES('orders',0,1790000000000,'operator:root');
CREATE TABLE sessions (
	id VARCHAR(32) NOT NULL,
	agent VARCHAR(64) NOT NULL,
	jkt VARCHAR(64) NOT NULL,
	status VARCHAR(16) NOT NULL,
	purpose TEXT,
	policy VARCHAR(32) NOT NULL,
	opened_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	ended_at BIGINT,
	inc VARCHAR(32) NOT NULL,
	born BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(agent) REFERENCES agents (path)
);
INSERT INTO "sessions" VALUES('s-aaaaaaaaaaaaaaaa','acme/support/triage','jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj','open','look','pppppppppppppppppppppp',1790000000000,1790003600000,NULL,'AAAAAAAAAAAAAAAAAAAAAA',3);
CREATE TABLE tasks (
	id VARCHAR(32) NOT NULL,
	session VARCHAR(32) NOT NULL,
	agent VARCHAR(64) NOT NULL,
	template VARCHAR(64) NOT NULL,
	params TEXT NOT NULL,
	audiences TEXT NOT NULL,
	link VARCHAR(32) NOT NULL,
	status VARCHAR(16) NOT NULL,
	policy VARCHAR(32) NOT NULL,
	started_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	ended_at BIGINT,
	inc VARCHAR(32) NOT NULL,
	born BIGINT NOT NULL,
	PRIMARY KEY (id),
	FOREIGN KEY(session) REFERENCES sessions (id)
);
INSERT INTO "tasks" VALUES('t-aaaaaaaaaaaaaaaa','s-aaaaaaaaaaaaaaaa','acme/support/triage','lookup','{"order_id":"o-1"}','["orders"]','llllllllllllllllllllll','open','pppppppppppppppppppppp',1790000001000,1790000600000,NULL,'AAAAAAAAAAAAAAAAAAAAAA',3);
INSERT INTO "tasks" VALUES('t-bbbbbbbbbbbbbbbb','s-aaaaaaaaaaaaaaaa','acme/support/triage','lookup','{"order_id":"o-1"}','["orders"]','llllllllllllllllllllll','ended','pppppppppppppppppppppp',1790000001000,1790000600000,1790000000000,'AAAAAAAAAAAAAAAAAAAAAA',3);
CREATE TABLE used_jti (
	digest VARCHAR(64) NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (digest)
);
INSERT INTO "used_jti" VALUES('4b153b6b16aae064575f7c18888f7327d81c5e05821f7b0cb843bcc02163d3cb',1790000060000);
CREATE INDEX ix_holder_keys_holder ON holder_keys (holder);
CREATE INDEX ix_used_jti_until ON used_jti (until);
CREATE INDEX ix_sessions_agent ON sessions (agent);
CREATE INDEX sessions_by_time ON sessions (opened_at);
CREATE INDEX tasks_by_time ON tasks (started_at);
CREATE INDEX ix_tasks_session ON tasks (session);
