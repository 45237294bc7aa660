"""Invoices, onions, messages and the handshake step: what the node asks of the node key."""

import hmac

import msgspec
import pytest
from msgspec.structs import replace

from protocol import messages_signing
from protocol.amounts import Msat
from protocol.bolt4 import sphinx
from protocol.bolt4.failure import FailureCode
from protocol.bolt8.static_key import mix_static
from protocol.bolt11 import decode
from protocol.bus.messages import signer as contract
from protocol.curve import point_of
from protocol.hashes import sha256
from tests.signer.support import World, make_invoice_request


def test_an_invoice_says_what_was_asked_and_is_signed_by_the_node(world: World) -> None:
    hint = ((world.peer_id, 700 << 40, 1000, 10, 40),)
    request = contract.MakeInvoice(
        b"\x02" * 32, 1_700_000_000, Msat(5_000), None, b"\x09" * 32, 600, 30, (hint,)
    )
    made = world.node.ask(request)
    assert isinstance(made, contract.InvoiceMade)
    invoice = decode.decode(made.bolt11)
    assert made.bolt11.startswith("lnbcrt")
    assert invoice.payee == world.node.welcome.node_id
    assert (invoice.amount_msat, invoice.timestamp, invoice.expiry) == (5_000, 1_700_000_000, 600)
    assert (invoice.payment_hash, invoice.payment_secret) == (made.payment_hash, made.payment_secret)
    assert (invoice.description, invoice.description_hash) == (None, b"\x09" * 32)
    assert invoice.min_final_cltv_expiry_delta == 30
    assert invoice.features == {8, 14, 17, 37}
    assert invoice.route_hints[0][0].node_id == world.peer_id


@pytest.mark.parametrize(
    ("description", "description_hash", "amount"), [(None, None, 1), ("a", bytes(32), 1), ("a", None, 0)]
)
def test_impossible_invoices_are_refused(
    world: World, description: str | None, description_hash: bytes | None, amount: int
) -> None:
    request = contract.MakeInvoice(b"\x02" * 32, 1, Msat(amount), description, description_hash, 600, 30)
    reply = world.node.ask(request)
    assert isinstance(reply, contract.Refused) and reply.tag == "invoice-terms"
    assert isinstance(world.node.ask(make_invoice_request(b"\x02" * 32, 1)), contract.InvoiceMade)


def peel(world: World, *onions: contract.OnionToPeel) -> tuple[contract.Peeled | contract.Unpeelable, ...]:
    reply = world.node.ask(contract.PeelOnions(onions))
    assert isinstance(reply, contract.OnionsPeeled)
    return reply.results


def test_onions_are_peeled_in_a_batch(world: World) -> None:
    ad = b"\x01" * 32
    node, peer = world.node.welcome.node_id, world.peer_id
    middle = sphinx.build(b"\x41" * 32, [(node, b"first"), (peer, b"second")], ad)
    final = sphinx.build(b"\x42" * 32, [(node, b"only")], ad)
    broken = middle.packet[:-1] + bytes((middle.packet[-1] ^ 1,))
    results = peel(
        world, *[contract.OnionToPeel(packet, ad) for packet in (middle.packet, final.packet, broken)]
    )
    first, second, third = results
    assert isinstance(first, contract.Peeled) and isinstance(second, contract.Peeled)
    assert first.payload == b"first" and first.next_packet is not None
    assert second.payload == b"only" and second.next_packet is None
    secret = middle.shared_secrets[0].reveal()
    assert (first.um, first.ammag) == (sphinx.derive_key(b"um", secret), sphinx.derive_key(b"ammag", secret))
    # checklist 39: of this HTLC only, and the shared secret stays with the signer.
    assert first.ammagext == sphinx.derive_key(b"ammagext", secret) != second.ammagext
    assert secret not in contract.encode(contract.OnionsPeeled(results))
    assert third == contract.Unpeelable(int(FailureCode.INVALID_ONION_HMAC), sha256(broken))


def test_an_onion_with_an_impossible_payload_can_still_be_failed(world: World) -> None:
    """Its HMAC is right, so the failure keys go out, with the empty payload that no hop can have."""
    ad, session = b"\x01" * 32, b"\x41" * 32
    node = world.node.welcome.node_id
    good = sphinx.build(session, [(node, b"xx")], ad)
    secret = good.shared_secrets[0].reveal()
    clear = sphinx.apply_stream(sphinx.derive_key(b"rho", secret), good.packet[34:-32])
    payloads = sphinx.apply_stream(sphinx.derive_key(b"rho", secret), b"\x01" + clear[1:])
    tag = hmac.digest(sphinx.derive_key(b"mu", secret), payloads + ad, "sha256")
    (result,) = peel(world, contract.OnionToPeel(good.packet[:34] + payloads + tag, ad))
    assert result == contract.Peeled(
        b"", None, *(sphinx.derive_key(kind, secret) for kind in (b"um", b"ammag", b"ammagext"))
    )


def test_a_signer_that_is_older_than_attribution_data_is_understood() -> None:
    """checklist 39: it answers without the key, and such an HTLC comes to its end without the data."""
    old = msgspec.msgpack.encode(["peeled", b"payload", None, bytes(32), bytes(32)])
    read = msgspec.msgpack.decode(old, type=contract.Peeled | contract.Unpeelable)
    assert read == contract.Peeled(b"payload", None, bytes(32), bytes(32), None)


def test_a_message_is_signed_in_its_own_domain(world: World) -> None:
    reply = world.node.ask(contract.SignMessage("hello"))
    assert isinstance(reply, contract.MessageSigned)
    assert messages_signing.signer_of(b"hello", reply.zbase) == world.node.welcome.node_id
    assert messages_signing.signer_of(b"hallo", reply.zbase) != world.node.welcome.node_id


def test_the_handshake_step_gives_keys_and_no_shared_secret(world: World) -> None:
    ephemeral = b"\x33" * 32
    reply = world.node.ask(contract.StaticKeyStep(b"\x44" * 32, point_of(ephemeral)))
    assert isinstance(reply, contract.StaticKeyStepped)
    chaining_key, cipher_key = mix_static(ephemeral, b"\x44" * 32, world.node.welcome.node_id)
    assert (reply.chaining_key, reply.cipher_key) == (chaining_key, cipher_key)


def test_an_ephemeral_key_that_is_no_point_is_the_peers_fault(world: World) -> None:
    reply = world.node.ask(contract.StaticKeyStep(bytes(32), b"\x05" * 33))
    assert isinstance(reply, contract.PeerFault) and reply.tag == "ephemeral-key"


def test_an_invoice_over_a_payment_hash_from_elsewhere_has_nothing_to_release(world: World) -> None:
    """A hold invoice: the signer signs it and draws the payment secret, and knows no preimage of it."""
    payment_hash = sha256(b"\x33" * 32)
    request = replace(make_invoice_request(b"\x07" * 32, 1000), payment_hash=payment_hash)
    made = world.node.ask(request)
    assert isinstance(made, contract.InvoiceMade)
    assert decode.decode(made.bolt11).payment_hash == made.payment_hash == payment_hash
    assert world.node.ask(request) == made
    assert not world.service._books.is_own(payment_hash)


def test_a_payment_hash_of_our_own_invoice_is_not_taken_as_anothers(world: World) -> None:
    own = world.node.ask(make_invoice_request(b"\x08" * 32, 1000))
    assert isinstance(own, contract.InvoiceMade)
    request = replace(make_invoice_request(b"\x09" * 32, 1000), payment_hash=own.payment_hash)
    refused = world.node.ask(request)
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "invoice-hash"
