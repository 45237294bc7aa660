"""Run by the interpreter of pyln's own environment: drives the socket with pyln-client and prints what came.

It imports nothing of ours, because that environment holds other builds of our libraries.
"""

import json
import sys

from pyln.client import LightningRpc, Millisatoshi, RpcError


def failure(call):
    try:
        call()
    except RpcError as error:
        return error.error
    return None


def main(path: str, peer: str, payment_hash: str) -> None:
    rpc = LightningRpc(path)
    info = rpc.getinfo()
    made = rpc.invoice(Millisatoshi(10_000), "breakfast", "two eggs")
    with rpc.reply_filter({"channels": [{"state": True}]}):
        filtered = rpc.listpeerchannels()
    seen = {
        "id": info["id"],
        "color": info["color"],
        "newaddr": rpc.newaddr("bech32"),
        "bolt11": made["bolt11"],
        "invoices": rpc.listinvoices("breakfast")["invoices"],
        "funds": len(rpc.listfunds()["outputs"]),
        "peers": rpc.listpeers()["peers"],
        "channels": rpc.listpeerchannels()["channels"],
        "filtered": filtered,
        "connect": rpc.connect(peer, "127.0.0.1", 9736)["id"],
        "fundchannel": rpc.fundchannel(peer, 100_000)["txid"],
        "close": rpc.close(peer)["type"],
        "pay": rpc.pay("lnbcrt1")["payment_preimage"],
        "xpay": rpc.call("xpay", {"invstring": "lnbcrt1"})["payment_preimage"],
        "pays": rpc.listpays(payment_hash=payment_hash)["pays"],
        "feerates": rpc.feerates("perkw")["perkw"]["opening"],
        "zbase": rpc.signmessage("hello")["zbase"],
        "help": len(rpc.help()["help"]),
        "unknown_method": failure(lambda: rpc.call("getroutez")),
        "bad_params": failure(lambda: rpc.call("waitinvoice", {"lable": "x"})),
        "stop": rpc.stop(),
    }
    print(json.dumps(seen, default=int))


if __name__ == "__main__":
    main(*sys.argv[1:])
