"""What the chain tells the channels, and what is due at each block."""

from node.channel.channel import Channel
from node.channel.events import (
    Env,
    FeerateMoved,
    ForceCloseWanted,
    FundingConfirmed,
    FundingReorganised,
    FundingSpent,
    SignerAsked,
)
from node.channel.handover import running
from node.channel.host import ChannelHost
from node.channel.openings import commitment_feerate
from node.channel.state import (
    Closing,
    Normal,
    ShuttingDown,
)
from node.onchain.deadlines import must_close
from protocol.amounts import BlockHeight, scid
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages import chain
from protocol.bus.service import hears
from protocol.errors import CommandRefused


class BlockTold:
    """To ourselves."""

    def __init__(self, height: BlockHeight) -> None:
        self.height = height


class ChainSide(ChannelHost):
    """Hears the chain service."""

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        self._env = Env(height=event.height, feerate_per_kw=self._env.feerate_per_kw)
        for channel in self._channels.values():
            if isinstance(channel.state.committed.phase, Closing) or channel.state.volatile.stalled:
                channel.put(SignerAsked())
        self.run(self._follow_feerate())
        # Behind the spends that this block told, which stand in our inbox already.
        self.bus.send(self.name, BlockTold(event.height))

    async def _follow_feerate(self) -> None:
        try:
            rate = await self.feerate(6)
        except (CommandRefused, OutcomeUnknown):
            return
        self._env = Env(height=self._env.height, feerate_per_kw=rate)
        for channel in self._channels.values():
            committed = channel.state.committed
            if not committed.params.holder_is_opener:
                continue
            wanted = commitment_feerate(rate, anchors=committed.params.anchors)
            now = committed.fees[-1].feerate_per_kw
            if wanted > now * 1.3 or wanted < now * 0.6:  # hysteresis: each change costs a round
                channel.put(FeerateMoved(wanted))

    @hears(chain.OutputConfirmed)
    def output_confirmed(self, event: chain.OutputConfirmed) -> None:
        channel = self._fundings.get((event.txid, event.index))
        if channel is not None:
            position = scid(event.height, event.tx_index, event.index)
            channel.put(FundingConfirmed(event.height, position, event.depth))

    @hears(chain.OutputReorganised)
    def output_reorganised(self, event: chain.OutputReorganised) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            channel.put(FundingReorganised())

    @hears(chain.OutpointSpent)
    def outpoint_spent(self, event: chain.OutpointSpent) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            channel.put(FundingSpent(event.tx, event.height, event.depth))
        else:
            self._resolver.output_spent(event)

    @hears(chain.SpendReorganised)
    def spend_reorganised(self, event: chain.SpendReorganised) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            self._resolver.funding_unspent(channel.row_id)
        else:
            self._resolver.output_unspent(event)

    @hears(BlockTold)
    def block_told(self, event: BlockTold) -> None:
        """Everything that the new blocks held was heard: what is due now, on chain and off."""
        self._resolver.new_block(event.height)
        if self._ready:  # before that nobody compared our numbers with the signer's
            for channel in self._channels.values():
                self._close_if_due(channel)
                self._raise_if_needed(channel)

    def _close_if_due(self, channel: Channel) -> None:
        """Looked at after each block, whether the peer is there or not (BOLT 5, "Failing a Channel")."""
        state = channel.state
        if not state.htlcs or not isinstance(state.committed.phase, Normal | ShuttingDown):
            return
        why = must_close(running(state.committed, state.htlcs), self._env.height)
        if why is not None:
            channel.put(ForceCloseWanted(why))
