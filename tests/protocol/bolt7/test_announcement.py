"""What is signed in gossip: by whom, over which bytes, and in which order of keys."""

import pytest

from protocol import curve
from protocol.amounts import Msat, scid
from protocol.bitcoin.network import REGTEST
from protocol.bolt7 import announcement as bolt7
from protocol.bolt7 import layout
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256
from protocol.wire import decode
from protocol.wire.bolt7_gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

KEYS = [bytes([number]) * 32 for number in (1, 2, 3, 4)]
POINTS = [curve.point_of(key) for key in KEYS]
PLACE = scid(700_000, 3, 1)
ENDS = bolt7.ChannelEnds(
    chain_hash=REGTEST.chain_hash,
    short_channel_id=PLACE,
    local_node_id=POINTS[0],
    remote_node_id=POINTS[1],
    local_funding_pubkey=POINTS[2],
    remote_funding_pubkey=POINTS[3],
    features=b"\x08",
)
FIELDS = bolt7.UpdateFields(
    short_channel_id=PLACE,
    timestamp=1_700_000_000,
    dont_forward=False,
    disabled=False,
    cltv_expiry_delta=40,
    htlc_minimum_msat=Msat(1),
    htlc_maximum_msat=Msat(99_000_000),
    fee_base_msat=Msat(1000),
    fee_proportional_millionths=10,
)


def signed(ends: bolt7.ChannelEnds, node: bytes, funding: bytes) -> bolt7.EndSignatures:
    digest = bolt7.digest_of_announcement(bolt7.channel_announcement(ends))
    return bolt7.EndSignatures(curve.sign_ecdsa(node, digest), curve.sign_ecdsa(funding, digest))


def mirrored(ends: bolt7.ChannelEnds) -> bolt7.ChannelEnds:
    return bolt7.ChannelEnds(
        chain_hash=ends.chain_hash,
        short_channel_id=ends.short_channel_id,
        local_node_id=ends.remote_node_id,
        remote_node_id=ends.local_node_id,
        local_funding_pubkey=ends.remote_funding_pubkey,
        remote_funding_pubkey=ends.local_funding_pubkey,
        features=ends.features,
    )


OURS = signed(ENDS, KEYS[0], KEYS[2])
THEIRS = signed(mirrored(ENDS), KEYS[1], KEYS[3])
FRAME = bolt7.channel_announcement(ENDS, OURS, THEIRS)


def announced(frame: bytes) -> ChannelAnnouncement:
    message = decode(frame)
    assert isinstance(message, ChannelAnnouncement)
    return message


def test_both_ends_build_the_same_announcement():
    """checklist 56, 61: node ids ascend, and the bitcoin keys follow them."""
    assert bolt7.channel_announcement(mirrored(ENDS), THEIRS, OURS) == FRAME
    message = announced(FRAME)
    assert message.node_id_1 < message.node_id_2
    keys = {POINTS[0]: POINTS[2], POINTS[1]: POINTS[3]}
    assert (message.bitcoin_key_1, message.bitcoin_key_2) == (
        keys[message.node_id_1],
        keys[message.node_id_2],
    )


def test_four_signatures_hold_over_everything_behind_them():
    """checklist 56: the digest skips the four signatures and covers the rest, unknown bytes as well."""
    assert bolt7.digest_of_announcement(FRAME) == double_sha256(FRAME[258:])
    assert [check.holds() for check in bolt7.checks_of_announcement(announced(FRAME), FRAME)] == [True] * 4
    longer = FRAME + b"\x00unknown"
    assert [check.holds() for check in bolt7.checks_of_announcement(announced(longer), longer)] == [False] * 4


@pytest.mark.parametrize("at", [2, 66, 130, 194])
def test_one_wrong_signature_of_four_is_seen(at: int):
    """checklist 56, broken: any of the four."""
    frame = FRAME[:at] + bytes([FRAME[at] ^ 1]) + FRAME[at + 1 :]
    held = [check.holds() for check in bolt7.checks_of_announcement(announced(frame), frame)]
    assert held.count(False) == 1 and held.index(False) == (at - 2) // 64


def test_the_peers_signatures_are_checked_against_our_announcement():
    """checklist 61: both of them, over the announcement that we would send."""
    assert bolt7.remote_signatures_hold(ENDS, THEIRS)
    assert not bolt7.remote_signatures_hold(ENDS, OURS)
    swapped = bolt7.EndSignatures(THEIRS.bitcoin_signature, THEIRS.node_signature)
    assert not bolt7.remote_signatures_hold(ENDS, swapped)
    only_node = bolt7.EndSignatures(THEIRS.node_signature, bytes(64))
    assert not bolt7.remote_signatures_hold(ENDS, only_node)


