"""Why iptables refused: from what it printed to the rule, what the kernel lacks, and a remedy."""

from __future__ import annotations

from capture.errors import KernelRefused
from capture.kernel.process import read_words
from capture.kernel.rights import FROM_OUTSIDE, NET_RAW, denied_hint, effective, how_to_add
from capture.netlink import nftables
from rules.iptables.writing import extension, rule_text, target_extension
from rules.live.changes import Append, Insert
from rules.meaning.spoken import owners_named
from rules.netfilter.hooks import NAME
from rules.netfilter.matches import Not
from rules.netfilter.values import Family
from rules.plan.names import NATIVE_TABLE, OURS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from capture.kernel.process import Completed
    from rules.live.changes import Change
    from rules.netfilter.rulesets import Rule

REGISTERED = {
    Family.V4: ("/proc/thread-self/net/ip_tables_matches", "/proc/thread-self/net/ip_tables_targets"),
    Family.V6: ("/proc/thread-self/net/ip6_tables_matches", "/proc/thread-self/net/ip6_tables_targets"),
}
"""The matches and targets that the legacy backend has loaded."""


def complaint(done: Completed) -> str:
    """What a failed child printed, without the lines that are the same for every failure."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("Try `")]
    ended = f"ended with status {done.status}" if done.status >= 0 else f"was ended by signal {-done.status}"
    return "\n".join(lines) or f"nothing, and {ended}"


def line_number(stderr: str) -> int | None:
    """The line that iptables-restore names, in any of its three wordings."""
    for line in reversed(stderr.splitlines()):
        for before in ("line ", "line: "):
            _, found, rest = line.partition(before)
            digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
            if found and digits:
                return int(digits)
    return None


def refused_rule(changes: Sequence[Change], stderr: str, *, family: Family, is_legacy: bool) -> tuple[str, Rule] | None:
    """The rule at the line that iptables-restore names, with its chain.

    The legacy backend names only the line of the COMMIT: then the first rule that needs what the kernel lacks.
    """
    commands = [command for change in changes for _, command in change.lines()]
    line = line_number(stderr)
    if line and line <= len(commands):
        command = commands[line - 1]
        if isinstance(command, Append | Insert):
            return command.chain, command.rule
    if is_legacy:
        for command in commands:
            if isinstance(command, Append | Insert) and (lacking(family, command.rule) or owner_hint(command.rule)):
                return command.chain, command.rule
    return None


def needs(rule: Rule) -> tuple[set[str], set[str]]:
    """The match and target extensions that a rule needs of the kernel."""
    matches = (match.match if isinstance(match, Not) else match for match in rule.matches)
    return {name for match in matches if (name := extension(match))}, {target_extension(rule.target)} - {""}


def lacking(family: Family, rule: Rule) -> list[str]:
    """The extensions that a rule needs and the legacy backend, by its own account, does not have."""
    lacking = []
    for file, needed in zip(REGISTERED[family], needs(rule), strict=True):
        have = read_words(file)
        if have:
            lacking += sorted(needed - set(have))
    return lacking


def missing_module_hint(rule: Rule, *, family: Family, is_legacy: bool) -> str:
    """What to try on the node if it is an extension that is missing."""
    matches, targets = needs(rule)
    # The aliases by which the kernel itself asks for them (xt_request_find_match, net/netfilter/x_tables.c).
    prefix = "ipt" if family is Family.V4 else "ip6t"
    wanted = [f"{prefix}_{name}" for name in (*sorted(matches), *sorted(targets))]
    if not wanted:
        return ""
    lacks = "lacks" if is_legacy and lacking(family, rule) else "may lack"
    return f"the node's kernel {lacks} what the rule needs: try `modprobe {' '.join(wanted)}` on the node"


def owner_hint(rule: Rule) -> str:
    """What to try if it is for our user namespace that the kernel refuses this rule's owner match."""
    uids, gids = owners_named(rule.matches)
    if not (uids or gids):
        return ""
    from capture.kernel.userns import owner_of_the_namespace, unmapped

    if owner_of_the_namespace() is False:
        return FROM_OUTSIDE
    unknown = unmapped(uids, gids)
    return unmapped_hint(unknown) if unknown else ""


