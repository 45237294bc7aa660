"""Three nodes in a row: Carol pays, Alice in the middle passes on, Bob is paid. Alice is one signer with two channels,
so that the rules which hold a forward together are the real ones."""

import os
from pathlib import Path

from node.channel.events import Offer
from node.channel.state import OfferWant
from protocol.amounts import BlockHeight, Msat, scid
from protocol.bolt4 import sphinx
from protocol.bolt4.payload import FinalPayload, ForwardPayload, encode_final, encode_forward
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from signer.service import SignerService
from tests.node.channel.pair import End, Pair, new_signer, open_channel

PUSH = 3_000_000_000
AMOUNT = 50_000_000
FEE = 1_000


class Half(End):
    """One of several channels of a node: they share the signer's session."""

    def hello(self) -> sign.Welcome:
        known: sign.Welcome | None = getattr(self.signer, "welcome_of_tests", None)
        if known is None:
            known = super().hello()
            self.signer.welcome_of_tests = known  # type: ignore[attr-defined]
        self.session, self.node_id = known.session, known.node_id
        return known


class Row:
    """`first`: Carol and Alice; `second`: Alice and Bob. Alice's halves are `inn` and `out`."""

    def __init__(self, folder: Path) -> None:
        signers: dict[str, SignerService] = {
            name: new_signer(folder / name) for name in ("carol", "alice", "bob")
        }
        self.carol = End("carol", signers["carol"], folder / "carol")
        self.inn = Half("inn", signers["alice"], folder / "alice")
        self.out = Half("out", signers["alice"], folder / "alice")
        self.bob = End("bob", signers["bob"], folder / "bob")
        self.first = Pair.of(self.carol, self.inn)
        self.second = Pair.of(self.out, self.bob)
        for pair in (self.first, self.second):
            open_channel(pair, push=PUSH)

    @property
    def channel_id(self) -> bytes:
        assert self.inn.state is not None
        return self.inn.state.committed.params.channel_id

    @property
    def origin(self) -> str:
        return said.forward_origin(self.channel_id, 0)

    def receive(self, payment_hash: bytes, payload: bytes | None = None) -> sphinx.Onion:
        """Carol's HTLC stands in both commitments of the first channel."""
        hop = encode_forward(ForwardPayload(scid(200, 1, 0), Msat(AMOUNT), BlockHeight(200)))
        last = payload or encode_final(
            FinalPayload(Msat(AMOUNT), BlockHeight(200), b"\x05" * 32, Msat(AMOUNT))
        )
        hops = [(self.inn.node_id, hop), (self.bob.node_id, last)]
        onion = sphinx.build(os.urandom(32), hops, payment_hash)
        self.carol.do(Offer(OfferWant(Msat(AMOUNT + FEE), payment_hash, 300, onion.packet, "payment/1")))
        self.first.quiet()
        return onion

    def pass_on(self) -> None:
        """Alice offers it to Bob; nothing has moved yet."""
        (received,) = self.inn.said.received
        assert received.next_onion is not None
        want = OfferWant(Msat(AMOUNT), received.payment_hash, 200, received.next_onion, self.origin)
        self.out.do(Offer(want))
