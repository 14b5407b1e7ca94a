"""Each match and target of iptables-extensions(8) in a rule of others: a call out and a call in land as trace says.

A sample is drawn; CAPTURE_TESTS=all takes all. CAPTURE_SEED draws the same again. What this kernel lacks is passed
over.
"""

from __future__ import annotations

import random
import shlex
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from rules.packets.trace import Became
from tests.conftest import every_backend
from tests.netns.test_meaning import FAILED, Judged
from tests.netns.test_native import SETTINGS, live_in, ready_v4, traced
from tests.netns.test_simulator import SHORT, landings_of, planned_for, ready
from tests.rig import Call, Pod, drawn, predicted
from tests.rig.chance import ALL, SEED
from tests.rig.pod import ADDRESSES, GATEWAY, PROXY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rules.packets.trace import Trace

SAMPLE, CALLS = 25, 6
"""Rules of each kind, and calls beside each of them where all is proved to be as planned."""
MATCHES = """\
-m addrtype --dst-type LOCAL
-m addrtype --src-type LOCAL
-m addrtype --dst-type UNICAST
-m addrtype ! --dst-type LOCAL --limit-iface-out
-m addrtype --src-type UNICAST --limit-iface-in
-m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"
-m cgroup --cgroup 5
-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 0xdeadbeef
-m comment --comment x
-m connbytes --connbytes 100000 --connbytes-dir both --connbytes-mode bytes
-m connlabel --label 1
-m connlimit --connlimit-above 100
-m connlimit --connlimit-upto 100
-m connmark --mark 0
-m connmark ! --mark 0
-m conntrack --ctstate NEW
-m conntrack --ctstate ESTABLISHED
-m conntrack --ctstate INVALID
-m conntrack --ctstate UNTRACKED
-m conntrack --ctstate SNAT
-m conntrack --ctstate DNAT
-m conntrack --ctproto tcp
-m conntrack --ctorigsrc 10.244.0.5
-m conntrack --ctorigdst 9.9.9.9
-m conntrack --ctreplsrc 9.9.9.9
-m conntrack --ctorigdstport 80
-m conntrack --ctreplsrcport 80
-m conntrack --ctstatus NONE
-m conntrack --ctstatus SEEN_REPLY
-m conntrack --ctstatus CONFIRMED
-m conntrack --ctstatus ASSURED
-m conntrack --ctexpire 1:1000
-m conntrack --ctdir ORIGINAL
-m conntrack --ctdir REPLY
-m cpu --cpu 99
-m dscp --dscp 0
-m dscp ! --dscp 0
-m dscp --dscp-class AF11
-m ecn --ecn-ip-ect 0
-m ecn --ecn-tcp-cwr
-p tcp -m ecn --ecn-tcp-ece
-m hashlimit --hashlimit-above 100/sec --hashlimit-mode dstip --hashlimit-name foo
-m hashlimit --hashlimit-upto 1000/sec --hashlimit-mode dstip --hashlimit-name foo2
-m helper --helper ftp
-m iprange --src-range 10.244.0.1-10.244.0.9
-m iprange ! --dst-range 9.9.9.9-9.9.9.10
-m ipvs --ipvs
-m length --length 0:40
-m length --length 41:2000
-m limit --limit 1000/s
-m mac --mac-source 00:11:22:33:44:55
-m mark --mark 0
-m mark ! --mark 0
-m mark --mark 0x5/0x5
-p tcp -m multiport --dports 80,81
-p tcp -m multiport ! --dports 80:90
-p tcp -m multiport --ports 80
-p tcp -m multiport --sports 1:65535
-m osf --genre Linux
-m owner --uid-owner 1000
-m owner ! --uid-owner 1000
-m owner --uid-owner 0-999
-m owner --gid-owner 1000
-m owner --socket-exists
-m owner ! --socket-exists
-m physdev --physdev-is-bridged
-m pkttype --pkt-type unicast
-m pkttype --pkt-type broadcast
-m policy --dir out --pol none
-m policy --dir out --pol ipsec
-m quota --quota 100000
-m quota ! --quota 100000
-m realm --realm 5
-m recent --name r --set
-m recent --name r2 --rcheck
-m recent --name r3 ! --rcheck
-m rpfilter
-m socket
-m socket --transparent
-m socket --nowildcard
-m state --state NEW
-m state --state RELATED,ESTABLISHED
-m statistic --mode random --probability 0
-m statistic --mode random --probability 1
-m statistic --mode nth --every 1000 --packet 999
-m string --string GET --algo bm
-p tcp --syn
-p tcp ! --syn
-p tcp --tcp-flags ALL SYN
-p tcp --tcp-flags ALL NONE
-p tcp --tcp-option 2
-p tcp --tcp-option 99
-p tcp --sport 1024:
-p tcp ! --dport 80
-m tcpmss --mss 1000:2000
-m time --timestart 00:00 --timestop 23:59:59
-m time --weekdays Mon
-m time --datestart 2036-01-01
-m tos --tos 0
-m tos ! --tos 0
-m ttl --ttl-eq 64
-m ttl --ttl-lt 5
-m ttl --ttl-gt 5
-m u32 --u32 "6&0xFF=6"
-m u32 --u32 "6&0xFF=17"
-f
! -f
-p all
-p 0
-p ! 6
! -p tcp
-p udp
-p icmp
-p 132
-p sctp --dport 80
-p dccp --dport 80
-p udplite
-s 10.244.0.5
! -s 10.244.0.5
-d 9.9.9.9
-d 9.9.9.0/255.255.255.0
-d 0.0.0.9/0.0.0.255
-o eth0
-o eth+
-o et+
! -o eth0
-o +
-o lo
"""
"""Each of them in each of the places below."""
PLACES = {
    "filter OUTPUT": "DROP",
    "filter INPUT": "DROP",
    "mangle PREROUTING": "DROP",
    "mangle POSTROUTING": "DROP",
    "nat OUTPUT": "ACCEPT",
    "nat PREROUTING": "ACCEPT",
    "raw OUTPUT": "NOTRACK",
    "raw PREROUTING": "NOTRACK",
}
"""Table and chain, and the target there. An ACCEPT in nat comes before our jump."""
TARGETS = """\
mangle OUTPUT -j MARK --set-mark 5
mangle OUTPUT -j CONNMARK --save-mark
mangle OUTPUT -j CONNMARK --restore-mark
mangle OUTPUT -j CLASSIFY --set-class 1:1
mangle OUTPUT -j DSCP --set-dscp 5
mangle OUTPUT -j TOS --set-tos 8
mangle OUTPUT -j TTL --ttl-set 33
mangle OUTPUT -j TTL --ttl-dec 1
mangle OUTPUT -p tcp -j ECN --ecn-tcp-remove
mangle OUTPUT -j CHECKSUM --checksum-fill
mangle OUTPUT -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000
mangle OUTPUT -p tcp -j TCPOPTSTRIP --strip-options sack-permitted
mangle OUTPUT -j HMARK --hmark-tuple src --hmark-mod 10 --hmark-rnd 1
mangle OUTPUT -j LOG
mangle OUTPUT -j NFLOG
mangle OUTPUT -j TEE --gateway 10.244.0.1
mangle OUTPUT -j TRACE
raw OUTPUT -j TRACE
raw OUTPUT -j NOTRACK
raw OUTPUT -j CT --notrack
raw OUTPUT -j CT --zone 5
raw OUTPUT -p tcp -j CT --helper ftp
raw OUTPUT -j CT --ctevents new
raw OUTPUT -j CT --timeout x
mangle OUTPUT -j IDLETIMER --timeout 5 --label x
mangle OUTPUT -j LED --led-trigger-id x
mangle OUTPUT -j RATEEST --rateest-name y --rateest-interval 250ms --rateest-ewmalog 0.5s
mangle OUTPUT -j SET --add-set x dst
mangle OUTPUT -j AUDIT --type accept
mangle OUTPUT -j SECMARK --selctx x
mangle OUTPUT -j CONNSECMARK --save
filter OUTPUT -j SYNPROXY
filter OUTPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset
filter OUTPUT -p tcp --dport 15001 -j REJECT
filter OUTPUT -p tcp --dport 15001 -j REJECT --reject-with icmp-admin-prohibited
filter OUTPUT -j NFQUEUE --queue-bypass
filter OUTPUT -j QUEUE
filter OUTPUT -j RETURN
filter OUTPUT -j ACCEPT
filter OUTPUT
nat OUTPUT -p tcp -j REDIRECT
nat OUTPUT -p tcp -j REDIRECT --to-ports 9999 --random
nat OUTPUT -p tcp -j DNAT --to-destination 1.1.1.1:81
nat OUTPUT -p tcp -j DNAT --to-destination :81
nat OUTPUT -p tcp -j DNAT --to-destination 1.1.1.1-1.1.1.2
nat OUTPUT -d 9.9.9.8/30 -p tcp -j NETMAP --to 1.1.1.0/30
nat OUTPUT -j ACCEPT
nat POSTROUTING -j MASQUERADE
nat POSTROUTING -p tcp -j MASQUERADE --to-ports 5000-6000
nat POSTROUTING -j SNAT --to-source 10.244.0.5
nat POSTROUTING -o eth0 -j SNAT --to-source 10.244.0.77
nat INPUT -p tcp -j SNAT --to-source 10.244.0.77
"""


