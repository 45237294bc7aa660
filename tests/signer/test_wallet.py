"""Wallet PSBTs: only outputs of the wallet, each with its whole previous transaction, for the whole transaction."""

from dataclasses import replace

import pytest

from protocol.amounts import Sat
from protocol.bitcoin import psbt as psbts
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin.descriptor import KeyOrigin
from protocol.bitcoin.psbt_format import Fields, Psbt
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.messages import signer as contract
from signer.keys import CHANGE, COLD, RECEIVE
from signer.policy import psbt as rules
from signer.refusal import Denied
from tests.signer.support import World

VALUE = Sat(100_000)
FOREIGN = b"\x00\x14" + b"\x99" * 20


def make(
    world: World,
    branch: int = RECEIVE,
    index: int = 3,
    *,
    spent: bytes | None = None,
    path: tuple[int, ...] | None = None,
) -> Psbt:
    """One input of ours (index 0) and one of somebody else."""
    keys = world.service.keys
    public = keys._branches[branch % 4].child(index).public_key()
    script = p2wpkh(public) if spent is None else spent
    previous = Transaction(
        2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (TxOut(Sat(5), FOREIGN), TxOut(VALUE, script))
    )
    other = Transaction(2, (TxIn(OutPoint(b"\x02" * 32, 0)),), (TxOut(VALUE, FOREIGN),))
    tx = Transaction(
        2,
        (TxIn(OutPoint(previous.txid, 1)), TxIn(OutPoint(other.txid, 0))),
        (TxOut(Sat(150_000), FOREIGN),),
    )
    origin = KeyOrigin(keys.fingerprint, (*keys.wallet_path, branch, index) if path is None else path)
    spends = [TxOut(VALUE, script), TxOut(VALUE, FOREIGN)]
    return psbts.parse(psbts.create(tx, spends, [previous, other], [{public: origin}, {}]))


def ask(world: World, psbt: Psbt) -> contract.Reply:
    return world.node.ask(contract.SignPsbt(psbt.serialize()))


def refusal(world: World, psbt: Psbt) -> str:
    reply = ask(world, psbt)
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def with_fields(psbt: Psbt, fields: Fields) -> Psbt:
    return replace(psbt, inputs=(fields, *psbt.inputs[1:]))


@pytest.mark.parametrize("branch", [RECEIVE, CHANGE, COLD])
def test_an_output_of_the_wallet_is_spent(world: World, branch: int) -> None:
    asked = make(world, branch)
    reply = ask(world, asked)
    assert isinstance(reply, contract.PsbtSigned)
    answered = psbts.parse(reply.psbt)
    assert answered.tx == asked.tx
    public = world.service.keys._branches[branch].child(3).public_key()
    signature = answered.inputs[0][bytes((fmt.IN_PARTIAL_SIG,)) + public]
    assert signature[-1] == 1
    psbts._check_signature(answered, 0, public, signature)
    assert answered.inputs[1] == asked.inputs[1]
    assert ask(world, asked) == reply


def test_an_input_without_its_whole_previous_transaction_is_not_signed(world: World) -> None:
    psbt = make(world)
    bare = {key: value for key, value in psbt.inputs[0].items() if key[0] != fmt.IN_NON_WITNESS_UTXO}
    assert refusal(world, with_fields(psbt, bare)) == "psbt-previous"


def test_a_previous_transaction_of_another_output_is_no_proof(world: World) -> None:
    psbt = make(world)
    lie = {
        **psbt.inputs[0],
        bytes((fmt.IN_NON_WITNESS_UTXO,)): psbt.inputs[1][bytes((fmt.IN_NON_WITNESS_UTXO,))],
    }
    assert refusal(world, with_fields(psbt, lie)) in ("psbt-previous", "psbt-malformed")


@pytest.mark.parametrize("hash_type", [0, 2, 3, 0x81, 0x83])
def test_a_signature_is_for_the_whole_transaction(world: World, hash_type: int) -> None:
    psbt = make(world)
    field = {bytes((fmt.IN_SIGHASH_TYPE,)): hash_type.to_bytes(4, "little")}
    assert refusal(world, with_fields(psbt, {**psbt.inputs[0], **field})) == "psbt-sighash"
    good = {bytes((fmt.IN_SIGHASH_TYPE,)): (1).to_bytes(4, "little")}
    assert isinstance(ask(world, with_fields(psbt, {**psbt.inputs[0], **good})), contract.PsbtSigned)


def test_a_script_of_another_key_is_not_signed_for(world: World) -> None:
    assert refusal(world, make(world, spent=FOREIGN)) == "psbt-script"
    assert refusal(world, make(world, spent=world.service.keys.wallet_script(RECEIVE, 4))) == "psbt-script"


def test_channel_keys_and_other_branches_sign_nothing_here(world: World) -> None:
    hard = 1 << 31
    base = world.service.keys.wallet_path[:2]
    for path in (
        (*base, hard + 1, hard, hard + 5, hard + 6, hard),
        (*base, hard, hard),
        (*world.service.keys.wallet_path, 4, 3),
        (*world.service.keys.wallet_path, 0, hard + 3),
        (*world.service.keys.wallet_path, 0),
    ):
        assert refusal(world, make(world, path=path)) == "psbt-nothing"


@pytest.mark.parametrize("raw", [b"", b"psbt\xff", b"nonsense", b"psbt\xff\x01\x00"])
def test_bytes_that_are_no_psbt_are_refused(world: World, raw: bytes) -> None:
    reply = world.node.ask(contract.SignPsbt(raw))
    assert isinstance(reply, contract.Refused) and reply.tag == "psbt-malformed"


def test_the_rule_itself_compares_the_previous_transaction() -> None:
    """The PSBT reader refuses such a lie too; the rule does not rest on it."""
    previous = Transaction(2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (TxOut(VALUE, FOREIGN),))
    assert rules.whole_previous(0, previous, OutPoint(previous.txid, 0)) is previous
    for outpoint in (OutPoint(b"\x02" * 32, 0), OutPoint(previous.txid, 1)):
        with pytest.raises(Denied):
            rules.whole_previous(0, previous, outpoint)
