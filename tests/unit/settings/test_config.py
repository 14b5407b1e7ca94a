"""Settings in a file: what it may say, what wins over it, and that what is printed as one means the same."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.config.names import ISTIO, KUMA, LINKERD, why_unknown
from capture.config.writing import yaml_lines
from capture.errors import BadSettings
from capture.intent.listing import filed
from capture.settings.argv import read_argv
from capture.settings.declared import DECLARED, FILED, FLAGS, SWITCHES, Declaration, Settings
from capture.settings.model import config_schema, plain
from tests.rig.chance import share
from tests.unit.settings.test_settings import fits

if TYPE_CHECKING:
    from pathlib import Path

texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="0123456789,-:. */abcdefxmshtT+_", max_size=12),
    st.sampled_from(("", "*", "80", "22:33", "80-90,8080", "10.0.0.0/8,::/0", "true", "5s", "1m30.123456789s", "017")),
    st.sampled_from(
        ("TPROXY", "root,5", "eth0", "0x10", "on", "443=reject", "tcp:80,443:5;6", "a: b # c", "~", "'\"\\")
    ),
)


def loaded(tmp_path: Path, text: str, *argv: str, name: str = "some.yaml", **environ: str) -> Settings:
    """The settings that a file of this text gives, beside a command line and variables."""
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return Settings.load(["--config", str(file), *argv], environ)


def refused(tmp_path: Path, text: str, name: str = "some.yaml") -> list[str]:
    with pytest.raises(BadSettings) as error:
        loaded(tmp_path, text, name=name)
    assert error.value.exit_status == 2
    return [str(refusal).removeprefix(f"file {tmp_path}/{name}") for refusal in error.value.refusals]


def test_a_flag_wins_over_a_variable_that_over_the_file_that_over_the_default(tmp_path: Path) -> None:
    """Each setting remembers which it was."""
    text = "proxy_port: 1\ninbound_capture_port: 2\ninbound_tunnel_port: 3\n"
    found = loaded(tmp_path, text, "-p", "11", ENVOY_PORT="21", INBOUND_CAPTURE_PORT="22")
    assert (found.proxy_port, found.inbound_capture_port, found.inbound_tunnel_port) == (11, 22, 3)
    assert str(found.origins["inbound_tunnel_port"]) == f"file {tmp_path}/some.yaml: inbound_tunnel_port"
    assert found.origins["proxy_port"].kind == "flag"
    assert found.origins["inbound_capture_port"].kind == "environment"
    assert found.origins["proxy_uid"].kind == "default"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    """CAPTURE_CONFIG, as every setting has one; and a removal that is meant there is one."""
    (tmp_path / "it.json").write_text('{"cleanup_only": true, "proxy_port": "rubbish that a removal does not read"}')
    assert Settings.load([], {"CAPTURE_CONFIG": f"{tmp_path}/it.json"}).cleanup_only


@pytest.mark.parametrize("kind", ["yaml", "json"])
@settings(deadline=None, max_examples=share(800))
@given(said=st.dictionaries(st.sampled_from(FILED), texts, max_size=5))
def test_what_is_written_as_a_file_means_the_same(
    kind: str, said: dict[Declaration, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every setting, whatever its text: `settings --output yaml`, and its values as JSON, give equal settings."""
    argv, environ = [], {}
    for setting, text in said.items():
        try:
            setting.read(text)
        except ValueError:
            continue
        if setting.long:
            argv.append(f"{setting.long}={text}")
        else:
            environ[setting.env[0]] = text
    arguments, unreadable = read_argv(argv, FLAGS, switches=SWITCHES)
    first = Settings.from_arguments(arguments, unreadable, environ, frozenset(setting.name for setting in FILED))
    entries = list(filed(first))
    if kind == "json":
        text = json.dumps({name: value for name, value, _ in entries})
        assert all(fits(config_schema()["properties"][name], value) for name, value, _ in entries)
    else:
        text = "\n".join(yaml_lines(entries))
    again = loaded(tmp_path_factory.mktemp("config"), text, "--cleanup-only=false", name=f"it.{kind}")
    for setting in FILED:
        if setting.name != "cleanup_only":
            assert getattr(again, setting.name) == getattr(first, setting.name), setting.name


