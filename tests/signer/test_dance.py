"""Two signers in the dance of BOLT 2 with each other, with HTLCs of both directions in every state.

No node is here: a small model keeps what each side sent and what is acknowledged, and asks both signers.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt3 import closing
from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc
from protocol.bus.messages import signer as contract
from protocol.curve import verify_ecdsa
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import CAPACITY, PEER_WORDS, WORDS, Node, make_invoice_request, make_service

FEE = FeeratePerKw(500)
PUSH = 400_000_000


@dataclass
class Row:
    """An HTLC. `added` and `removed`: the commitment of [offerer, receiver] from which on it stands or is gone."""

    by: int
    id: int
    amount: int
    payment_hash: bytes
    added: list[int | None] = field(default_factory=lambda: [None, None])
    removed: list[int | None] = field(default_factory=lambda: [None, None])
    outcome: str = ""
    preimage: bytes = b""
    released: bool = False


class Party:
    def __init__(self, service: SignerService) -> None:
        self.service = service
        self.node = Node(service)
        self.number = 0
        """Of its own newest commitment."""
        drawn = self.node.ask(contract.NewChannel(bytes(32), self.node.welcome.node_id))
        assert isinstance(drawn, contract.ChannelDrawn)
        self.drawn = drawn

    def do(self, *operations: contract.Operation) -> tuple[contract.Result, ...]:
        reply = self.node.ask(contract.ChannelRequest(self.drawn.channel, operations))
        assert isinstance(reply, contract.ChannelAnswer), reply
        assert reply.stopped is None, reply.stopped
        return reply.results


class Dance:
    """Index 0 opened the channel, index 1 accepted it."""

    def __init__(self, tmp_path: Path, *, anchors: bool) -> None:
        services = [make_service(tmp_path / "a", words=WORDS), make_service(tmp_path / "b", words=PEER_WORDS)]
        self.parties = [Party(service) for service in services]
        self.rows: list[Row] = []
        self.next_id = [0, 0]
        self.lost = 0
        for me, party in enumerate(self.parties):
            other = self.parties[1 - me]
            setup = contract.SetupChannel(
                channel=party.drawn.channel,
                anchors=anchors,
                holder_is_opener=me == 0,
                fundings=(contract.Funding(b"\xcd" * 32, 0, CAPACITY),),
                holder=contract.Terms(Sat(354), 144),
                counterparty=contract.Terms(Sat(354), 144),
                counterparty_keys=other.drawn.keys,
                counterparty_first_point=other.drawn.points[0],
                push_msat=Msat(PUSH),
            )
            assert party.node.ask(setup) == contract.ChannelSetUp()
        for me in (0, 1):
            self._signed_for(me, 0)
        for me in (0, 1):
            self.parties[me].do(contract.AcceptSecondPoint(self.parties[1 - me].drawn.points[1]))

    def _stands(self, row: Row, owner: int, number: int) -> bool:
        added, removed = row.added[owner], row.removed[owner]
        return added is not None and added <= number and (removed is None or removed > number)

    def content(self, owner: int, number: int) -> CommitmentContent:
        """The commitment of `owner` as both compute it."""
        balance = [1000 * CAPACITY - PUSH, PUSH]
        htlcs = []
        for row in self.rows:
            if row.added[owner] is None or row.added[owner] > number:  # type: ignore[operator]
                continue
            balance[row.by] -= row.amount
            if self._stands(row, owner, number):
                htlcs.append(CommitmentHtlc(row.by == owner, row.id, Msat(row.amount), row.payment_hash, 700))
            else:
                balance[1 - row.by if row.outcome == "fulfil" else row.by] += row.amount
        return CommitmentContent(number, FEE, Msat(balance[owner]), Msat(balance[1 - owner]), tuple(htlcs))

    def _signed_for(self, owner: int, number: int) -> None:
        content = self.content(owner, number)
        (signed,) = self.parties[1 - owner].do(contract.SignCounterparty(number, content))
        assert isinstance(signed, contract.CounterpartySigned)
        self.parties[owner].do(contract.ValidateHolder(number, content, signed.signatures))

    def add(self, by: int, amount: int, payment_hash: bytes, preimage: bytes) -> Row:
        row = Row(by, self.next_id[by], amount, payment_hash, preimage=preimage)
        self.next_id[by] += 1
        self.rows.append(row)
        return row

    def commit(self, signer: int) -> None:
        """`commitment_signed` of `signer` and the `revoke_and_ack` that answers, as one request on each side.

        New updates of the signer go in, and those of the other that both commitments of the signer acknowledge.
        """
        owner = 1 - signer
        party, other = self.parties[owner], self.parties[signer]
        number = party.number + 1
        told: list[contract.Operation] = []
        for row in self.rows:
            # Offers begin on the commitment of the receiver; removals on the commitment of the offerer.
            if row.added[owner] is None and (row.by == signer or row.added[signer] is not None):
                row.added[owner] = number
            if (
                row.outcome
                and row.removed[owner] is None
                and (row.by == owner or row.removed[signer] is not None)
            ):
                row.removed[owner] = number
                if row.by == owner and row.outcome == "fulfil":
                    told.append(contract.LearnPreimage(row.preimage))
        content = self.content(owner, number)
        (signed,) = other.do(contract.SignCounterparty(number, content))
        assert isinstance(signed, contract.CounterpartySigned)
        told.append(contract.ValidateHolder(number, content, signed.signatures))
        results = party.do(*told, contract.RevokeHolder(number - 1))
        revoked = results[-1]
        assert isinstance(revoked, contract.Revoked)
        other.do(contract.AcceptRevocation(number - 1, revoked.secret, revoked.next_point))
        party.number = number

    def lose(self, signer: int, amount: int) -> None:
        """The signer's node asks for a commitment with an offer that it forgets in a crash, answer and all."""
        owner = 1 - signer
        self.lost += 1
        forgotten = Row(signer, self.next_id[signer], amount, sha256(b"forgotten"))
        forgotten.added[owner] = self.parties[owner].number + 1
        self.rows.append(forgotten)
        content = self.content(owner, self.parties[owner].number + 1)
        self.rows.pop()
        (signed,) = self.parties[signer].do(contract.SignCounterparty(content.number, content))
        assert isinstance(signed, contract.CounterpartySigned)

    def settle(self, row: Row, outcome: str) -> bool:
        """The receiver fulfils (with the released preimage, if the invoice is its own) or fails.

        False if the preimage cannot leave yet: a version that was forgotten lacks the HTLC and still lives.
        """
        receiver = self.parties[1 - row.by]
        if outcome == "fulfil" and not row.preimage:
            operation = contract.ReleasePreimage(row.payment_hash, (row.id,))
            reply = receiver.node.ask(contract.ChannelRequest(receiver.drawn.channel, (operation,)))
            assert isinstance(reply, contract.ChannelAnswer)
            if isinstance(reply.stopped, contract.Refused) and self.lost:
                assert reply.stopped.tag == "release-htlcs"
                return False
            (released,) = reply.results
            assert isinstance(released, contract.PreimageReleased)
            assert sha256(released.preimage) == row.payment_hash
            row.preimage = released.preimage
        row.outcome = outcome
        return True

    def rounds(self, count: int = 2) -> None:
        for _ in range(count):
            self.commit(0)
            self.commit(1)

    def close(self) -> None:
        balances = [self.content(0, self.parties[0].number).to_owner_msat, 0]
        balances[1] = 1000 * CAPACITY - balances[0]
        sats = [Sat(balance // 1000) for balance in balances]
        scripts = [party.drawn.shutdown_script for party in self.parties]
        for me, party in enumerate(self.parties):
            (signed,) = party.do(
                contract.SignMutualClose(sats[me], sats[1 - me], scripts[me], scripts[1 - me], Sat(300))
            )
            assert isinstance(signed, contract.MutualCloseSigned)
            params = self.parties[1 - me].service._channels[self.parties[1 - me].drawn.channel].params
            assert params is not None
            built = closing.build(params, sats[1 - me], sats[me], scripts[1 - me], scripts[me], Sat(300))
            assert verify_ecdsa(party.drawn.keys.funding_pubkey, built.digest, signed.signature)


@pytest.mark.parametrize("anchors", [True, False])
def test_fifty_htlcs_each_way_are_added_settled_and_the_channel_is_closed(
    tmp_path: Path, anchors: bool
) -> None:
    dance = Dance(tmp_path, anchors=anchors)
    for number in range(100):
        by = number % 2
        preimage = number.to_bytes(32, "big")
        payment_hash = sha256(preimage)
        if number % 5 == 0:  # an invoice of the receiver's signer: only it knows the preimage
            made = dance.parties[1 - by].node.ask(make_invoice_request(payment_hash, 1_000_000 + number))
            assert isinstance(made, contract.InvoiceMade)
            payment_hash, preimage = made.payment_hash, b""
        dance.add(by, 1_000_000 + number, payment_hash, preimage)
        if number % 10 == 9:
            dance.commit(number // 10 % 2)
    dance.rounds()
    assert len(dance.content(0, dance.parties[0].number).htlcs) == 100
    for number, row in enumerate(dance.rows):
        assert dance.settle(row, "fail" if number % 3 == 0 else "fulfil")
        if number % 20 == 19:
            dance.commit(number // 20 % 2)
    dance.rounds(3)
    final = dance.content(0, dance.parties[0].number)
    assert final.htlcs == ()
    moved = sum((1 if row.by else -1) * row.amount for row in dance.rows if row.outcome == "fulfil")
    assert moved != 0 and final.to_owner_msat == 1000 * CAPACITY - PUSH + moved
    dance.close()
    for party in dance.parties:
        numbers = party.node.ask(contract.ChannelNumbers())
        assert isinstance(numbers, contract.Numbers)
        (of_channel,) = numbers.channels
        assert of_channel.frozen and of_channel.holder_validated == party.number == of_channel.holder_revoked
        state = party.service._channels[party.drawn.channel].state
        assert state is not None and state.released == frozenset() and state.learned == frozenset()


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_honest_traffic_in_any_order_is_never_refused(tmp_path: Path, seed: int, crashes: bool) -> None:
    """Adds, fulfils, fails and commitments of both ends as chance has it; with crashes between node and signer."""
    chance = random.Random(seed)
    dance = Dance(tmp_path, anchors=bool(seed % 2))
    settlements = 0
    for step in range(150):
        choice = chance.random()
        settled = [row for row in dance.rows if not row.outcome and _committed(dance, row)]
        if choice < 0.3 and len([row for row in dance.rows if not row.outcome]) < 30:
            by = chance.randrange(2)
            preimage = step.to_bytes(32, "little")
            payment_hash = sha256(preimage)
            if chance.random() < 0.4:
                made = dance.parties[1 - by].node.ask(make_invoice_request(payment_hash, None))
                assert isinstance(made, contract.InvoiceMade)
                payment_hash, preimage = made.payment_hash, b""
            dance.add(by, chance.choice((1, 999, 5_000_000, 20_000_000)), payment_hash, preimage)
        elif choice < 0.6 and settled:
            settlements += dance.settle(chance.choice(settled), chance.choice(("fulfil", "fulfil", "fail")))
        else:
            end = chance.randrange(2)
            if crashes and chance.random() < 0.3:
                dance.lose(end, 7_000_000)
            dance.commit(end)
    assert settlements > 5 and (dance.lost > 5) == crashes
    assert min(party.number for party in dance.parties) > 10


def _committed(dance: Dance, row: Row) -> bool:
    """Acknowledged on both sides: only then may the receiver settle it."""
    return all(
        added is not None and added <= dance.parties[end].number for end, added in enumerate(row.added)
    )
