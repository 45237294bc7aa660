"""What the chain tells the channels, and what is due at each block."""

from msgspec.structs import replace

from node.channel import feerates, lockin, store
from node.channel.channel import Channel
from node.channel.events import (
    FeerateMoved,
    ForceCloseWanted,
    FundingConfirmed,
    FundingMissing,
    FundingReorganised,
    FundingSpent,
    SignerAsked,
)
from node.channel.handover import running
from node.channel.host import ChannelHost
from node.channel.state import (
    Closed,
    Closing,
    Normal,
    ShuttingDown,
)
from node.onchain.deadlines import must_close
from protocol.amounts import BlockHeight, scid
from protocol.bitcoin.transaction import Transaction
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages import chain
from protocol.bus.service import hears
from protocol.errors import CommandRefused

CUT_EACH_BLOCKS = 144


class BlockTold:
    """To ourselves."""

    def __init__(self, height: BlockHeight) -> None:
        self.height = height


class ChainSide(ChannelHost):
    """Hears the chain service."""

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        self._env = replace(self._env, height=event.height)
        for channel in self._channels.values():
            if isinstance(channel.state.committed.phase, Closing) or channel.state.volatile.stalled:
                channel.put(SignerAsked())
        self.run(self._follow_feerate())
        # Behind the spends that this block told, which stand in our inbox already.
        self.bus.send(self.name, BlockTold(event.height))

    async def _follow_feerate(self) -> None:
        """Asked once a block; without an answer the last estimate holds."""
        try:
            estimate, minimum = await self.feerate(6), await self.mempool_minimum()
        except (CommandRefused, OutcomeUnknown):
            return
        self._env = replace(self._env, feerate_per_kw=estimate)
        for channel in self._channels.values():
            committed = channel.state.committed
            if not committed.params.holder_is_opener:
                continue
            then = feerates.wanted(estimate, anchors=committed.params.anchors, mempool_minimum=minimum)
            if feerates.is_worth_a_round(committed.fees[-1].feerate_per_kw, then):
                channel.put(FeerateMoved(then))

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
            if event.height is None:
                # It may never be mined, so the channel goes on; what a preimage or a fee could do is done at once.
                self._resolver.funding_seen(channel.row_id, event.tx)
                return
            channel.put(FundingSpent(event.tx, event.height, event.depth))
            if isinstance(channel.state.committed.phase, Closed):
                # The channel has ended, its outputs are watched until no reorganisation can bring them back.
                self._resolver.funding_spent(channel.row_id, event.tx, event.height)
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
                self._forget_if_due(channel)
                self._raise_if_needed(channel)
                if (event.height + channel.row_id) % CUT_EACH_BLOCKS == 0:
                    self._writer.submit(store.cut_journal(channel.row_id), now=False)

    def _forget_if_due(self, channel: Channel) -> None:
        """A channel that the peer never funded (BOLT 2, "The channel_ready Message")."""
        committed = channel.state.committed
        if not lockin.is_forgettable(committed):
            return
        if lockin.is_overdue(committed, self._env.height):
            funding = committed.params.fundings[0]
            self.bus.send("chain", chain.UnwatchOutput(funding.txid, funding.index))
            if isinstance(committed.phase, Closing) and committed.phase.tx:
                self.bus.send("chain", chain.Forget(Transaction.parse(committed.phase.tx).txid))
        channel.put(FundingMissing())

    def _close_if_due(self, channel: Channel) -> None:
        """Looked at after each block, whether the peer is there or not (BOLT 5, "Failing a Channel")."""
        state = channel.state
        if not state.htlcs or not isinstance(state.committed.phase, Normal | ShuttingDown):
            return
        why = must_close(running(state.committed, state.htlcs, state.volatile), self._env.height)
        if why is not None:
            channel.put(ForceCloseWanted(why))