@pytest.mark.parametrize("setting", FILED, ids=lambda setting: setting.name)
def test_every_default_can_be_said(setting: Declaration, tmp_path: Path) -> None:
    """Each setting by the name in the schema, in both notations."""
    if setting.name in ("cleanup_only", "envoy_user"):
        return
    value = plain(setting.default)
    for name, text in (
        ("it.json", json.dumps({setting.name: value})),
        (
            "it.yaml",
            "\n".join(yaml_lines([(setting.name, value, "said")])) if value is not None else setting.name + ":",
        ),
    ):
        assert getattr(loaded(tmp_path, text, name=name), setting.name) == setting.default


def test_yaml_is_no_trap(tmp_path: Path) -> None:
    """Words that YAML takes for truth, octal numbers, minutes or nothing are what the flag would be given."""
    text = "ipv6: on\noutbound_ports_exclude: 22:33\ntproxy_mark: 0x539\ninbound_ports: *\n".replace("*", '"*"')
    found = loaded(tmp_path, text + "proxy_uid: 0100\ndrop_invalid:\nprobe_timeout: 2\n")
    assert (found.ipv6, str(found.outbound_ports_exclude[0]), found.tproxy_mark) == ("on", "22:33", 0x539)
    assert (found.proxy_uid, found.drop_invalid, found.probe_timeout) == ((100,), False, 2.0)
    assert found.origins["drop_invalid"].kind == "default"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("proxy_prot: 1", ' "proxy_prot": is not known; did you mean proxy_port?'),
        ("proxyPort: 1", ' "proxyPort": is not known; did you mean proxy_port?'),
        ("-x: 1", ' "-x": is the name of a flag; in a file it is outbound_cidrs_exclude'),
        ("proxy-uid: 1", ' "proxy-uid": is the name of a flag; in a file it is proxy_uid'),
        ("ISTIO_SERVICE_CIDR: 1", ' "ISTIO_SERVICE_CIDR": is the name of a variable; in a file it is outbound_cidrs'),
        ("kumaDPUser: 5678", ' "kumaDPUser": is Kuma\'s name; here it is proxy_uid'),
        (
            "redirect: {dns: {captureAll: true}}",
            ' "redirect.dns.captureAll": is Kuma\'s name; here it is capture_all_dns',
        ),
        ("ebpf: {enabled: true}", ' "ebpf.enabled": is Kuma\'s, and there is no setting for it here'),
        (
            "traffic.sidecar.istio.io/excludeOutboundIPRanges: 1.2.3.4/32",
            ' "traffic.sidecar.istio.io/excludeOutboundIPRanges": is Istio\'s name; here it is outbound_cidrs_exclude',
        ),
        (
            "global: {proxy: {includeIPRanges: x}}",
            ' "global.proxy.includeIPRanges": is Istio\'s name; here it is outbound_cidrs',
        ),
        ("OUTBOUND_PORTS_INCLUDE: 1", ' "OUTBOUND_PORTS_INCLUDE": is Istio\'s name; here it is outbound_ports'),
        ("config: x", ' "config": is not known; '),
        ("proxy_port: 1\nproxy_port: 1", ' "proxy_port": stands there twice'),
        ("proxy_port: [1, 2]", ' "proxy_port": is a list, and takes one value'),
        ("proxy_uid: {a: 1}", ' "proxy_uid": has names below it; give a text, a number or a list'),
        ("proxy_uid: [[1]]", ' "proxy_uid": holds what is no text; give texts or numbers'),
        ("redirect_dns: yes", ': redirect_dns "yes": is neither true nor false; give true, false, 1 or 0'),
        ("proxy_port: 70000", ': proxy_port "70000": is not a port; give a number from 1 to 65535'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_may_be(tmp_path: Path, text: str, wanted: str) -> None:
    """The name, where it stands, and the nearest one, also where another tool calls it so."""
    (refusal,) = refused(tmp_path, text)
    assert refusal.startswith(wanted)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Names and values."""
    assert len(refused(tmp_path, "a: 1\nb: {c: 1, d: 2}\nproxy_port: 0\nproxy_uid: -1\n")) == 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "holds no names of settings"),
        ("a: [", "is no YAML: line"),
        ('{"a": 1', "is no YAML: line"),
        ("&a [*a]", "holds an alias of what it stands in"),
        ("&a {proxy_uid: *a}", "holds an alias of what it stands in"),
        ("a: 1\n---\nb: 1", "is no YAML: line"),
        ("? [a]\n: b", "a name is a word"),
        ("\t: 1", "is no YAML"),
        ("a: \x01", "is no YAML"),
        ("[" * 5000, ""),
    ],
    ids=range(10),
)
def test_what_is_no_file_of_settings_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """With the line, and never with a traceback."""
    (refusal,) = refused(tmp_path, text)
    assert why in refusal
    assert refusal.startswith("flag --config")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1', "is no JSON: line 1, column 8"),
        ('{"proxy_port": NaN}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {"b": 1}, "a": 2}', ""),
    ],
)
def test_json_is_read_strictly(tmp_path: Path, text: str, why: str) -> None:
    """What is no JSON, and names that stand there twice."""
    assert any(why in refusal for refusal in refused(tmp_path, text, name="it.json"))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A file that is not there, a folder, bytes that are no UTF-8, and a device that never ends."""
    (tmp_path / "latin").write_bytes(b"log_target: \xe4")
    for path, why in (
        (f"{tmp_path}/none", "No such file"),
        (f"{tmp_path}", "Is a directory"),
        (f"{tmp_path}/latin", "is not UTF-8: byte 13"),
        ("/dev/zero", "is larger than 64 MiB"),
    ):
        with pytest.raises(BadSettings, match=why):
            Settings.load([f"--config={path}"], {})


def test_json_needs_no_yaml_and_yaml_says_what_it_needs(tmp_path: Path) -> None:
    """Where PyYAML is not installed."""
    (tmp_path / "yaml.py").write_text("raise ImportError")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from capture.config.given import given\n"
    program += "from capture.settings.declared import FILED\nprint(given(sys.argv[1], 'flag --config', FILED)[0])\n"
    program += "print(*given(sys.argv[2], 'flag --config', FILED)[1])"
    (tmp_path / "it").write_text(' {"proxy_port": 5}')
    (tmp_path / "other").write_text("proxy_port: 5")
    words = [sys.executable, "-c", program, f"{tmp_path}/it", f"{tmp_path}/other"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[0] == "{'proxy_port': '5'}"
    assert "takes PyYAML (pip install 'traffic-capture[yaml]')" in said[1]


@pytest.mark.parametrize(("tool", "table"), [("Kuma", KUMA), ("Istio", ISTIO), ("Linkerd", LINKERD)])
def test_the_names_of_others_lead_to_settings(tool: str, table: dict[str, str]) -> None:
    """Every name in the tables, if it is none of ours by chance, is told with one of our settings."""
    known = {setting.name for setting in DECLARED}
    for ours, words in table.items():
        assert ours in known | {""}
        for word in words.split():
            said = why_unknown(word, FILED)
            assert (ours or "no setting for it") in said, (tool, word, said)


def test_who_names_no_file_pays_for_none() -> None:
    """The init path loads neither YAML nor JSON nor our reading of files, unless --config is given."""
    program = "import sys\nfrom capture.settings.declared import Settings\nSettings.load(['-u', '5'], {})\n"
    program += "print([name for name in sys.modules if name.split('.')[0] in ('yaml', 'json') or 'config' in name])"
    said = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout == "[]\n"