MATCHES6 = """\
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL --limit-iface-out
-m addrtype --src-type UNICAST
-m ah
-m ah ! --ahspi 5
-m conntrack --ctstate NEW
-m conntrack --ctstate ESTABLISHED
-m conntrack --ctstate DNAT
-m conntrack --ctorigdst 2001:db8::1
-m dst
-m dst ! --dst-len 5
-m dscp --dscp 0
-m eui64
-m frag
-m frag ! --fragid 5
-m frag --fragmore
-m hbh
-m hbh ! --hbh-len 5
-m hl --hl-eq 64
-m hl --hl-lt 5
-m ipv6header --header tcp --soft
-m ipv6header ! --header frag --soft
-m ipv6header --header hop
-m iprange --dst-range 2001:db8::1-2001:db8::9
-m iprange ! --src-range fd00:244::5-fd00:244::6
-m length --length 41:2000
-m mac --mac-source 00:11:22:33:44:55
-m owner --uid-owner 1000
-m owner ! --uid-owner 1000
-m owner --gid-owner 1001 --suppl-groups
-m owner ! --socket-exists
-m pkttype --pkt-type unicast
-m policy --dir out --pol none
-m rpfilter
-m rt
-m rt --rt-type 0
-m rt ! --rt-type 0
-m socket
-m state --state NEW
-m tos --tos 0
-m u32 --u32 "6&0xFF=64"
-m bpf --bytecode "4,48 0 0 6,21 0 1 6,6 0 0 1,6 0 0 0"
-p ah
-p esp
-p ipv6-frag
-p ipv6-opts
-p ipv6-nonxt
-p ipv6-icmp
-p icmpv6 --icmpv6-type echo-request
-p 0
-p mh
-p ! 6
-p tcp --syn
-p tcp ! --syn
-p tcp -m multiport --dports 80,8080
-s fd00:244::5
! -s fd00:244::5
-d 2001:db8::/32
-d ::1/::ff
-d ::5/::ffff
-o eth+
! -o lo
"""
TARGETS6 = """\
mangle OUTPUT -j HL --hl-set 33
mangle OUTPUT -j HL --hl-dec 1
mangle OUTPUT -j DSCP --set-dscp 5
mangle OUTPUT -j TOS --set-tos 8
mangle OUTPUT -j MARK --set-mark 5
mangle OUTPUT -j CONNMARK --save-mark
mangle OUTPUT -j DNPT --src-pfx 2001:db8::/64 --dst-pfx fd00:96::/64
mangle OUTPUT -j SNPT --src-pfx fd00:244::/64 --dst-pfx fd00:245::/64
mangle OUTPUT -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200
mangle OUTPUT -j TEE --gateway fd00:244::1
raw OUTPUT -j NOTRACK
raw OUTPUT -j CT --zone 5
raw OUTPUT -p tcp -j CT --helper ftp
raw OUTPUT -j TRACE
filter OUTPUT -p tcp --dport 15001 -j REJECT
filter OUTPUT -p tcp --dport 15001 -j REJECT --reject-with icmp6-adm-prohibited
filter OUTPUT -p tcp --dport 15001 -j REJECT --reject-with tcp-reset
filter INPUT -p tcp -j NFQUEUE --queue-bypass
filter OUTPUT -j LOG
nat OUTPUT -p tcp -j REDIRECT
nat OUTPUT -p tcp -j DNAT --to-destination [fd00:96::a]:81
nat OUTPUT -d 2001:db8::1 -p tcp -j NETMAP --to fd00:96::a/128
nat OUTPUT -j ACCEPT
nat POSTROUTING -j MASQUERADE
nat POSTROUTING -o eth0 -j SNAT --to-source fd00:244::77
"""
OF_FAMILY = {4: (MATCHES, TARGETS), 6: (MATCHES6, TARGETS6)}
HOST = {4: "9.9.9.9", 6: "2001:db8::1"}


