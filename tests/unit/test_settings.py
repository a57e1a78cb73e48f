"""Settings: one TOML file, every key known, every fault named by its path."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway.consent.order import Policy
from gateway.settings import ENVIRONMENT, Settings, SettingsError, find_file, load_settings
from gateway.settings_file import _model_in, commented_toml
from gateway.settings_sections import split_host_port

TENANT = """
[[tenants]]
id = "billing"
api_key = "a-key-of-at-least-twenty-four-octets"
webhook_url = "http://127.0.0.1:9000/hook"
webhook_secret = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
"""
LINE = """
[[lines]]
name = "trunk"
host = "192.0.2.1"
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def from_text(text: str) -> Settings:
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path)

    return from_text


@pytest.fixture
def faults(load: Any) -> Any:
    def of(text: str) -> list[str]:
        with pytest.raises(SettingsError) as refused:
            load(text)
        return [fault.partition("my.toml: ")[2] for fault in refused.value.faults]

    return of


class TestLoading:
    def test_nothing_needs_to_be_set(self) -> None:
        assert Settings.model_fields["operator"].default == load_settings(None).operator

    def test_the_default_policy_is_the_strict_one(self) -> None:
        assert Policy() == load_settings(None).policy.policy()

    def test_the_file_is_read(self, load: Any) -> None:
        settings = load('operator = "Acme"\n[sip]\nmost_calls = 7\n' + TENANT + LINE)
        assert ("Acme", 7, "billing", "trunk") == (
            settings.operator, settings.sip.most_calls, settings.tenants[0].id, settings.lines[0].name,
        )  # fmt: skip

    def test_one_file_leaves_nothing_behind_for_the_next(self, load: Any) -> None:
        load('operator = "Acme"')
        assert "Consent Gateway" == load_settings(None).operator

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_settings(None).operator = "Other"  # type: ignore[misc]

    def test_secrets_are_not_shown(self, load: Any) -> None:
        assert "twenty-four-octets" not in repr(load(TENANT))

    @pytest.mark.parametrize("key", ["dialplans", "prompts"])
    def test_an_empty_folder_is_the_package_own(self, load: Any, key: str) -> None:
        assert None is getattr(load(f'{key} = ""'), key)

    def test_an_empty_database_directory_is_the_usual_place(self, load: Any) -> None:
        assert None is load('[database]\ndirectory = ""').database.directory


