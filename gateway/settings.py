"""Every setting, its default and what it means. One TOML file; unknown keys are an error.

``consent-gateway config`` prints this as a commented TOML file. Secrets may come from the environment instead:
``CONSENT_GATEWAY__SMS__CODE_SECRET=...`` (a double underscore for each level).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import phonenumbers
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as UnreadableSource

from gateway.consent.order import Identifier, Language
from gateway.settings_sections import (
    Api,
    DatabaseSettings,
    Ledger,
    LineSettings,
    Media,
    OptionalPath,
    PolicySettings,
    Provisioning,
    Recordings,
    Sip,
    Sms,
    Softphone,
    Speech,
    Tenant,
)
from gateway.speech.models import ModelSource

ENVIRONMENT = "CONSENT_GATEWAY"
DEFAULT_FILE = "gateway.toml"
SHORTEST_SESSION_S = 90


class SettingsError(Exception):
    """The settings cannot be used; one line a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=f"{ENVIRONMENT}__", env_nested_delimiter="__"
    )

    operator: str = Field("Consent Gateway", description="who calls, as prompts and messages say it")
    gateway: Identifier = Field("gateway-1", description="this gateway's own name; unique among those on one database")
    data_dir: Path = Field(Path("var"), description="recordings, prompts, secrets")
    dialplans: OptionalPath = Field(None, description="folder of call scripts; empty: those of the package")
    prompts: OptionalPath = Field(None, description="folder of language packs; empty: those of the package")
    drain_s: float = Field(60.0, ge=0, le=3600, description="how long running calls may go on after SIGTERM")
    transfer: dict[str, str] = Field(default_factory=dict, description="people to hand calls to: agents = 'sip:...'")
    sip: Sip = Sip()
    media: Media = Media()
    softphones: tuple[Softphone, ...] = ()
    lines: tuple[LineSettings, ...] = ()
    speech: Speech = Speech()
    sms: Sms = Sms()
    tenants: tuple[Tenant, ...] = ()
    provisioning: Provisioning = Provisioning()
    api: Api = Api()
    ledger: Ledger = Ledger()
    recordings: Recordings = Recordings()
    database: DatabaseSettings = DatabaseSettings()
    policy: PolicySettings = PolicySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings calls by name
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment beats the file; nothing else is read."""
        toml = TomlConfigSettingsSource(settings_cls, _file_now)
        return env_settings, toml

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for kind, names in (("tenants", [t.id for t in self.tenants]), ("lines", [line.name for line in self.lines])):
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: two of the same name")
        if len({tenant.api_key for tenant in self.tenants}) != len(self.tenants):
            raise ValueError("tenants: two with the same api_key; whose orders they place could not be told")
        if self.sip.tls_verify_clients and not self.sip.tls_ca:
            raise ValueError("sip.tls_verify_clients needs sip.tls_ca, by which to verify them")
        if 0 < self.sip.session_s < SHORTEST_SESSION_S:
            raise ValueError(
                f"sip.session_s: {self.sip.session_s} is too brief (RFC 4028): {SHORTEST_SESSION_S} or more, or 0"
            )
        if not phonenumbers.country_code_for_region(self.sip.default_region):
            raise ValueError(f"sip.default_region: {self.sip.default_region!r} is no country, such as KR")
        if self.sip.tls_bind and not (self.sip.tls_certificate and self.sip.tls_key):
            raise ValueError("sip.tls_bind needs sip.tls_certificate and sip.tls_key")
        secure = [line.name for line in self.lines if "tls" in (line.transport, *(p.transport for p in line.peers))]
        if secure and not self.sip.tls_bind:
            raise ValueError(f"lines.{secure[0]}: transport tls needs sip.tls_bind with its certificate")
        if self.sms.line and self.sms.line not in [line.name for line in self.lines]:
            raise ValueError(f"sms.line: there is no line {self.sms.line!r}")
        return self

    @property
    def recordings_folder(self) -> Path:
        return self.data_dir / "recordings"

    def model_source(self, language: Language) -> ModelSource | None:
        spec = self.speech.models.get(language)
        return ModelSource(spec) if spec else None


_file_now: Path | None = None


def find_file(given: Path | None) -> Path | None:
    """*given*, else ``$CONSENT_GATEWAY_CONFIG``, else ``gateway.toml`` here, else none."""
    if given is not None:
        return given
    named = os.environ.get(f"{ENVIRONMENT}_CONFIG")
    if named:
        return Path(named)
    here = Path(DEFAULT_FILE)
    return here if here.exists() else None


def load_settings(file: Path | None) -> Settings:
    """The settings in *file* and the environment. Raises SettingsError with every fault and its path."""
    strange = _strange_environment()
    if strange:
        raise SettingsError(strange)
    global _file_now  # noqa: PLW0603 - pydantic-settings builds its sources in a class method
    if file is not None and not file.is_file():
        raise SettingsError([f"{file}: no such file; print one with: consent-gateway config > {file}"])
    _file_now = file
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError([_fault(file, e) for e in error.errors(include_url=False)]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{file}: not TOML: {error}"]) from error
    except OSError as error:
        raise SettingsError([f"{file}: {error.strerror}"]) from error
    except UnreadableSource as error:
        raise SettingsError([f"environment: {error}: {error.__cause__}"]) from error


def _strange_environment() -> list[str]:
    """Variables with our prefix that name no setting: pydantic-settings would pass them over."""
    prefix = f"{ENVIRONMENT}__"
    names = [name for name in os.environ if name.startswith(prefix)]
    return [
        f"environment: {name}: unknown key; `consent-gateway config` prints all that are known"
        for name in names
        if name.removeprefix(prefix).lower().split("__", maxsplit=1)[0] not in Settings.model_fields
    ]


def _fault(file: Path | None, error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{file or 'environment'}: {path}: unknown key; `consent-gateway config` prints all that are known"
    return f"{file or 'settings'}: {path}: {error['msg'].removeprefix('Value error, ')}"
