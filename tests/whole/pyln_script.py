"""Run by the interpreter of pyln's own environment: pyln-client drives two whole nodes through a life of a channel.

It imports nothing of ours, because that environment holds other builds of our libraries. Blocks are mined by
whoever reads our output: a line `mine N` asks for them, and the answer is a line.
"""

import json
import sys
import time

from pyln.client import LightningRpc, Millisatoshi


def until(seen):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = seen()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError


def mine(blocks: int) -> None:
    print(f"mine {blocks}", flush=True)
    sys.stdin.readline()


def main(one: str, other: str, fund: str) -> None:
    alice, bob = LightningRpc(one), LightningRpc(other)
    bob_info = bob.getinfo()
    address = alice.newaddr("bech32")["bech32"]
    print(f"fund {address} {fund}", flush=True)
    sys.stdin.readline()
    mine(1)
    until(lambda: [out for out in alice.listfunds()["outputs"] if out["status"] == "confirmed"])
    where = bob_info["binding"][0]
    connected = alice.connect(bob_info["id"], where["address"], where["port"])["id"]
    opened = alice.fundchannel(bob_info["id"], 1_000_000)
    mine(3)

    def normal(rpc):
        channels = rpc.listpeerchannels()["channels"]
        return channels and channels[0]["state"] == "CHANNELD_NORMAL"

    until(lambda: normal(alice) and normal(bob))
    invoice = bob.invoice(Millisatoshi(50_000_000), "tea", "a cup of tea")
    paid = alice.pay(invoice["bolt11"])
    waited = bob.waitinvoice("tea")
    pays = alice.listpays(invoice["bolt11"])["pays"]
    until(lambda: not alice.listpeerchannels()["channels"][0]["htlcs"])
    until(lambda: not bob.listpeerchannels()["channels"][0]["htlcs"])
    closed = alice.close(bob_info["id"])
    mine(1)
    # option_simple_close: each side offers a close that it pays for itself, and either may confirm.
    until(lambda: [out for out in bob.listfunds()["outputs"] if out["status"] == "confirmed"])
    seen = {
        "bob": bob_info["id"],
        "connected": connected,
        "opened": opened["txid"],
        "paid": paid["status"],
        "preimage": paid["payment_preimage"],
        "waited": waited["status"],
        "received": int(waited["amount_received_msat"]),
        "pays": [(pay["status"], pay["preimage"]) for pay in pays],
        "closed": closed["type"],
        "bob's coins": sum(int(out["amount_msat"]) for out in bob.listfunds()["outputs"]),
    }
    print("seen " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