class TestTheEnvironment:
    def test_it_beats_the_file(self, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY__SMS__CODE_SECRET", "from-the-environment-itself")
        settings = load('[sms]\ncode_secret = "from-the-file-as-it-stands"\nchannel = "sip"')
        assert ("from-the-environment-itself", "sip") == (
            settings.sms.code_secret.get_secret_value(),
            settings.sms.channel,
        )

    def test_a_number_is_read_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY__POLICY__CODE_TRIES", "5")
        assert 5 == load_settings(None).policy.code_tries

    def test_an_unknown_key_in_a_section_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY__SMS__COLOUR", "red")
        with pytest.raises(SettingsError, match=r"environment: sms\.colour: unknown key"):
            load_settings(None)

    def test_a_bad_value_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY__API__BIND", "nowhere")
        with pytest.raises(SettingsError, match=r"api\.bind: 'nowhere' is not HOST:PORT"):
            load_settings(None)

    def test_a_list_that_is_no_json_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY__TENANTS", "billing")
        with pytest.raises(SettingsError, match=r"environment: .*tenants"):
            load_settings(None)


class TestFaults:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("colour", "colour = 'red'"),
            ("sip.colour", "[sip]\ncolour = 'red'"),
            ("sms.http.colour", "[sms.http]\nurl = 'http://x'\ncolour = 'red'"),
            ("tenants.0.colour", TENANT + "colour = 'red'"),
            ("lines.0.colour", LINE + "colour = 'red'"),
            ("lines.0.register_here", LINE + "register_here = true"),
        ],
    )
    def test_an_unknown_key_is_named_by_its_path(self, faults: Any, path: str, text: str) -> None:
        (fault,) = faults(text)
        assert fault.startswith(f"{path}: unknown key")

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("sip.bind", "[sip]\nbind = '5060'"),
            ("sip.bind", "[sip]\nbind = '0.0.0.0:65536'"),
            ("sip.bind", "[sip]\nbind = ':5060'"),
            ("sip.most_calls", "[sip]\nmost_calls = 0"),
            ("media.ports", "[media]\nports = '20000'"),
            ("media.ports", "[media]\nports = '20000-10000'"),
            ("media.ports", "[media]\nports = '80-10000'"),
            ("gateway", "gateway = 'no spaces'"),
            ("drain_s", "drain_s = -1"),
            ("speech.models.fr.[key]", "[speech.models]\nfr = 'x'"),
            ("sms", "[sms]\nchannel = 'http'"),
            ("sms.channel", "[sms]\nchannel = 'pigeon'"),
            ("sms", "[sms]\ncode_secret = 'short'"),
            ("sms.http.url", "[sms]\nchannel = 'http'\n[sms.http]\nencoding = 'json'"),
            ("tenants.0.api_key", TENANT.replace("a-key-of-at-least-twenty-four-octets", "short")),
            ("tenants.0.webhook_url", "[[tenants]]\nid = 'b'\napi_key = '" + "k" * 24 + "'\nwebhook_secret = 'whsec_'"),
            ("lines.0", LINE + "register = true"),
            ("lines.0", LINE + "dial = '{nummer}'"),
            ("lines.0", LINE + "dial = '{}'"),
            ("lines.0", LINE + "dial = '{number'"),
            ("lines.0.port", LINE + "port = -1"),
            ("lines.0.port", LINE + "port = 65536"),
            ("lines.0.transport", LINE + "transport = 'sctp'"),
            ("lines.0.peers.0.weight", LINE + "[[lines.peers]]\nhost = 'b'\nweight = -1"),
            ("lines.0.most_calls", LINE + "most_calls = 0"),
            ("policy.code_tries", "[policy]\ncode_tries = 0"),
            ("policy.code_ttl_s", "[policy]\ncode_ttl_s = 1"),
            ("policy.code_ttl_s", "[policy]\ncode_ttl_s = nan"),
            ("policy.call_retry_s", "[policy]\ncall_retry_s = inf"),
        ],
    )
    def test_a_bad_value_is_named_by_its_path(self, faults: Any, path: str, text: str) -> None:
        assert [path] == [fault.partition(": ")[0] for fault in faults(text)]

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ("tenants: two of the same name", TENANT + TENANT),
            ("sip.tls_bind needs sip.tls_certificate and sip.tls_key", "[sip]\ntls_bind = '0.0.0.0:5061'"),
            ("lines.trunk: transport tls needs sip.tls_bind", LINE + "transport = 'tls'"),
            ("lines.trunk: transport tls needs sip.tls_bind", LINE + "[[lines.peers]]\nhost = 'b'\ntransport = 'tls'"),
            ("tenants: two with the same api_key", TENANT + TENANT.replace('"billing"', '"other"')),
            ("lines: two of the same name", LINE + LINE),
            ("sms.line: there is no line 'trunk'", "[sms]\nline = 'trunk'"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, faults: Any, message: str, text: str) -> None:
        (fault,) = faults(text)
        assert message in fault

    def test_every_fault_is_told_at_once(self, faults: Any) -> None:
        assert 3 == len(faults("colour = 'red'\n[sip]\nbind = 'x'\nmost_calls = 0"))

    def test_a_fault_never_shows_a_secret(self, faults: Any) -> None:
        assert not any("my-dear-secret" in fault for fault in faults("[sms]\ncode_secret = 'my-dear-secret'"))

    def test_a_missing_file_is_named_with_its_mend(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"no\.toml: no such file; print one with: consent-gateway config"):
            load_settings(tmp_path / "no.toml")

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="no such file"):
            load_settings(tmp_path)

    @pytest.mark.parametrize("content", [b"operator = ", b"\xff\xfe"])
    def test_what_is_no_toml_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "my.toml").write_bytes(content)
        with pytest.raises(SettingsError, match=r"my\.toml: not TOML: "):
            load_settings(tmp_path / "my.toml")


