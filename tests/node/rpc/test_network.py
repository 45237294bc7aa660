"""listnodes, listchannels, getroutes, getroute: parameters in Core Lightning's order, and its fields."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from node.routing.service import RoutingService
from node.rpc.methods.network import addresses
from protocol.amounts import format_scid
from protocol.bus.messages.routing import AttemptEnded, AttemptStarted, RouteHop
from tests.node.routing.support import at, node, put
from tests.node.rpc.support import OUR_ID, PEER_ID, Gateway

FAR, FARTHER = node(3), node(4)
OURS = "103x1x1"


@pytest_asyncio.fixture
async def network(tmp_path: Path) -> AsyncIterator[tuple[Gateway, RoutingService]]:
    """We have a channel with PEER; PEER one with 3, and 3 two with 4."""
    gateway = Gateway(tmp_path)
    routing = RoutingService(gateway.bus, node_id=OUR_ID)
    graph = routing.graph
    graph.put_channel(at(1), *sorted((PEER_ID, FAR)), 10_000_000, b"\x01")
    direction = 0 if PEER_ID < FAR else 1
    graph.put_policy(at(1), direction, 77, 1, direction, 40, 1, 9_000_000_000, 1000, 100)
    put(graph, 2, 3, 4, base=10, cltv=20)
    put(graph, 3, 3, 4, base=900, cltv=20, flags=2)
    raw = bytes.fromhex("017f0000012607")
    graph.put_node(FAR, 99, b"far" + bytes(29), b"\1\2\3", b"\x80", raw)
    await gateway.start()
    await routing.start()
    yield gateway, routing
    await routing.stop()
    await gateway.stop()


async def test_listnodes(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    answer = await gateway.call("listnodes", [FAR.hex()])
    assert answer == {
        "nodes": [
            {
                "nodeid": FAR.hex(),
                "last_timestamp": 99,
                "alias": "far",
                "color": "010203",
                "features": "80",
                "addresses": [{"type": "ipv4", "address": "127.0.0.1", "port": 9735}],
            }
        ]
    }
    everybody = await gateway.call("listnodes")
    assert {found["nodeid"] for found in everybody["nodes"]} == {PEER_ID.hex(), FAR.hex(), FARTHER.hex()}
    assert {"nodeid": FARTHER.hex()} in everybody["nodes"]
    assert await gateway.call("listnodes", [OUR_ID.hex()]) == {"nodes": []}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("02" + "00" * 15 + "01" + "2607", [("ipv6", "::1", 9735)]),
        ("04" + "00" * 35 + "2608", [("torv3", "a" * 56 + ".onion", 9736)]),
        ("05" + "09" + b"lnp.local".hex() + "0050", [("dns", "lnp.local", 80)]),
        ("01" + "7f000001" + "2607" + "09" + "ff" * 9, [("ipv4", "127.0.0.1", 9735)]),
        ("01" + "7f00", []),
        ("05", []),
        ("", []),
    ],
    ids=["ipv6", "torv3", "dns", "unknown type", "cut off", "dns cut off", "none"],
)
def test_checklist_58_addresses_are_read_up_to_a_type_that_we_do_not_know(
    raw: str, expected: list[tuple[str, str, int]]
):
    found = addresses(bytes.fromhex(raw))
    assert [(entry["type"], entry["address"], entry["port"]) for entry in found] == expected


async def test_listchannels(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    (channel,) = (await gateway.call("listchannels", [None, PEER_ID.hex()]))["channels"]
    direction = 0 if PEER_ID < FAR else 1
    assert channel == {
        "source": PEER_ID.hex(),
        "destination": FAR.hex(),
        "short_channel_id": format_scid(at(1)),
        "direction": direction,
        "public": True,
        "amount_msat": 10_000_000_000,
        "message_flags": 1,
        "channel_flags": direction,
        "active": True,
        "last_update": 77,
        "base_fee_millisatoshi": 1000,
        "fee_per_millionth": 100,
        "delay": 40,
        "htlc_minimum_msat": 1,
        "htlc_maximum_msat": 9_000_000_000,
        "features": "01",
    }
    (off,) = (await gateway.call("listchannels", {"short_channel_id": format_scid(at(3))}))["channels"]
    assert not off["active"]
    assert len((await gateway.call("listchannels", [None, None, FARTHER.hex()]))["channels"]) == 2
    error = await gateway.error("listchannels", [format_scid(at(1)), FAR.hex()])
    assert error["code"] == -32602 and "one of" in error["message"]


async def test_getroute_is_what_sendpay_takes(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    answer = await gateway.call("getroute", [FARTHER.hex(), 1_000_000, 10, 18])
    fee = 1000 + 1_000_010 * 100 // 1_000_000
    assert answer == {
        "route": [
            {
                "id": PEER_ID.hex(),
                "channel": OURS,
                "direction": 0 if OUR_ID < PEER_ID else 1,
                "amount_msat": 1_000_010 + fee,
                "delay": 78,
                "style": "tlv",
            },
            {
                "id": FAR.hex(),
                "channel": format_scid(at(1)),
                "direction": 0 if PEER_ID < FAR else 1,
                "amount_msat": 1_000_010,
                "delay": 38,
                "style": "tlv",
            },
            {
                "id": FARTHER.hex(),
                "channel": format_scid(at(2)),
                "direction": 0,
                "amount_msat": 1_000_000,
                "delay": 18,
                "style": "tlv",
            },
        ]
    }


async def test_getroute_leaves_out_what_it_is_told_to(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    for excluded in (f"{format_scid(at(2))}/0", FAR.hex()):
        error = await gateway.error(
            "getroute", {"id": FARTHER.hex(), "amount_msat": 1, "exclude": [excluded]}
        )
        assert error["code"] == 205
    still = {"id": FARTHER.hex(), "amount_msat": 1, "exclude": [f"{format_scid(at(2))}/1"]}
    assert len((await gateway.call("getroute", still))["route"]) == 3
    assert (await gateway.error("getroute", {**still, "exclude": ["2/x"]}))["code"] == -32602
    assert (await gateway.error("getroute", {**still, "maxhops": 2}))["code"] == 206
    other = await gateway.call("getroute", {**still, "fromid": PEER_ID.hex()})
    assert [hop["id"] for hop in other["route"]] == [FAR.hex(), FARTHER.hex()]


async def test_getroutes_explains_its_choice(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    answer = await gateway.call(
        "getroutes", [OUR_ID.hex(), FARTHER.hex(), "1000sat", ["auto.localchans"], "10sat", 18]
    )
    assert next(iter(answer)) == "routes"
    (route,) = answer["routes"]
    assert 900_000 < route["probability_ppm"] == answer["probability_ppm"] <= 1_000_000
    assert (route["amount_msat"], route["final_cltv"], route["fee_msat"]) == (1_000_000, 18, 1110)
    assert "1110 msat" in route["why"]
    first, second, third = route["path"]
    assert first["short_channel_id_dir"].startswith(OURS) and first["node_id_in"] == OUR_ID.hex()
    assert first["amount_in_msat"] == first["amount_out_msat"] == second["amount_in_msat"] == 1_001_110
    assert (second["cltv_in"], second["cltv_out"], third["cltv_out"]) == (78, 38, 18)
    assert (third["amount_msat"], third["amount_out_msat"], third["delay"]) == (1_000_010, 1_000_000, 38)
    assert third["next_node_id"] == third["node_id_out"] == FARTHER.hex()


async def test_getroutes_refuses_with_the_reason(network: tuple[Gateway, RoutingService]):
    gateway, _ = network
    ask = {"source": OUR_ID.hex(), "destination": FARTHER.hex(), "amount_msat": 1_000_000, "final_cltv": 18}
    dear = await gateway.error("getroutes", {**ask, "maxfee_msat": 1109})
    assert dear["code"] == 206 and "costs 1110 msat, 1109 msat are allowed" in dear["message"]
    much = await gateway.error("getroutes", {**ask, "amount_msat": "1btc"})
    assert much["code"] == 215 and "58000000 msat" in much["message"]
    assert (await gateway.error("getroutes", {**ask, "maxdelay": 77}))["code"] == 206


async def test_getroutes_knows_what_payments_learned(network: tuple[Gateway, RoutingService]):
    gateway, routing = network
    ask = {"source": OUR_ID.hex(), "destination": FARTHER.hex(), "amount_msat": 1_000_000}
    await gateway.call("getroutes", ask)
    hops = (
        RouteHop(PEER_ID, 5, 0, 1_001_110, 9),
        RouteHop(FAR, at(1), 0 if PEER_ID < FAR else 1, 1_000_010, 9),
    )
    gateway.bus.send("routing", AttemptStarted("p/0", hops))
    gateway.bus.send("routing", AttemptEnded("p/0", 1, 0x1007))
    assert (await gateway.error("getroutes", ask))["code"] in (205, 220)
    assert len(routing.liquidity) == 1
