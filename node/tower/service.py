"""The tower service: has the signer sign penalties beforehand, and writes them to a file that somebody else may hold
(BOLT 5, "Revoked Transaction Close Handling"; DESIGN, "The signer contract").

It works behind the channels, a batch at a time. What is not written yet stands in the database, so nothing waits for
it, and neither a crash nor a full disk loses a line.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

import structlog

from node.signer_link.client import SignerAway
from node.storage import tower as rows
from node.storage.writer import Writer
from node.tower import lines
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import signer as contract
from protocol.bus.messages.chain import GetFeerate, TipChanged
from protocol.bus.messages.channel import ChannelsTouched
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.messages.tower import GetTowerStatus, TowerStatus
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, ProtocolError

log = structlog.get_logger()
BATCH = 100
"""So many lines share one sync."""
BATCH_SECONDS = 2.0
CALM = FeeratePerKw(1_000)
BUSY = FeeratePerKw(5_000)
CEILING = FeeratePerKw(25_000)
"""100 sat/vB. The signer leaves out what would cost more than half of an output."""
_CALM_BLOCKS = 144


class Signer(Protocol):
    async def call(self, request: contract.Request) -> contract.Reply: ...


class NoTower(Service):
    """Nobody asked for a file: nothing is noted, signed or written."""

    name: ClassVar[str] = "tower"

    @handles(GetTowerStatus)
    def status(self, _request: GetTowerStatus) -> TowerStatus:
        return TowerStatus("", 0, 0, 0, None, "")


class TowerService(Service):
    name: ClassVar[str] = "tower"

    def __init__(
        self,
        bus: Bus,
        *,
        writer: Writer,
        signer: Signer,
        file: Path,
        batch_seconds: float = BATCH_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(bus)
        self._writer = writer
        self._signer = signer
        self._file = file
        self._batch_seconds = batch_seconds
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._working = False
        self._refused: set[int] = set()
        """Rows that the signer refused for good: logged once, and tried again after a restart."""
        self._written = 0
        self._written_at: int | None = None
        self._sentence = ""

    async def start(self) -> None:
        await super().start()
        self._soon()

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await super().stop()

    @hears(ChannelsTouched)
    def channels_touched(self, _event: ChannelsTouched) -> None:
        self._soon()

    @hears(TipChanged)
    def tip_changed(self, _event: TipChanged) -> None:
        """What failed is tried again with each block."""
        self._soon()

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        if event.up:
            self._soon()

    @handles(GetTowerStatus)
    def status(self, _request: GetTowerStatus) -> TowerStatus:
        try:
            size = self._file.stat().st_size
        except OSError:
            size = 0
        pending = rows.count(self._writer)
        return TowerStatus(str(self._file), size, self._written, pending, self._written_at, self._sentence)

    def _soon(self) -> None:
        """One timer gathers what falls together; while it runs, or work is under way, this costs nothing."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._batch_seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._working:
            self._soon()
            return
        self._working = True
        self.run(self._work())

    async def _work(self) -> None:
        try:
            sentence = ""
            try:
                # A revocation is saved with the next thing that is; its row may still wait for that.
                await self._writer.submit([], now=False)
                if rows.count(self._writer):
                    await self._write_pending(await self._feerates())
            except (SignerAway, ProtocolError, OutcomeUnknown) as error:
                sentence = f"the signer did not sign: {error}"
            except OSError as error:
                sentence = f"{self._file} cannot be written: {error.strerror}"
            if sentence and sentence != self._sentence:
                log.error("tower_waits", reason=sentence)
            self._sentence = sentence
        finally:
            self._working = False

    async def _write_pending(self, feerates: tuple[FeeratePerKw, ...]) -> None:
        after = 0
        while batch := rows.oldest(self._writer, after, BATCH):
            made: list[bytes] = []
            done: list[tuple[int]] = []
            for number, channel, revoked in batch:
                after = number
                signed = None if number in self._refused else await self._sign(channel, revoked, feerates)
                if isinstance(signed, contract.PenaltiesSigned):
                    done.append((number,))
                    if signed.transactions:
                        made.append(lines.line(signed.commitment_txid, signed.transactions))
                elif signed is not None:
                    self._note_refusal(number, channel, signed)
            if made:
                await asyncio.to_thread(lines.append, self._file, made)
                self._written += len(made)
                self._written_at = int(self._clock())
            if done:
                await self._writer.submit([(rows.DELETE, done)], now=False)

    async def _sign(
        self, channel: bytes, revoked: rows.Revoked, feerates: tuple[FeeratePerKw, ...]
    ) -> contract.Reply:
        request = contract.SignPenalties(channel, revoked.content, feerates)
        reply = await self._signer.call(request)
        if isinstance(reply, contract.Refused) and reply.tag == "penalty-number" and revoked.revocation:
            # On a quiet channel the signer hears of a revocation with its next question; it may as well hear it now.
            await self._signer.call(contract.ChannelRequest(channel, (revoked.revocation,)))
            reply = await self._signer.call(request)
        return reply

    def _note_refusal(self, number: int, channel: bytes, reply: contract.Reply) -> None:
        """Its row stays. What may come right by itself is asked again."""
        if isinstance(reply, contract.Refused) and reply.tag != "penalty-number":
            self._refused.add(number)
            log.error("penalty_refused", handle=channel.hex(), rule=reply.rule, seen=reply.seen)
        else:
            log.warning("penalty_waits", handle=channel.hex(), answer=type(reply).__name__)

    async def _feerates(self) -> tuple[FeeratePerKw, ...]:
        """From calm to the ceiling: which of them is right is known on the day."""
        calm = CALM
        try:
            calm = await self.bus.request("chain", GetFeerate(_CALM_BLOCKS))
        except (CommandRefused, OutcomeUnknown) as error:
            log.info("feerate_not_known", error=str(error))
        low = min(max(calm, FEERATE_FLOOR), BUSY)
        return tuple(FeeratePerKw(rate) for rate in sorted({low, BUSY, CEILING}))
