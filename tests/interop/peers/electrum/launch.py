"""Debian's electrum with a few commands more, which the interop tests need. Runs under the system's Python.

What is added only reads state, or lets Electrum send a payment that no invoice asks for; nothing is replaced.
"""

import asyncio
import runpy
import sys

PROGRAM = "/usr/bin/electrum"
sys.argv[0] = PROGRAM
sys.path.insert(0, "/usr/lib/python3/dist-packages")

from electrum.commands import Commands, command  # type: ignore[import-not-found]  # noqa: E402
from electrum.invoices import PR_PAID  # type: ignore[import-not-found]  # noqa: E402
from electrum.lnutil import LOCAL, RECEIVED, REMOTE, LnFeatures, PaymentFailure  # type: ignore[import-not-found]  # noqa: E402


@command("wl")
async def node_secret(self, wallet=None):
    """The node's private key, of a chain without value."""
    return wallet.lnworker.node_keypair.privkey.hex()


def _pending(channel):
    """HTLCs that stand in any commitment that is or will be valid."""
    manager = channel.hm
    views = (manager.get_htlcs_in_oldest_unrevoked_ctx, manager.get_htlcs_in_next_ctx)
    found = (view(side) for view in views for side in (LOCAL, REMOTE))
    return {(direction, htlc.htlc_id) for htlcs in found for direction, htlc in htlcs}


@command("wl")
async def channel_facts(self, wallet=None):
    """What list_channels leaves out."""
    return [
        {
            "channel_point": channel.funding_outpoint.to_str(),
            "capacity": channel.constraints.capacity,
            "feerate": channel.get_next_feerate(LOCAL),
            "local_msat": channel.balance(LOCAL),
            "pending": len(_pending(channel)),
            "usable": channel.is_open() and channel.is_active() and channel.can_send_ctx_updates(),
            "state": channel.get_state().name,
        }
        for channel in wallet.lnworker.channels.values()
    ]


@command("wl")
async def received_msat(self, payment_hash, wallet=None):
    """What came in for good under a payment hash."""
    settled = wallet.lnworker.get_payments(status="settled")
    found = settled.get(bytes.fromhex(payment_hash), [])
    return sum(item.htlc.amount_msat for item in found if item.direction == RECEIVED) or None


@command("wnl")
async def send_anyway(self, payee, payment_hash, payment_secret, amount_msat, delta, wallet=None):
    """A payment by its bare terms: one attempt, no invoice, no questions."""
    worker = wallet.lnworker
    try:
        await worker.pay_to_node(
            node_pubkey=bytes.fromhex(payee),
            payment_hash=bytes.fromhex(payment_hash),
            payment_secret=bytes.fromhex(payment_secret),
            amount_to_pay=int(amount_msat),
            min_cltv_expiry=int(delta),
            r_tags=[],
            invoice_features=LnFeatures.VAR_ONION_OPT | LnFeatures.PAYMENT_SECRET_OPT,
            attempts=1,
        )
    except PaymentFailure as failure:
        log = worker.logs[payment_hash]
        return {"success": False, "log": [item.formatted_tuple() for item in log], "why": str(failure)}
    return {"success": True, "preimage": worker.get_preimage(bytes.fromhex(payment_hash)).hex()}


@command("wnl")
async def ping_peer(self, node_id, wallet=None):
    """A ping outside its turn; answers when the pong is there."""
    peer = wallet.lnworker.peers[bytes.fromhex(node_id)]
    peer.pong_event.clear()
    peer.send_message("ping", num_pong_bytes=4, byteslen=4)
    await asyncio.wait_for(peer.pong_event.wait(), 20)
    return True


BEGUN = []  # a task that nobody keeps may vanish


@command("wnl")
async def begin_paying(self, bolt11, wallet=None):
    """A payment whose end nobody waits for."""
    BEGUN.append(asyncio.ensure_future(wallet.lnworker.pay_invoice(bolt11)))


@command("wl")
async def preimage_known(self, payment_hash, wallet=None):
    """The preimage, told by the payee or found on the chain."""
    found = wallet.lnworker.get_preimage(bytes.fromhex(payment_hash))
    return None if found is None else found.hex()


@command("wl")
async def would_take(self, payment_hash, wallet=None):
    """Whether a payment to us came whole and counts as ours, settled or not."""
    return wallet.lnworker.get_payment_status(bytes.fromhex(payment_hash)) == PR_PAID


@command("wl")
async def waits_for_more(self, payment_hash, wallet=None):
    """Whether a part of a payment is here, and the rest is waited for."""
    parts = wallet.lnworker.received_mpp_htlcs
    return any(
        key.startswith(bytes.fromhex(payment_hash)) and status.htlc_set for key, status in parts.items()
    )


@command("wl")
async def part_patience(self, seconds, wallet=None):
    """How long it waits for the rest of a payment; 120 seconds by its own choice."""
    wallet.lnworker.MPP_EXPIRY = int(seconds)


ADDED = (
    node_secret,
    channel_facts,
    received_msat,
    send_anyway,
    ping_peer,
    begin_paying,
    preimage_known,
    would_take,
    waits_for_more,
    part_patience,
)
for added in ADDED:
    setattr(Commands, added.__name__, added)

runpy.run_path(PROGRAM, run_name="__main__")
