"""A real chain, two real signers, one channel, and the resolution of each end driven by hand.

Nothing runs by itself: `mine` makes blocks and tells both ends what is in them. Every transaction that an end
publishes must be taken by the mempool. With `crashes` each end dies between every save and its effects.
"""

from collections import Counter
from pathlib import Path
from typing import assert_never

import msgspec

from node.chain.regtest import RegtestChain, Rejected
from node.channel import store as channel_store
from node.channel.events import Offer
from node.channel.handover import facts_of
from node.channel.state import OfferWant
from node.channel.terms import Policy
from node.onchain import machine
from node.onchain.events import (
    ClaimWanted,
    CoinsFound,
    Confirmed,
    Done,
    Effect,
    Env,
    Event,
    FindPoint,
    Forget,
    NeedCoins,
    NewBlock,
    NotSigned,
    NotTaken,
    OutputSpent,
    PeerPointKnown,
    Publish,
    ReleaseCoins,
    Resume,
    Settle,
    Sign,
    Signed,
    SpendLost,
    Step,
    Unconfirmed,
    Unwatch,
    Warn,
    Watch,
)
from node.onchain.state import Kind, Outcome, State
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3.commitment import Commitment, Side, build
from protocol.bolt3.htlc_tx import success_witness, timeout_witness, with_witness
from protocol.bus.messages import signer as sign
from protocol.bus.messages.wallet import SpendPlanned
from protocol.curve import sign_ecdsa
from signer.channel import Channel
from signer.channel_state import Version
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel

CAPACITY = 10_000_000
PUSH = 3_000_000_000
DELAY = 10
COIN = Sat(100_000)
COINS = 30
RATE = FeeratePerKw(1000)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode
KNOWN = ("txn-already-in-mempool", "txn-already-known", "txn-same-nonwitness-data-in-mempool")


class Copy(msgspec.Struct):
    """A commitment of one end as its signer could have signed it, kept for later."""

    channel: Channel
    commitment: Commitment
    version: Version
    tx: Transaction

    def htlc_transaction(
        self,
        htlc_id: int,
        *,
        offered: bool,
        preimage: bytes = b"",
        coin: OutPoint | None = None,
        change: TxOut | None = None,
    ) -> Transaction:
        """The owner's second stage; with anchors it may have a coin, which is not signed, and change."""
        number = self.commitment.content.number
        key = self.channel.htlc_secret(self.channel.point(number))
        for place, output in enumerate(self.commitment.htlcs):
            if (output.htlc.offered, output.htlc.id) != (offered, htlc_id):
                continue
            tx = self.commitment.second_stage.transaction(output)
            if coin is not None and change is not None:
                inputs = (*tx.inputs, TxIn(coin, sequence=0xFFFFFFFD))
                tx = Transaction(tx.version, inputs, (*tx.outputs, change), tx.locktime)
            ours = sign_ecdsa(key, segwit_v0(tx, 0, output.witness_script, output.value))
            theirs = self.version.signatures[0].htlcs[place]
            script, kind = output.witness_script, self.commitment.remote_hash_type
            if preimage:
                return with_witness(tx, 0, success_witness(theirs, ours, preimage, script, kind))
            return with_witness(tx, 0, timeout_witness(theirs, ours, script, kind))
        raise AssertionError("no such HTLC output")


