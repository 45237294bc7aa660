"""A signer in the test's own process, and a peer that signs whatever it is told.

The peer has no rules, so a test can let it play the attacker together with a stolen node.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bolt3 import shachain
from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc, Side, build
from protocol.bolt3.funding import channel_id
from protocol.bolt3.keys import derive_secret
from protocol.bolt3.params import CommitmentParams
from protocol.bus.messages import signer as contract
from protocol.curve import point_of, sign_ecdsa
from protocol.hashes import sha256
from protocol.secret import Secret
from signer import initialise, keys
from signer.channel_state import ChannelState
from signer.service import SignerService

WORDS = Secret(b"abandon " * 23 + b"art")
PEER_WORDS = Secret(b"abandon " * 11 + b"about")
PASSPHRASE = Secret(b"a passphrase of the tests")
CAPACITY = Sat(1_000_000)
FEERATE = FeeratePerKw(1000)
PREIMAGE = b"\x11" * 32
HASH = sha256(PREIMAGE)
DEADLINE = 60_000


def make_service(datadir: Path, *, words: Secret = WORDS, in_memory: bool = True) -> SignerService:
    """A new signer; the cost of scrypt is the least, so that opening takes milliseconds."""
    initialise.create(datadir, "regtest", PASSPHRASE, mnemonic=words, scrypt_cost=2)
    return SignerService(datadir, PASSPHRASE, in_memory=in_memory)


class Node:
    """Asks a signer as a node does."""

    def __init__(self, service: SignerService) -> None:
        self.service = service
        self._ids = count(1)
        self.session = 0
        welcome = self.ask(contract.Hello("regtest"))
        assert isinstance(welcome, contract.Welcome)
        self.welcome = welcome
        self.session = welcome.session

    def call(self, request: contract.Request) -> contract.SignerCall:
        return contract.SignerCall(next(self._ids), self.session, DEADLINE, request)

    def ask(self, request: contract.Request) -> contract.Reply:
        """Through the wire encoding both ways, so that whatever passes here passes on the link."""
        call = contract.decode_call(contract.encode(self.call(request)))
        (reply,) = self.service.handle_batch([call])
        assert reply.id == call.id
        return contract.decode_reply(contract.encode(reply)).reply


def htlc(
    offered: bool, number: int, amount: int, payment_hash: bytes = HASH, expiry: int = 500
) -> CommitmentHtlc:
    return CommitmentHtlc(offered, number, Msat(amount), payment_hash, expiry)


class World:
    """One channel of one signer with a peer that has no rules. The holder opened it, unless told otherwise.

    `beside`: another channel of the same signer, in the same session; then `place` tells them apart.
    """

    def __init__(
        self,
        service: SignerService,
        *,
        anchors: bool = True,
        push_msat: int = 400_000_000,
        holder_is_opener: bool = True,
        opened: bool = True,
        beside: "World | None" = None,
        place: int = 0,
    ) -> None:
        self.service = service
        self.node = Node(service) if beside is None else beside.node
        peer = keys.from_mnemonic(PEER_WORDS, REGTEST)
        self.peer = peer.channel(7, 9 + place)
        self.peer_id = peer.node_id
        drawn = self.node.ask(contract.NewChannel(bytes((1 + place,)) * 32, peer.node_id))
        assert isinstance(drawn, contract.ChannelDrawn)
        self.drawn = drawn
        self.setup = contract.SetupChannel(
            channel=drawn.channel,
            anchors=anchors,
            holder_is_opener=holder_is_opener,
            fundings=(contract.Funding(bytes((0xAB + place,)) * 32, 1, CAPACITY),),
            holder=contract.Terms(Sat(546), 144),
            counterparty=contract.Terms(Sat(546), 144),
            counterparty_keys=self.peer.public,
            counterparty_first_point=self.peer_point(0),
            push_msat=Msat(push_msat),
        )
        opener_msat = 1000 * CAPACITY - push_msat
        self.opening = (opener_msat, push_msat) if holder_is_opener else (push_msat, opener_msat)
        if opened:
            assert self.node.ask(self.setup) == contract.ChannelSetUp()
            self.open()

    @property
    def channel_id(self) -> bytes:
        return channel_id(self.params.funding_outpoint)

    # The peer's side.

    def peer_secret(self, number: int) -> bytes:
        return shachain.secret_for_commitment(self.peer.commitment_seed.reveal(), number)

    def peer_point(self, number: int) -> bytes:
        return point_of(self.peer_secret(number))

    @property
    def params(self) -> CommitmentParams:
        params = self.service._channels[self.drawn.channel].params
        assert params is not None
        return params

    @property
    def state(self) -> ChannelState:
        state = self.service._channels[self.drawn.channel].state
        assert state is not None
        return state

    def holder_point(self, number: int) -> bytes:
        return self.service._channels[self.drawn.channel].point(number)

    def peer_signs(self, content: CommitmentContent) -> contract.PeerSignatures:
        """The peer's signatures on our commitment with this content, whatever it says."""
        point = self.holder_point(content.number)
        commitment = build(self.params, Side.HOLDER, content, point)
        secret = derive_secret(self.peer.htlc.reveal(), self.peer.public.htlc_basepoint, point)
        return contract.PeerSignatures(
            sign_ecdsa(self.peer.funding.reveal(), commitment.digest),
            tuple(sign_ecdsa(secret, digest) for digest in commitment.htlc_digests()),
        )

    # Contents, always told from the holder: its balance, and HTLCs with `offered` by the holder.

    def content(
        self,
        side: Side,
        number: int,
        to_holder: int,
        htlcs: Sequence[CommitmentHtlc] = (),
        *,
        feerate: FeeratePerKw = FEERATE,
    ) -> CommitmentContent:
        to_other = 1000 * CAPACITY - to_holder - sum(item.amount_msat for item in htlcs)
        if side is Side.HOLDER:
            return CommitmentContent(number, feerate, Msat(to_holder), Msat(to_other), tuple(htlcs))
        turned = tuple(
            CommitmentHtlc(not item.offered, item.id, item.amount_msat, item.payment_hash, item.cltv_expiry)
            for item in htlcs
        )
        return CommitmentContent(number, feerate, Msat(to_other), Msat(to_holder), turned)

    # Operations.

    def validate(
        self,
        number: int,
        to_holder: int,
        htlcs: Sequence[CommitmentHtlc] = (),
        feerate: FeeratePerKw = FEERATE,
    ) -> contract.ValidateHolder:
        content = self.content(Side.HOLDER, number, to_holder, htlcs, feerate=feerate)
        return contract.ValidateHolder(number, content, (self.peer_signs(content),))

    def sign(
        self,
        number: int,
        to_holder: int,
        htlcs: Sequence[CommitmentHtlc] = (),
        feerate: FeeratePerKw = FEERATE,
        forwards: Sequence[contract.Forward] = (),
    ) -> contract.SignCounterparty:
        content = self.content(Side.COUNTERPARTY, number, to_holder, htlcs, feerate=feerate)
        return contract.SignCounterparty(number, content, tuple(forwards))

    def revocation(self, number: int) -> contract.AcceptRevocation:
        return contract.AcceptRevocation(number, self.peer_secret(number), self.peer_point(number + 2))

    def answer(self, *operations: contract.Operation) -> contract.ChannelAnswer:
        reply = self.node.ask(contract.ChannelRequest(self.drawn.channel, operations))
        assert isinstance(reply, contract.ChannelAnswer), reply
        return reply

    def grants(self, *operations: contract.Operation) -> tuple[contract.Result, ...]:
        answer = self.answer(*operations)
        assert answer.stopped is None, answer.stopped
        assert len(answer.results) == len(operations)
        return answer.results

    def refuses(self, operation: contract.Operation) -> str:
        """The tag of the rule of ours that refuses it; nothing changes."""
        before = self.state
        stopped = self.answer(operation).stopped
        assert isinstance(stopped, contract.Refused), stopped
        assert self.state is before
        return stopped.tag

    def faults(self, operation: contract.Operation) -> str:
        """The tag of the rule that the peer broke; nothing changes."""
        before = self.state
        stopped = self.answer(operation).stopped
        assert isinstance(stopped, contract.PeerFault), stopped
        assert self.state is before
        return stopped.tag

    # Whole steps of the dance.

    def open(self) -> None:
        to_holder = self.opening[0]
        self.grants(
            self.validate(0, to_holder),
            self.sign(0, to_holder),
            contract.AcceptSecondPoint(self.peer_point(1)),
        )

    def holder_moves(self, number: int, to_holder: int, htlcs: Sequence[CommitmentHtlc] = ()) -> None:
        """Our commitment `number` replaces the one before."""
        self.grants(self.validate(number, to_holder, htlcs), contract.RevokeHolder(number - 1))

    def peer_moves(self, number: int, to_holder: int, htlcs: Sequence[CommitmentHtlc] = ()) -> None:
        """The peer's commitment `number` replaces the one before."""
        self.grants(self.sign(number, to_holder, htlcs), self.revocation(number - 1))

    def both_move(self, number: int, to_holder: int, htlcs: Sequence[CommitmentHtlc] = ()) -> None:
        self.holder_moves(number, to_holder, htlcs)
        self.peer_moves(number, to_holder, htlcs)

    def invoice(self, amount: int | None = 50_000, request_id: bytes = b"\x02" * 32) -> contract.InvoiceMade:
        made = self.node.ask(make_invoice_request(request_id, amount))
        assert isinstance(made, contract.InvoiceMade)
        return made

    def close(
        self,
        to_holder: int,
        *,
        fee: int = 500,
        script: bytes | None = None,
        to_counterparty: int | None = None,
    ) -> contract.SignMutualClose:
        other = CAPACITY - to_holder if to_counterparty is None else to_counterparty
        own_script = self.drawn.shutdown_script if script is None else script
        return contract.SignMutualClose(
            Sat(to_holder), Sat(other), own_script, b"\x00\x14" + b"\x07" * 20, Sat(fee)
        )


def make_invoice_request(request_id: bytes, amount: int | None) -> contract.MakeInvoice:
    return contract.MakeInvoice(
        request_id=request_id,
        timestamp=1_700_000_000,
        amount_msat=None if amount is None else Msat(amount),
        description="coffee",
        description_hash=None,
        expiry=3600,
        min_final_cltv_expiry=24,
    )
