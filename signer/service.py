"""The signer: judges requests one after the other, saves them together, answers (DESIGN, "The signer contract").

Nothing here waits for a socket; `signer.link` brings the calls of a turn and carries the replies away. A reply is
handed out after the commit that holds what it grants.
"""

import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

from protocol import messages_signing
from protocol.bitcoin.network import REGTEST
from protocol.bolt8.static_key import mix_static
from protocol.bus.messages import signer as contract
from protocol.curve import InvalidKey, sign_recoverable
from protocol.secret import Secret
from signer import backup, books, channels, keystore, onions, operations, wallet
from signer import storage as db
from signer.anchor import sign_anchor
from signer.channel import Channel
from signer.channel_state import ChannelState
from signer.forwards import Forwards
from signer.gossip import GossipSigner
from signer.initialise import curve_public, known_network, open_keys
from signer.invoices import foreign_hash, invoice_changed, make_invoice
from signer.onchain import sign_second_stage
from signer.parts import Parts
from signer.penalties import sign_penalties
from signer.policy.reserve import ENFORCE, SHADOW
from signer.policy.session import hello_matches, session_fenced
from signer.refusal import Denied, PeerBroke, internal_error
from signer.reserve import Reserve
from signer.storage import Storage
from signer.sweeps import sign_sweep

_REVOKING = (contract.RevokeHolder, contract.AcceptRevocation)
DATABASE = "signer.sqlite"
_log = logging.getLogger("signer")
QUICK = (contract.StaticKeyStep, contract.SignMessage)
"""Requests that write nothing, so they are answered before the commit of their turn."""


