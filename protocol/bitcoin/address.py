"""Addresses and the scripts they stand for: segwit (BIP 173, BIP 350), and the base58 forms (BIP 13)."""

from protocol.bitcoin import base58, bech32
from protocol.bitcoin.bech32 import Checksum
from protocol.bitcoin.network import Network
from protocol.bitcoin.script import (
    OP_0,
    OP_1,
    OP_CHECKSIG,
    OP_DUP,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    script,
    witness_program,
)
from protocol.errors import MalformedMessage


def script_pubkey_of(address: str, network: Network) -> bytes:
    """The script that an address pays; raises MalformedMessage for anything but an address of `network`."""
    if address.lower().startswith(network.bech32_hrp + "1"):
        return _segwit(address, network)
    payload = base58.decode_check(address)
    if len(payload) != 21:
        raise MalformedMessage(f"an address holds 21 bytes, this one {len(payload)}")
    version, key_hash = payload[0], payload[1:]
    if version == network.p2pkh_version:
        return script(OP_DUP, OP_HASH160, key_hash, OP_EQUALVERIFY, OP_CHECKSIG)
    if version == network.p2sh_version:
        return script(OP_HASH160, key_hash, OP_EQUAL)
    raise MalformedMessage(f"this address is not one of {network.name}")


def _segwit(address: str, network: Network) -> bytes:
    checksum, hrp, words = bech32.decode(address)
    if hrp != network.bech32_hrp:
        raise MalformedMessage(f"this address is not one of {network.name}")
    if not words:
        raise MalformedMessage("this address has no data")
    version, program = words[0], bech32.to_bytes(words[1:])
    if version > 16:
        raise MalformedMessage(f"there is no witness version {version}")
    if not 2 <= len(program) <= 40:
        raise MalformedMessage(f"a witness program has 2 to 40 bytes, this one {len(program)}")
    if version == 0 and len(program) not in (20, 32):
        raise MalformedMessage(f"a version 0 program has 20 or 32 bytes, this one {len(program)}")
    if checksum is not (Checksum.BECH32 if version == 0 else Checksum.BECH32M):
        raise MalformedMessage(f"this address uses the wrong checksum for witness version {version}")
    opcode = OP_0 if version == 0 else OP_1 + version - 1
    return bytes((opcode, len(program))) + program


def address_of(script_pubkey: bytes, network: Network) -> str | None:
    """The address of an output, or None where its script has none."""
    witness = witness_program(script_pubkey)
    if witness is not None:
        version, program = witness
        if version == 0 and len(program) not in (20, 32):
            return None
        checksum = Checksum.BECH32 if version == 0 else Checksum.BECH32M
        return bech32.encode(checksum, network.bech32_hrp, [version, *bech32.to_words(program)])
    size = len(script_pubkey)
    if size == 25 and script_pubkey[:3] == b"\x76\xa9\x14" and script_pubkey[23:] == b"\x88\xac":
        return base58.encode_check(bytes((network.p2pkh_version,)) + script_pubkey[3:23])
    if size == 23 and script_pubkey[:2] == b"\xa9\x14" and script_pubkey[22:] == b"\x87":
        return base58.encode_check(bytes((network.p2sh_version,)) + script_pubkey[2:22])
    return None