IN_NFT = {
    4: """\
meta length 41-2000 | meta nfproto ipv4 | meta nfproto ipv6 | meta l4proto tcp | meta l4proto != tcp
meta protocol ip | meta priority 0 | meta mark 0 | meta mark != 0 | meta mark and 0x5 == 0x5 | meta iif lo
meta oif lo | meta oif != lo | meta iifname "eth0" | meta iifname != "eth0" | meta oifname "eth*"
meta oifname { "eth0", "lo" } | meta iiftype ether | meta oiftype loopback | meta iifgroup 0 | meta oifgroup != 0
meta iifkind "veth" | meta oifkind "dummy" | meta skuid 1000 | meta skuid != 1000 | meta skuid 0-999
meta skuid { 0, 1000 } | meta skgid 1000 | meta skgid > 1 | meta nftrace 0 | meta rtclassid 0 | meta pkttype unicast
meta pkttype host | meta cpu 99 | meta cgroup 5 | meta random <= 0 | meta ipsec missing | meta hour "00:00"-"23:59"
meta day "Monday" | meta time > "2036-01-01 00:00:00" | socket transparent 1 | socket transparent 0 | socket mark 0
socket wildcard 1 | osf name "Linux" | fib daddr type local | fib daddr type != local | fib saddr type unicast
fib daddr . iif type local | fib daddr . mark type local | fib saddr . iif oif 0 | fib saddr . iif oif missing
fib daddr oif lo | fib saddr oifname "lo" | rt classid 0 | rt ip nexthop 10.244.0.1 | rt mtu > 1000 | rt ipsec missing
ipsec out reqid 1 | ip version 4 | ip hdrlength 5 | ip dscp 0 | ip dscp != cs0 | ip ecn 0 | ip length > 40 | ip id > 0
ip frag-off 0 | ip frag-off and 0x4000 != 0 | ip ttl 64 | ip ttl < 5 | ip protocol tcp | ip protocol { tcp, udp }
ip protocol != tcp | ip checksum != 0 | ip saddr 10.244.0.5 | ip saddr != 10.244.0.5 | ip daddr 9.9.9.9
ip daddr 9.9.9.0/24 | ip daddr != { 9.9.9.9, 10.244.0.5 } | ip daddr 9.9.9.1-9.9.9.9
ip saddr . ip daddr { 10.244.0.5 . 9.9.9.9 } | ip daddr . tcp dport { 9.9.9.0/24 . 1-100 } | icmp type echo-request
icmpv6 type echo-request | tcp sport 1024-65535 | tcp dport 80 | tcp dport != 80 | tcp dport { 80, 8080 }
tcp dport != { 80-90 } | tcp dport > 79 | tcp sequence > 0 | tcp ackseq 0 | tcp doff > 5 | tcp reserved 0
tcp flags syn | tcp flags != syn | tcp flags & syn == 0 | tcp flags & (syn|ack) == syn | tcp flags syn / syn,ack
tcp flags { syn, syn|ack } | tcp flags ack,fin,rst | tcp window > 0 | tcp checksum != 0 | tcp urgptr 0
tcp option maxseg exists | tcp option maxseg missing | tcp option sack-perm exists | tcp option maxseg size > 1000
tcp option timestamp exists | ip option rr exists | udp dport 80 | udp dport != 80 | udp length > 8 | th dport 80
th sport != 80 | th dport { 80, 8080 } | sctp dport 80 | dccp dport 80 | udplite dport 80 | ah spi 5 | esp spi 5
comp cpi 5 | exthdr frag exists | ct state new | ct state != new | ct state established,related
ct state { new, untracked } | ct state invalid | ct state untracked | ct state & (new|established) != 0
ct direction original | ct direction reply | ct status 0 | ct status seen-reply | ct status confirmed | ct status dnat
ct status != dnat | ct status snat | ct status & dnat == 0 | ct mark 0 | ct mark != 0 | ct mark and 1 == 0
ct expiration > 1s | ct helper "ftp" | ct label 1 | ct l3proto ipv4 | ct protocol tcp | ct protocol != tcp
ct original protocol tcp | ct original ip saddr 10.244.0.5 | ct original ip daddr 9.9.9.9
ct reply ip saddr 127.0.0.1 | ct original proto-dst 80 | ct reply proto-src 15001 | ct bytes > 1 | ct packets > 0
ct avgpkt > 40 | ct original bytes > 1 | ct zone 0 | ct zone != 0 | ct count over 100 | ct count 100 | ct id 5
numgen random mod 2 < 2 | numgen inc mod 2 0 | jhash ip saddr mod 2 0 | symhash mod 2 0
jhash ip saddr . tcp dport mod 16 seed 0xdead < 16 | limit rate 1000/second | limit rate over 1000/second
quota 1 mbytes | quota over 1 mbytes | @th,16,16 80 | @nh,72,8 6 | @nh,72,8 != 6 | @ll,0,48 0x1 | @ih,0,8 0
ether type ip | vlan id 5 | ip daddr & 255.255.0.0 == 9.9.0.0 | ip daddr ^ 1.1.1.1 == 8.8.8.8
tcp dport & 0x50 == 0x50 | tcp dport << 1 160
""",
    6: """\
meta nfproto ipv6 | meta l4proto tcp | meta protocol ip6 | meta skuid 1000 | meta skuid != 1000 | meta length > 41
ip6 version 6 | ip6 dscp 0 | ip6 ecn 0 | ip6 flowlabel 0 | ip6 flowlabel != 0 | ip6 length > 20 | ip6 nexthdr tcp
ip6 nexthdr != tcp | ip6 hoplimit 64 | ip6 hoplimit < 5 | ip6 saddr fd00:244::5 | ip6 saddr != fd00:244::5
ip6 daddr 2001:db8::/32 | ip6 daddr != { 2001:db8::1, fd00:244::5 } | ip6 daddr 2001:db8::1-2001:db8::9
ip6 daddr . tcp dport { 2001:db8::1 . 80, fd00:244::5 . 8080 } | exthdr hbh exists | exthdr frag missing | rt type 0
frag id 5 | hbh hdrlength 5 | dst nexthdr tcp | mh type 1 | icmpv6 type echo-request | icmpv6 type nd-neighbor-solicit
rt ip6 nexthop fd00:244::1 | fib daddr type local | fib daddr type != local | fib saddr . iif oif missing
fib saddr oifname "lo" | ct state new | ct state established | ct status dnat | ct original ip6 daddr 2001:db8::1
ct original ip6 saddr fd00:244::5 | ct reply ip6 saddr ::1 | ct original proto-dst 80 | ct l3proto ipv6 | ct zone 0
ct mark 0 | @nh,48,8 6 | @th,16,16 80 | tcp flags != syn | tcp flags & (syn|ack) == syn | socket transparent 0
socket wildcard 1 | ip daddr 9.9.9.9 | ip protocol tcp | th dport 80 | tcp dport { 80, 8080 }
""",
}
"""Expressions of nft(8), each of them in each of the places below."""
PLACES_IN_NFT = {
    'type filter hook ingress device "eth0" priority 0': "drop",
    "type filter hook output priority -300": "notrack",
    "type filter hook output priority -160": "drop",
    "type filter hook prerouting priority -300": "notrack",
    "type filter hook prerouting priority -160": "drop",
    "type filter hook input priority 5": "drop",
    "type filter hook postrouting priority 5": "drop",
    "type nat hook output priority -110": "accept",
    "type nat hook prerouting priority -110": "accept",
}
"""A base chain, and the verdict there."""


