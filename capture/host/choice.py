"""The backend that is used, and why: the one value from which every command says it."""

from __future__ import annotations

from rules.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.declared import Settings

NATIVE = "native"  # where a rerun finds all in place, `capture.iptables` is not loaded
HELD = "the namespace holds our chains there"
ONLY_NFT = "nft is installed, and no iptables that can be used"


class Choice(Value):
    """The backend that is used, and why."""

    backend: str
    """nft or legacy, of iptables; or native, our own tables; empty if none can be used."""
    reason: str
    """Why that one; or why none can be used."""
    comes_from: str = ""
    """The other backend, if ours are there and are to come over."""

    def __str__(self) -> str:
        return f"the {self.backend} backend{'' if self.backend == NATIVE else ' of iptables'}: {self.reason}"

    @property
    def sentence(self) -> str:
        """What a run does here."""
        return f"a run here uses {self}" if self.backend else f"a run here can use no backend: {self.reason}"


def asked_for(settings: Settings) -> Choice | None:
    """The backend that these settings ask for, if they do."""
    if settings.force_iptables_binary:
        return Choice(settings.force_iptables_binary, "--force-iptables-binary asks for it")
    return Choice(NATIVE, "--native-nftables asks for it") if settings.native_nftables else None
