"""CRC32C, with the values that RFC 3720 prints, and what of a channel_update it covers."""

import pytest

from protocol.bolt7 import announcement as bolt7
from protocol.bolt7.checksum import checksum_of_update, crc32c
from tests.protocol.bolt7.test_announcement import FIELDS, REGTEST, _dict


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_published_values(data: bytes, value: int):
    assert crc32c(data) == value


def test_signature_and_timestamp_do_not_count_and_all_else_does():
    """checklist 60: the same content said again has the same checksum."""
    frame = bolt7.channel_update(FIELDS, REGTEST.chain_hash, 0)
    again = bolt7.UpdateFields(**{**_dict(FIELDS), "timestamp": FIELDS.timestamp + 9})
    assert checksum_of_update(frame) == checksum_of_update(
        bolt7.channel_update(again, REGTEST.chain_hash, 0, b"\x55" * 64)
    )
    assert checksum_of_update(frame) == crc32c(frame[66:106] + frame[110:])
    others = {
        checksum_of_update(bolt7.channel_update(FIELDS, REGTEST.chain_hash, 1)),
        checksum_of_update(frame + b"more"),
        *(
            checksum_of_update(
                bolt7.channel_update(
                    bolt7.UpdateFields(**{**_dict(FIELDS), name: getattr(FIELDS, name) + 1}),
                    REGTEST.chain_hash,
                    0,
                )
            )
            for name in ("short_channel_id", "cltv_expiry_delta", "fee_base_msat", "htlc_maximum_msat")
        ),
    }
    assert len(others) == 6 and checksum_of_update(frame) not in others
