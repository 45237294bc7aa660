"""What needs a person's attention, from what the node said: what, why, until when, and what to do."""

from typing import NamedTuple

from tui import words
from tui.store import Store

DEADLINE_BLOCKS = 24


class Alert(NamedTuple):
    style: str
    text: str
    advice: str


def alerts(store: Store) -> list[Alert]:
    """The most pressing first."""
    found: list[Alert] = []
    height = store.block.height if store.block is not None else 0
    if store.signer is not None and not store.signer.up:
        found.append(
            Alert(
                "$error",
                f"the signer is away: {store.signer.reason}",
                "No new HTLCs until it is back; start lnp-signer.",
            )
        )
    if not store.chain.up:
        found.append(
            Alert("$error", f"the chain is away: {store.chain.reason}", "Start bitcoind; we try again.")
        )
    elif not store.synced:
        found.append(Alert("$warning", "the chain is still behind", "Channels wait for it."))
    for channel in store.channels.values():
        name = words.scid(channel.short_channel_id) or words.short(channel.channel_id.hex())
        if channel.next_expiry is not None and channel.next_expiry - height <= DEADLINE_BLOCKS:
            left = channel.next_expiry - height
            found.append(
                Alert(
                    "$error" if left <= DEADLINE_BLOCKS // 3 else "$warning",
                    f"an HTLC in {name} ends in {words.blocks(left)}",
                    "The node closes the channel alone if it is not resolved in time.",
                )
            )
        if channel.state == "AWAITING_UNILATERAL":
            found.append(Alert("$warning", f"channel {name} is closing alone: {channel.why}", ""))
    away = sum(1 for row in store.channels.values() if row.state == "CHANNELD_NORMAL" and not row.connected)
    if away:
        noun = "channel has its peer" if away == 1 else "channels have their peers"
        found.append(Alert("$warning", f"{away} {noun} away", "The node goes on dialling."))
    pending = sum(row.status == "pending" for row in store.payments.values())
    if pending:
        noun = "payment is" if pending == 1 else "payments are"
        found.append(Alert("$warning", f"{pending} {noun} on the way, outcome unknown yet", ""))
    return found
