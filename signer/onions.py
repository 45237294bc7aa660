"""Peeling onions for the node (BOLT 4, "Onion Decryption"): it gets the payload and the failure keys, no secret."""

from protocol.bolt4 import sphinx
from protocol.bus.messages.signer import OnionsPeeled, OnionToPeel, Peeled, PeelOnions, Unpeelable
from protocol.secret import Secret


def peel_onions(node_secret: Secret, request: PeelOnions) -> OnionsPeeled:
    return OnionsPeeled(tuple([_peel(node_secret, onion) for onion in request.onions]))


def _peel(node_secret: Secret, onion: OnionToPeel) -> Peeled | Unpeelable:
    try:
        peeled = sphinx.peel(node_secret, onion.packet, onion.associated_data)
    except sphinx.BadOnion as error:
        return Unpeelable(int(error.failure_code), error.sha256_of_onion)
    except sphinx.InvalidOnionPayload as error:
        if error.shared_secret is None:
            raise
        # The HMAC was right, so the sender can be told. An empty payload is invalid too, and the node says so.
        return _with_keys(b"", None, error.shared_secret)
    return _with_keys(peeled.payload, peeled.next_packet, peeled.shared_secret)


def _with_keys(payload: bytes, next_packet: bytes | None, shared_secret: Secret) -> Peeled:
    secret = shared_secret.reveal()
    um, ammag, ammagext = (sphinx.derive_key(kind, secret) for kind in (b"um", b"ammag", b"ammagext"))
    return Peeled(payload, next_packet, um, ammag, ammagext)
