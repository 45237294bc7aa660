"""Relay rules beside consensus: standardness, dust, sizes, finality (Bitcoin Core's policy; BIP 68, 113).

The reasons are Bitcoin Core's own words, so that a node learns here what a real network would answer.
"""

from collections.abc import Sequence

from node.chain.regtest.index import COINBASE_MATURITY, ChainIndex, Coin, is_unspendable
from protocol.amounts import MAX_MONEY, Sat
from protocol.bitcoin.script import OP_16, OP_CHECKMULTISIG, OP_CHECKSIG, OP_RETURN, witness_program
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut, txid_hex

MIN_RELAY_FEE_PER_KVB = 1000
INCREMENTAL_FEE_PER_KVB = 1000
DUST_RELAY_FEE_PER_KVB = 3000
MAX_STANDARD_WEIGHT = 400_000
MIN_STANDARD_NONWITNESS_SIZE = 65
MAX_STANDARD_SCRIPT_SIG = 1650
MAX_P2WSH_SCRIPT = 3600
MAX_P2WSH_ITEMS = 100
MAX_WITNESS_ITEM = 80
MAX_DUST_OUTPUTS = 1
STANDARD_VERSIONS = (1, 2, 3)
LOCKTIME_THRESHOLD = 500_000_000
SEQUENCE_FINAL = 0xFFFFFFFF
PAY_TO_ANCHOR = bytes.fromhex("51024e73")


