"""The tables of the durable database, as numbered steps (DESIGN, section 3: one durable database).

A released step is never edited: a change is a new step at the end. Each step and its row in `schema_version`
are one transaction, so a step that is cut off was never begun.
"""

import sqlite3
import time
from typing import NamedTuple


class Migration(NamedTuple):
    name: str
    steps: tuple[str, ...]


CHANNELS = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE channels (
        id INTEGER PRIMARY KEY,
        channel_id BLOB UNIQUE,
        peer BLOB NOT NULL,
        state BLOB NOT NULL,
        phase TEXT NOT NULL,
        updated INTEGER NOT NULL
    )""",
    "CREATE INDEX channels_by_peer ON channels (peer)",
    """CREATE TABLE htlcs (
        channel INTEGER NOT NULL REFERENCES channels (id),
        offered INTEGER NOT NULL,
        id INTEGER NOT NULL,
        amount_msat INTEGER NOT NULL,
        payment_hash BLOB NOT NULL,
        cltv_expiry INTEGER NOT NULL,
        local_from INTEGER,
        local_to INTEGER,
        remote_from INTEGER,
        remote_to INTEGER,
        onion BLOB,
        payload BLOB,
        next_onion BLOB,
        um BLOB,
        ammag BLOB,
        preimage BLOB,
        failure BLOB,
        failure_code INTEGER,
        origin TEXT,
        done INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (channel, offered, id)
    ) WITHOUT ROWID""",
    "CREATE INDEX htlcs_by_payment_hash ON htlcs (payment_hash)",
    # A channel accepts an offer for an origin once; so does the node, as long as the first is not settled.
    "CREATE UNIQUE INDEX htlcs_by_open_origin ON htlcs (origin) WHERE origin IS NOT NULL AND done = 0",
    "CREATE INDEX htlcs_open ON htlcs (channel) WHERE done = 0",
    """CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        channel INTEGER NOT NULL,
        event TEXT NOT NULL,
        at INTEGER NOT NULL
    )""",
    "CREATE INDEX journal_by_channel ON journal (channel, seq)",
)

PAYMENTS = (
    """CREATE TABLE payments (
        id TEXT PRIMARY KEY,
        payment_hash BLOB NOT NULL,
        bolt11 TEXT,
        amount_msat INTEGER NOT NULL,
        amount_sent_msat INTEGER NOT NULL DEFAULT 0,
        destination BLOB,
        status TEXT NOT NULL,
        created INTEGER NOT NULL,
        completed INTEGER,
        preimage BLOB,
        error TEXT,
        label TEXT
    ) WITHOUT ROWID""",
    "CREATE INDEX payments_by_hash ON payments (payment_hash)",
    """CREATE TABLE attempts (
        payment_id TEXT NOT NULL REFERENCES payments (id),
        part INTEGER NOT NULL,
        origin TEXT NOT NULL UNIQUE,
        channel BLOB NOT NULL,
        amount_msat INTEGER NOT NULL,
        fee_msat INTEGER NOT NULL,
        session_key BLOB NOT NULL,
        route BLOB NOT NULL,
        status TEXT NOT NULL,
        failure TEXT,
        PRIMARY KEY (payment_id, part)
    ) WITHOUT ROWID""",
    """CREATE TABLE invoices (
        payment_hash BLOB PRIMARY KEY,
        label TEXT NOT NULL UNIQUE,
        bolt11 TEXT NOT NULL,
        amount_msat INTEGER,
        description TEXT,
        expires_at INTEGER NOT NULL,
        status TEXT NOT NULL,
        payment_secret BLOB NOT NULL,
        received_msat INTEGER,
        paid_at INTEGER,
        pay_index INTEGER UNIQUE,
        created INTEGER NOT NULL
    ) WITHOUT ROWID""",
)

WALLET = (
    """CREATE TABLE coins (
        txid BLOB NOT NULL,
        vout INTEGER NOT NULL,
        value INTEGER NOT NULL,
        script BLOB NOT NULL,
        branch INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        height INTEGER,
        spent_by BLOB,
        reserved_until INTEGER,
        reserved_for TEXT,
        coinbase INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (txid, vout)
    ) WITHOUT ROWID""",
    """CREATE TABLE addresses (
        branch INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        script BLOB NOT NULL UNIQUE,
        PRIMARY KEY (branch, idx)
    ) WITHOUT ROWID""",
    """CREATE TABLE transactions (
        txid BLOB PRIMARY KEY,
        raw BLOB NOT NULL,
        label TEXT,
        height INTEGER
    ) WITHOUT ROWID""",
    "CREATE INDEX transactions_open ON transactions (txid) WHERE height IS NULL",
    """CREATE TABLE peers (
        node_id BLOB PRIMARY KEY,
        addresses TEXT NOT NULL,
        last_seen INTEGER
    ) WITHOUT ROWID""",
    "CREATE TABLE scan (height INTEGER PRIMARY KEY, block_hash BLOB NOT NULL)",
)

ONCHAIN = (
    """CREATE TABLE onchain (
        channel INTEGER PRIMARY KEY REFERENCES channels (id),
        state BLOB NOT NULL,
        final INTEGER NOT NULL,
        updated INTEGER NOT NULL
    )""",
)

FORWARDS = ("ALTER TABLE htlcs ADD COLUMN onion_key BLOB",)

NETWORK_PAYMENTS = (
    """CREATE TABLE forwards (
        id INTEGER PRIMARY KEY,
        in_channel BLOB NOT NULL,
        in_htlc INTEGER NOT NULL,
        in_msat INTEGER NOT NULL,
        in_expiry INTEGER NOT NULL,
        payment_hash BLOB NOT NULL,
        onion_key BLOB,
        out_channel BLOB,
        out_scid INTEGER,
        out_htlc INTEGER,
        out_msat INTEGER,
        fee_msat INTEGER,
        status TEXT NOT NULL,
        received REAL NOT NULL,
        resolved REAL,
        failure_code INTEGER,
        reason TEXT,
        UNIQUE (in_channel, in_htlc)
    )""",
    "CREATE INDEX forwards_by_expiry ON forwards (in_expiry)",
    "CREATE INDEX forwards_open ON forwards (id) WHERE status = 'offered'",
    "CREATE INDEX forwards_settled ON forwards (resolved) WHERE status = 'settled'",
    """CREATE TABLE policies (
        channel BLOB PRIMARY KEY,
        policy BLOB NOT NULL,
        previous BLOB,
        previous_until INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "ALTER TABLE payments ADD COLUMN max_fee_msat INTEGER",
    "ALTER TABLE payments ADD COLUMN retry_until INTEGER",
    "ALTER TABLE payments ADD COLUMN kind TEXT NOT NULL DEFAULT 'invoice'",
    "ALTER TABLE payments ADD COLUMN group_id INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE payments ADD COLUMN goal BLOB",
    "ALTER TABLE attempts ADD COLUMN part_id INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN cltv_expiry INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN created INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN ended INTEGER",
    "ALTER TABLE attempts ADD COLUMN failed_at INTEGER",
    "ALTER TABLE attempts ADD COLUMN failure_code INTEGER",
    "CREATE INDEX attempts_pending ON attempts (payment_id) WHERE status = 'pending'",
    "ALTER TABLE invoices ADD COLUMN preimage BLOB",
    "ALTER TABLE invoices ADD COLUMN hold INTEGER NOT NULL DEFAULT 0",
)

