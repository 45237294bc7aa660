"""The first start: a new or restored seed, the link's key pair, the sealed keystore (BIP 39; RFC 7748)."""

import secrets
from pathlib import Path

import zmq
from msgspec import Struct

from protocol.bitcoin.network import MAINNET, Network, network_named
from protocol.errors import CommandRefused, MalformedMessage
from protocol.secret import Secret
from signer import keys, keystore

_NOTHING = Secret(b"")


class Created(Struct, frozen=True):
    """`words` is empty when an extended key was given. They are shown once, to the person who starts the signer."""

    words: Secret
    node_id: bytes
    curve_public: str


def refuse_mainnet(network: Network) -> None:
    if network is MAINNET:
        raise CommandRefused(
            "this version of lnp-signer does not run on mainnet",
            what_to_do="Use regtest, signet or testnet until the checks for mainnet have passed.",
        )


def known_network(name: str) -> Network:
    try:
        network = network_named(name)
    except ValueError as error:
        raise CommandRefused(str(error), what_to_do="Give one of these names.") from None
    refuse_mainnet(network)
    return network


def create(
    datadir: Path,
    network_name: str,
    passphrase: Secret,
    *,
    mnemonic: Secret | None = None,
    xprv: Secret | None = None,
    scrypt_cost: int = keystore.SCRYPT_COST,
) -> Created:
    """Without `mnemonic` and `xprv` 24 new words are drawn."""
    network = known_network(network_name)
    if not len(passphrase):
        raise CommandRefused(
            "the passphrase is empty", what_to_do="Give one; it guards the seed on this disk."
        )
    new = mnemonic is None and xprv is None
    words = keys.new_mnemonic(secrets.token_bytes(32)) if new else _NOTHING
    contents = keystore.Contents(mnemonic or words, xprv or _NOTHING, Secret(zmq.curve_keypair()[1]))
    try:
        node = open_keys(network, contents)  # before it is sealed: a wrong word shall fail here
    except MalformedMessage as error:
        raise CommandRefused(str(error), what_to_do="Give the words or the key again.") from None
    keystore.seal(datadir, network.name, contents, passphrase, scrypt_cost=scrypt_cost)
    return Created(words, node.node_id, curve_public(contents))


def open_keys(network: Network, contents: keystore.Contents) -> keys.NodeKeys:
    if len(contents.xprv):
        return keys.from_xprv(contents.xprv, network)
    return keys.from_mnemonic(contents.mnemonic, network)


def curve_public(contents: keystore.Contents) -> str:
    return str(zmq.curve_public(contents.curve_secret.reveal()).decode())
