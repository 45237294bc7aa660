"""What LND and our node tell each other of the public network, and how soon (checklist 56 to 61)."""

from typing import Any

from protocol.bolt9 import OUR_NODE, FeatureSet
from tests.interop.network_cases import DEFAULT_BASE, DEFAULT_DELTA, DEFAULT_PPM, policy
from tests.interop.network_world import AT_ONCE, RELAY, Web


class Gossip:
    """Of a network that grew in a known order; see `Web.grow`."""

    def test_nothing_is_public_before_six_confirmations(self, young: Web) -> None:
        assert young.early == {"lnd": {}, "ours": {}}

    def test_lnd_lists_our_node_and_both_policies_of_our_channels(self, young: Web) -> None:
        lnd = young.lnd

        def ours() -> Any:
            found = lnd.get("/v1/graph")["nodes"]
            return next((row for row in found if row["pub_key"] == young.our_id and row["last_update"]), None)

        row = young.until("our node_announcement at LND", ours)
        assert row["alias"] == "ours"
        assert row["addresses"] == [{"network": "tcp", "addr": young.ours.address}]
        said = FeatureSet.from_bytes(OUR_NODE.to_bytes())
        assert {int(bit) for bit in row["features"]} == set(said.bits())
        whole = lnd.get(f"/v1/graph/node/{young.our_id}?include_channels=true")
        assert whole["num_channels"] == 2 and int(whole["total_capacity"]) == 2_000_000
        for funding in (young.by_lnd, young.by_us):
            mine = policy(lnd, young, funding, young.our_id)
            assert (int(mine["fee_base_msat"]), int(mine["fee_rate_milli_msat"])) == (
                DEFAULT_BASE,
                DEFAULT_PPM,
            )
            assert (mine["time_lock_delta"], mine["disabled"]) == (DEFAULT_DELTA, False)
            assert int(mine["max_htlc_msat"]) == 990_000_000  # all but the reserve
            theirs = policy(lnd, young, funding, lnd.node_id)
            assert (int(theirs["fee_base_msat"]), theirs["time_lock_delta"]) == (1000, 80)
        assert young.edges(lnd).keys() == {young.scid(young.by_lnd), young.scid(young.by_us)}

    def test_we_list_lnd_and_what_it_says_of_its_side(self, young: Web) -> None:
        def theirs() -> Any:
            (row,) = young.ours.call("listnodes", young.lnd.node_id)["nodes"]
            return row if "alias" in row else None

        row = young.until("LND's node_announcement", theirs)
        host, _, port = young.lnd.address.partition(":")
        assert (row["alias"], row["addresses"]) == (
            "lnd",
            [{"type": "ipv4", "address": host, "port": int(port)}],
        )
        listed = young.listed(young.ours)
        for funding in (young.by_lnd, young.by_us):
            row = listed[(young.scid(funding), young.lnd.node_id)]
            assert (row["base_fee_millisatoshi"], row["fee_per_millionth"], row["delay"]) == (1000, 1, 80)
            assert row["active"] and row["public"] and row["amount_msat"] == 1_000_000_000
        assert len(listed) == 4

    def test_a_second_lnd_learned_all_of_it_by_asking_us(self, young: Web) -> None:
        """It connected when these channels were public already, and has no channel of its own."""
        assert young.synced.keys() == {young.scid(young.by_lnd), young.scid(young.by_us)}
        assert all(row["node1_policy"] and row["node2_policy"] for row in young.synced.values())

    def test_a_second_node_of_ours_learned_all_of_it_by_asking_lnd(self, young: Web) -> None:
        """It knows nobody but that second LND."""
        assert young.listed(young.third).keys() == young.listed(young.ours).keys()
        (only,) = (row for row in young.third.call("listpeers")["peers"] if row["connected"])
        assert only["id"] == young.far.node_id

    def test_our_new_fee_reaches_lnd_at_once_and_a_third_node_through_the_other_lnd(self, young: Web) -> None:
        scid = young.scid(young.by_us)
        young.ours.call("setchannel", id=scid, feebase=1500, feeppm=200, cltv=50)
        for lnd in (young.lnd, young.far):
            young.until(
                "our new fee at LND",
                lambda one=lnd: policy(one, young, young.by_us, young.our_id).get("fee_base_msat") == "1500",
                AT_ONCE,
            )
        mine = policy(young.lnd, young, young.by_us, young.our_id)
        assert (mine["fee_rate_milli_msat"], mine["time_lock_delta"]) == ("200", 50)
        young.until(
            "our new fee to be passed on by LND",
            lambda: young.listed(young.third, scid)[(scid, young.our_id)]["base_fee_millisatoshi"] == 1500,
        )
        young.ours.call("setchannel", id=scid, feebase=DEFAULT_BASE, feeppm=DEFAULT_PPM, cltv=DEFAULT_DELTA)

    def test_their_new_fee_reaches_us_at_once_and_the_other_lnd_with_our_next_relay(self, young: Web) -> None:
        txid, _, index = young.by_lnd.partition(":")
        point = {"funding_txid_str": txid, "output_index": int(index)}
        order = {"chan_point": point, "base_fee_msat": "700", "fee_rate_ppm": 30, "time_lock_delta": 60}
        assert not young.lnd.post("/v1/chanpolicy", **order)["failed_updates"]
        key = (young.scid(young.by_lnd), young.lnd.node_id)

        def at_ours() -> bool:
            row = young.listed(young.ours, key[0])[key]
            said = (row["base_fee_millisatoshi"], row["fee_per_millionth"], row["delay"])
            return said == (700, 30, 60)

        young.until("LND's new fee", at_ours, AT_ONCE)
        young.until(
            "LND's new fee to be passed on by us",
            lambda: policy(young.far, young, young.by_lnd, young.lnd.node_id).get("fee_base_msat") == "700",
            RELAY,
        )
