"""The policies of our channels and how long old ones count (BOLT 7, "HTLC Fees"; checklist 35)."""

from pathlib import Path

import pytest

from node.payments.policies import GRACE_SECONDS, PolicyBook
from node.payments.store import Desk
from node.storage.database import open_database
from protocol.amounts import Msat
from protocol.bus.messages.forwards import SetPolicy
from protocol.bus.messages.routing import PolicyChanged
from protocol.errors import CommandRefused
from tests.node.payments.support import CHANNEL, channel_info

INFO = channel_info()


class House:
    def __init__(self, folder: Path) -> None:
        self.database = open_database(folder / "node.db", create=True)
        self.now = 1_000.0
        self.changed: list[PolicyChanged] = []
        desk = Desk(self.database.writer, lambda _to, _what: None, lambda: None)
        self.book = PolicyBook(
            desk, self.database.writer, clock=lambda: self.now, changed=self.changed.append
        )

    def charge(self, base: int, grace: int | None = None) -> None:
        self.book.set(SetPolicy((CHANNEL,), fee_base_msat=Msat(base), grace_seconds=grace), (INFO,))

    def bases(self) -> list[int]:
        return [policy.fee_base_msat for policy in self.book.valid(INFO)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_policy_before_the_last_change_counts_for_ten_minutes(house: House) -> None:
    """checklist 35"""
    house.charge(5_000)
    assert house.bases() == [5_000, 1_000]
    house.now += GRACE_SECONDS - 1
    assert house.bases() == [5_000, 1_000]
    house.now += 1
    assert house.bases() == [5_000]
    assert [change.policy.fee_base_msat for change in house.changed] == [5_000]


def test_the_same_terms_again_do_not_end_the_old_ones(house: House) -> None:
    """checklist 35: whoever paid by them was promised ten minutes; a script may set its policy every minute."""
    house.charge(5_000)
    house.now += 60
    house.charge(5_000)
    assert house.bases() == [5_000, 1_000]
    house.now += GRACE_SECONDS - 60
    assert house.bases() == [5_000]
    assert len(house.changed) == 1


def test_a_person_may_end_the_old_terms_at_once(house: House) -> None:
    house.charge(5_000)
    house.charge(5_000, grace=0)
    assert house.bases() == [5_000]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"htlc_maximum_msat": Msat(100_000_001)}, "cannot have 100000001"),
        ({"htlc_minimum_msat": Msat(100_000_000)}, "is above htlcmax"),
        ({"cltv_expiry_delta": 33}, "would not be safe"),
        ({"cltv_expiry_delta": 2017}, "would not be safe"),
        ({"fee_base_msat": Msat(2**32)}, "32 bits"),
    ],
)
def test_terms_that_cannot_be_are_refused_and_change_nothing(
    house: House, wanted: dict[str, int], sentence: str
) -> None:
    with pytest.raises(CommandRefused, match=sentence):
        house.book.set(SetPolicy((CHANNEL,), **wanted), (INFO,))  # type: ignore[arg-type]
    assert house.bases() == [1_000]
    assert house.changed == []