ONCE_WRONG = (
    "raw OUTPUT -m conntrack --ctproto tcp -j NOTRACK",
    "raw OUTPUT -m owner ! --uid-owner 1000 -j NOTRACK",
    "raw OUTPUT -m limit --limit 1000/s -j NOTRACK",
    "raw PREROUTING -p tcp ! --syn -j NOTRACK",
    "raw OUTPUT -p tcp --syn -j NOTRACK",
    "nat OUTPUT -d {odd} -j ACCEPT",
    "raw PREROUTING ! -s {odd} -p tcp -j NOTRACK",
)
ONCE_WRONG_IN_NFT = (
    ("type filter hook input priority 5;", "meta skuid != 1000 drop"),
    ("type filter hook input priority 5;", "meta skgid 1-5000 drop"),
    ("type filter hook output priority -160;", "fib daddr . mark type local drop"),
    ("type filter hook prerouting priority -160;", "fib saddr . mark type != unicast drop"),
    ("type filter hook output priority -300;", "ct status & dnat == 0 notrack"),
    ("type filter hook prerouting priority -300;", "ct status != snat notrack"),
    ("type nat hook output priority -110;", "tcp dport & 0x11 == 0x10 redirect to :22"),
    ("type filter hook output priority -300;", "tcp sport & 0x101 == 0x1 notrack"),
)
"""Of each kind of which something false was certain some, tried every time."""


