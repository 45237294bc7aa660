"""One channel in the signer: its keys, its parameters for ever, and its state (BOLT 3, "Key Derivation")."""

from protocol.amounts import Msat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3 import shachain
from protocol.bolt3.commitment import CommitmentParams, Side, SideParams, prepare
from protocol.bolt3.keys import derive_secret, per_commitment_point
from protocol.bus.messages.signer import SetupChannel
from signer.channel_state import ChannelState
from signer.keys import ChannelSecrets

_POINTS_KEPT = 8


class Channel:
    """`state` is what the requests of this turn have made of `durable`, the state that the database holds."""

    def __init__(self, handle: bytes, secrets: ChannelSecrets, peer: bytes, cold_index: int) -> None:
        self.handle = handle
        self.secrets = secrets
        self.peer = peer
        self.cold_index = cold_index
        self.setup: SetupChannel | None = None
        self.params: CommitmentParams | None = None
        self.state: ChannelState | None = None
        self.durable: ChannelState | None = None
        self.push_msat = Msat(0)
        self.restored = False
        """From a backup that did not know the set-up; there may have been one, so it begins as stale."""
        self._points: dict[int, bytes] = {}

    def set_up(self, setup: SetupChannel, state: ChannelState) -> None:
        output = setup.fundings[0]
        self.setup = setup
        self.params = CommitmentParams(
            anchors=setup.anchors,
            funding_outpoint=OutPoint(output.txid, output.index),
            capacity=output.capacity,
            opener_is_holder=setup.holder_is_opener,
            holder=SideParams(self.secrets.public, setup.holder.dust_limit, setup.holder.to_self_delay),
            counterparty=SideParams(
                setup.counterparty_keys, setup.counterparty.dust_limit, setup.counterparty.to_self_delay
            ),
        )
        self.push_msat = setup.push_msat
        self.state = state

    def secret(self, number: int) -> bytes:
        """Our per-commitment secret. Whoever calls this decides whether it may leave."""
        return shachain.secret_for_commitment(self.secrets.commitment_seed.reveal(), number)

    def point(self, number: int) -> bytes:
        point = self._points.get(number)
        if point is None:
            if len(self._points) >= _POINTS_KEPT:
                self._points.clear()
            point = self._points[number] = per_commitment_point(self.secret(number))
        return point

    def prepare(self) -> None:
        """Derives the keys of the next commitment of each side, so that they are at hand when it is asked for."""
        params, state = self.params, self.state
        if params is None or state is None or state.frozen:
            return
        ours = state.holder_validated + 1
        prepare(params, Side.HOLDER, self.point(ours))
        self.point(ours + 1)  # goes out when the one before `ours` is revoked
        theirs = state.points.get(state.counterparty_signed + 1)
        if theirs is not None:
            prepare(params, Side.COUNTERPARTY, theirs)

    def htlc_secret(self, point: bytes) -> bytes:
        return derive_secret(self.secrets.htlc.reveal(), self.secrets.public.htlc_basepoint, point)

    def delayed_secret(self, point: bytes) -> bytes:
        basepoint = self.secrets.public.delayed_payment_basepoint
        return derive_secret(self.secrets.delayed_payment.reveal(), basepoint, point)
