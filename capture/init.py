"""The init path: settings, facts, intent, plan, kernel. What runs before a pod's application starts.

Everything imported here is paid for by every pod: neither click, pydantic, pyroute2 nor python-iptables is.
"""

from __future__ import annotations

import os

from capture.errors import DONE, CaptureError, KernelRefused, in_words
from capture.host import place
from capture.host.choice import HELD, Choice, asked_for
from capture.host.facts import read_facts
from capture.intent.resolve import resolve
from capture.kernel import netns
from capture.kernel.files import write_text
from capture.kernel.locks import locked
from capture.log import TERMINATION_LOG, Log
from capture.settings.declared import DECLARED, DECLARED_BY_NAME, VARIABLES, Settings, asks_for_json, origin_of
from capture.sight import in_place
from capture.text import on_one_line
from rules.netfilter.values import Family
from rules.plan.plan import NOTHING, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from capture.host.facts import Facts
    from capture.intent.resolve import Resolved
    from rules.plan.plan import Plan

LONGEST_TERMINATION_MESSAGE = 2048
"""Characters. Kubernetes cuts a message at 4096 bytes, and all of a pod's together at 12 KiB."""


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what a command line without a command asks for. The result is the exit status."""
    try:
        settings = Settings.load(argv, environ)
    except CaptureError as error:
        report(error, Log(as_json=asks_for_json(argv, environ)))
        return error.exit_status
    return carry_out(settings, environ, Log(settings.log_output_level, as_json=settings.log_as_json))


def is_bare(environ: Mapping[str, str]) -> bool:
    """Whether a person typed our name and nothing else: at a terminal, and no variable says what is meant.

    The entrypoint of an image has no terminal, and captures.
    """
    return any(map(os.isatty, range(3))) and not any(origin_of(setting, None, environ) for setting in DECLARED)


def carry_out(settings: Settings, environ: Mapping[str, str], log: Log) -> int:
    """Do what settings ask for, and say what went wrong. The result is the exit status."""
    seen = [f"  {name}={on_one_line(environ[name])}" for name in VARIABLES if name in environ]
    if seen:
        log.info("Environment:", *seen)
    try:
        follow(settings, environ, log)
    except Exception as error:
        known = in_words(error)
        if known is None:
            raise
        report(known, log)
        return known.exit_status
    return DONE


def report(error: CaptureError, log: Log) -> None:
    """Say what went wrong; last of all cause and cure in one line, which Kubernetes shows with the pod's status."""
    log.error(*error.lines())
    log.error(error.in_one_line)
    if os.path.isfile(TERMINATION_LOG):
        try:
            write_text(TERMINATION_LOG, error.in_one_line[:LONGEST_TERMINATION_MESSAGE])
        except OSError as unwritable:
            log.warn(f"cannot write {TERMINATION_LOG}: {unwritable.strerror}")


def follow(settings: Settings, environ: Mapping[str, str], log: Log) -> None:
    """Apply, print or remove, as the settings say. Raises CaptureError with the namespace as it was."""
    if settings.network_namespace:
        netns.enter(settings.network_namespace)
    log.info(f"Network namespace: {netns.described(settings.network_namespace)}")
    if settings.cleanup_only:
        log.info("Settings:", *described(settings, None))
        for warning in settings.warnings:
            log.warn(str(warning))
        if settings.dry_run:
            from capture.dry_run import dry_run

            dry_run(settings, NOTHING, log)
        else:
            remove(settings, log)
        return
    facts = read_facts(environ, settings.nameservers_file)
    resolved = resolve(settings, facts)
    log.info("Settings:", *described(settings, resolved))
    for warning in resolved.warnings:
        log.warn(str(warning))
    planned = plan(resolved.intent)
    if facts.processes and (settings.dry_run or not settings.run_validation):
        warn_of_listeners(facts, planned, log)
    if settings.dry_run:
        from capture.dry_run import dry_run

        dry_run(settings, planned, log)
        return
    if settings.skip_rule_apply:
        log.info("--skip-rule-apply: the rules are left as they are")
    else:
        try:
            planned = converge_or_leave_ipv6(settings, resolved, planned, log)
        except KernelRefused as refused:
            if refused.setting:
                refused.details += (("asked by", flag_of(refused.setting, settings, resolved)),)
                from capture.iptables.diagnosis import BY_SETTING

                refused.hint = refused.hint.replace(BY_SETTING, DECLARED_BY_NAME[refused.setting].shown)
            raise
        if settings.close_wait_timeout:
            from capture.kernel.conntrack import set_close_wait_timeout

            set_close_wait_timeout(int(settings.close_wait_timeout), log)
    if settings.run_validation:
        from capture.validation.validation import validate

        validate(resolved.intent, planned, facts, settings.probe_port, settings.probe_timeout, log)