BY_SETTING = "the setting that asked for it"


def unmapped_hint(unknown: Sequence[str], flags: str = "") -> str:
    """What to do about ids that our user namespace does not map, and these flags asked for."""
    return (
        "the kernel refuses an owner match for an id that the user namespace does not map: map "
        f"{' and '.join(unknown)}, which takes root outside of it (newuidmap(1); in a pod, hostUsers: true), or give "
        f"another by {flags or BY_SETTING}"
    )


def permission_hint(stderr: str, *, is_legacy: bool = False, tables: Iterable[str] = ()) -> str:
    """What helps where this says that something was denied: of these tables of nf_tables, as nft names them."""
    if "ermission denied" in stderr or "must be root" in stderr or "not permitted" in stderr:
        return owned_hint(tables) or denied_hint()
    if is_legacy and "initialize" in stderr and "table" in stderr:
        return legacy_hint()
    return ""


def owned_hint(tables: Iterable[str]) -> str:
    """What helps where one of these tables belongs to one program; empty if none does."""
    try:
        owned = nftables.owned()
    except OSError:
        return ""
    table = next((table for table in tables if table in owned), "")
    return f"{nftables.belongs(table, owned[table])}, {ONLY_ITS_OWN}{other_tables(table)}" if table else ""


ONLY_ITS_OWN = "and the kernel lets nobody else change it: end that program"


def other_tables(table: str) -> str:
    """How a run does without this table of nf_tables, if it can."""
    of_iptables = table in {f"{name} {each}" for name in NAME.values() for each in OURS}
    return ", or capture in tables of our own by --native-nftables" if of_iptables else ""


def legacy_hint() -> str:
    """Why the legacy backend has no table for us: iptables says the same of each cause."""
    try:
        nftables.nft_tables()
        nft, instead = "", "; the nft backend does without"
    except OSError as error:
        nft, instead = error.strerror or str(error), ""
    if effective(NET_RAW) is False:
        return f"the legacy backend takes CAP_NET_RAW besides CAP_NET_ADMIN: {how_to_add('NET_RAW')}{instead}"
    modules = "`modprobe iptable_nat ip6table_nat`"
    if nft:
        return (
            f"this kernel has neither nf_tables ({nft}) nor the legacy tables, or does not let us at them, as in a "
            "sandbox such as gVisor: traffic cannot be captured here. On a node of your own, `modprobe nf_tables` or "
            f"{modules}"
        )
    return f"the kernel has no such table: {modules} on the node{instead}"


def refused_by_nft(lines: Sequence[tuple[str, Family, Rule | None]], done: Completed) -> KernelRefused:
    """What of this input was refused, and in the rule's own words what it is for."""
    details = [("nft said", complaint(done))]
    at = line_of_nft(done.stderr)
    _, family, rule = lines[at - 1] if 0 < at <= len(lines) else ("", None, None)
    what = f"the kernel refused the {family.value if family else 'native'} rules"
    hint = permission_hint(done.stderr, tables=[f"{name} {NATIVE_TABLE}" for name in NAME.values()])
    if rule is None or hint:
        return KernelRefused(what, details=details, hint=hint, family=family)
    details += [("the rule", rule_text(rule)), ("its why", rule.why)]
    hint = owner_hint(rule) or "see what the kernel says (`dmesg`), and whether it has the modules that nft needs"
    return KernelRefused(what, details=details, hint=hint, setting=rule.setting, family=family)


def line_of_nft(said: str) -> int:
    """The line of the input that nft names (`/dev/stdin:5:3-20: Error: …`); 0 if it names none."""
    for line in said.splitlines():
        words = line.split(":")
        if len(words) > 2 and words[1].isdigit() and words[0].endswith(("stdin", "-")):
            return int(words[1])
    return 0
