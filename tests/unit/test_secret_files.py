"""Secrets that are made once and kept: nobody else reads them, none is ever replaced, and two that begin at once get the same."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.ledger.sealing import Keyring
from gateway.secret_files import CODE_SECRET_FILE, LEDGER_SECRET_FILE, code_secret, keyring
from gateway.settings import Settings, SettingsError, load_settings
from gateway.settings_sections import SHORTEST_SECRET

GIVEN = "given by the operator, long enough"


def public_key(ring: Keyring) -> bytes:
    return ring.signer.public_key().public_bytes_raw()


def signer_of(settings: Settings) -> bytes:
    return public_key(keyring(settings))


Load = Callable[[str], Settings]
KINDS = pytest.mark.parametrize(
    ("read", "name", "section", "key"),
    [(code_secret, CODE_SECRET_FILE, "sms", "code_secret"), (signer_of, LEDGER_SECRET_FILE, "ledger", "secret")],
    ids=["code", "ledger"],
)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str = "") -> Settings:
        file = tmp_path / "gateway.toml"
        file.write_text(f'data_dir = "{tmp_path / "data"}"\n{text}\n')
        return load_settings(file)

    return load


@KINDS
class TestOneThatIsKept:
    def test_it_is_made_once(
        self, load: Load, read: Callable[[Settings], bytes], name: str, section: str, key: str
    ) -> None:
        first = read(load(""))
        assert first == read(load(""))
        (file,) = list((load("").data_dir).iterdir())
        assert (name, 0o600) == (file.name, stat.S_IMODE(file.stat().st_mode))
        assert len(file.read_bytes()) >= 43, "256 bits as base64"

    def test_each_gateway_has_its_own(
        self, load: Load, read: Callable[[Settings], bytes], name: str, section: str, key: str
    ) -> None:
        settings = load("")
        first = read(settings)
        (settings.data_dir / name).rename(settings.data_dir / "away")
        assert first != read(settings)

    def test_the_operator_may_give_it_and_then_none_is_made(
        self, load: Load, read: Callable[[Settings], bytes], name: str, section: str, key: str
    ) -> None:
        settings = load(f'[{section}]\n{key} = "{GIVEN}"')
        assert read(settings) in (GIVEN.encode(), public_key(Keyring(GIVEN.encode())))
        assert not (settings.data_dir / name).exists()

    @pytest.mark.parametrize("octets", [0, 1, SHORTEST_SECRET - 1])
    def test_a_file_that_holds_none_is_not_replaced(
        self, load: Load, read: Callable[[Settings], bytes], name: str, section: str, key: str, octets: int
    ) -> None:
        """A full disk may have left it; the true one may be in a backup."""
        settings = load("")
        settings.data_dir.mkdir()
        file = settings.data_dir / name
        file.write_bytes(b"x" * octets)
        with pytest.raises(SettingsError, match=rf"{name}: holds {octets} octets, no secret; put it back or remove it"):
            read(settings)
        assert b"x" * octets == file.read_bytes()

    def test_of_many_that_begin_at_once_all_get_the_same_and_no_draft_is_left(
        self, load: Load, read: Callable[[Settings], bytes], name: str, section: str, key: str
    ) -> None:
        settings = load("")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: read(settings), range(32)))
        assert 1 == len(set(found))
        assert [name] == [file.name for file in settings.data_dir.iterdir()]


def test_the_two_are_never_the_same(load: Load) -> None:
    settings = load("")
    assert public_key(Keyring(code_secret(settings))) != signer_of(settings)
