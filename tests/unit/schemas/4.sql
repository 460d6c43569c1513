-- What bpflinkd 0.1 with schema 4 left behind: five links, one of them declared, one half made, one half ended.
PRAGMA application_id = 1651534948;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE boot (id TEXT NOT NULL) STRICT;
INSERT INTO "boot" VALUES('0c2e7f5a-boot');
CREATE TABLE generation (
    link        TEXT NOT NULL REFERENCES link(name) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    program     TEXT NOT NULL,
    source      TEXT NOT NULL,
    sha256      TEXT,
    hook        TEXT,
    since       INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    confinement TEXT,
    message     TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (link, number)
) STRICT, WITHOUT ROWID;
INSERT INTO "generation" VALUES('edge-filter',1,'{"id": 1, "name": "prog1", "tag": "0000000000000000", "type": 6}','{"builtin": "pass"}',NULL,'{"ifindex": 3}',2,'{"uid":0}',NULL,'');
INSERT INTO "generation" VALUES('edge-filter',2,'{"id": 5, "name": "count", "tag": "0000000000000000", "type": 6}','{"object": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", "program": "count"}','2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae','{"ifindex": 3}',2,'{"uid":0}',NULL,'');
INSERT INTO "generation" VALUES('going',1,'{"id": 1, "name": "prog1", "tag": "0000000000000000", "type": 6}','{"builtin": "pass"}',NULL,'{"ifindex": 3}',2,'{"uid":0}',NULL,'');
INSERT INTO "generation" VALUES('half',1,'{"id": 1, "name": "prog1", "tag": "0000000000000000", "type": 6}','{"builtin": "pass"}',NULL,'{"ifindex": 3}',2,'{"uid":0}',NULL,'');
INSERT INTO "generation" VALUES('opens',1,'{"id": 1, "name": "prog1", "tag": "0000000000000000", "type": 6}','{"source": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9", "program": "on_open"}','fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9','{"module": "", "load": 0}',2,'{"uid":0}',NULL,'');
INSERT INTO "generation" VALUES('web-count',1,'{"id": 1, "name": "prog1", "tag": "0000000000000000", "type": 6}','{"pin": "/sys/fs/bpf/x"}',NULL,'{"cgroup_id": 77}',2,'{"uid":0}',NULL,'');
CREATE TABLE link (
    name       TEXT PRIMARY KEY,
    target     TEXT NOT NULL,
    owner      TEXT NOT NULL,
    policy     TEXT NOT NULL,
    lifetime   TEXT NOT NULL,
    created    INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    hook       TEXT,
    ending     INTEGER NOT NULL DEFAULT 0,
    file       TEXT NOT NULL DEFAULT '',
    template   TEXT NOT NULL DEFAULT '',
    declared   TEXT NOT NULL DEFAULT '',
    was        TEXT NOT NULL DEFAULT '',
    hold       TEXT,
    fallback   TEXT
, link_id INTEGER, told TEXT) STRICT, WITHOUT ROWID;
INSERT INTO "link" VALUES('edge-filter','{"xdp": "eth0", "mode": "auto"}','user:0','restore','pinned',1700000000000000,2,'{"ifindex": 3}',0,'','','','',NULL,NULL,7,NULL);
INSERT INTO "link" VALUES('going','{"xdp": "eth0", "mode": "auto"}','user:0','alert','pinned',1700000000000004,1,'{"ifindex": 3}',1,'','','','',NULL,NULL,NULL,NULL);
INSERT INTO "link" VALUES('half','{"xdp": "eth0", "mode": "auto"}','user:0','alert','pinned',1700000000000003,0,NULL,0,'','','','',NULL,NULL,NULL,NULL);
INSERT INTO "link" VALUES('opens','{"kprobe": {"symbol": "do_sys_openat2", "offset": 0, "at_return": false, "cookie": 9}}','user:0','alert','pinned',1700000000000002,1,'{"module": "", "load": 0}',0,'','','','',NULL,NULL,NULL,NULL);
INSERT INTO "link" VALUES('web-count','{"cgroup": "/web.slice", "attach_type": "egress"}','user:0','alert','pinned',1700000000000001,1,'{"cgroup_id": 77}',0,'/etc/bpflinkd/links.d/web.toml','','builtin pass','',NULL,NULL,NULL,NULL);
CREATE TABLE object (
    sha256 TEXT PRIMARY KEY,
    data   BLOB NOT NULL
) STRICT;
INSERT INTO "object" VALUES('2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae',X'666F6F');
INSERT INTO "object" VALUES('fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9',X'626172');
CREATE INDEX generation_by_object ON generation(sha256) WHERE sha256 IS NOT NULL;
COMMIT;