class TestFindingTheFile:
    def test_the_one_given_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONSENT_GATEWAY_CONFIG", "named.toml")
        assert Path("given.toml") == find_file(Path("given.toml"))

    def test_then_the_one_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("gateway.toml").touch()
        monkeypatch.setenv("CONSENT_GATEWAY_CONFIG", "named.toml")
        assert Path("named.toml") == find_file(None)

    def test_then_the_one_here(self) -> None:
        Path("gateway.toml").touch()
        assert Path("gateway.toml") == find_file(None)

    def test_else_none(self) -> None:
        assert None is find_file(None)


@pytest.mark.parametrize(
    ("expected", "text"), [(("0.0.0.0", 5060), "0.0.0.0:5060"), (("::1", 5060), "[::1]:5060"), (("host", 0), "host:0")]
)
def test_host_and_port_are_parted(expected: tuple[str, int], text: str) -> None:
    assert expected == split_host_port(text)


def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        inner, _ = _model_in(field.annotation)
        if inner is None:
            yield key
        else:
            yield from paths(inner, f"{key}.")


def uncommented() -> str:
    """Every key and table of the printed file switched on; its prose stays a comment."""
    return re.sub(r"^#(?! )", "", commented_toml(), flags=re.MULTILINE)


FILLED = {
    'number = ""': 'number = "+821012345678"',
    'name = ""': 'name = "trunk"',
    'id = ""': 'id = "billing"',
    'api_key = ""': 'api_key = "a-key-of-at-least-twenty-four-octets"',
}


class TestThePrintedFile:
    def test_it_is_toml_that_sets_nothing(self) -> None:
        found = tomllib.loads(commented_toml())
        assert all(section == {} for section in found.values())

    def test_it_loads_as_it_is(self, load: Any) -> None:
        assert load_settings(None) == load(commented_toml())

    def test_it_names_every_key(self) -> None:
        def flatten(value: Any, prefix: str, known: set[str]) -> Iterator[str]:
            for key, inner in value.items():
                if prefix + key in known:
                    yield prefix + key
                else:
                    yield from flatten(inner[0] if isinstance(inner, list) else inner, f"{prefix}{key}.", known)

        expected = set(paths(Settings))
        assert expected == set(flatten(tomllib.loads(uncommented()), "", expected))

    def test_with_everything_switched_on_and_the_blanks_filled_it_sets_the_defaults(self, load: Any) -> None:
        text = uncommented()
        for blank, value in FILLED.items():
            assert f"\n{blank}\n" in text
            text = text.replace(f"\n{blank}\n", f"\n{value}\n")
        settings = load(text)
        lists = {"softphones", "lines", "tenants", "sms"}
        assert load_settings(None).model_dump(exclude=lists) == settings.model_dump(exclude=lists)
        assert load_settings(None).sms.model_dump(exclude={"http"}) == settings.sms.model_dump(exclude={"http"})
        assert [1, 1, 1] == [len(settings.softphones), len(settings.lines), len(settings.tenants)]

    def test_every_key_has_its_meaning_beside_it_or_in_its_name(self) -> None:
        lines = commented_toml().splitlines()
        bare = [line for before, line in pairwise(lines) if re.match(r"#\w+ = ", line) and not before.startswith("# ")]
        assert ["#name", "#host", "#host", "#transport", "#encoding", "#id"] == [
            line.partition(" ")[0] for line in bare
        ]