@pytest.mark.parametrize(
    ("dont_forward", "disabled", "flags"), [(False, False, (1, 0)), (True, True, (3, 2))]
)
def test_update_carries_its_flags_and_direction(dont_forward: bool, disabled: bool, flags: tuple[int, int]):
    """checklist 57: must_be_one is one, dont_forward marks what is for the peer alone."""
    fields = bolt7.UpdateFields(**{**_dict(FIELDS), "dont_forward": dont_forward, "disabled": disabled})
    for direction in (0, 1):
        message = decode(bolt7.channel_update(fields, REGTEST.chain_hash, direction))
        assert isinstance(message, ChannelUpdate)
        assert (message.message_flags, message.channel_flags) == (flags[0], flags[1] | direction)


def _dict(fields: bolt7.UpdateFields) -> dict[str, object]:
    return {name: getattr(fields, name) for name in fields.__struct_fields__}


def test_update_and_node_are_signed_over_all_that_follows_their_signature():
    """checklist 57, 58: with fields that we do not know."""
    direction = bolt7.direction_of(POINTS[0], POINTS[1])
    for extra in (b"", b"\x01\x02later fields"):
        unsigned = bolt7.channel_update(FIELDS, REGTEST.chain_hash, direction) + extra
        signature = curve.sign_ecdsa(KEYS[0], bolt7.digest_of_signed(unsigned))
        frame = unsigned[:2] + signature + unsigned[66:]
        message = decode(frame)
        assert isinstance(message, ChannelUpdate)
        assert bolt7.check_of_update(message, frame, POINTS[0]).holds()
        assert not bolt7.check_of_update(message, frame, POINTS[1]).holds()
        assert not bolt7.check_of_update(message, frame + b"\0", POINTS[0]).holds()


def test_node_announcement_is_built_and_signed():
    fields = bolt7.NodeFields(b"", 1_700_000_000, b"\1\2\3", bolt7.padded_alias("dove"), b"")
    digest = bolt7.digest_of_signed(bolt7.node_announcement(fields, POINTS[0]))
    frame = bolt7.node_announcement(fields, POINTS[0], curve.sign_ecdsa(KEYS[0], digest))
    message = decode(frame)
    assert isinstance(message, NodeAnnouncement) and bolt7.check_of_node(message, frame).holds()
    assert message.alias == b"dove".ljust(32, b"\0")


@pytest.mark.parametrize(
    ("text", "alias"), [("x" * 40, b"x" * 32), ("é" * 17, "é".encode() * 16), ("a" + "é" * 16, None)]
)
def test_a_long_alias_is_cut_at_a_whole_character(text: str, alias: bytes | None):
    padded = bolt7.padded_alias(text)
    assert len(padded) == 32
    padded.rstrip(b"\0").decode()
    if alias is not None:
        assert padded == alias


def test_fields_are_read_out_of_raw_frames():
    assert layout.announced_scid(FRAME) == PLACE
    message = announced(FRAME)
    assert layout.announcement_ids(FRAME) == (b"\x08", PLACE, message.node_id_1, message.node_id_2)
    update = bolt7.channel_update(FIELDS, REGTEST.chain_hash, 1)
    assert layout.update_head(update) == (PLACE, 1_700_000_000, 1, 1)
    values = layout.UPDATE_FROM_SCID.unpack_from(update, layout.UPDATE_SCID)
    assert values == (PLACE, 1_700_000_000, 1, 1, 40, 1, 1000, 10, 99_000_000)
    node = bolt7.node_announcement(bolt7.NodeFields(b"\1", 7, b"rgb", bytes(32), b""), POINTS[0])
    assert layout.node_head(node) == (7, POINTS[0])


@pytest.mark.parametrize("size", range(0, 460, 7))
def test_short_frames_are_malformed_and_nothing_else(size: int):
    for frame, read in (
        (FRAME, layout.announced_scid),
        (FRAME, layout.announcement_ids),
        (bolt7.channel_update(FIELDS, REGTEST.chain_hash, 1), layout.update_head),
        (
            bolt7.node_announcement(bolt7.NodeFields(b"\1", 7, b"rgb", bytes(32), b""), POINTS[0]),
            layout.node_head,
        ),
    ):
        if size < len(frame) - 10:
            with pytest.raises(MalformedMessage):
                read(frame[:size])
