"""Settings: who overrides whom, what is accepted, what a refusal says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from avec import config
from avec.errors import ConfigurationError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a folder in it, and a user's own settings folder beside."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config" / "avec").mkdir(parents=True)
    (tmp_path / "project" / "inner").mkdir(parents=True)
    return tmp_path


def test_a_flag_comes_before_a_variable_before_the_nearest_file_before_the_users_file(folders: Path) -> None:
    (folders / "config" / "avec" / "avec.toml").write_text(
        "connect_timeout_s = 1\nheartbeat_s = 1\nheartbeat_misses = 1\nmax_sessions = 1\n"
    )
    (folders / "project" / "avec.toml").write_text("connect_timeout_s = 2\nheartbeat_s = 2\nmax_sessions = 2\n")
    variables = {"AVEC_CONNECT_TIMEOUT_S": "3", "AVEC_HEARTBEAT_S": "3"}
    settings = config.load({"connect_timeout_s": "4"}, variables, folders / "project" / "inner")
    assert settings.connect_timeout_s == 4
    assert settings.heartbeat_s == 3
    assert settings.max_sessions == 2
    assert settings.heartbeat_misses == 1
    assert settings.listen == "tcp://127.0.0.1:7700"


def test_a_file_named_by_the_variable_replaces_the_search(folders: Path) -> None:
    (folders / "project" / "avec.toml").write_text("max_sessions = 2\n")
    (folders / "other.toml").write_text("heartbeat_misses = 9\n")
    settings = config.load(environ={"AVEC_CONFIG": str(folders / "other.toml")}, folder=folders / "project")
    assert (settings.heartbeat_misses, settings.max_sessions) == (9, 16)


def test_an_empty_variable_is_none(folders: Path) -> None:
    assert config.load(environ={"AVEC_NUMERICS": ""}, folder=folders).numerics == "strict"


def test_a_path_in_a_file_is_relative_to_the_file(folders: Path) -> None:
    (folders / "project" / "avec.toml").write_text('report = "out/report.json"\ncache_dir = "~/cache"\n')
    settings = config.load(environ={}, folder=folders / "project" / "inner")
    assert settings.report == folders / "project" / "out" / "report.json"
    assert settings.cache_dir == Path.home() / "cache"


def test_the_cache_is_in_the_users_cache_folder(folders: Path) -> None:
    assert config.Settings().cache_dir == folders / "cache" / "avec"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("destination", "tcp://box:1", "tcp://box:1"),
        ("destination", "box", "tls://box:7700"),
        ("destination", "box:9", "tls://box:9"),
        ("destination", "localhost", "tcp://localhost:7700"),
        ("destination", "[::1]:9", "tcp://[::1]:9"),
        ("listen", "0.0.0.0", "tls://0.0.0.0:7700"),
        ("destination", "tcp://[::1]:9/", "tcp://[::1]:9"),
        ("listen", "tcp://0.0.0.0:0", "tcp://0.0.0.0:0"),
        ("cache_limit_nbytes", "20GB", 20 * 10**9),
        ("cache_limit_nbytes", "512 mb", 512 * 10**6),
        ("cache_limit_nbytes", "1.5GiB", 3 * 2**29),
        ("cache_limit_nbytes", "4096", 4096),
        ("verbose", "yes", True),
        ("verbose", "0", False),
        ("connect_timeout_s", "0.25", 0.25),
        ("codec", "frames=jpeg, results=fp16", "frames=jpeg, results=fp16"),
    ],
)
def test_a_value_is_understood(name: str, text: str, value: object, folders: Path) -> None:
    assert getattr(config.load({name: text}, {}, folders), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("destination", "udp://box:1"),
        ("destination", "tcp://box:0"),
        ("token", "too-short"),
        ("fingerprint", "sha256:12"),
        ("destination", "tcp://box:70000"),
        ("destination", "tcp://box:port"),
        ("destination", "tcp://box/path"),
        ("destination", "tcp://user@box"),
        ("destination", "tcp://"),
        ("destination", "tcp://[::1"),
        ("listen", "tcp://0.0.0.0:-1"),
        ("cache_limit_nbytes", "20 parsecs"),
        ("cache_limit_nbytes", "-1"),
        ("verbose", "perhaps"),
        ("connect_timeout_s", "0"),
        ("connect_timeout_s", "nan"),
        ("connect_timeout_s", "inf"),
        ("max_sessions", "1.5"),
        ("numerics", "loose"),
        ("codec", "zip"),
        ("codec", "fp16"),
        ("codec", "frames=fp16"),
        ("codec", "results=jpeg"),
        ("codec", "weights=raw"),
        ("log_level", "INFO"),
    ],
)
def test_a_wrong_value_is_refused_with_its_source_and_what_is_allowed(name: str, text: str, folders: Path) -> None:
    variable = f"AVEC_{name.upper()}"
    with pytest.raises(ConfigurationError) as caught:
        config.load(environ={variable: text}, folder=folders)
    allowed = {each.name: each.kind.allowed for each in config.TABLE}[name]
    shown = "not one" if name == "token" else repr(text)
    assert str(caught.value) == f"{variable} is {shown}; allowed is {allowed}"


def test_a_wrong_flag_is_named_as_it_was_written(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--on is 'udp://x'; allowed is tcp://HOST:PORT"):
        config.load({"destination": "udp://x"}, {}, folders)


def test_a_wrong_value_in_a_file_is_refused_with_file_and_key(folders: Path) -> None:
    path = folders / "project" / "avec.toml"
    path.write_text("max_sessions = [1]\n")
    with pytest.raises(ConfigurationError) as caught:
        config.load(environ={}, folder=folders / "project")
    assert str(caught.value) == f"{path}: max_sessions is '[1]'; allowed is a whole number above 0"


def test_an_unknown_variable_is_refused_with_the_nearest_one(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^AVEC_DESTINATON: .* did you mean AVEC_DESTINATION\?$"):
        config.load(environ={"AVEC_DESTINATON": "box"}, folder=folders)


def test_an_unknown_key_is_refused_with_its_file(folders: Path) -> None:
    (folders / "project" / "avec.toml").write_text("zzz = 1\n")
    with pytest.raises(ConfigurationError, match=r"avec\.toml: zzz: no such setting; there are destination, "):
        config.load(environ={}, folder=folders / "project")


@pytest.mark.parametrize("content", [b"max_sessions = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(content: bytes, folders: Path) -> None:
    (folders / "project" / "avec.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cannot read the settings in .*avec\.toml"):
        config.load(environ={}, folder=folders / "project")


def test_a_named_file_that_does_not_exist_is_refused(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the settings in"):
        config.load(environ={"AVEC_CONFIG": str(folders / "none.toml")}, folder=folders)


def test_a_direction_that_a_codec_is_not_named_for_is_auto() -> None:
    assert config.codec_choices("auto") == {"frames": "auto", "results": "auto"}
    assert config.codec_choices("results=fp16") == {"frames": "auto", "results": "fp16"}
    assert config.codec_choices("mask,frames=raw") == {"frames": "raw", "results": "mask"}


def test_settings_survive_the_way_through_the_environment(folders: Path) -> None:
    flags = {
        "destination": "box",
        "numerics": "fast",
        "verbose": "1",
        "report": "r.json",
        "connect_timeout_s": "0.123456789",
        "cache_limit_nbytes": "1GB",
        "heartbeat_misses": "7",
    }
    settings = config.load(flags, {}, folders)
    assert config.load(environ=config.environment(settings, {"AVEC_MAX_SESSIONS": "3"})) == settings


def test_what_files_say_reaches_a_process_in_another_folder(folders: Path) -> None:
    (folders / "project" / "avec.toml").write_text('numerics = "fast"\n')
    (folders / "config" / "avec" / "avec.toml").write_text("heartbeat_misses = 9\n")
    settings = config.load(environ={}, folder=folders / "project")
    assert config.load(environ=config.environment(settings, {}), folder=folders) == settings


def test_a_token_is_in_no_traceback(folders: Path) -> None:
    token = "a-token-that-nobody-may-see"
    assert token not in repr(config.load({"token": token}, {}, folders))


def test_every_setting_has_a_row_and_its_default_is_one_of_its_values(folders: Path) -> None:
    assert [each.name for each in config.TABLE] == [each.name for each in fields(config.Settings)]
    defaults = config.Settings()
    for each in config.TABLE:
        value = getattr(defaults, each.name)
        if value is not None:
            assert each.kind.parse(config.written(value), folders) == value


def test_the_page_of_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text("utf-8") == config.markdown(), "write it anew: python -m avec.config > docs/settings.md"
