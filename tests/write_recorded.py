"""Write what the kernel tells of our own tables, for `tests/rig/recorded.py`. As root: `-m tests.write_recorded`."""

from __future__ import annotations

import sys

from capture.kernel import seam
from capture.netlink import messages, nf_tables, nftables
from rules.netfilter.values import Family
from tests.rig.namespace import Namespace, entered
from tests.rig.pod import ROOT
from tests.rig.recorded import ARGUMENTS, ARGUMENTS_OF_IPTABLES, FOLDER, QUESTIONS


class Recorder:
    """The kernel itself, of whose answers a note is taken."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def dump(self, protocol: int, question: int, payload: bytes) -> list[bytes]:
        answer = messages.dumped(protocol, question, payload)
        kind = next(name for name, number in QUESTIONS.items() if number == question)
        self.lines += [f"{kind} {payload.hex()} {message.hex()}\n" for message in answer]
        return answer


def main() -> None:
    for name, arguments in (ARGUMENTS | ARGUMENTS_OF_IPTABLES).items():
        with Namespace("recorded") as namespace:
            namespace.ip("addr", "add", "10.244.0.5/32", "dev", "lo")
            namespace.ip("addr", "add", "fd00:244::5/128", "dev", "lo", "nodad")
            namespace.output("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "capture", *arguments)
            recorder = Recorder()
            with entered(namespace), seam.standing_in(recorder):  # type: ignore[arg-type] # it is asked for no more
                if name in ARGUMENTS:
                    nf_tables.read()
                else:
                    nftables.nft_tables()
                    nftables.nft_chains()
                    for family in Family:
                        nftables.raw_rules(family)
            (FOLDER / f"{name}.txt").write_text("".join(dict.fromkeys(recorder.lines)))


if __name__ == "__main__":
    main()
