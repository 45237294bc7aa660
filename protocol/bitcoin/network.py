"""The Bitcoin networks and their constants (BIP 32, 94, 173, 325; BOLT 0 `chain_hash`; BOLT 11 prefixes)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """One network. `chain_hash` is the genesis block hash in wire order, as BOLT messages carry it."""

    name: str
    bech32_hrp: str
    bolt11_prefix: str
    chain_hash: bytes
    p2pkh_version: int
    p2sh_version: int
    wif_version: int
    xpub_version: bytes
    xprv_version: bytes
    bip44_coin: int

    def __str__(self) -> str:
        return self.name


def _wire_order(displayed: str) -> bytes:
    return bytes.fromhex(displayed)[::-1]


MAINNET = Network(
    name="mainnet",
    bech32_hrp="bc",
    bolt11_prefix="lnbc",
    chain_hash=_wire_order("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    p2pkh_version=0,
    p2sh_version=5,
    wif_version=128,
    xpub_version=bytes.fromhex("0488b21e"),
    xprv_version=bytes.fromhex("0488ade4"),
    bip44_coin=0,
)


def _test_network(name: str, bech32_hrp: str, bolt11_prefix: str, genesis: str) -> Network:
    """The test networks share every constant but these."""
    return Network(
        name=name,
        bech32_hrp=bech32_hrp,
        bolt11_prefix=bolt11_prefix,
        chain_hash=_wire_order(genesis),
        p2pkh_version=111,
        p2sh_version=196,
        wif_version=239,
        xpub_version=bytes.fromhex("043587cf"),
        xprv_version=bytes.fromhex("04358394"),
        bip44_coin=1,
    )


TESTNET = _test_network(
    "testnet", "tb", "lntb", "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"
)
TESTNET4 = _test_network(
    "testnet4", "tb", "lntb", "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"
)
SIGNET = _test_network(
    "signet", "tb", "lntbs", "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"
)
REGTEST = _test_network(
    "regtest", "bcrt", "lnbcrt", "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
)

NETWORKS = {network.name: network for network in (MAINNET, TESTNET, TESTNET4, SIGNET, REGTEST)}


def network_named(name: str) -> Network:
    """Raises ValueError for a name that is none of ours."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise ValueError(f"{name!r} is no network that we know; use one of {', '.join(NETWORKS)}") from None
