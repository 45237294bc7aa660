"""The seed at rest, and every key that comes of it."""

from pathlib import Path

import pytest

from protocol.bitcoin.keys import ExtendedKey
from protocol.bitcoin.mnemonic import seed_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.script import p2wpkh
from protocol.curve import point_of
from protocol.errors import CommandRefused
from protocol.secret import Secret
from signer import initialise, keys, keystore
from signer.service import SignerService
from tests.signer.support import PASSPHRASE, WORDS, World


def create(datadir: Path, **options: Secret) -> initialise.Created:
    return initialise.create(datadir, "regtest", PASSPHRASE, scrypt_cost=2, **options)  # type: ignore[arg-type]


def test_a_new_seed_has_24_words_and_opens_again_with_them(tmp_path: Path) -> None:
    created = create(tmp_path / "one")
    assert len(created.words.reveal().split()) == 24
    restored = create(tmp_path / "two", mnemonic=created.words)
    assert restored.node_id == created.node_id
    assert len(restored.words) == 0
    assert create(tmp_path / "three").node_id != created.node_id


def test_an_extended_key_is_as_good_as_its_words(tmp_path: Path) -> None:
    master = ExtendedKey.from_seed(seed_of(WORDS), REGTEST)
    of_words = create(tmp_path / "one", mnemonic=WORDS)
    assert create(tmp_path / "two", xprv=master.to_private_string()).node_id == of_words.node_id
    with pytest.raises(CommandRefused, match="public one"):
        create(tmp_path / "three", xprv=Secret(master.to_string().encode()))
    assert not (tmp_path / "three").exists()


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    create(tmp_path / "signer")
    assert (tmp_path / "signer").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "signer" / keystore.FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_file_shows_no_word_and_no_key(tmp_path: Path) -> None:
    create(tmp_path / "signer", mnemonic=WORDS)
    raw = (tmp_path / "signer" / keystore.FILE_NAME).read_bytes()
    _, contents = keystore.unlock(tmp_path / "signer", PASSPHRASE)
    assert contents.mnemonic == WORDS
    assert b"abandon" not in raw and contents.curve_secret.reveal() not in raw
    assert "abandon" not in repr(contents) and contents.curve_secret.reveal().decode() not in repr(contents)


def test_a_wrong_passphrase_opens_nothing(tmp_path: Path) -> None:
    create(tmp_path / "signer")
    with pytest.raises(CommandRefused, match="does not open"):
        keystore.unlock(tmp_path / "signer", Secret(b"another"))


def test_a_changed_file_opens_nothing(tmp_path: Path) -> None:
    create(tmp_path / "signer")
    path = tmp_path / "signer" / keystore.FILE_NAME
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"regtest", b"signets"))
    with pytest.raises(CommandRefused, match="does not open"):
        keystore.unlock(tmp_path / "signer", PASSPHRASE)
    path.write_bytes(raw[:-5])
    with pytest.raises(CommandRefused, match="damaged"):
        keystore.unlock(tmp_path / "signer", PASSPHRASE)


def test_an_empty_passphrase_guards_nothing(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="empty"):
        initialise.create(tmp_path / "signer", "regtest", Secret(b""))
    assert not keystore.exists(tmp_path / "signer")


def test_a_keystore_is_never_written_over(tmp_path: Path) -> None:
    first = create(tmp_path / "signer")
    with pytest.raises(CommandRefused, match="holds a keystore"):
        create(tmp_path / "signer")
    with_first = SignerService(tmp_path / "signer", PASSPHRASE, in_memory=True)
    assert with_first.keys.node_id == first.node_id


def test_mainnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="does not run on mainnet"):
        initialise.create(tmp_path / "signer", "mainnet", PASSPHRASE, scrypt_cost=2)
    contents = keystore.Contents(WORDS, Secret(b""), Secret(b"k" * 40))
    keystore.seal(tmp_path / "forced", "mainnet", contents, PASSPHRASE, scrypt_cost=2)
    with pytest.raises(CommandRefused, match="does not run on mainnet"):
        SignerService(tmp_path / "forced", PASSPHRASE)


@pytest.mark.parametrize("words", [b"", b"abandon " * 24, b"abandon abandon", "żółw".encode() * 12])
def test_words_that_are_no_seed_make_no_keystore(tmp_path: Path, words: bytes) -> None:
    with pytest.raises(CommandRefused):
        create(tmp_path / "signer", mnemonic=Secret(words))
    assert not keystore.exists(tmp_path / "signer")


def test_keys_stand_at_the_paths_that_the_module_names() -> None:
    master = ExtendedKey.from_seed(seed_of(WORDS), REGTEST)
    node = keys.from_mnemonic(WORDS, REGTEST)
    assert node.node_id == master.derive("m/9735h/1h/0h/0h").public_key()
    channel = node.channel(5, 6)
    base = master.derive("m/9735h/1h/1h/0h/5h/6h")
    in_order = (
        channel.funding,
        channel.payment,
        channel.delayed_payment,
        channel.revocation,
        channel.commitment_seed,
        channel.htlc,
    )
    for number, secret in enumerate(in_order):
        assert secret == base.derive(f"{number}h").secret()
    assert channel.public.revocation_basepoint == point_of(channel.revocation.reveal())
    account = master.derive("m/9735h/1h/2h")
    assert node.wallet_xpub == account.to_string() and node.wallet_xpub.startswith("tpub")
    assert node.wallet_origin == f"{master.fingerprint().hex()}/9735h/1h/2h"
    watched = ExtendedKey.from_string(node.wallet_xpub, REGTEST)
    for branch in (keys.RECEIVE, keys.CHANGE, keys.COLD):
        assert node.wallet_script(branch, 3) == p2wpkh(watched.derive((branch, 3)).public_key())


def test_no_secret_is_in_a_repr(world: World) -> None:
    channel = world.service._channels[world.drawn.channel]
    secrets = [channel.secrets.funding, channel.secrets.commitment_seed, world.service.keys.node_secret]
    shown = (channel, channel.secrets, world.service.keys, world.service, vars(channel), channel.state)
    text = " ".join(map(repr, shown))
    for secret in secrets:
        assert secret.reveal().hex() not in text and repr(secret.reveal()) not in text
