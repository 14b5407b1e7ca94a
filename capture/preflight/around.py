"""What else a run touches or stands on: conntrack, the log, nameservers, validation, Kubernetes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from capture.host import place
from capture.host.facts import read_text
from capture.intent.nameservers import nameservers_in
from capture.kernel import netns
from capture.kernel.conntrack import CLOSE_WAIT, CLOSE_WAIT_FILE, fullness
from capture.kernel.process import read_words
from capture.log import TERMINATION_LOG
from capture.preflight.facts import Fact, Here
from capture.preflight.modules import OK, UNKNOWN, WARN

if TYPE_CHECKING:
    from collections.abc import Iterator


def conntrack(here: Here) -> Iterator[Fact]:
    """The sysctl that --close-wait-timeout sets; a run that cannot is a warning, no failure."""
    path = CLOSE_WAIT_FILE
    needed = here.acts and here.settings.close_wait_timeout is not None
    value = next(iter(read_words(path) or []), "")
    if value:
        writable = os.access(path, os.W_OK)
        verdict = OK if writable or not needed else WARN
        remedy = f"make {path} writable, or set it on the node" if verdict == WARN else ""
        shown = f"{CLOSE_WAIT} is {value} s, {'writable' if writable else 'not writable'}"
        yield Fact("conntrack", "close_wait timeout", shown, verdict, remedy, needed)
    else:
        remedy = "the module nf_conntrack makes it; if it is still missing after the rules: `modprobe nf_conntrack`"
        yield Fact("conntrack", "close_wait timeout", f"{path} cannot be read", UNKNOWN, remedy, needed)
    full = fullness()
    if full:
        remedy = "raise net.netfilter.nf_conntrack_max on the node, or see who holds them: `conntrack -L`"
        yield Fact("conntrack", "entries", full, WARN, remedy)


def logging(here: Here) -> Iterator[Fact]:
    """Whether what --log-connections log writes is seen anywhere."""
    needed = here.acts and here.settings.log_connections == "log"
    if here.facts.kernel_logs:
        yield Fact("logging", "kernel log", "LOG writes to it from here", OK, needed=needed)
    else:
        value = "not written from a pod's namespace, unless net.netfilter.nf_log_all_netns is 1 on the node"
        remedy = "--log-connections nflog, which needs no such setting" if needed else ""
        yield Fact("logging", "kernel log", value, WARN if needed else OK, remedy, needed)


def dns(here: Here) -> Iterator[Fact]:
    """The nameservers whose queries are captured."""
    settings = here.settings
    path = settings.nameservers_file or settings.resolv_conf or netns.resolv_conf(settings.network_namespace)
    needed = settings.redirect_dns
    if settings.redirect_dns and settings.capture_all_dns:
        yield Fact("DNS", "nameservers", "all are captured", OK)
        return
    text = here.facts.resolv_conf if settings.nameservers_file else read_text(path)[0]
    found = ", ".join(str(network.network_address) for network in nameservers_in(text or "")[0])
    if found:
        yield Fact("DNS", "nameservers", f"{found} ({path})", OK, needed=needed)
    else:
        remedy = "DNS is not captured without one; --capture-all-dns captures all" if needed else ""
        yield Fact("DNS", "nameservers", f"none in {path}", WARN if needed else OK, remedy, needed)


def validation(here: Here) -> Iterator[Fact]:
    """--run-validation proves more than can be told before it runs."""
    if here.settings.run_validation and not here.settings.dry_run and not here.settings.cleanup_only:
        value = "real connections will tell, once the rules are in place"
        yield Fact("validation", "--run-validation", value, UNKNOWN, "run it as root, or as the proxy's uid")


def kubernetes(here: Here) -> Iterator[Fact]:
    """Whether this is a container of a pod, and where a failure would be shown."""
    service = here.environ.get(place.IN_KUBERNETES, "")
    value = f"{place.IN_KUBERNETES}={service}" if service else f"{place.IN_KUBERNETES} is not set"
    yield Fact("Kubernetes", "container of a pod", value, OK, needed=False)
    if not os.path.isfile(TERMINATION_LOG):
        yield Fact("Kubernetes", TERMINATION_LOG, "is not there: nothing is written to it", OK, needed=False)
    elif os.access(TERMINATION_LOG, os.W_OK):
        yield Fact("Kubernetes", TERMINATION_LOG, "writable: a failure is written to it", OK, needed=False)
    else:
        remedy = "the reason of a failure is in the log only"
        yield Fact("Kubernetes", TERMINATION_LOG, "not writable", WARN, remedy, needed=False)
