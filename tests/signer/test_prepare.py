"""Keys of coming commitments are derived while nobody waits for them."""

import zmq

from protocol.bolt3.scripts import commitment_scripts
from protocol.bus.messages import signer as contract
from signer.link import Link
from tests.signer.support import World

NUMBER = 1


def derived() -> int:
    """How many sets of keys were derived since the cache was cleared."""
    return commitment_scripts.cache_info().misses


def moves(world: World) -> tuple[contract.Operation, ...]:
    """Both sides' next commitment. The peer builds ours to sign it, and that may not help the signer."""
    validate = world.validate(NUMBER, 600_000_000)
    commitment_scripts.cache_clear()
    return validate, contract.RevokeHolder(NUMBER - 1), world.sign(NUMBER, 600_000_000)


def prepare_all(world: World) -> None:
    while world.service.can_prepare:
        world.service.prepare()


def test_what_was_prepared_is_not_derived_again(world: World) -> None:
    operations = moves(world)
    prepare_all(world)
    assert derived() == 2  # our commitment 1, and the peer's
    world.grants(*operations)
    assert derived() == 2
    assert world.service.can_prepare  # for commitment 2


def test_without_time_to_prepare_the_answers_are_the_same(world: World) -> None:
    operations = moves(world)
    now = world.grants(*operations)
    assert derived() == 2
    prepare_all(world)
    assert world.grants(*operations) == now


def test_a_frozen_channel_is_not_prepared(world: World) -> None:
    world.grants(contract.SignHolderCommitment())
    commitment_scripts.cache_clear()
    assert world.service.can_prepare
    prepare_all(world)
    assert derived() == 0


class Poller:
    """`rounds`: what each look at the sockets finds, then the descriptor to stop at."""

    def __init__(self, rounds: list[list[tuple[object, int]]]) -> None:
        self.rounds = rounds
        self.timeouts: list[int | None] = []

    def register(self, *_: object) -> None:
        pass

    def poll(self, timeout: int | None = None) -> list[tuple[object, int]]:
        self.timeouts.append(timeout)
        return self.rounds.pop(0)


def test_the_link_prepares_only_while_nobody_waits(world: World) -> None:
    link = Link.__new__(Link)
    stop, socket = 7, object()
    poller = Poller([[(socket, zmq.POLLIN)], [], [(stop, zmq.POLLIN)]])
    still_to_prepare = []
    vars(link).update(
        _service=world.service,
        _poller=poller,
        _zap=object(),
        _socket=socket,
        _turn=lambda: still_to_prepare.append(world.service.can_prepare),
    )
    assert world.service.can_prepare
    link.run(stop)
    assert still_to_prepare == [True], "a request came first"
    assert not world.service.can_prepare
    assert poller.timeouts == [0, 0, None], "and with nothing to prepare it waits for as long as it takes"
