"""What the chain service answers from its backend alone: fees, transactions, and what short channel ids point at."""

from node.chain.backend import BackendAway, BackendUnusable, ChainBackend
from node.chain.fees import OtherSources, combine
from protocol.amounts import FeeratePerKw
from protocol.bus.bus import Bus
from protocol.bus.messages.chain import (
    GetFeerate,
    GetMempoolMinimum,
    GetOutputAt,
    GetTransaction,
    OutputAt,
    TransactionFound,
)
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused


class Questions(Service):
    def __init__(
        self, bus: Bus, backend: ChainBackend, fees: OtherSources, fallback_feerate: FeeratePerKw | None
    ) -> None:
        super().__init__(bus)
        self._backend = backend
        self._fees = fees
        self._fallback_feerate = fallback_feerate
        self._behind = ""
        """Why the newest block is not the backend's newest, or not the chain's."""

    @handles(GetFeerate)
    async def get_feerate(self, request: GetFeerate) -> FeeratePerKw:
        estimates = self._fees.estimates(request.target_blocks)
        try:
            own = None if self._behind else await self._backend.feerate(request.target_blocks)
            minimum = await self._backend.mempool_minimum()
        except (BackendAway, BackendUnusable) as error:
            raise no_backend(error) from error
        rate = combine([*estimates, *([] if own is None else [own])], mempool_minimum=minimum)
        if rate is None:
            rate = self._fallback_feerate
        if rate is None:
            raise CommandRefused(
                f"{self._backend.name} has no fee estimate yet"
                + (f": {self._behind}" if self._behind else ""),
                what_to_do="Give a feerate yourself, or wait until it has seen some blocks.",
            )
        return rate

    @handles(GetMempoolMinimum)
    async def get_mempool_minimum(self, _request: GetMempoolMinimum) -> FeeratePerKw:
        try:
            return await self._backend.mempool_minimum()
        except (BackendAway, BackendUnusable) as error:
            raise no_backend(error) from error

    @handles(GetTransaction)
    async def get_transaction(self, request: GetTransaction) -> TransactionFound | None:
        try:
            found = await self._backend.transaction(request.txid, request.height)
        except (BackendAway, BackendUnusable) as error:
            raise no_backend(error) from error
        return None if found is None else TransactionFound(found.raw, found.height)

    @handles(GetOutputAt)
    async def get_output_at(self, request: GetOutputAt) -> OutputAt | None:
        try:
            found = await self._backend.output_at(request.height, request.tx_index, request.output_index)
        except (BackendAway, BackendUnusable) as error:
            raise no_backend(error) from error
        return None if found is None else OutputAt(found.txid, found.value, found.script, found.unspent)


def no_backend(error: Exception) -> CommandRefused:
    again = "Ask again when the chain is back."
    if isinstance(error, BackendUnusable):
        again = "Ask again when that is done."
    return CommandRefused(str(error).rstrip("."), what_to_do=again)
