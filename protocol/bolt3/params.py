"""What stays the same over all commitments of one funding: sides, keys, limits (BOLT 2, "The `open_channel`
Message"; BOLT 3, "Commitment Transaction")."""

from enum import Enum

import msgspec

from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3.keys import ChannelKeys
from protocol.hashes import sha256


class Side(Enum):
    """*Holder* is whoever runs this code, *counterparty* is the other end."""

    HOLDER = "holder"
    COUNTERPARTY = "counterparty"

    @property
    def other(self) -> "Side":
        return Side.COUNTERPARTY if self is Side.HOLDER else Side.HOLDER


class SideParams(msgspec.Struct, frozen=True, cache_hash=True):
    """One side: its keys, the dust limit that it set, and the delay that it must wait itself.

    `to_self_delay` is thus the value that the *other* side sent in its message.
    """

    keys: ChannelKeys
    dust_limit: Sat
    to_self_delay: int


class CommitmentParams(msgspec.Struct, frozen=True, cache_hash=True):
    """Fixed for one funding transaction. `anchors`: the channel type has `option_anchors`, else it has
    `option_static_remotekey` alone."""

    anchors: bool
    funding_outpoint: OutPoint
    capacity: Sat
    opener_is_holder: bool
    holder: SideParams
    counterparty: SideParams

    @property
    def opener(self) -> Side:
        return Side.HOLDER if self.opener_is_holder else Side.COUNTERPARTY

    def of(self, side: Side) -> SideParams:
        return self.holder if side is Side.HOLDER else self.counterparty

    def mirror(self) -> "CommitmentParams":
        """The same channel as the peer sees it."""
        return CommitmentParams(
            anchors=self.anchors,
            funding_outpoint=self.funding_outpoint,
            capacity=self.capacity,
            opener_is_holder=not self.opener_is_holder,
            holder=self.counterparty,
            counterparty=self.holder,
        )

    @property
    def obscuring_factor(self) -> int:
        """48 bits that hide the commitment number from whoever does not know the payment basepoints."""
        opener, accepter = self.of(self.opener), self.of(self.opener.other)
        return int.from_bytes(
            sha256(opener.keys.payment_basepoint + accepter.keys.payment_basepoint)[-6:], "big"
        )


def obscured_fields(obscured_number: int) -> tuple[int, int]:
    """Sequence of the input and locktime of the commitment transaction."""
    return 0x80 << 24 | obscured_number >> 24, 0x20 << 24 | obscured_number & 0xFFFFFF


def commitment_number(params: CommitmentParams, sequence: int, locktime: int) -> int | None:
    """The number of a commitment seen on chain, or None when the fields are not those of a commitment."""
    if sequence >> 24 != 0x80 or locktime >> 24 != 0x20:
        return None
    return ((sequence & 0xFFFFFF) << 24 | locktime & 0xFFFFFF) ^ params.obscuring_factor