PEER_STORAGE = (
    """CREATE TABLE peer_blobs (
        node_id BLOB PRIMARY KEY,
        blob BLOB NOT NULL,
        stored INTEGER NOT NULL,
        released INTEGER
    ) WITHOUT ROWID""",
)

TOWER = (
    """CREATE TABLE tower_pending (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel BLOB NOT NULL,
        body BLOB NOT NULL
    )""",
)

ORIGINS = ("CREATE INDEX htlcs_by_origin ON htlcs (origin) WHERE origin IS NOT NULL",)

ATTRIBUTION = (
    "ALTER TABLE htlcs ADD COLUMN ammagext BLOB",
    "ALTER TABLE htlcs ADD COLUMN attribution BLOB",
    # In units of 100 ms, the nearest node first, with commas between them.
    "ALTER TABLE attempts ADD COLUMN hold_times TEXT",
)

MIGRATIONS: tuple[Migration, ...] = (
    Migration("channels, HTLCs and their journal", CHANNELS),
    Migration("payments and invoices", PAYMENTS),
    Migration("wallet, peers and chain", WALLET),
    Migration("resolution of closed channels on chain", ONCHAIN),
    Migration("the key of each onion that came", FORWARDS),
    Migration("forwards, policies, payments in parts, hold invoices", NETWORK_PAYMENTS),
    Migration("what we keep for peers", PEER_STORAGE),
    Migration("revoked commitments for a watchtower", TOWER),
    Migration("HTLCs by who wanted them", ORIGINS),
    Migration("attribution data of HTLCs", ATTRIBUTION),
)


def version_of(db: sqlite3.Connection) -> int | None:
    """The number of steps that were applied; None for a file that was never ours."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
    if db.execute(known).fetchone() is None:
        return None
    newest: int | None = db.execute("SELECT max(version) FROM schema_version").fetchone()[0]
    return newest or 0


def migrate(db: sqlite3.Connection, migrations: tuple[Migration, ...] = MIGRATIONS) -> int:
    """Applies the missing steps; returns how many there were."""
    begun = version_of(db) or 0
    for version, migration in enumerate(migrations[begun:], begun + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            if version == 1:
                db.execute(
                    "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT, applied_at INTEGER)"
                )
            for step in migration.steps:
                db.execute(step)
            row = (version, migration.name, int(time.time()))
            db.execute("INSERT INTO schema_version VALUES (?, ?, ?)", row)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    return len(migrations) - begun