class Watcher:
    """One end's resolution: machine, saved state, and the effects performed on the spot."""

    def __init__(self, world: "World", end: End) -> None:
        self.world = world
        self.end = end
        self.saved: bytes | None = None
        self.watched: set[OutPoint] = set()
        self.outcomes: dict[tuple[bool, int], Outcome] = {}
        self.times_told: Counter[tuple[bool, int]] = Counter()
        self.warnings: list[str] = []
        self.published: dict[bytes, Transaction] = {}
        self.refused: list[str] = []
        self.done = False
        self.told = False
        self.coins = 0
        self.released: list[int] = []
        self.forgotten: list[bytes] = []
        self.rates = (RATE, RATE, RATE)
        self.crashes = False
        self.offline = False
        self.seen = world.chain.height
        self.funding_height: int | None = None
        self._seen_spends: dict[OutPoint, int] = {}
        self._seen_unconfirmed: set[tuple[OutPoint, bytes]] = set()

    @property
    def state(self) -> State:
        assert self.saved is not None
        return _decode(self.saved)

    @property
    def env(self) -> Env:
        return Env(BlockHeight(self.world.chain.height), *self.rates)

    def do(self, event: Event) -> None:
        self._after(machine.step(self.state, event, self.env))

    def _after(self, step: Step) -> None:
        if not step.save:
            before = self.saved
            self._perform(step.effects)
            assert before is not None
            return
        self.saved = _encode(step.state)
        assert _decode(self.saved) == step.state
        if self.crashes:
            self._restart()
        else:
            self._perform(step.effects)

    def _restart(self) -> None:
        """The effects are lost with the process; the next one begins with what was saved."""
        self.crashes = False  # one crash for each save: the effects of the start are performed
        self._perform(machine.step(self.state, Resume(), self.env).effects)
        self.crashes = True

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Watch(txid=txid, index=index):
                    self._watch(OutPoint(txid, index))
                case Unwatch(txid=txid, index=index):
                    self.watched.discard(OutPoint(txid, index))
                case FindPoint(number=number):
                    self._tell()
                    handle = self.state.facts.handle
                    request: sign.Request = sign.FindPeerPoint(handle, number)
                    if self.state.facts.kind is Kind.OURS_LOST:
                        assert self.end.call(sign.MarkStale(handle)) == sign.MarkedStale()
                        request = sign.FindHolderPoint(handle, number)
                    reply = self.end.call(request)
                    assert isinstance(reply, sign.PeerPointFound | sign.HolderPointFound), reply
                    self.do(PeerPointKnown(reply.point))
                case Sign(claim=claim, request=request):
                    self._sign(claim, request)
                case NeedCoins(claim=claim):
                    self.do(self.world.coins_for(self, claim))
                case ReleaseCoins(claim=claim):
                    self.released.append(claim)
                case Publish(tx=tx, parents=parents):
                    self._publish(tx, parents)
                case Forget(txid=txid):
                    self.forgotten.append(txid)
                case Settle(outcome=outcome):
                    self.times_told[outcome.key] += 1
                    known = self.outcomes.setdefault(outcome.key, outcome)
                    assert known == outcome
                case Warn(sentence=sentence):
                    self.warnings.append(sentence)
                case Done():
                    self.done = True
                case _:
                    assert_never(effect)

    def _watch(self, outpoint: OutPoint) -> None:
        self.watched.add(outpoint)
        found = self.world.spend_of(outpoint)
        if found is not None:
            tx, height = found
            self._seen_spends[outpoint] = height
            self.do(OutputSpent(outpoint.txid, outpoint.index, tx.serialize(), BlockHeight(height)))

    def _tell(self) -> None:
        """What the signer was not told before the close leads the first request."""
        if not self.told and self.state.facts.tell:
            reply = self.end.call(sign.ChannelRequest(self.state.facts.handle, self.state.facts.tell))
            assert isinstance(reply, sign.ChannelAnswer) and reply.stopped is None, reply
        self.told = True

    def _sign(self, claim: int, request: sign.SignSweep | sign.SignSecondStage | sign.SignAnchor) -> None:
        self._tell()
        reply = self.end.call(request)
        match reply:
            case (
                sign.SweepSigned(transaction=tx)
                | sign.SecondStageSigned(transaction=tx)
                | sign.AnchorSigned(transaction=tx)
            ):
                self.do(Signed(claim, tx, request.feerate_per_kw))
            case sign.Refused(tag=tag, seen=seen, limit=limit):
                self.refused.append(tag)
                self.do(NotSigned(claim, tag, f"{seen}, limit {limit}"))
            case _:
                raise AssertionError(reply)

    def _publish(self, raw: bytes, parents: tuple[bytes, ...] = ()) -> None:
        tx = Transaction.parse(raw)
        try:
            self._submit(tx, [Transaction.parse(parent) for parent in parents])
        except Rejected as error:
            if error.reason in KNOWN:
                return
            if self.world.may_refuse(error.reason):
                self.do(NotTaken(tx.txid, self.world.words_for.get(error.reason, str(error))))
                return
            raise
        self.published[tx.txid] = tx

    def _submit(self, tx: Transaction, parents: list[Transaction]) -> None:
        waiting = [parent for parent in parents if parent.txid not in self.world.chain.mempool]
        if not waiting:
            self.world.chain.submit(tx)
            return
        self.world.chain.submit_package([*waiting, tx])
        if tx.txid not in self.world.chain.mempool:
            raise Rejected("package not taken")

    # The chain.

    def look(self) -> None:
        """Everything since the last look, block by block, and then what is due."""
        if self.offline:
            return
        chain = self.world.chain
        for height in range(self.seen + 1, chain.height + 1):
            for tx in chain.block(height).transactions[1:]:
                for spend in tx.inputs:
                    if spend.outpoint == self.world.funding_outpoint:
                        self._funding_spent(tx, height)
                    if spend.outpoint in self.watched:
                        self._seen_spends[spend.outpoint] = height
                        at = spend.outpoint
                        self.do(OutputSpent(at.txid, at.index, tx.serialize(), BlockHeight(height)))
        self.seen = chain.height
        if self.saved is not None:
            self.do(NewBlock())

    def look_into_mempool(self) -> None:
        """As the chain service tells it: each unconfirmed spend of something that we watch, once."""
        if self.offline:
            return
        for entry in list(self.world.chain.mempool):
            tx = entry.tx
            for spend in tx.inputs:
                at = spend.outpoint
                if (at, tx.txid) in self._seen_unconfirmed:
                    continue
                if at == self.world.funding_outpoint:
                    self._seen_unconfirmed.add((at, tx.txid))
                    if self.saved is None or self.state.height is None:
                        self._begin(tx)
                        self.do(NewBlock())
                elif at in self.watched:
                    self._seen_unconfirmed.add((at, tx.txid))
                    self.do(OutputSpent(at.txid, at.index, tx.serialize(), None))

    def _begin(self, tx: Transaction) -> None:
        if self.saved is not None and self.state.facts.txid == tx.txid:
            return
        assert self.end.state is not None
        live, finished = channel_store.load_all_htlcs(self.end.database, 1)
        assert {row.key for row in live} == set(self.end.state.htlcs)
        committed, volatile = self.end.state.committed, self.end.state.volatile
        facts = facts_of(committed, volatile, self.end.state.htlcs, finished, tx.serialize())
        self._after(machine.begin(facts, self.env, None if self.saved is None else self.state))

    def _funding_spent(self, tx: Transaction, height: int) -> None:
        self.funding_height = height
        self._begin(tx)
        self.do(Confirmed(BlockHeight(height)))

    def published_commitment(self, tx: Transaction) -> None:
        """Our own, which is in no block yet."""
        assert self.end.state is not None
        state = self.end.state
        facts = facts_of(state.committed, state.volatile, state.htlcs, (), tx.serialize())
        self._after(machine.begin(facts, self.env))
        self.do(NewBlock())

    def lost(self, fork: int) -> None:
        """Every block above `fork` left the chain."""
        self.seen = min(self.seen, fork)
        if self.saved is None:
            return
        for outpoint, height in list(self._seen_spends.items()):
            if height > fork:
                del self._seen_spends[outpoint]
                self.do(SpendLost(outpoint.txid, outpoint.index))
        if self.funding_height is not None and self.funding_height > fork:
            self.funding_height = None
            self.do(Unconfirmed())

    def outcome(self, payment_hash: bytes) -> Outcome | None:
        """How the one HTLC with this hash ended, as far as it was told."""
        (htlc,) = [h for h in self.state.facts.htlcs if h.payment_hash == payment_hash]
        return self.outcomes.get(htlc.key)

    # Money.

    def income(self) -> int:
        """What stands on this end's cold branch, unspent."""
        books, found = self.end.signer._books, 0
        for outpoint, coin in self.world.chain.index.coins.items():
            if books.is_cold(coin.output.script_pubkey):
                assert outpoint.txid in self.world.mined
                found += coin.output.value
        return found

    def anchors_taken(self) -> int:
        """Anchors that came along with a fee."""
        return 330 * sum(
            any(self.world.is_anchor(spend.outpoint) for spend in tx.inputs)
            for txid, tx in self.published.items()
            if self.world.chain.confirmations(txid)
        )

    def coins_left(self) -> int:
        """What its wallet still has, change among it."""
        keys = self.end.signer.keys
        scripts = {keys.wallet_script(branch, n) for branch in (0, 1) for n in range(40)}
        coins = self.world.chain.index.coins.values()
        return sum(coin.output.value for coin in coins if coin.output.script_pubkey in scripts)