def warn_of_listeners(facts: Facts, planned: Plan, log: Log) -> None:
    """Say what is wrong with those who listen here already where the rules will send things."""
    if not place.has_sockets():
        return  # as where only a shell began us
    from capture.host.listening import heard

    for warning in heard(planned.rulesets, facts).warnings:
        log.warn(warning)


def remove(settings: Settings, log: Log) -> None:
    """Remove what is ours, and say what that was and what was left alone. Raises CaptureError if anything remains."""
    from capture.apply.clean import clean

    cleaned = clean(settings, log)
    for thing in cleaned.removed:
        log.info(f"Removed {thing}")
    for thing in cleaned.kept:
        log.warn(f"Kept {thing}")
    for thing in cleaned.left:
        (log.warn if thing.remedy else log.info)(f"Left alone {thing}")
    cleaned.raise_if_any_remains()
    log.info("Nothing of ours is left" if cleaned.removed else "Nothing of ours is here: nothing to remove")


def converge_or_leave_ipv6(settings: Settings, resolved: Resolved, planned: Plan, log: Log) -> Plan:
    """Converge; where only a missing address made IPv6 part of the plan, and the kernel cannot do it, without IPv6.

    The result is the plan that is in place. Raises CaptureError.
    """
    try:
        converge(settings, planned, log)
    except KernelRefused as refused:
        if refused.family is not Family.V6 or resolved.needs_ipv6 or planned is NOTHING:
            raise
        log.warn(f"IPv6 is not captured: {refused.in_one_line}")
        planned = plan(resolved.intent.but(families=(Family.V4,)))
        converge(settings, planned, log)
    return planned


def converge(settings: Settings, planned: Plan, log: Log) -> None:
    """Make the namespace hold what is planned, and nothing else of ours.

    A refusal is final, unless others changed the rules between our looking and our writing: then we look again.
    """
    with locked(log.warn):
        if is_at_sight(settings, planned):
            log.info(f"Using {asked_for(settings) or Choice('nft', HELD)}")
            log.info("The capture is already in place: nothing was changed")
            return
        from capture.apply.converge import converge_locked  # a run that finds all in place changes nothing

        converge_locked(settings, planned, log)


def is_at_sight(settings: Settings, planned: Plan) -> bool:
    """Whether a capture is in place as these settings ask for it, as far as that is told at sight."""
    if not settings.allow_host and place.signs_of_a_node((), ()):
        return False  # which is to be refused, whatever it holds
    asked = settings.force_iptables_binary or ("native" if settings.native_nftables else "nft")
    if asked == "native":
        from capture.sight import own  # of two backends, each run loads one

        return own.is_in_place(planned)
    return asked == "nft" and in_place.is_in_place(planned)


def described(settings: Settings, resolved: Resolved | None) -> Iterator[str]:
    """The settings that somebody gave or that were derived, each with its origin."""
    for name, declared in DECLARED_BY_NAME.items():
        origin = settings.origins[name]
        if origin.text is not None:
            yield f"  {declared.shown}={on_one_line(origin.text)} ({origin})"
        elif resolved and name in resolved.derived:
            value = getattr(resolved.intent, name)
            yield f"  {declared.shown}={','.join(map(str, value))} ({resolved.derived[name]})"


def flag_of(name: str, settings: Settings, resolved: Resolved) -> str:
    """Which flag or variable a rule goes back to."""
    origin = resolved.derived.get(name, settings.origins[name])
    file = f", from {on_one_line(origin.file)}" if origin.file else ""
    return f"{DECLARED_BY_NAME[name].shown}, {origin if origin.kind != 'default' else 'by default'}{file}"
