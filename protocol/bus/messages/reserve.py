"""What the fee reserve says and hears on the bus (DESIGN, "The fee reserve"). How much it must hold is reckoned by
`protocol.reserve`; the signer's own words are in `signer_reserve`."""

from msgspec import Struct

from protocol.amounts import Sat


class ReserveChanged(Struct, frozen=True, tag="reserve.changed"):
    """Event: what the signer holds of the reserve now. `mode`: "enforce" or "shadow".

    `present`: what the signer counts; `needed`: for `channels` with anchors and `htlcs` in flight in them that take a
    slot. `address`: where a top-up pays to.
    """

    mode: str
    needed: Sat
    present: Sat
    channels: int
    htlcs: int
    address: str


class AskRoom(Struct, frozen=True, tag="reserve.ask_room"):
    """Whether one channel with anchors more is covered. Answered with `ReserveRoom`."""


class ReserveRoom(Struct, frozen=True, tag="reserve.room"):
    """`short`: what the reserve lacks for the channel. `top_up`: what its funding transaction should bring along, so
    that there is room for some HTLCs too; 0 where nothing is lacking."""

    mode: str
    needed: Sat
    present: Sat
    short: Sat
    top_up: Sat
    address: str


class SyncReserve(Struct, frozen=True, tag="reserve.sync"):
    """Tells the signer now which coins there are. Answered once it has heard; a signer that is away is no error."""


class GetReserve(Struct, frozen=True, tag="reserve.get"):
    """Answered with `ReserveReport`."""


class ReserveReport(Struct, frozen=True, tag="reserve.report"):
    """`confirmed`: free coins of the reserve; `coming`: on their way to it; `lent`: paying fees of a close now.

    `room_channels` and `room_htlcs`: how many more of one kind it would cover. `mode` is empty while the
    signer is away.
    """

    mode: str
    needed: Sat
    present: Sat
    short: Sat
    surplus: Sat
    channels: int
    htlcs: int
    room_channels: int
    room_htlcs: int
    confirmed: Sat
    coming: Sat
    lent: Sat
    coins: int
    address: str
    what_to_do: str


class TopUpReserve(Struct, frozen=True, tag="reserve.top_up"):
    """Sends coins of the wallet to the reserve. `amount` None: what is lacking. Answered with `ReserveMoved`."""

    amount: Sat | None = None


class ReturnReserve(Struct, frozen=True, tag="reserve.return"):
    """Sends what is not needed back to the cold branch. Answered with `ReserveMoved`."""


class ReserveMoved(Struct, frozen=True, tag="reserve.moved"):
    amount: Sat
    fee: Sat
    tx: bytes
    txid: bytes