class World:
    def __init__(self, folder: Path, *, anchors: bool, push: int = PUSH, delay: int = DELAY) -> None:
        self.chain = RegtestChain(folder / "chain")
        self.pair = Pair(folder)
        self.anchors = anchors
        self.funding: Transaction | None = None
        self.mined: set[bytes] = set()
        self.tolerated: tuple[str, ...] = ()
        self.words_for: dict[str, str] = {}
        """How another server says what the embedded chain says."""
        self.mempool_is_told = False
        open_channel(
            self.pair,
            anchors=anchors,
            funding=CAPACITY,
            push=push,
            plan=self._plan,
            policy=Policy(to_self_delay=delay),
        )
        assert self.funding is not None
        self.funding_outpoint = OutPoint(self.funding.txid, 0)
        self.chain.submit(self.funding)
        self.places: dict[str, list[tuple[OutPoint, int]]] = {"alice": [], "bob": []}
        for end in self.pair.ends:
            for position in range(COINS):
                outpoint = self.chain.fund(end.signer.keys.wallet_script(0, position), COIN)
                self.places[end.name].append((outpoint, position))
        self.chain.generate(1)
        self.alice = Watcher(self, self.pair.alice)
        self.bob = Watcher(self, self.pair.bob)
        self.preimages: dict[bytes, bytes] = {}
        for end in self.pair.ends:
            end.env = msgspec.structs.replace(end.env, height=BlockHeight(self.chain.height))

    @property
    def watchers(self) -> tuple[Watcher, Watcher]:
        return self.alice, self.bob

    def of(self, end: End) -> Watcher:
        return self.alice if end is self.pair.alice else self.bob

    def close(self) -> None:
        self.chain.close()
        for end in self.pair.ends:
            end.signer.close()

    def _plan(self, script: bytes, value: Sat) -> SpendPlanned:
        self.funding = self.chain.prepare([TxOut(value, script)])
        return SpendPlanned("test", self.funding.serialize(), self.funding.txid, 0, value, Sat(500))

    def may_refuse(self, reason: str) -> bool:
        return reason in self.tolerated

    def coins_for(self, watcher: Watcher, claim: int) -> CoinsFound:
        outpoint, position = self.places[watcher.end.name][watcher.coins]
        watcher.coins += 1
        coin = sign.WalletCoin(outpoint.txid, outpoint.index, COIN, 0, position)
        return CoinsFound(claim, (coin,), (1, claim))

    # HTLCs.

    def offer(self, payer: End, amount_msat: int, cltv_expiry: int) -> bytes:
        """An HTLC over an invoice of the other end, in both commitments. Answers its payment hash."""
        payment_hash = self.offer_unheard(payer, amount_msat, cltv_expiry)
        self.pair.quiet()
        assert not payer.said.refused, payer.said.refused
        return payment_hash

    def offer_unheard(self, payer: End, amount_msat: int, cltv_expiry: int) -> bytes:
        """The offer leaves; nothing else moves."""
        payee = self.pair.other(payer)
        made = invoice(payee, amount_msat)
        onion = onion_for(payee, made, amount_msat, cltv_expiry)
        origin = made.payment_hash.hex()
        payer.do(Offer(OfferWant(Msat(amount_msat), made.payment_hash, cltv_expiry, onion, origin)))
        own = payee.signer._books.invoice(made.payment_hash, b"")
        assert own is not None
        self.preimages[made.payment_hash] = own.preimage.reveal()
        return made.payment_hash

    # Commitments.

    def copy(self, owner: End) -> Copy:
        """The newest commitment of this end, signed by its own keys past every rule of its signer."""
        (channel,) = owner.signer._channels.values()
        assert channel.state is not None and channel.params is not None
        number = channel.state.holder_validated
        version = channel.state.holder[number][-1]
        commitment = build(channel.params, Side.HOLDER, version.content, channel.point(number))
        signature = sign_ecdsa(channel.secrets.funding.reveal(), commitment.digest)
        tx = commitment.signed(signature, version.signatures[0].commitment)
        return Copy(channel, commitment, version, tx)

    def force_close(self, owner: End) -> Transaction:
        """Its signer signs, and freezes; the transaction is in the mempool."""
        assert owner.state is not None
        handle = owner.state.committed.params.handle
        reply = owner.call(sign.ChannelRequest(handle, (sign.SignHolderCommitment(),)))
        assert isinstance(reply, sign.ChannelAnswer) and reply.stopped is None
        (signed,) = reply.results
        assert isinstance(signed, sign.HolderCommitmentSigned)
        tx = Transaction.parse(signed.transaction)
        self.chain.submit(tx)
        return tx

    # Blocks.

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            if self.mempool_is_told:
                for watcher in self.watchers:
                    watcher.look_into_mempool()
            self.chain.generate(1)
            self.mined.update(tx.txid for tx in self.chain.block(self.chain.height).transactions)
            for watcher in self.watchers:
                watcher.look()

    def mine_to(self, height: int) -> None:
        self.mine(max(0, height - self.chain.height))

    def mine_until_done(self, *watchers: Watcher, most: int = 200) -> None:
        for _ in range(most):
            if all(watcher.done for watcher in watchers):
                return
            self.mine()
        raise AssertionError([watcher.state for watcher in watchers if not watcher.done])

    def reorganise(self, depth: int) -> None:
        """The last blocks are replaced by empty ones; what they held is in the mempool again."""
        fork = self.chain.height - depth
        self.chain.reorg(depth)
        for watcher in self.watchers:
            watcher.lost(fork)
            watcher.look()

    def spend_of(self, outpoint: OutPoint) -> tuple[Transaction, int] | None:
        for height in range(self.chain.height, 100, -1):
            for tx in self.chain.block(height).transactions[1:]:
                if any(spend.outpoint == outpoint for spend in tx.inputs):
                    return tx, height
        return None

    def is_anchor(self, outpoint: OutPoint) -> bool:
        parent = self.chain.transaction(outpoint.txid)
        return parent is not None and parent.outputs[outpoint.index].value == 330

    def fee_of(self, tx: Transaction) -> int:
        spent = 0
        for spend in tx.inputs:
            parent = self.chain.transaction(spend.outpoint.txid)
            assert parent is not None
            spent += parent.outputs[spend.outpoint.index].value
        return spent - sum(output.value for output in tx.outputs)

    def fees_of(self, watcher: Watcher) -> int:
        """Of its transactions that are in the chain."""
        return sum(
            self.fee_of(tx) for txid, tx in watcher.published.items() if self.chain.confirmations(txid)
        )

    def claim(self, watcher: Watcher, payment_hash: bytes) -> None:
        """Payments want this received HTLC."""
        (key,) = [h.id for h in watcher.state.facts.htlcs if h.payment_hash == payment_hash and not h.offered]
        watcher.do(ClaimWanted(key))