class SignerService:
    """One node's signer. `in_memory` keeps the database nowhere (tests).

    `fee_reserve`: "enforce" or "shadow", the mode of the rule of that name; None is "shadow" on regtest, where coins
    are worth nothing, and "enforce" elsewhere.
    """

    def __init__(
        self,
        datadir: Path,
        passphrase: Secret,
        *,
        in_memory: bool = False,
        fee_reserve: str | None = None,
    ) -> None:
        network_name, contents = keystore.unlock(datadir, passphrase)
        self.network = known_network(network_name)
        self.curve_secret = contents.curve_secret
        self.curve_public = curve_public(contents)
        self.keys = open_keys(self.network, contents)
        self.storage = Storage(None if in_memory else datadir / DATABASE)
        self._reserve_mode = fee_reserve or (SHADOW if self.network is REGTEST else ENFORCE)
        self._load()

    def _load(self) -> None:
        self._books = books.Books(self.storage, self.keys)
        self._gossip = GossipSigner(self.storage, self._books, self.keys, self.network)
        self._session = self.storage.counter("session")
        self._channels = channels.load(self.storage, self.keys)
        self._forwards = Forwards(self.storage, self._channels, self._books.write)
        self._reserve = Reserve(
            self.storage, self._channels, self.keys, self._books.write, self._reserve_mode
        )
        self._parts = Parts(self._forwards.channel_of)
        self._ledger = operations.Ledger(
            invoice=self._books.invoice,
            note_release=self._books.note_release,
            is_cold=self._books.is_cold,
            is_own=self._books.is_own,
            granted=self._books.granted,
            forwards=self._forwards,
            reserve=self._reserve,
            parts=self._parts,
        )
        self._touched: dict[bytes, Channel] = {}
        self._moved: dict[bytes, Channel] = {}

    def close(self) -> None:
        self.storage.close()

    def handle_batch(
        self, calls: Sequence[contract.SignerCall], elapsed_ms: Callable[[], float] | None = None
    ) -> list[contract.SignerReply]:
        """One turn: all calls are judged, one commit saves what they changed, then the replies are given out.

        `elapsed_ms`: how long ago the calls were received.
        """
        replies = [self._answer(call, elapsed_ms) for call in calls]
        try:
            self._save()
        except Exception as error:
            _log.error("commit_failed error=%s at=%s", type(error).__name__, _place(error))
            self.storage.rollback()
            self._load()
            busy = contract.NotNow("the signer could not write to its disk")
            return [contract.SignerReply(call.id, busy) for call in calls]
        return replies

    def _answer(
        self, call: contract.SignerCall, elapsed_ms: Callable[[], float] | None
    ) -> contract.SignerReply:
        if call.deadline_ms <= (0.0 if elapsed_ms is None else elapsed_ms()):
            return contract.SignerReply(call.id, contract.NotNow("the deadline of this request has passed"))
        try:
            if not isinstance(call.request, contract.Hello):
                session_fenced(self._session, call.session)
            reply = self._judge(call.request)
            self._keep()
            return contract.SignerReply(call.id, reply)
        except (Denied, PeerBroke) as refusal:
            self._forget()
            return contract.SignerReply(call.id, refusal.reply)
        except Exception as error:
            # The message of an unforeseen error could quote anything, so only its place is logged.
            _log.error("request_failed error=%s at=%s", type(error).__name__, _place(error))
            self._forget()
            return contract.SignerReply(call.id, internal_error())

    def _judge(self, request: contract.Request) -> contract.Reply:
        match request:
            case contract.ChannelRequest():
                return self._channel_request(request)
            case contract.PeelOnions():
                return onions.peel_onions(self.keys.node_secret, request)
            case contract.StaticKeyStep():
                return self._static_key_step(request)
            case contract.MakeInvoice():
                return self._make_invoice(request)
            case contract.Hello():
                return self._hello(request)
            case contract.NewChannel():
                return channels.draw(self.storage, self._books, self.keys, self._channels, request)
            case contract.SetupChannel():
                return channels.set_up(self._books, self._reserve, self._channel(request.channel), request)
            case contract.SignSweep():
                return self._sign_sweep(request)
            case contract.SignSecondStage():
                return self._sign_second_stage(request)
            case contract.SignAnchor():
                channel = self._channel(request.channel)
                params, state = channels.ready(channel)
                return contract.AnchorSigned(
                    sign_anchor(channel, params, state, request, self._books, self.keys, self._reserve)
                )
            case contract.FindPeerPoint():
                _, state = channels.ready(self._channel(request.channel))
                return contract.PeerPointFound(operations.peer_point(state, request.number))
            case contract.FindHolderPoint():
                channel = self._channel(request.channel)
                _, state = channels.ready(channel)
                return contract.HolderPointFound(backup.holder_point(channel, state, request.number))
            case contract.ChannelNumbers():
                return channels.numbers(self._channels.values())
            case contract.SignMessage():
                return self._sign_message(request)
            case contract.SignChannelAnnouncement():
                channel = self._channel(request.channel)
                params, _ = channels.ready(channel)
                return self._gossip.channel_announcement(channel, params, request)
            case contract.SignChannelUpdate():
                channel = self._channel(request.channel)
                params, _ = channels.ready(channel)
                return self._gossip.channel_update(channel, params, request)
            case contract.SignNodeAnnouncement():
                return self._gossip.node_announcement(request)
            case contract.SignPsbt():
                signed = wallet.sign_psbt(self.keys, self._books, self._reserve, request.psbt)
                return contract.PsbtSigned(signed)
            case contract.SignPenalties():
                channel = self._channel(request.channel)
                params, state = channels.ready(channel)
                return sign_penalties(channel, params, state, request, self.keys)
            case contract.NoteReserve():
                self._reserve.note(request)
                return self._reserve.status()
            case contract.AskReserve():
                return self._reserve.status()
            case contract.SealBackup():
                return backup.seal(self.storage, self._books, self.keys, request.node_part)
            case contract.OpenBackup():
                return backup.open_backup(self.storage, self.keys, self._channels, request.blob)
            case contract.RestoreBackup():
                restored = backup.restore(
                    self.storage, self._books, self.keys, self._channels, request.blob, self._becomes
                )
                return contract.BackupRestored(restored)
            case contract.MarkStale():
                channel = self._channel(request.channel)
                _, state = channels.ready(channel)
                self._becomes(channel, backup.stale(state))
                return contract.MarkedStale()
            case _:
                assert_never(request)

    def _hello(self, request: contract.Hello) -> contract.Welcome:
        hello_matches(request, self.network.name)
        session = self._session + 1
        self.storage.execute(db.SET_COUNTER, [("session", session)])
        self._session = session
        return contract.Welcome(
            session, self.keys.node_id, self.network.name, self.keys.wallet_xpub, self.keys.wallet_origin
        )

    def _static_key_step(self, request: contract.StaticKeyStep) -> contract.StaticKeyStepped:
        try:
            mixed = mix_static(self.keys.node_secret.reveal(), request.chaining_key, request.remote_ephemeral)
        except InvalidKey as error:
            raise PeerBroke("ephemeral-key", "the peer's ephemeral key is no point", "BOLT 8") from error
        return contract.StaticKeyStepped(*mixed)

    def _sign_message(self, request: contract.SignMessage) -> contract.MessageSigned:
        digest = messages_signing.digest(request.message.encode())
        signature, recovery_id = sign_recoverable(self.keys.node_secret.reveal(), digest)
        return contract.MessageSigned(messages_signing.encode(signature, recovery_id), signature, recovery_id)

    def _make_invoice(self, request: contract.MakeInvoice) -> contract.InvoiceMade:
        found = self._books.made_invoice(request)
        if found is not None:
            invoice_changed(found[0])
            return found[1]
        if request.payment_hash is not None:
            foreign_hash(self._books.is_own(request.payment_hash))
        made = make_invoice(self.network, self.keys.node_secret, self.keys.invoice_secret, request)
        if request.payment_hash is None:  # else the preimage is elsewhere, and there is nothing to release
            self._books.note_invoice(request, made)
        return made

    def _channel(self, handle: bytes) -> Channel:
        return channels.known(self._channels, handle)

    def _channel_request(self, request: contract.ChannelRequest) -> contract.ChannelAnswer:
        channel = self._channel(request.channel)
        params, state = channels.ready(channel)
        results: list[contract.Result] = []
        stopped: contract.Refused | contract.PeerFault | None = None
        try:
            for operation in request.operations:
                state, result = operations.apply(channel, params, state, operation, self._ledger)
                results.append(result)
        except (Denied, PeerBroke) as refusal:
            stopped = refusal.reply
        if any(isinstance(operation, _REVOKING) for operation in request.operations):
            self._forwards.tidy(channel.handle, state)
        self._keep()
        self._becomes(channel, state)
        return contract.ChannelAnswer(tuple(results), stopped)

    def _sign_sweep(self, request: contract.SignSweep) -> contract.SweepSigned:
        done = self._books.signed_sweep(request)
        if done is None:
            channel = self._channel(request.channel)
            params, state = channels.ready(channel)
            done, state = sign_sweep(channel, params, state, request, self._books, self._parts)
            self._books.note_sweep(request, done)
            self._becomes(channel, state)
        return contract.SweepSigned(done)

    def _sign_second_stage(self, request: contract.SignSecondStage) -> contract.SecondStageSigned:
        channel = self._channel(request.channel)
        params, state = channels.ready(channel)
        done, state = sign_second_stage(
            channel, params, state, request, self._books, self.keys, self._reserve, self._parts
        )
        self._becomes(channel, state)
        return contract.SecondStageSigned(done)

    def _keep(self) -> None:
        """The request was granted: what it wrote joins the turn."""
        self._books.keep()
        self._forwards.keep()
        self._reserve.keep()
        for channel, state in self._parts.keep():
            self._becomes(channel, state)

    def _forget(self) -> None:
        self._books.forget()
        self._forwards.forget()
        self._reserve.forget()
        self._parts.forget()

    def _becomes(self, channel: Channel, state: ChannelState) -> None:
        if state is not channel.state:
            channel.state = state
            self._touched[channel.handle] = channel

    def _save(self) -> None:
        touched, self._touched = self._touched, {}
        for channel in touched.values():
            channels.save(self.storage, channel)
        self.storage.commit()
        for channel in touched.values():
            channel.durable = channel.state
        self._moved.update(touched)

    @property
    def can_prepare(self) -> bool:
        return bool(self._moved)

    def prepare(self) -> None:
        """For one channel that has moved: what its next commitments need. It is for when nobody waits."""
        self._moved.popitem()[1].prepare()


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