ODD = {4: "0.0.0.9/0.0.0.255", 6: "::9/::ff"}
"""Addresses by their last bits, which are no network."""
NATIVE = "table inet theirs {{\n chain c {{\n {place}\n {rule}\n }}\n}}\n"
OF_OWNERS = tuple(
    f"meta {key} {asked} drop"
    for key in ("skuid", "skgid")
    for asked in ("0", "1337", "!= 1000", "0-1336", "> 1000", "{ 5, 1337 }")
)


def native_rules(version: int) -> list[tuple[str, str]]:
    """A base chain and its rule, all of them or a sample."""
    every = [
        (f"{place};", f"{asked.strip()} {verdict}")
        for line in IN_NFT[version].splitlines()
        for asked in line.split(" | ")
        for place, verdict in PLACES_IN_NFT.items()
    ]
    return every if ALL else [*ONCE_WRONG_IN_NFT, *random.Random(f"{SEED} nft {version}").sample(every, SAMPLE)]


def rules(version: int) -> list[str]:
    """Table, chain and rule, all of them or a sample."""
    asked, done = OF_FAMILY[version]
    matches = [f"{place} {match} -j {target}" for match in asked.splitlines() for place, target in PLACES.items()]
    every = [*matches, *done.splitlines()]
    once_wrong = (line.format(odd=ODD[version]) for line in ONCE_WRONG)
    return (
        [*once_wrong, *every]
        if ALL
        else [*once_wrong, *random.Random(f"{SEED} extensions {version}").sample(every, SAMPLE)]
    )


