"""What is said when the kernel refuses a rule: which modules it would need."""

from __future__ import annotations

import pytest

from capture.iptables import diagnosis
from capture.iptables.diagnosis import missing_module_hint
from rules.netfilter.matches import DPort, Not, OwnerUid, Proto
from rules.netfilter.rulesets import Rule
from rules.netfilter.targets import Redirect, Return
from rules.netfilter.values import Family, Ports

RULE = Rule((Proto("tcp"), DPort(Ports(80, 80)), Not(OwnerUid(1337))), Redirect(15001))


@pytest.mark.parametrize(("family", "prefix"), [(Family.V4, "ipt"), (Family.V6, "ip6t")])
@pytest.mark.parametrize("lacks", [True, False])
def test_modules_are_named_by_the_aliases_of_their_family(
    monkeypatch: pytest.MonkeyPatch, family: Family, prefix: str, *, lacks: bool
) -> None:
    """As the kernel asks for them; that they lack is certain only where its list of extensions says so."""
    monkeypatch.setattr(diagnosis, "lacking", lambda *_: ["owner"] if lacks else [])
    for is_legacy in (True, False):
        said = missing_module_hint(RULE, family=family, is_legacy=is_legacy)
        assert f"`modprobe {prefix}_owner {prefix}_REDIRECT`" in said
        assert ("may lack" in said) != (is_legacy and lacks)


def test_a_rule_that_needs_no_module_has_no_such_hint() -> None:
    assert missing_module_hint(Rule((), Return()), family=Family.V4, is_legacy=True) == ""
