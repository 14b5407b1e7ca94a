"""What a run would do, printed as the programs that it would run would be given it. Nothing is touched."""

from __future__ import annotations

from capture.apply import transaction
from capture.apply.converge import (
    letting_go,
    refuse,
    transacted,
    warn_of_others_routing,
    warn_who_goes_first,
    without_other_meshes,
)
from capture.errors import CaptureError, OtherMesh, OthersFirst, WrongPlace
from capture.host.live import NOTHING_LIVE, choice_of, choose_backend, read_live
from capture.kernel.files import write_text
from capture.kernel.process import LEGACY_TABLES
from capture.output import print_for_programs
from capture.steps.restore import Restore
from rules.netfilter.values import Family
from rules.plan.plan import NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.host.live import Live
    from capture.log import Log
    from capture.settings.declared import Settings
    from capture.steps.load import Load
    from capture.steps.other_meshes import DeleteTables
    from rules.plan.plan import Plan


def warn_of_a_refusal(live: Live, settings: Settings, planned: Plan, log: Log) -> None:
    """Say that a run would be refused here, and what it would say of others."""
    try:
        refuse(live, settings)
        warn_of_others_routing(live, planned, log)
    except (WrongPlace, OtherMesh, OthersFirst) as refused:
        first, *more = refused.lines()
        log.warn(f"a run would be refused: {first}", *more)


def dry_run(settings: Settings, planned: Plan, log: Log) -> None:
    """Print what would be given to each iptables-restore, and nothing else, to stdout."""
    live, backend, others = live_if_permitted(settings, planned, log)
    planned = live.beside(planned)
    if not live.legacy_is_known:
        log.warn(f"only uid 0 may read {LEGACY_TABLES[Family.V4]}: whether legacy tables hold anything is not known")
    sections = []
    ours_first, take_over = settings.precedence == "ours", settings.take_over and planned is not NOTHING
    warn_who_goes_first(live, planned, backend, log, take_over=take_over, ours_first=ours_first)
    doing = list(transaction.steps(live, planned, backend, take_over=take_over, ours_first=ours_first))
    doing, _ = letting_go(doing, live, planned, settings, log)
    by_nft: tuple[type[Load | DeleteTables], ...] = ()
    if others or transaction.uses_nft(doing):
        from capture.steps.load import Load
        from capture.steps.other_meshes import DeleteTables

        by_nft = (Load, DeleteTables)
    doing = transacted(doing, live, planned, others)
    for step in doing:
        if isinstance(step, Restore):
            heading = f"# {step.tool.family.value}: {step.tool}-restore --noflush"
            sections.append(f"{heading}\n{step.text}")
        elif isinstance(step, by_nft):
            sections.append(f"# nft -f -\n{step.text}")
        else:
            log.info(f"Would run {step}")
    text = "\n".join(sections)
    if not text:
        log.info("No rule of ours would change")
    print_for_programs(text)
    if settings.dry_run_file:
        try:
            write_text(settings.dry_run_file, text)
        except OSError as error:
            raise CaptureError(
                f"cannot write the rules to {settings.dry_run_file}: {error.strerror}",
                hint="environment DRY_RUN_FILE_PATH names that file",
            ) from error


def live_if_permitted(settings: Settings, planned: Plan, log: Log) -> tuple[Live, str, tuple[str, ...]]:
    """What is there, and the backend that would be used; in a dry run that may look at neither, an empty namespace.

    Last the tables of other meshes that would be taken over.

    Raises CaptureError or OSError if that would say that there is nothing to remove.
    """
    try:
        live = read_live()
        if not settings.cleanup_only:
            warn_of_a_refusal(live, settings, planned, log)
        live, others = without_other_meshes(live, settings, planned)
        return live, choose_backend(live, settings, planned).backend, others
    except (CaptureError, OSError) as error:
        if planned is NOTHING:
            raise
        what = error.what if isinstance(error, CaptureError) else error
        log.info(f"The rules are those for a namespace without any of ours, because: {what}")
        return NOTHING_LIVE, choice_of(settings).backend, ()
