"""`lnp` as a process of its own, against a running gateway: output, exit codes, start-up."""

import asyncio
import json
import os
import pty
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node.cli.client import NoDaemon, Refused, Unknown, call
from node.cli.main import to_json
from protocol.bus.messages.channel import ListChannels
from protocol.bus.messages.payments import Pay
from protocol.errors import CommandRefused
from tests.node.rpc.support import ADDRESS, OUR_ID, Gateway

LNP = (sys.executable, "-m", "node.cli.main")


async def lnp(gateway: Gateway, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call whose output is collected."""
    data_dir = gateway.rpc.path.parent.parent
    process = await asyncio.create_subprocess_exec(
        *LNP, f"--datadir={data_dir}", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_piped_output_is_the_result_as_json(gateway: Gateway):
    code, out, err = await lnp(gateway, "getinfo")
    assert (code, err) == (0, "")
    assert json.loads(out)["id"] == OUR_ID.hex()


async def test_positions_names_and_units_reach_the_daemon(gateway: Gateway):
    gateway.payments.paid.set()
    assert (await lnp(gateway, "pay", "lnbcrt1", "5sat"))[0] == 0
    assert (await lnp(gateway, "-k", "pay", "bolt11=lnbcrt1", "amount_msat=5sat", "label=7"))[0] == 0
    assert gateway.payments.asked == [Pay("lnbcrt1", 5000), Pay("lnbcrt1", 5000, None, "7")]


async def test_a_refusal_exits_1_with_the_error_as_json(gateway: Gateway):
    gateway.channel.refuse[ListChannels] = CommandRefused("no", what_to_do="Wait.", code=303)
    code, out, _ = await lnp(gateway, "listpeerchannels")
    assert code == 1
    assert json.loads(out) == {"code": 303, "message": "no. Wait."}


@pytest.mark.parametrize(
    "words", [("getinfoo",), ("listpays", "a", "zz"), ("-k", "pay", "bolt=1"), ("-k", "pay", "x")]
)
async def test_wrong_usage_exits_2(gateway: Gateway, words: tuple[str, ...]):
    assert (await lnp(gateway, *words))[0] == 2


async def test_an_unknown_outcome_exits_4_and_says_how_to_check(gateway: Gateway):
    code, _, err = await lnp(gateway, "--timeout=0.3", "xpay", "lnbcrt1")
    assert code == 4
    assert "Outcome unknown" in err
    assert "lnp listpays" in err
    code, out, _ = await lnp(gateway, "-k", "xpay", "invstring=lnbcrt1", "retry_for=1")
    assert (code, json.loads(out)["code"]) == (4, 200)


def test_without_a_daemon_the_exit_code_is_3_and_says_how_to_start_one(tmp_path: Path):
    done = subprocess.run(
        [*LNP, f"--datadir={tmp_path}", "getinfo"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "lnpd run" in done.stderr


def test_a_daemon_that_hangs_up_leaves_the_outcome_unknown(tmp_path: Path):
    path = tmp_path / "lightning-rpc"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        client = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from node.cli.client import call;"
                "call(Path(sys.argv[1]), 'withdraw', [])",
                str(path),
            ],
            stderr=subprocess.PIPE,
        )
        connection, _ = listening.accept()
        connection.recv(1000)
        connection.close()
        _, err = client.communicate(timeout=30)
    assert b"Unknown: the daemon hung up" in err


def test_a_left_over_socket_is_no_daemon(tmp_path: Path):
    path = tmp_path / "lightning-rpc"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    with pytest.raises(NoDaemon, match="refused"):
        call(path, "getinfo", [])
    with pytest.raises(NoDaemon):
        call(tmp_path / ("x" * 200) / "lightning-rpc", "getinfo", [])


async def test_a_socket_path_of_any_length_is_reached(tmp_path: Path):
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    gateway = Gateway(directory)
    await gateway.start()
    assert (await asyncio.to_thread(call, gateway.rpc.path, "newaddr", []))["bech32"] == ADDRESS
    await gateway.stop()


async def test_progress_is_told_while_waiting(gateway: Gateway):
    seen: list[float] = []
    with pytest.raises(Unknown):
        await asyncio.to_thread(
            call, gateway.rpc.path, "xpay", ["lnbcrt1"], timeout=0.35, progress=seen.append
        )
    assert len(seen) >= 3
    assert seen == sorted(seen)


async def test_help_for_a_method_comes_from_the_daemon(gateway: Gateway):
    code, out, _ = await lnp(gateway, "help", "invoice")
    assert code == 0
    assert json.loads(out)["help"][0]["command"].startswith("invoice amount_msat")


async def test_a_terminal_gets_a_table_and_a_spinner_after_a_second(gateway: Gateway):
    main, terminal = pty.openpty()
    data_dir = gateway.rpc.path.parent.parent
    process = await asyncio.create_subprocess_exec(
        *LNP, f"--datadir={data_dir}", "listpeerchannels", stdout=terminal, stderr=terminal
    )
    assert await asyncio.wait_for(process.wait(), 30) == 0
    table = os.read(main, 1 << 16).decode()
    assert "█" in table
    assert '"channels"' not in table
    process = await asyncio.create_subprocess_exec(
        *LNP, f"--datadir={data_dir}", "xpay", "lnbcrt1", stdout=terminal, stderr=terminal
    )
    spinner = ""
    while "xpay 1 s" not in spinner:
        spinner += (await asyncio.wait_for(asyncio.to_thread(os.read, main, 1 << 16), 30)).decode()
    gateway.payments.paid.set()
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert "payment_preimage" in os.read(main, 1 << 16).decode()
    os.close(main)
    os.close(terminal)


def test_help_starts_fast_and_imports_nothing_heavy():
    program = (
        "import sys, click.testing, node.cli.main as m;"
        "r = click.testing.CliRunner().invoke(m.main, ['--help']);"
        "print(r.exit_code, [n for n in ('pbk', 'aiohttp', 'zmq', 'textual', 'rich', 'asyncio', 'coincurve') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*LNP, "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 0.3


def test_json_holds_no_control_characters():
    assert to_json({"a": "\x1b\x9b\u2028"}) == '{\n   "a": "\\u001b\\u009b\\u2028"\n}'


def test_errors_say_whether_the_outcome_is_known():
    assert Refused({"code": 200}).is_unknown
    assert Refused({"code": -1, "data": {"outcome": "unknown"}}).is_unknown
    assert not Refused({"code": 205, "message": "x"}).is_unknown
    assert Refused({"code": -32602}).is_usage
    assert Refused({"message": "no code"}).code == -1
