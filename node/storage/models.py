"""The durable tables as peewee models, for cold queries (DESIGN, "Throughput": models for cold paths only).

The tables are made by `migrations`; a test holds the two together. Nothing is written through these models:
all writing goes through the `Writer`, in one order.
"""

from pathlib import Path

import peewee
from peewee import BlobField, CompositeKey, FloatField, IntegerField, TextField

database = peewee.SqliteDatabase(None)


def bind(path: Path) -> None:
    """Opens the models on a database file, for reading only."""
    database.init(str(path), pragmas={"query_only": 1})


class Row(peewee.Model):
    class Meta:
        database = database
        legacy_table_names = False


class Meta(Row):
    key = TextField(primary_key=True)
    value = TextField()


class Channel(Row):
    id = IntegerField(primary_key=True)
    channel_id = BlobField(null=True, unique=True)
    peer = BlobField()
    state = BlobField()
    phase = TextField()
    updated = IntegerField()

    class Meta:
        table_name = "channels"


class Htlc(Row):
    channel = IntegerField()
    offered = IntegerField()
    id = IntegerField()
    amount_msat = IntegerField()
    payment_hash = BlobField()
    cltv_expiry = IntegerField()
    local_from = IntegerField(null=True)
    local_to = IntegerField(null=True)
    remote_from = IntegerField(null=True)
    remote_to = IntegerField(null=True)
    onion = BlobField(null=True)
    payload = BlobField(null=True)
    next_onion = BlobField(null=True)
    um = BlobField(null=True)
    ammag = BlobField(null=True)
    preimage = BlobField(null=True)
    failure = BlobField(null=True)
    failure_code = IntegerField(null=True)
    origin = TextField(null=True)
    done = IntegerField()
    onion_key = BlobField(null=True)
    ammagext = BlobField(null=True)
    attribution = BlobField(null=True)

    class Meta:
        table_name = "htlcs"
        primary_key = CompositeKey("channel", "offered", "id")


class JournalLine(Row):
    seq = IntegerField(primary_key=True)
    channel = IntegerField()
    event = TextField()
    at = IntegerField()

    class Meta:
        table_name = "journal"


class Payment(Row):
    id = TextField(primary_key=True)
    payment_hash = BlobField()
    bolt11 = TextField(null=True)
    amount_msat = IntegerField()
    amount_sent_msat = IntegerField()
    destination = BlobField(null=True)
    status = TextField()
    created = IntegerField()
    completed = IntegerField(null=True)
    preimage = BlobField(null=True)
    error = TextField(null=True)
    label = TextField(null=True)
    max_fee_msat = IntegerField(null=True)
    retry_until = IntegerField(null=True)
    kind = TextField()
    group_id = IntegerField()
    goal = BlobField(null=True)

    class Meta:
        table_name = "payments"


class Attempt(Row):
    payment_id = TextField()
    part = IntegerField()
    origin = TextField(unique=True)
    channel = BlobField()
    amount_msat = IntegerField()
    fee_msat = IntegerField()
    session_key = BlobField()
    route = BlobField()
    status = TextField()
    failure = TextField(null=True)
    part_id = IntegerField()
    cltv_expiry = IntegerField()
    created = IntegerField()
    ended = IntegerField(null=True)
    failed_at = IntegerField(null=True)
    failure_code = IntegerField(null=True)
    hold_times = TextField(null=True)

    class Meta:
        table_name = "attempts"
        primary_key = CompositeKey("payment_id", "part")


class Invoice(Row):
    payment_hash = BlobField(primary_key=True)
    label = TextField(unique=True)
    bolt11 = TextField()
    amount_msat = IntegerField(null=True)
    description = TextField(null=True)
    expires_at = IntegerField()
    status = TextField()
    payment_secret = BlobField()
    received_msat = IntegerField(null=True)
    paid_at = IntegerField(null=True)
    pay_index = IntegerField(null=True, unique=True)
    created = IntegerField()
    preimage = BlobField(null=True)
    hold = IntegerField()

    class Meta:
        table_name = "invoices"


class Forward(Row):
    id = IntegerField(primary_key=True)
    in_channel = BlobField()
    in_htlc = IntegerField()
    in_msat = IntegerField()
    in_expiry = IntegerField()
    payment_hash = BlobField()
    onion_key = BlobField(null=True)
    out_channel = BlobField(null=True)
    out_scid = IntegerField(null=True)
    out_htlc = IntegerField(null=True)
    out_msat = IntegerField(null=True)
    fee_msat = IntegerField(null=True)
    status = TextField()
    received = FloatField()
    resolved = FloatField(null=True)
    failure_code = IntegerField(null=True)
    reason = TextField(null=True)

    class Meta:
        table_name = "forwards"


class RoutingPolicy(Row):
    channel = BlobField(primary_key=True)
    policy = BlobField()
    previous = BlobField(null=True)
    previous_until = IntegerField()

    class Meta:
        table_name = "policies"


class Coin(Row):
    txid = BlobField()
    vout = IntegerField()
    value = IntegerField()
    script = BlobField()
    branch = IntegerField()
    idx = IntegerField()
    height = IntegerField(null=True)
    spent_by = BlobField(null=True)
    reserved_until = IntegerField(null=True)
    reserved_for = TextField(null=True)
    coinbase = IntegerField()

    class Meta:
        table_name = "coins"
        primary_key = CompositeKey("txid", "vout")


class Address(Row):
    branch = IntegerField()
    idx = IntegerField()
    script = BlobField(unique=True)

    class Meta:
        table_name = "addresses"
        primary_key = CompositeKey("branch", "idx")


class WalletTransaction(Row):
    txid = BlobField(primary_key=True)
    serialized = BlobField(column_name="raw")  # `raw` is a method of every model
    label = TextField(null=True)
    height = IntegerField(null=True)

    class Meta:
        table_name = "transactions"


class Peer(Row):
    node_id = BlobField(primary_key=True)
    addresses = TextField()
    last_seen = IntegerField(null=True)

    class Meta:
        table_name = "peers"


class PeerBlob(Row):
    node_id = BlobField(primary_key=True)
    blob = BlobField()
    stored = IntegerField()
    released = IntegerField(null=True)

    class Meta:
        table_name = "peer_blobs"


class ScannedBlock(Row):
    height = IntegerField(primary_key=True)
    block_hash = BlobField()

    class Meta:
        table_name = "scan"


class TowerPending(Row):
    channel = BlobField()
    body = BlobField()

    class Meta:
        table_name = "tower_pending"


class OnchainResolution(Row):
    channel = IntegerField(primary_key=True)
    state = BlobField()
    final = IntegerField()
    updated = IntegerField()

    class Meta:
        table_name = "onchain"


MODELS = (
    Meta,
    Channel,
    Htlc,
    JournalLine,
    Payment,
    Attempt,
    Invoice,
    Forward,
    RoutingPolicy,
    Coin,
    Address,
    WalletTransaction,
    Peer,
    PeerBlob,
    ScannedBlock,
    OnchainResolution,
    TowerPending,
)
