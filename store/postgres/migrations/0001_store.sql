-- The one row that orders all writes. Its updates stay on the page (HOT) because the page is kept nearly empty.
CREATE TABLE meta (
  id              smallint PRIMARY KEY CHECK (id = 1),
  lineage         text     NOT NULL,
  epoch           bigint   NOT NULL,
  revision        bigint   NOT NULL,
  chain           bytea    NOT NULL,
  compacted       bigint   NOT NULL,
  compacted_chain bytea    NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE objects (
  class       smallint    NOT NULL,
  type        text        NOT NULL COLLATE "C",
  mesh        text        NOT NULL COLLATE "C",
  name        text        NOT NULL COLLATE "C",
  uid         text        NOT NULL,
  version     bigint      NOT NULL,
  revision    bigint      NOT NULL,
  labels      jsonb       NOT NULL,
  data        bytea,
  created     timestamptz NOT NULL,
  modified    timestamptz NOT NULL,
  owner_class smallint,
  owner_type  text COLLATE "C",
  owner_mesh  text COLLATE "C",
  owner_name  text COLLATE "C",
  secret      boolean     NOT NULL,
  PRIMARY KEY (class, type, mesh, name)
) WITH (fillfactor = 80);
CREATE INDEX objects_owner ON objects (owner_class, owner_type, owner_mesh, owner_name) WHERE owner_name IS NOT NULL;

-- One small row for each batch; not partitioned, so that the id is unique.
CREATE TABLE batches (
  revision bigint      PRIMARY KEY,
  id       bytea       NOT NULL UNIQUE,
  chain    bytea       NOT NULL,
  author   text        NOT NULL,
  reason   text        NOT NULL,
  at       timestamptz NOT NULL,
  size     bigint      NOT NULL
);

-- What each batch changed. The writer makes partitions ahead of the revision, compaction drops them.
CREATE TABLE history (
  revision    bigint   NOT NULL,
  seq         integer  NOT NULL,
  deleted     boolean  NOT NULL,
  class       smallint NOT NULL,
  type        text     NOT NULL COLLATE "C",
  mesh        text     NOT NULL COLLATE "C",
  name        text     NOT NULL COLLATE "C",
  uid         text     NOT NULL,
  version     bigint   NOT NULL,
  labels      jsonb    NOT NULL,
  data        bytea,
  created     timestamptz,
  modified    timestamptz,
  owner_class smallint,
  owner_type  text COLLATE "C",
  owner_mesh  text COLLATE "C",
  owner_name  text COLLATE "C",
  secret      boolean  NOT NULL,
  PRIMARY KEY (revision, seq)
) PARTITION BY RANGE (revision);
CREATE INDEX history_object ON history (class, type, mesh, name, revision);

CREATE TABLE observations (
  key  text        PRIMARY KEY COLLATE "C",
  data bytea       NOT NULL,
  at   timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE leases (
  name    text        PRIMARY KEY,
  holder  text        NOT NULL,
  counter bigint      NOT NULL,
  expires timestamptz NOT NULL
) WITH (fillfactor = 50);