def expected_of(trace: Trace) -> set[str]:
    """Where its caller may find itself."""
    if trace.hindered:
        return FAILED
    expected = landings_of(trace)
    lost = (Became.DROPPED, Became.REFUSED, Became.DEPENDS)
    if trace.doubted or any(way.hindered or way.doubted or way.became in lost for way in trace.ways or (trace,)):
        expected |= {*FAILED, "error: EHOSTUNREACH"}
    return expected


def each_of_iptables(pod: Pod, backend: str, version: int) -> Iterator[str]:
    """Every rule of others that this kernel takes, while it is there."""
    theirs = f"ip{'6' if version == 6 else ''}tables-{'legacy' if backend == 'legacy' else 'nft'}"
    for line in rules(version):
        table, built_in, *words = shlex.split(line)
        if not pod.inside.run(theirs, "-t", table, "-I", built_in, *words).returncode:
            yield line
            pod.inside.output(theirs, "-t", table, "-D", built_in, "1")


def each_of_nft(pod: Pod, version: int) -> Iterator[str]:
    """The same for native tables."""
    for place, rule in native_rules(version):
        if not pod.inside.run("nft", "-f", "-", text=NATIVE.format(place=place, rule=rule)).returncode:
            yield f"{place} {rule}"
            pod.inside.output("nft", "delete", "table", "inet", "theirs")


