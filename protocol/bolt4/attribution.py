"""Attribution data: how long each hop held an HTLC, and which hop spoiled a failure (BOLT 4, "Initialization of
`attribution_data`"; checklist 39).

Each hop adds its hold time and truncated HMACs over what is behind it, one for each place in a route that it might
have. A fulfilled HTLC carries the same data; there is no return packet then, so the HMACs cover an empty one.
"""

import hmac
import struct
from collections.abc import Sequence

from msgspec import Struct

from protocol.bolt4.sphinx import apply_stream, derive_key
from protocol.errors import MalformedMessage
from protocol.secret import Secret

MAX_HOPS = 20
HOLD_TIME_UNIT_MS = 100
_TIME, _HMAC = 4, 4
_TIMES_SIZE = MAX_HOPS * _TIME
_COUNT = MAX_HOPS * (MAX_HOPS + 1) // 2
SIZE = _TIMES_SIZE + _COUNT * _HMAC
_BLOCKS = tuple(sum(MAX_HOPS - i for i in range(x)) for x in range(MAX_HOPS + 1))
"""Where the HMACs of the node `x` hops behind this one begin: it has one for each of MAX_HOPS - x places."""
_BEHIND = tuple(
    tuple(_BLOCKS[x] + (MAX_HOPS - 1 - x) - (place - x) for x in range(1, place + 1))
    for place in range(MAX_HOPS)
)
"""By place: the HMACs of those behind it that assume the same end."""
_HMACS = struct.Struct(f"{_HMAC}s" * _COUNT)


class AttributionKeys(Struct, frozen=True):
    """`um` authenticates, `ammagext` obscures."""

    um: Secret
    ammagext: Secret


class Told(Struct, frozen=True):
    """The hold times of the hops whose data is whole, in units of 100 ms, and the first hop of which it is not.

    `silent`: the hop before says that nothing came from there, as from a node that knows no attribution data, and that
    says nothing of the hops behind either."""

    hold_times: tuple[int, ...]
    spoiled_at: int | None = None
    silent: bool = False


def keys_of(shared_secret: Secret) -> AttributionKeys:
    secret = shared_secret.reveal()
    return AttributionKeys(Secret(derive_key(b"um", secret)), Secret(derive_key(b"ammagext", secret)))


def hold_units(seconds: float) -> int:
    return min(2**32 - 1, max(0, int(seconds * 1000) // HOLD_TIME_UNIT_MS))


def update(
    keys: AttributionKeys, packet: bytes, hold_time: int, downstream: bytes | None, *, is_source: bool = False
) -> bytes:
    """What this hop passes back. `packet`: the return packet before our own layer, b"" for a fulfilled HTLC.

    `downstream` None: the next hop gave none, so zeros stand for it. `is_source`: there is no next hop.
    """
    if is_source:
        times, hmacs = bytes(_TIMES_SIZE), bytes(_COUNT * _HMAC)
    else:
        data = bytes(SIZE) if downstream is None else downstream
        if len(data) != SIZE:
            raise MalformedMessage(f"attribution data has {SIZE} bytes, not {len(data)}")
        times, hmacs = _shifted(data[:_TIMES_SIZE], data[_TIMES_SIZE:])
    times = hold_time.to_bytes(_TIME, "big") + times[_TIME:]
    um, split = keys.um.reveal(), _HMACS.unpack(hmacs)
    own = [_mac(um, packet, times, split, place) for place in range(MAX_HOPS - 1, -1, -1)]
    hmacs = b"".join(own) + hmacs[MAX_HOPS * _HMAC :]
    return apply_stream(keys.ammagext.reveal(), times + hmacs)


def read(shared_secrets: Sequence[Secret], packet: bytes, data: bytes, *, source: int | None = None) -> Told:
    """The origin's view. `source`: the hop that made the failure, where the return packet told; else all hops count."""
    if len(data) != SIZE:
        return Told((), 0)
    count = len(shared_secrets)
    if count > MAX_HOPS:
        raise ValueError(f"attribution data is for {MAX_HOPS} hops, not {count}")
    hold_times: list[int] = []
    last = count if source is None else source + 1
    for index in range(last):
        secret = shared_secrets[index]
        keys = keys_of(secret)
        silent = _is_silent(data, index)
        data = apply_stream(keys.ammagext.reveal(), data)
        if packet:
            packet = apply_stream(derive_key(b"ammag", secret.reveal()), packet)
        times, hmacs = data[:_TIMES_SIZE], data[_TIMES_SIZE:]
        place = count - 1 - index
        at = (MAX_HOPS - 1 - place) * _HMAC
        expected = _mac(keys.um.reveal(), packet, times, _HMACS.unpack(hmacs), place)
        if not hmac.compare_digest(hmacs[at : at + _HMAC], expected):
            return Told(tuple(hold_times), index, silent)
        hold_times.append(int.from_bytes(times[:_TIME], "big"))
        data = _unshifted(times, hmacs)
    return Told(tuple(hold_times))


def _is_silent(data: bytes, index: int) -> bool:
    """Whether the hop before filled in zeros. Each hop on the way has pushed out one hold time, and one HMAC of this
    hop, so those no longer tell."""
    pushed_out = index * _TIME
    own_hmacs = data[_TIMES_SIZE + pushed_out : _TIMES_SIZE + MAX_HOPS * _HMAC]
    return not any(data[: _TIMES_SIZE - pushed_out]) and not any(own_hmacs)


def _mac(um: bytes, packet: bytes, times: bytes, hmacs: tuple[bytes, ...], place: int) -> bytes:
    """Of a node that is `place` hops away from the end: over the packet, its hold time and those behind it, and the
    HMACs of those behind it that assume the same end."""
    parts = [packet, times[: (place + 1) * _TIME], *[hmacs[at] for at in _BEHIND[place]]]
    return hmac.digest(um, b"".join(parts), "sha256")[:_HMAC]


def _shifted(times: bytes, hmacs: bytes) -> tuple[bytes, bytes]:
    """One hop further from the end: each node loses the place that no longer fits into a route."""
    blocks = [bytes(MAX_HOPS * _HMAC)]
    for x in range(MAX_HOPS - 1):
        blocks.append(hmacs[(_BLOCKS[x] + 1) * _HMAC : _BLOCKS[x + 1] * _HMAC])
    return bytes(_TIME) + times[:-_TIME], b"".join(blocks)


def _unshifted(times: bytes, hmacs: bytes) -> bytes:
    parts = [times[_TIME:], bytes(_TIME)]
    for x in range(1, MAX_HOPS):
        parts.append(bytes(_HMAC) + hmacs[_BLOCKS[x] * _HMAC : _BLOCKS[x + 1] * _HMAC])
    parts.append(bytes(_HMAC))
    return b"".join(parts)
