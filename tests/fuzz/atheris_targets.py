"""The same targets for atheris, the coverage-guided fuzzer, where it is installed.

    python -m tests.fuzz.atheris_targets "wire message" [options of libFuzzer, such as -max_total_time=60]

Without a name all targets are fuzzed at once; the first byte picks one. The seeds are written to a corpus folder.
"""

import sys
import tempfile
from pathlib import Path


def main(arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        print(
            "atheris is not installed: pip install atheris (it needs a wheel for this Python)",
            file=sys.stderr,
        )
        return 2
    with atheris.instrument_imports(include=["protocol", "node", "signer"]):
        from tests.fuzz.targets import TARGETS, Target
    names = [word for word in arguments if word in TARGETS] or list(TARGETS)
    options = [word for word in arguments if word not in TARGETS]

    def once(target: Target, data: bytes) -> None:
        try:
            target.run(data)
        except target.declared:
            pass

    def test_one_input(data: bytes) -> None:
        if len(names) == 1:
            once(TARGETS[names[0]], data)
        elif data:
            once(TARGETS[names[data[0] % len(names)]], data[1:])

    corpus = Path(tempfile.mkdtemp(prefix="lnp-corpus-"))
    for number, name in enumerate(names):
        prefix = b"" if len(names) == 1 else bytes([number])
        for index, seed in enumerate(TARGETS[name].seeds):
            (corpus / f"{number}-{index}").write_bytes(prefix + seed)
    atheris.Setup([sys.argv[0], *options, str(corpus)], test_one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