class Company:
    """A pod that is captured, and what of others is wrongly foretold there."""

    def __init__(self, pod: Pod, version: int, backend: str) -> None:
        self.pod = pod
        self.version = version
        (ready if version == 6 else ready_v4)(pod)
        self.numbers = drawn.Calls(pod, random.Random(0)).numbers
        self.here = predicted.host(ipv6=version == 6)
        self.wrong: list[str] = []
        self.tried = 0
        settings = ("-u", "1337", "--dual-stack") if version == 6 else SETTINGS
        pod.applied(f"--force-iptables-binary={backend}", *settings)

    def call(self, what: str) -> None:
        """A call out and one in, beside this."""
        pod, version = self.pod, self.version
        self.tried += 1
        for call in (
            Call(pod.inside, HOST[version], 80, 1000, 1000, "tcp", None, next(self.numbers)),
            Call(pod.outside, ADDRESSES[version], 8080, 0, 0, "tcp", GATEWAY[version], next(self.numbers)),
        ):
            trace = traced(live_in(pod), call, pod, self.here)
            (landing,) = pod.traffic.land([call], patience=SHORT)
            if str(landing) not in expected_of(trace) and (trace.ways or trace.became is not Became.DEPENDS):
                said = f"{trace.became} {trace.hindered} {trace.doubted}"
                self.wrong.append(f"{what}: {call.host} landed {landing}, predicted {expected_of(trace)} {said}")
        pod.end_connections()

    def told(self, tell: Callable[[str], None], backend: str) -> None:
        tell(f"CAPTURE_SEED={SEED}: {backend}, IPv{self.version}: {self.tried} rules")
        assert self.tried, "this kernel took none of what was drawn, nor of what every kernel has"
        assert not self.wrong, "\n".join(self.wrong)


@every_backend
@pytest.mark.parametrize("version", [4, 6])
def test_rules_of_every_extension_are_followed(backend: str, version: int, tell: Callable[[str], None]) -> None:
    """What is certain is so, and what depends ends in one of the ways that are named."""
    with Pod(ipv6=version == 6) as pod:
        company = Company(pod, version, backend)
        for line in each_of_iptables(pod, backend, version):
            company.call(line)
        company.told(tell, backend)


@every_backend
@pytest.mark.parametrize("version", [4, 6])
def test_rules_of_every_expression_of_nft_are_followed(backend: str, version: int, tell: Callable[[str], None]) -> None:
    """The same in a native table of others."""
    with Pod(ipv6=version == 6) as pod:
        company = Company(pod, version, backend)
        for line in each_of_nft(pod, version):
            company.call(line)
        company.told(tell, backend)


@every_backend
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_proved_beside_each_is_so(backend: str, version: int, tell: Callable[[str], None]) -> None:
    """And where it is disproved, the connection is made that does, and lands where it says."""
    wrong: list[str] = []
    answers: Counter[str] = Counter()
    with Pod() as pod:
        ready(pod)
        calls = drawn.Calls(pod, random.Random(f"{SEED} {backend} {version}"))
        said = drawn.CommandLine(("-u", str(PROXY), "--dual-stack"))
        planned = planned_for(pod, said)
        pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
        for others in chain(each_of_iptables(pod, backend, version), each_of_nft(pod, version)):
            judged = Judged(pod, planned)
            wrong += [f"{others}: {line}" for line in judged.tried(calls, 2, CALLS)]
            answers.update(proof.answer for proof in judged.proofs)
            pod.end_connections()
    tell(f"CAPTURE_SEED={SEED}: {backend}, IPv{version}: {dict(answers)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)


@every_backend
def test_owners_of_what_is_handed_over_are_not_told(backend: str) -> None:
    """TPROXY gives the first packet its listener's socket: native rules of INPUT know whose it is, and nobody else."""
    verdicts = {}
    with Pod() as pod:
        ready(pod)
        said = drawn.CommandLine(("-u", str(PROXY), "--dual-stack", "-m", "TPROXY"))
        planned = planned_for(pod, said)
        pod.applied(*said.arguments, f"--force-iptables-binary={backend}")
        calls = drawn.Calls(pod, random.Random(0))
        for rule in OF_OWNERS:
            pod.inside.output(
                "nft", "-f", "-", text=NATIVE.format(place="type filter hook input priority 5;", rule=rule)
            )
            judged = Judged(pod, planned)
            assert judged.tried(calls, 2, CALLS) == [], rule
            verdicts[rule] = [each.answer for each in judged.proofs], str(pod.dial_in(8080))
            pod.inside.output("nft", "delete", "table", "inet", "theirs")
    assert {landing for _, landing in verdicts.values()} == {"timeout", "pod:15006"}
    assert all(set(answers) == {"cannot be told"} for answers, _ in verdicts.values()), verdicts
