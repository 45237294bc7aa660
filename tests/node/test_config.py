"""The settings file: what is read, refused, overridden and kept to ourselves."""

from pathlib import Path

import pytest

from node import config as settings
from node.channel.terms import Policy
from node.config import BitcoindConfig, Config, ElectrumConfig, LogConfig, SignerConfig
from protocol.errors import CommandRefused
from protocol.secret import Secret

TEXT = """
network = "regtest"
listen = ["127.0.0.1:19735"]

[signer]
endpoint = "ipc:///run/signer.sock"
server_key = "k"

[bitcoind]
url = "http://127.0.0.1:18443"
user = "lnp"
password = 'with "quotes"'
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "regtest"
    directory.mkdir()
    (directory / settings.FILE).write_text(TEXT)
    return directory


def test_settings_are_read_with_their_defaults(directory: Path) -> None:
    config = settings.load(directory)
    assert config.listen == ("127.0.0.1:19735",)
    assert config.bitcoind.login() == 'lnp:with "quotes"'
    assert (config.log.level, config.birth_height, config.transports) == ("info", None, {})
    assert config.network_parameters.bech32_hrp == "bcrt"


def test_a_password_is_never_shown(directory: Path) -> None:
    assert "quotes" not in repr(settings.load(directory))


@pytest.mark.parametrize(
    ("line", "near"),
    [("alais = 'x'", "Did you mean alias?"), ("[log]\nlvl = 'x'", "Did you mean log.level?")],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(directory: Path, line: str, near: str) -> None:
    text = f"{line}\n{TEXT}" if not line.startswith("[") else f"{TEXT}\n{line}"
    (directory / settings.FILE).write_text(text)
    with pytest.raises(CommandRefused, match="there is no setting") as caught:
        settings.load(directory)
    assert caught.value.what_to_do == near


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("listen=7", "listen"),
        ("log.level=loud", "no log level"),
        ("birth_height=[1]", "birth_height"),
        ("network=signet", "directory of regtest"),
        ("network=mainnet", "mainnet is refused"),
        ("alias", "no setting"),
        ("alias.x=1", "Expected `str`"),
        ("bitcoind.password=7", "password"),
    ],
)
def test_a_wrong_value_is_refused(directory: Path, override: str, sentence: str) -> None:
    with pytest.raises(CommandRefused, match=sentence):
        settings.load(directory, (override,))


def test_the_command_line_overrides_the_file(directory: Path) -> None:
    config = settings.load(directory, ("alias=two words", 'listen=["127.0.0.1:0"]', "log.level=debug"))
    assert (config.alias, config.listen, config.log.level) == ("two words", ("127.0.0.1:0",), "debug")


def test_a_file_that_is_no_toml_or_is_missing_is_refused(directory: Path) -> None:
    (directory / settings.FILE).write_text("network = ")
    with pytest.raises(CommandRefused, match="cannot be read"):
        settings.load(directory)
    (directory / settings.FILE).unlink()
    with pytest.raises(CommandRefused, match="lnpd init"):
        settings.load(directory)


def test_what_is_saved_is_read_back_and_only_ours_to_read(tmp_path: Path) -> None:
    directory = tmp_path / "signet"
    directory.mkdir()
    config = Config(
        network="signet",
        signer=SignerConfig("tcp://127.0.0.1:1", 'a"\\b' * 10),
        bitcoind=BitcoindConfig("http://127.0.0.1:2", "", "u", Secret(b'p"w'), "tcp://127.0.0.1:3"),
        alias='smile "☺" \\',
        listen=("127.0.0.1:1", "[::1]:2"),
        birth_height=5,
        log=LogConfig("debug", "/tmp/x.log"),
    )
    settings.save(directory, config)
    assert settings.load(directory) == config
    assert (directory / settings.FILE).stat().st_mode & 0o077 == 0


def test_an_electrum_server_is_saved_and_read_back(tmp_path: Path) -> None:
    directory = tmp_path / "regtest"
    directory.mkdir()
    electrum = ElectrumConfig("ssl://127.0.0.1:50002", "ca", "/tmp/ca.pem", "127.0.0.1:9050")
    others = (ElectrumConfig("ssl://127.0.0.1:50003"), ElectrumConfig("tcp://127.0.0.1:50001"))
    config = Config("regtest", SignerConfig("ipc:///x", "k"), electrum=electrum, fee_sources=others)
    settings.save(directory, config)
    assert settings.load(directory) == config
    assert (electrum.address(), electrum.proxy()) == (("ssl", "127.0.0.1", 50002), ("127.0.0.1", 9050))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "there is no source of the chain"),
        (
            "[electrum]\nurl = 'tcp://127.0.0.1:1'\n[bitcoind]\nurl = 'http://127.0.0.1:2'",
            "more than one source",
        ),
        ("[electrum]\nurl = 'http://127.0.0.1:1'", "no address of an Electrum server"),
        ("[electrum]\nurl = 'tcp://127.0.0.1'", "no address of an Electrum server"),
        ("[electrum]\nurl = 'tcp://127.0.0.1:99999'", "no address of an Electrum server"),
        ("[electrum]\nurl = 'tcp://192.0.2.7:50001'", "can read and change"),
        ("[electrum]\nurl = 'tcp://a.onion:50001'", "can read and change"),
        ("[electrum]\nurl = 'tcp://a.example:50001'\nsocks = '127.0.0.1:9050'", "can read and change"),
        ("[electrum]\nurl = 'ssl://192.0.2.7:50002'\ntrust = 'all'", "electrum.trust cannot be"),
        ("[electrum]\nurl = 'ssl://192.0.2.7:50002'\nsocks = '9050'", "electrum.socks"),
        ("[electrum]\nurl = 'ssl://192.0.2.7:50002'\nsock = '9050'", "no setting electrum.sock"),
        (
            "[bitcoind]\nurl = 'http://127.0.0.1:2'\n[[fee_sources]]\nurl = 'tcp://192.0.2.7:1'",
            "can read and change",
        ),
        (
            "[bitcoind]\nurl = 'http://127.0.0.1:2'\n[[fee_sources]]\nurls = 'ssl://a:1'",
            "unknown field `urls`",
        ),
    ],
)
def test_the_chain_has_one_source_that_can_be_used(directory: Path, table: str, sentence: str) -> None:
    (directory / settings.FILE).write_text(TEXT[: TEXT.index("[bitcoind]")] + table)
    with pytest.raises(CommandRefused, match=sentence):
        settings.load(directory)


def test_mainnet_and_unknown_networks_are_refused(tmp_path: Path) -> None:
    for name, sentence in [("mainnet", "mainnet is refused"), ("moonnet", "no network of ours")]:
        with pytest.raises(CommandRefused, match=sentence):
            settings.check_network(name)
        with pytest.raises(CommandRefused, match=sentence):
            settings.network_directory(tmp_path, name)
    assert settings.check_network("regtest").name == "regtest"


def test_the_only_network_needs_no_name(directory: Path) -> None:
    datadir = directory.parent
    assert settings.network_directory(datadir, None) == directory
    (datadir / "signet").mkdir()
    (datadir / "signet" / settings.FILE).touch()
    with pytest.raises(CommandRefused, match="several networks"):
        settings.network_directory(datadir, None)
    with pytest.raises(CommandRefused, match="no node was set up"):
        settings.network_directory(datadir / "elsewhere", None)


def test_the_bound_on_dust_is_a_setting_with_limits(directory: Path) -> None:
    """checklist 21: what may be lost to miners at once."""
    assert settings.load(directory).channel.dust() == Policy().max_dust == 50_000
    for most in (0, 1_000_000):
        config = settings.load(directory, (f"channel.max_dust={most}",))
        assert config.channel.dust() == most
        settings.save(directory, config)
        assert settings.load(directory) == config
    for wrong in (-1, 1_000_001):
        with pytest.raises(CommandRefused, match=r"channel\.max_dust.*Write 0"):
            settings.load(directory, (f"channel.max_dust={wrong}",))
    for odd in ('"much"', "1.5", "true"):
        with pytest.raises(CommandRefused, match="max_dust"):
            settings.load(directory, (f"channel.max_dust={odd}",))


def test_peers_whose_zeroconf_channels_are_taken_are_named_one_by_one(directory: Path) -> None:
    """checklist 13: nobody is trusted unless a person wrote so."""
    assert settings.load(directory).channel.trusted() == frozenset()
    node_id = "02" + "ab" * 32
    config = settings.load(directory, (f'channel.zeroconf_peers=["{node_id}"]',))
    assert config.channel.trusted() == {bytes.fromhex(node_id)}
    settings.save(directory, config)
    assert settings.load(directory) == config
    for wrong in ("all", "02" + "ab" * 31, "04" + "ab" * 32):
        with pytest.raises(CommandRefused, match=r"channel\.zeroconf_peers"):
            settings.load(directory, (f'channel.zeroconf_peers=["{wrong}"]',))
