"""From the seed to every key that the signer holds (LNPBP-46; BIP 32; BOLT 3, "Key Derivation").

m/9735'/chain'/0'/0'             node key
m/9735'/chain'/1'/0'/hi'/lo'     one channel: 0' funding, 1' payment, 2' delayed, 3' revocation, 4' commitment
                                 seed, 5' HTLC; all hardened, so that no extended key of a channel exists
m/9735'/chain'/2'/branch/index   wallet: 0 receive, 1 change, 2 cold (closes and sweeps pay here),
                                 3 fee reserve
m/9735'/chain'/3'/0'             what is drawn by HMAC for invoices
m/9735'/chain'/3'/1'             seals the static channel backup

Where LNPBP-46 makes the channel's index of an id that the peer chooses, `hi` and `lo` are drawn by the signer.
"""

from protocol.bitcoin import mnemonic
from protocol.bitcoin.keys import HARDENED, ExtendedKey, format_path
from protocol.bitcoin.network import MAINNET, Network
from protocol.bitcoin.script import p2wpkh
from protocol.bolt3.keys import ChannelKeys
from protocol.curve import point_of
from protocol.errors import CommandRefused
from protocol.secret import Secret

PURPOSE = 9735
RECEIVE, CHANGE, COLD, RESERVE = 0, 1, 2, 3
_H = HARDENED


class ChannelSecrets:
    """The six secrets of one channel, and the points that the peer is told."""

    __slots__ = ("commitment_seed", "delayed_payment", "funding", "htlc", "payment", "public", "revocation")

    def __init__(self, base: ExtendedKey) -> None:
        self.funding = _secret(base, _H + 0)
        self.payment = _secret(base, _H + 1)
        self.delayed_payment = _secret(base, _H + 2)
        self.revocation = _secret(base, _H + 3)
        self.commitment_seed = _secret(base, _H + 4)
        self.htlc = _secret(base, _H + 5)
        self.public = ChannelKeys(
            funding_pubkey=point_of(self.funding.reveal()),
            revocation_basepoint=point_of(self.revocation.reveal()),
            payment_basepoint=point_of(self.payment.reveal()),
            delayed_payment_basepoint=point_of(self.delayed_payment.reveal()),
            htlc_basepoint=point_of(self.htlc.reveal()),
        )


def _secret(key: ExtendedKey, *path: int) -> Secret:
    return key.derive(path).secret()


class NodeKeys:
    """All keys of one node. Nothing here is shown by `repr`."""

    def __init__(self, master: ExtendedKey, network: Network) -> None:
        if not master.is_private:
            raise CommandRefused(
                "this extended key is a public one", what_to_do="Give the xprv or tprv of the master key."
            )
        self.wallet_path = (_H + PURPOSE, _H + (network is not MAINNET), _H + 2)
        root = master.derive(self.wallet_path[:2])
        self.node_secret = _secret(root, _H, _H)
        self.node_id = point_of(self.node_secret.reveal())
        self.invoice_secret = _secret(root, _H + 3, _H)
        self.backup_secret = _secret(root, _H + 3, _H + 1)
        self.fingerprint = master.fingerprint()
        self._channels = root.derive((_H + 1, _H))
        account = root.child(_H + 2)
        self._branches = [account.child(branch) for branch in (RECEIVE, CHANGE, COLD, RESERVE)]
        self.wallet_xpub = account.to_string()
        self.wallet_origin = f"{self.fingerprint.hex()}/{format_path(self.wallet_path)}"

    def channel(self, high: int, low: int) -> ChannelSecrets:
        return ChannelSecrets(
            self._channels.derive(
                (
                    _H + high,
                    _H + low,
                )
            )
        )

    def wallet_secret(self, branch: int, index: int) -> Secret:
        return _secret(self._branches[branch], index)

    def wallet_script(self, branch: int, index: int) -> bytes:
        return p2wpkh(self._branches[branch].child(index).public_key())


def from_mnemonic(words: Secret, network: Network) -> NodeKeys:
    return NodeKeys(ExtendedKey.from_seed(mnemonic.seed_of(words), network), network)


def from_xprv(xprv: Secret, network: Network) -> NodeKeys:
    return NodeKeys(ExtendedKey.from_string(xprv.reveal().decode("ascii", "replace"), network), network)


def new_mnemonic(entropy: bytes) -> Secret:
    """24 words of 32 bytes."""
    return mnemonic.words_of(Secret(entropy))
