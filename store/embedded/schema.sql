CREATE TABLE meta (
  id              INTEGER PRIMARY KEY CHECK (id = 1),
  lineage         TEXT    NOT NULL,
  epoch           INTEGER NOT NULL,
  revision        INTEGER NOT NULL,
  chain           BLOB    NOT NULL,
  compacted       INTEGER NOT NULL,
  compacted_chain BLOB    NOT NULL
);

CREATE TABLE objects (
  class       INTEGER NOT NULL,
  type        TEXT    NOT NULL,
  mesh        TEXT    NOT NULL,
  name        TEXT    NOT NULL,
  uid         TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  revision    INTEGER NOT NULL,
  labels      TEXT    NOT NULL,
  data        BLOB,
  created     INTEGER NOT NULL,
  modified    INTEGER NOT NULL,
  owner_class INTEGER,
  owner_type  TEXT,
  owner_mesh  TEXT,
  owner_name  TEXT,
  secret      INTEGER NOT NULL,
  PRIMARY KEY (class, type, mesh, name)
);
CREATE INDEX objects_owner ON objects (owner_class, owner_type, owner_mesh, owner_name) WHERE owner_name IS NOT NULL;

CREATE TABLE batches (
  revision INTEGER PRIMARY KEY,
  id       BLOB    NOT NULL UNIQUE,
  chain    BLOB    NOT NULL,
  author   TEXT    NOT NULL,
  reason   TEXT    NOT NULL,
  at       INTEGER NOT NULL,
  size     INTEGER NOT NULL
);

CREATE TABLE history (
  revision    INTEGER NOT NULL,
  seq         INTEGER NOT NULL,
  deleted     INTEGER NOT NULL,
  class       INTEGER NOT NULL,
  type        TEXT    NOT NULL,
  mesh        TEXT    NOT NULL,
  name        TEXT    NOT NULL,
  uid         TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  labels      TEXT    NOT NULL,
  data        BLOB,
  created     INTEGER NOT NULL,
  modified    INTEGER NOT NULL,
  owner_class INTEGER,
  owner_type  TEXT,
  owner_mesh  TEXT,
  owner_name  TEXT,
  secret      INTEGER NOT NULL,
  PRIMARY KEY (revision, seq)
);
CREATE INDEX history_object ON history (class, type, mesh, name, revision);

CREATE TABLE observations (
  key  TEXT PRIMARY KEY,
  data BLOB    NOT NULL,
  at   INTEGER NOT NULL
);

CREATE TABLE leases (
  name    TEXT PRIMARY KEY,
  holder  TEXT    NOT NULL,
  counter INTEGER NOT NULL,
  expires INTEGER NOT NULL
);
