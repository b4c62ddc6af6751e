"""What a host remembers of destinations, and to whom it shows it."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from avec.communication.tls import Trust
from avec.config import Settings
from avec.errors import ConfigurationError
from avec.host.credentials import Credentials, Login, credentials_for, keep_login, logins_path

URL = "tls://box:7700"
FINGERPRINT = "sha256:" + "ab" * 32
TOKEN = "t" * 43


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    return replace(settings, secrets_dir=tmp_path / "secrets")


def test_a_login_is_kept_for_its_destination_alone_and_its_owner_alone(own: Settings) -> None:
    path = keep_login(URL, Login(FINGERPRINT, TOKEN), own)
    assert credentials_for(URL, own) == Credentials(Trust(FINGERPRINT), TOKEN)
    assert credentials_for("tls://box:7701", own) == Credentials(None, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_login_takes_the_place_of_the_first_and_others_stay(own: Settings) -> None:
    keep_login(URL, Login(FINGERPRINT, TOKEN), own)
    keep_login("tls://other:1", Login(FINGERPRINT, "o" * 43), own)
    keep_login(URL, Login(FINGERPRINT, "n" * 43), own)
    assert credentials_for(URL, own).token == "n" * 43
    assert credentials_for("tls://other:1", own).token == "o" * 43


def test_logins_that_others_can_read_are_not_used(own: Settings) -> None:
    keep_login(URL, Login(FINGERPRINT, TOKEN), own)
    logins_path(own).chmod(0o644)
    with pytest.raises(ConfigurationError, match="others can read the secrets in .*logins.json"):
        credentials_for(URL, own)


def test_settings_come_before_the_login(own: Settings) -> None:
    keep_login(URL, Login(FINGERPRINT, TOKEN), own)
    other = replace(own, token="s" * 43, fingerprint="sha256:" + "cd" * 32)
    assert credentials_for(URL, other) == Credentials(Trust("sha256:" + "cd" * 32), "s" * 43)


def test_a_token_is_never_sent_where_it_could_be_read(own: Settings) -> None:
    keep_login("tcp://box:7700", Login("", TOKEN), own)
    assert credentials_for("tcp://box:7700", replace(own, token=TOKEN)) == Credentials(None, "")
    assert credentials_for("tcp://127.0.0.1:1", replace(own, token=TOKEN)).token == TOKEN


def test_a_file_of_logins_that_is_none_is_refused_by_name(own: Settings) -> None:
    keep_login(URL, Login(FINGERPRINT, TOKEN), own)
    logins_path(own).write_text("[]")
    with pytest.raises(ConfigurationError, match="cannot read the logins in .*logins.json"):
        credentials_for(URL, own)
