"""Who is let in: users, tokens, failures, and what is asked at which address."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from avec import config
from avec.config import Settings
from avec.destination import admission
from avec.destination.admission import Access
from avec.destination.users import TOKEN_LIMIT, Users
from avec.errors import AuthenticationFailed, ConfigurationError, DestinationError

ANY = "tls://0.0.0.0:7700"


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path / "users.json")


@pytest.fixture
def serve_settings(tmp_path: Path) -> Settings:
    return replace(config.Settings(), secrets_dir=tmp_path / "secrets", cache_dir=tmp_path / "cache")


def by_token(users: Users | None) -> Access:
    """What a destination asks that asks for tokens."""
    return Access(None, "", users, False, "")


def test_a_token_is_its_users_and_nobody_elses(users: Users) -> None:
    tokens = {name: users.add(name) for name in ("ann", "bob")}
    assert {name: (users.with_token(token) or pytest.fail()).name for name, token in tokens.items()} == {
        "ann": "ann",
        "bob": "bob",
    }
    assert users.with_token(tokens["ann"][:-1]) is None
    assert users.with_token("") is None


def test_no_token_is_written_anywhere(users: Users) -> None:
    token = users.add("ann")
    assert len(token) >= 43, "256 bits"
    assert token.encode() not in users.path.read_bytes()
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600


def test_a_token_that_is_too_long_is_none_though_it_begins_like_one(users: Users) -> None:
    assert users.with_token(users.add("ann") + "x" * TOKEN_LIMIT) is None


def test_a_revoked_or_renewed_token_holds_no_longer_in_a_destination_that_runs(users: Users) -> None:
    running = Users(users.path)  # another process's
    first = users.add("ann")
    assert running.with_token(first) is not None
    second = users.add("ann")
    assert running.with_token(first) is None
    assert running.with_token(second) is not None
    users.revoke("ann")
    assert running.with_token(second) is None


def test_nobody_unknown_can_be_revoked(users: Users) -> None:
    users.add("ann")
    with pytest.raises(ConfigurationError, match="there is no user 'bob' in .*; there is ann"):
        users.revoke("bob")


@pytest.mark.parametrize("name", ["", "../etc", "a/b", "A", ".hidden", "x" * 33, "a\n", "ä"])
def test_a_name_that_a_folder_could_not_have_is_refused(users: Users, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no user's name"):
        users.add(name)
    assert not users.path.exists()


def test_a_users_file_that_others_can_read_lets_nobody_in(users: Users) -> None:
    token = users.add("ann")
    users.path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others can read the secrets"):
        Users(users.path).with_token(token)


@pytest.mark.parametrize("content", [b"{}", b"[", b'[{"name": "ann", "token_sha256": 1, "created_s": 0}]'])
def test_a_users_file_that_is_none_is_refused_by_name(users: Users, content: bytes) -> None:
    users.path.write_bytes(content)
    users.path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="cannot read the users in .*users.json"):
        users.all()


def test_what_is_wrong_with_the_users_file_is_not_told_to_strangers(users: Users) -> None:
    token = users.add("ann")
    access = by_token(users)
    users.path.chmod(0o644)
    with pytest.raises(DestinationError, match="cannot look up its users") as caught:
        access.admit(token, [])
    assert str(users.path) not in str(caught.value)


def test_where_nobody_is_asked_everybody_is_let_in_as_nobody() -> None:
    assert by_token(None).admit("whatever", []) is None


def test_a_wrong_token_and_none_are_refused_with_the_same_words(users: Users) -> None:
    users.add("ann")
    access = by_token(users)
    said = set()
    for token in ("", "wrong", "x" * 5000):
        with pytest.raises(AuthenticationFailed, match="ask its administrator for an `avec login` line") as caught:
            access.admit(token, [])
        said.add(str(caught.value))
    assert len(said) == 1


def test_loopback_asks_for_nothing(serve_settings: Settings) -> None:
    access = admission.prepare("tcp://127.0.0.1:7700", serve_settings)
    assert (access.users, access.context, access.invitation("tcp://127.0.0.1:7700")) == (None, None, "")
    assert not serve_settings.secrets_dir.exists()


def test_localhost_is_loopback_by_its_name(serve_settings: Settings) -> None:
    assert admission.prepare("tcp://localhost:7700", serve_settings).users is None


@pytest.mark.parametrize("url", ["tcp://0.0.0.0:7700", "tcp://192.0.2.1:7700", "tcp://[::]:7700", "tcp://box:7700"])
def test_a_plain_address_that_others_reach_is_refused_with_what_to_say(serve_settings: Settings, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--listen tls://.*--insecure if every machine"):
        admission.prepare(url, serve_settings)
    assert admission.prepare(url, replace(serve_settings, insecure=True)).users is None


def test_a_token_over_a_plain_connection_that_others_can_read_is_refused(serve_settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="could be read on its way"):
        admission.prepare("tcp://0.0.0.0:1", replace(serve_settings, insecure=True, require_token=True))


def test_the_first_start_makes_certificate_and_token_and_the_second_keeps_them(serve_settings: Settings) -> None:
    first, second = (admission.prepare(ANY, serve_settings) for _ in range(2))
    assert first.token
    assert second.token == ""
    assert first.fingerprint == second.fingerprint
    assert first.invitation(ANY).endswith(f":7700 --fingerprint {first.fingerprint} --token {first.token}")
    assert second.invitation(ANY).endswith("--token TOKEN")
    for path in serve_settings.secrets_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_private_key_that_others_can_read_is_not_used(serve_settings: Settings) -> None:
    admission.prepare(ANY, serve_settings)
    (serve_settings.secrets_dir / "certificate.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="others can read the secrets in .*certificate.pem"):
        admission.prepare(ANY, serve_settings)


def test_a_certificate_that_is_named_must_be_there(serve_settings: Settings, tmp_path: Path) -> None:
    named = replace(serve_settings, certificate=tmp_path / "mine.pem")
    with pytest.raises(ConfigurationError, match="there is no file .*mine.pem, which --certificate names"):
        admission.prepare(ANY, named)