class Rejected(Exception):
    """A transaction that is not relayed. `reason` is the short code, `str()` adds the detail.

    `reconsiderable`: it pays too little by itself, and may be taken with a child that pays more.
    """

    def __init__(self, reason: str, detail: str = "", *, reconsiderable: bool = False) -> None:
        super().__init__(f"{reason}, {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.reconsiderable = reconsiderable


def fee_at(rate_per_kvb: int, vsize: int) -> int:
    """Rounded up, as Core does."""
    return -(-rate_per_kvb * vsize // 1000)


def dust_threshold(output: TxOut) -> Sat:
    """What an output must hold to be worth its own spending at the dust relay rate."""
    if is_unspendable(output.script_pubkey):
        return Sat(0)
    spending_size = 67 if witness_program(output.script_pubkey) else 148
    return Sat(fee_at(DUST_RELAY_FEE_PER_KVB, len(output.serialize()) + spending_size))


def dust_of(tx: Transaction) -> list[int]:
    """The outputs that are worth less than their spending."""
    return [n for n, output in enumerate(tx.outputs) if output.value < dust_threshold(output)]


def check_dust_is_ephemeral(tx: Transaction, fee: int, parents: Sequence[Transaction]) -> None:
    """One output may be dust if nothing but its spending pays for the transaction, and that comes with it."""
    if fee and dust_of(tx):
        raise Rejected("dust", "tx with dust output must be 0-fee")
    spent = {spent.outpoint for spent in tx.inputs}
    for parent in parents:
        if any(OutPoint(parent.txid, n) not in spent for n in dust_of(parent)):
            detail = f"tx {txid_hex(tx.txid)} did not spend parent's ephemeral dust"
            raise Rejected("missing-ephemeral-spends", detail)


def pushes_of(script: bytes) -> list[bytes] | None:
    """The data that a push-only script leaves, or None for any other script."""
    items: list[bytes] = []
    at = 0
    while at < len(script):
        opcode = script[at]
        at += 1
        if opcode > OP_16:
            return None
        if opcode >= 0x4F:
            items.append(b"\x81" if opcode == 0x4F else bytes((opcode - 0x50,)))
            continue
        size = opcode
        if opcode > 0x4B:
            width = (1, 2, 4)[opcode - 0x4C]
            size = int.from_bytes(script[at : at + width], "little")
            at += width
        if at + size > len(script):
            return None
        items.append(script[at : at + size])
        at += size
    return items


def _is_bare_multisig(script: bytes) -> bool:
    if len(script) < 4 or script[-1] != OP_CHECKMULTISIG:
        return False
    keys = pushes_of(script[1:-2])
    needed, total = script[0] - 0x50, script[-2] - 0x50
    return keys is not None and len(keys) == total and 1 <= needed <= total <= 3 and _are_keys(keys)


def _are_keys(keys: Sequence[bytes]) -> bool:
    return all((len(k) == 33 and k[0] in (2, 3)) or (len(k) == 65 and k[0] == 4) for k in keys)


def script_type(script: bytes) -> str:
    """Core's names for output forms: `witness_v0_keyhash`, `nonstandard`, and so on."""
    witness = witness_program(script)
    if witness is not None:
        version, program = witness
        if version == 0:
            names = {20: "witness_v0_keyhash", 32: "witness_v0_scripthash"}
            return names.get(len(program), "nonstandard")
        if version == 1 and len(program) == 32:
            return "witness_v1_taproot"
        return "anchor" if script == PAY_TO_ANCHOR else "witness_unknown"
    if len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
        return "pubkeyhash"
    if len(script) == 23 and script[:2] == b"\xa9\x14" and script[22] == 0x87:
        return "scripthash"
    if len(script) in (35, 67) and script[-1] == OP_CHECKSIG and script[0] == len(script) - 2:
        return "pubkey" if _are_keys([script[1:-1]]) else "nonstandard"
    if script[:1] == bytes((OP_RETURN,)) and pushes_of(script[1:]) is not None:
        return "nulldata"
    return "multisig" if _is_bare_multisig(script) else "nonstandard"


def check_sane(tx: Transaction) -> None:
    """What consensus asks of any transaction by itself."""
    if not tx.inputs:
        raise Rejected("bad-txns-vin-empty")
    if not tx.outputs:
        raise Rejected("bad-txns-vout-empty")
    total = 0
    for output in tx.outputs:
        if output.value < 0:
            raise Rejected("bad-txns-vout-negative")
        if output.value > MAX_MONEY:
            raise Rejected("bad-txns-vout-toolarge")
        total += output.value
    if total > MAX_MONEY:
        raise Rejected("bad-txns-txouttotal-toolarge")
    if len({i.outpoint for i in tx.inputs}) != len(tx.inputs):
        raise Rejected("bad-txns-inputs-duplicate")
    if any(i.outpoint.txid == bytes(32) and i.outpoint.index == 0xFFFFFFFF for i in tx.inputs):
        raise Rejected("coinbase" if len(tx.inputs) == 1 else "bad-txns-prevout-null")


def check_standard(tx: Transaction) -> None:
    if tx.version not in STANDARD_VERSIONS:
        raise Rejected("version")
    if tx.weight > MAX_STANDARD_WEIGHT:
        raise Rejected("tx-size")
    for spent in tx.inputs:
        if len(spent.script_sig) > MAX_STANDARD_SCRIPT_SIG:
            raise Rejected("scriptsig-size")
        if pushes_of(spent.script_sig) is None:
            raise Rejected("scriptsig-not-pushonly")
    for output in tx.outputs:
        if script_type(output.script_pubkey) == "nonstandard":
            raise Rejected("scriptpubkey")
    if len(dust_of(tx)) > MAX_DUST_OUTPUTS:
        raise Rejected("dust")
    if len(tx.serialize(witness=False)) < MIN_STANDARD_NONWITNESS_SIZE:
        raise Rejected("tx-size-small")


def check_final(tx: Transaction, index: ChainIndex) -> None:
    """Lock time against the next block, by median time past (BIP 113)."""
    if tx.locktime == 0 or all(i.sequence == SEQUENCE_FINAL for i in tx.inputs):
        return
    is_height = tx.locktime < LOCKTIME_THRESHOLD
    now = index.height + 1 if is_height else index.median_time(index.height)
    if tx.locktime >= now:
        raise Rejected("non-final")


def check_sequence_locks(tx: Transaction, coins: Sequence[Coin], index: ChainIndex) -> None:
    """BIP 68, "Specification". A coin of the mempool counts as confirmed in the next block."""
    if tx.version < 2:
        return
    for spent, coin in zip(tx.inputs, coins, strict=True):
        sequence = spent.sequence
        if sequence & 1 << 31:
            continue
        value = sequence & 0xFFFF
        if sequence & 1 << 22:
            since = index.median_time(max(coin.height - 1, 0))
            ready = index.median_time(index.height) >= since + (value << 9)
        else:
            ready = index.height + 1 >= coin.height + value
        if not ready:
            raise Rejected("non-BIP68-final")


def check_amounts(tx: Transaction, coins: Sequence[Coin], index: ChainIndex) -> Sat:
    """The fee."""
    for coin in coins:
        depth = index.height + 1 - coin.height
        if coin.coinbase and depth < COINBASE_MATURITY:
            detail = f"tried to spend coinbase at depth {depth}"
            raise Rejected("bad-txns-premature-spend-of-coinbase", detail)
    value_in = sum(coin.output.value for coin in coins)
    value_out = sum(output.value for output in tx.outputs)
    if value_in < value_out:
        raise Rejected("bad-txns-in-belowout", f"value in ({value_in}) < value out ({value_out})")
    return Sat(value_in - value_out)


def check_inputs_standard(tx: Transaction, coins: Sequence[Coin]) -> None:
    """The forms that may be spent, and how large a witness may be for each."""
    for coin in coins:
        if script_type(coin.output.script_pubkey) in ("nonstandard", "witness_unknown"):
            raise Rejected("bad-txns-nonstandard-inputs")
    for spent, coin in zip(tx.inputs, coins, strict=True):
        if spent.witness and not _witness_is_standard(
            spent.witness, spent.script_sig, coin.output.script_pubkey
        ):
            raise Rejected("bad-witness-nonstandard")


def _witness_is_standard(witness: tuple[bytes, ...], script_sig: bytes, script_pubkey: bytes) -> bool:
    kind = script_type(script_pubkey)
    if kind == "scripthash":
        pushes = pushes_of(script_sig)
        if not pushes:
            return False
        kind = script_type(pushes[-1])
        if kind not in ("witness_v0_keyhash", "witness_v0_scripthash"):
            return False
    match kind:
        case "witness_v0_keyhash":
            return True
        case "witness_v0_scripthash":
            items = witness[:-1]
            return (
                len(witness[-1]) <= MAX_P2WSH_SCRIPT
                and len(items) <= MAX_P2WSH_ITEMS
                and all(len(item) <= MAX_WITNESS_ITEM for item in items)
            )
        case "witness_v1_taproot":
            if len(witness) >= 2 and witness[-1][:1] == b"\x50":
                return False  # an annex
            is_tapscript = len(witness) >= 2 and witness[-1][:1] != b"" and witness[-1][0] & 0xFE == 0xC0
            return not is_tapscript or all(len(item) <= MAX_WITNESS_ITEM for item in witness[:-2])
        case _:
            return False  # no other form has a witness
