"""Rules as kube-proxy makes them for a node with so many services, for those who ask how long looking at them takes."""

from __future__ import annotations


def nat_table(services: int, endpoints: int = 2) -> str:
    """The nat table of IPv4 as iptables-save prints it: per service one rule, a chain, and a chain per endpoint."""
    chains, rules = [], []
    for number in range(services):
        address, port = f"10.96.{number // 250}.{number % 250 + 1}", 80 + number % 97
        service = f"KUBE-SVC-{number:08X}"
        chains.append(service)
        rules.append(
            f'-A KUBE-SERVICES -d {address}/32 -p tcp -m comment --comment "default/s{number} cluster IP" -m tcp '
            f"--dport {port} -j {service}"
        )
        rules.append(f"-A {service} ! -s 10.244.0.0/16 -d {address}/32 -p tcp -m tcp --dport {port} -j KUBE-MARK-MASQ")
        for at in range(endpoints):
            end, pod = f"KUBE-SEP-{number:06X}{at:02X}", f"10.244.{number // 200}.{number % 200 + 2 + at}"
            chains.append(end)
            chance = f"-m statistic --mode random --probability {1 / (endpoints - at):.11f} "
            rules.append(f"-A {service} {chance if at < endpoints - 1 else ''}-j {end}")
            rules.append(f"-A {end} -s {pod}/32 -j KUBE-MARK-MASQ")
            rules.append(f"-A {end} -p tcp -m tcp -j DNAT --to-destination {pod}:8080")
    own = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", *chains]
    return "\n".join(
        [
            "*nat",
            *(f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")),
            *(f":{chain} - [0:0]" for chain in own),
            '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            *rules,
            "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            "COMMIT",
            "",
        ]
    )
