"""One peer as gossip sees it: what it sent and still waits, what it asked, what is to be sent to it (BOLT 7).

Both directions are bounded in frames and bytes. What comes in on top is dropped and counted; what should go out on top
is not sent: no peer can make us hold more than that, and none makes us hold anything back for channels.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from node.routing.gossip.answers import Pieces
from node.routing.gossip.rates import Bucket, GossipLimits
from node.routing.gossip.relay import Filter
from node.routing.gossip.sync import PeerSync
from protocol.wire import bolt7_gossip as wire

GOSSIP = (wire.ChannelAnnouncement.TYPE, wire.NodeAnnouncement.TYPE, wire.ChannelUpdate.TYPE)
_GOSSIP_LOW = frozenset(number & 0xFF for number in GOSSIP)
_REPLIES_LOW = frozenset((wire.ReplyShortChannelIdsEnd.TYPE & 0xFF, wire.ReplyChannelRange.TYPE & 0xFF))
_RESERVED_BYTES = 512 * 1024
"""Of the queue, for what is not gossip itself: replies and questions get through a full queue."""
BYTES_A_CHANNEL = 2_500
FRAMES_A_CHANNEL = 5
"""What an answer to our question may cost: an announcement, two updates, two nodes."""
SEND_BYTES = 32 * 1024
JOBS = 3
"""Open questions of a peer; BOLT 7 allows one of each kind."""
BACKLOGS_PER_SECOND = 1 / 600


class GossipPeer:
    def __init__(
        self, node_id: bytes, connection: int, *, sync: PeerSync | None, limits: GossipLimits, now: float
    ) -> None:
        self.node_id = node_id
        self.connection = connection
        self.sync = sync
        """None: the peer does not offer its gossip."""
        self.active = False
        """We listen to its gossip as it happens."""
        self.active_since = now
        self.asked_from = 0
        """The first block of our last range question."""
        self.filter: Filter | None = None
        self.bad = 0
        self.muted = False
        self.dropped = 0
        self.busy = False
        """A chunk that was taken is being worked through."""
        self.arrived = asyncio.Event()
        self.to_send = asyncio.Event()
        self.backlogs = Bucket(BACKLOGS_PER_SECOND, 2, now)
        self._limits = limits
        self.questions = Bucket(limits.questions_per_second, limits.questions_burst, now)
        self._messages = Bucket(limits.messages_per_second, limits.messages_burst, now)
        self._bytes = Bucket(limits.bytes_per_second, limits.bytes_burst, now)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._urgent: deque[bytes] = deque()
        self._urgent_bytes = 0
        self._jobs: deque[Pieces] = deque()
        self._backlog: Pieces | None = None

    # What came.

    def put(self, frames: Iterable[bytes], now: float) -> None:
        """Bounded, and charged: what goes beyond is dropped before anybody looks at it."""
        limits, queue = self._limits, self._queue
        for frame in frames:
            size = len(frame)
            low = frame[1]
            is_gossip = low in _GOSSIP_LOW
            room = limits.queue_bytes - (_RESERVED_BYTES if is_gossip else 0)
            fits = self._queued + size <= room and len(queue) < limits.queue_frames
            paid = low in _REPLIES_LOW or (self._messages.spend(1, now) and self._bytes.spend(size, now))
            if not fits or not paid or (self.muted and is_gossip):
                self.dropped += 1
                continue
            queue.append(frame)
            self._queued += size
        if queue:
            self.arrived.set()

    def expect(self, channels: int, now: float) -> None:
        """We asked for so many channels: their messages are not held against the peer."""
        self._messages.grant(channels * FRAMES_A_CHANNEL, now)
        self._bytes.grant(channels * BYTES_A_CHANNEL, now)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def take(self, most: int) -> list[bytes]:
        """Gossip, up to `most` frames; or one frame alone that is something else."""
        queue = self._queue
        chunk: list[bytes] = []
        while queue and len(chunk) < most:
            if queue[0][1] not in _GOSSIP_LOW:
                if not chunk:
                    chunk.append(queue.popleft())
                break
            chunk.append(queue.popleft())
        self._queued -= sum(map(len, chunk))
        if not queue:
            self.arrived.clear()
        return chunk

    # What goes out.

    def send(self, frames: Iterable[bytes]) -> None:
        """Before any long answer."""
        for frame in frames:
            if self._urgent_bytes + len(frame) > self._limits.outgoing_bytes:
                break
            self._urgent.append(frame)
            self._urgent_bytes += len(frame)
        if self._urgent:
            self.to_send.set()

    def answer(self, pieces: Pieces) -> bool:
        """False when the peer asks before its last questions were answered."""
        if len(self._jobs) >= JOBS:
            return False
        self._jobs.append(pieces)
        self.to_send.set()
        return True

    def set_backlog(self, pieces: Pieces | None) -> None:
        """A new filter replaces the one before, and what that one still had to send."""
        self._backlog = pieces
        if pieces is not None:
            self.to_send.set()

    def next_piece(self) -> tuple[bytes, ...] | None:
        """About 32 KB: news first, then answers, then what an old filter asked for. None when there is nothing,
        and an empty tuple where a long answer takes a breath."""
        if self._urgent:
            piece, size = [], 0
            while self._urgent and size < SEND_BYTES:
                piece.append(self._urgent.popleft())
                size += len(piece[-1])
            self._urgent_bytes -= size
            return tuple(piece)
        if self._jobs:
            frames = next(self._jobs[0], None)
            if frames is None:
                self._jobs.popleft()
                return ()
            return tuple(frames)
        if self._backlog is not None:
            frames = next(self._backlog, None)
            if frames is None:
                self._backlog = None
                return ()
            return tuple(frames)
        self.to_send.clear()
        return None
