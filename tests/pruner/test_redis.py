from __future__ import annotations

import json
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from redis.client import PubSub

from pruner import StoreConfig
from pruner.masks import StoreAwayError, StoreError, StoreRefusedError, pack
from pruner.masks.redis import COMMANDS, RedisMaskStore
from tests.pruner.store_contract import masks, publication, publications
from tests.redis_server import RedisServer, certificates, full_server, redis_server

OpenStore = Callable[..., RedisMaskStore]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Open stores that are closed with the test; options are those of the settings."""
    with ExitStack() as opened:

        def one(url: str, run: str | None = "run", **options: object) -> RedisMaskStore:
            config = StoreConfig.model_validate({"kind": "redis", "url": url, **options})
            return opened.enter_context(closing(RedisMaskStore(config, run)))

        yield one


# How strangers see it.


def test_what_is_kept_where_can_be_read_without_any_code_of_ours(
    server: RedisServer, open_store: OpenStore
) -> None:
    store = open_store(server.url)
    one, two = publications(1, 2, store=store)
    store.publish(one)
    store.publish(two)
    with server.client() as client:
        assert sorted(client.keys()) == sorted(
            [
                b"resprout:head:sparse",
                f"resprout:mask:{one.mask}".encode(),
                f"resprout:mask:{two.mask}".encode(),
            ]
        )
        assert client.hgetall("resprout:head:sparse") == {
            b"version": b"2",
            b"sequence": b"0",
            b"snapshot": two.snapshot.encode(),
            b"count": b"200",
            b"mask": str(two.mask).encode(),
            b"run": b"run",
            b"recent": f"{two.mask} {one.mask}".encode(),
        }
        assert client.get(f"resprout:mask:{two.mask}") == pack(masks(2))
        assert {client.ttl(key) for key in client.scan_iter()} == {-1}


def test_a_blob_that_is_there_is_not_written_again(
    server: RedisServer, open_store: OpenStore
) -> None:
    store = open_store(server.url)
    store.put(masks(0))
    with server.client() as client:
        before = client.info("persistence")["rdb_changes_since_last_save"]
        store.put(masks(0))
        assert client.info("persistence")["rdb_changes_since_last_save"] == before


def test_a_blob_of_another_content_is_refused_by_its_key_and_then_written_again(
    server: RedisServer, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(server.url)
    name = store.put(masks(0))
    with server.client() as client:
        client.set(f"resprout:mask:{name}", pack(masks(1)))
    with pytest.raises(
        ValueError, match=f"resprout:mask:{name} in redis://localhost:.* does not hold"
    ):
        store.get(name)
    store.put(masks(0))
    assert store.get(name).keys() == masks(0).keys()
    assert f"held something else at resprout:mask:{name}" in caplog.text


def heard(listener: PubSub) -> Mapping[str, object]:
    """Wait for the next message."""
    message: Mapping[str, object] | None = listener.get_message(timeout=30)
    assert message is not None
    return message


def test_the_hint_names_each_new_head_once(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store(server.url)
    with server.client() as client, PubSub(client.connection_pool) as listener:
        listener.subscribe("resprout:hint:sparse")
        assert heard(listener)["type"] == "subscribe"
        one, two = publications(1, 2)
        for head in (one, two, two, one, replace(two, sequence=3)):
            store.publish(head)
        client.publish("resprout:hint:sparse", "end")
        found = [heard(listener)["data"] for _ in range(4)]
        assert found == [b"1 0", b"2 0", b"2 3", b"end"]


def test_a_lost_hint_loses_nothing(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store(server.url)
    one, two = publications(1, 2)
    with server.client() as client, PubSub(client.connection_pool) as listener:
        listener.subscribe("resprout:hint:sparse")
        assert heard(listener)["type"] == "subscribe"
        store.publish(one)
        client.client_kill_filter(_type="pubsub")
    store.publish(two)
    assert open_store(server.url).head() == two


def test_keys_of_others_are_left_alone(server: RedisServer, open_store: OpenStore) -> None:
    with server.client() as client:
        client.set("resprout:mask2:x", "theirs")
        client.set("resproute:mask:x", "theirs")
        open_store(server.url, prefix="resprout.b").put(masks(0))
        store = open_store(server.url)
        store.check()
        store.put(masks(1))
        store.retain(())
        assert store.names() == ()
        assert len(client.keys()) == 3


def test_checking_leaves_nothing_behind(server: RedisServer, open_store: OpenStore) -> None:
    open_store(server.url).check()
    with server.client() as client:
        assert client.keys() == []


# Several at once, and a server that forgets.


def _publish(url: str, begin: int) -> None:
    store = RedisMaskStore(StoreConfig(kind="redis", url=url), "run")
    for one in publications(*range(1 + begin, 61, 2), store=store):
        store.publish(one)
    store.close()


def test_processes_that_publish_at_once_move_the_head_forward_only(
    server: RedisServer, open_store: OpenStore
) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_publish, args=(server.url, begin)) for begin in range(2)]
    for process in processes:
        process.start()
    store, seen = open_store(server.url), [0]
    while any(process.is_alive() for process in processes):
        head = store.head()
        seen.append(head.version if head else 0)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert seen == sorted(seen)
    head = store.head()
    assert head is not None
    assert head.version == 60
    assert store.get(head.mask or "").keys() == masks(60).keys()


def test_a_server_that_forgot_its_scripts_gets_them_again(
    server: RedisServer, open_store: OpenStore
) -> None:
    store = open_store(server.url)
    one, two = publications(1, 2, store=store)
    store.publish(one)
    with server.client() as client:
        client.script_flush()
    store.publish(two)
    store.retain(())
    assert store.head() == two


# Away: somebody or time will mend it.


def test_a_server_that_is_not_there_is_away(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store(server.url)
    store.check()
    server.stop(signal.SIGKILL)
    for ask in (store.check, store.head, store.names):
        with pytest.raises(StoreAwayError, match=rf"localhost:{server.port}.*Connection refused"):
            ask()
    server.start()
    store.check()
    assert store.head() is None


def test_a_server_that_does_not_answer_is_away_until_it_does(
    server: RedisServer, open_store: OpenStore
) -> None:
    store = open_store(server.url, timeout_seconds=0.1)
    one = publication(1)
    store.publish(one)
    server.freeze()
    with pytest.raises(StoreAwayError, match="Timeout reading from"):
        store.head()
    with pytest.raises(StoreAwayError, match="Timeout"):
        store.check()
    server.thaw()
    assert store.head() == one


def test_a_name_that_nobody_knows_is_away(open_store: OpenStore) -> None:
    with pytest.raises(StoreAwayError, match=r"redis://nobody\.invalid:6379: .*not known"):
        open_store("redis://nobody.invalid:6379").check()


def test_a_server_without_room_or_that_only_reads_is_away(
    server: RedisServer, open_store: OpenStore
) -> None:
    store = open_store(server.url)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreAwayError, match="maxmemory"):
            store.put(masks(0))
        with pytest.raises(StoreAwayError, match="maxmemory"):
            store.publish(publication(1))
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreAwayError, match="read only"):
            store.put(masks(0))
        with pytest.raises(StoreAwayError, match=r"read only|READONLY"):
            store.publish(publication(1))


# Refused: only other settings help.


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_password_is_named_and_never_shown(
    password: str | None, tmp_path: Path, open_store: OpenStore
) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "right") as server:
        open_store(server.url, password="right").check()
        open_store(server.url.replace("//", "//:right@")).check()
        with pytest.raises(
            StoreRefusedError, match=r"(?i)(invalid username-password|required).* store\.password"
        ) as caught:
            open_store(server.url, password=password).check()
        assert "wrong" not in str(caught.value)


def test_a_password_that_nobody_asked_for_is_named(
    server: RedisServer, open_store: OpenStore
) -> None:
    with pytest.raises(
        StoreRefusedError, match=r"without any password configured.*store\.password"
    ):
        open_store(server.url, password="secret").check()


def acl(name: str, *rules: str) -> list[str]:
    return ["--user", name, "on", ">pw", *rules]


def test_a_user_with_the_permissions_that_the_error_lists_can_do_everything(
    tmp_path: Path, open_store: OpenStore
) -> None:
    allowed = ["~resprout:*", "resetchannels", "&resprout:*", *(f"+{one}" for one in COMMANDS)]
    with redis_server(tmp_path / "redis", *acl("ann", *allowed), binary=full_server()) as server:
        store = open_store(server.url.replace("//", "//ann:pw@").replace("/0", "/1"))
        store.check()
        made = publications(1, 2, 3, store=store)
        for one in made:
            store.publish(one)
        store.retain(())
        assert store.head() == made[-1]
        assert len(store.names()) == 3


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (("~other:*", "&*", "+@all"), "no permissions to access one of the keys"),
        (("~*", "&*", "+@all", "-set"), "no permissions to run the 'set' command"),
        (("~*", "&*", "+@all", "-hset"), "can't run this command"),
        (("~*", "resetchannels", "&other:*", "+@all"), "can't publish to the channel"),
    ],
)
def test_a_missing_permission_is_named_with_what_to_grant(
    rules: tuple[str, ...], reason: str, tmp_path: Path, open_store: OpenStore
) -> None:
    grant = r"ACL SETUSER NAME ~resprout:\* &resprout:\* \+get .*\+publish"
    with (
        redis_server(tmp_path / "redis", *acl("ann", *rules), binary=full_server()) as server,
        pytest.raises(StoreRefusedError, match=f"{reason}.*{grant}"),
    ):
        open_store(server.url.replace("//", "//ann:pw@")).check()


def test_tls_works_with_the_right_authority_and_names_what_is_wrong_otherwise(
    tmp_path: Path, open_store: OpenStore
) -> None:
    right, wrong = certificates(tmp_path / "right"), certificates(tmp_path / "wrong")
    options = [*right.options, "--tls-auth-clients", "no"]
    with redis_server(tmp_path / "redis", *options, binary=full_server(), tls=True) as server:
        store = open_store(server.url, cafile=right.authority)
        store.check()
        one = publication(1, store)
        store.publish(one)
        assert store.head() == one
        for authority in (wrong.authority, None):
            with pytest.raises(
                StoreRefusedError, match=r"certificate verify failed.* store\.cafile"
            ):
                open_store(server.url, cafile=authority).check()
        with pytest.raises(StoreAwayError, match="a server with TLS hangs up on redis://"):
            open_store(server.url.replace("rediss", "redis")).check()


def test_a_server_that_asks_for_a_certificate_gets_one(
    tmp_path: Path, open_store: OpenStore
) -> None:
    """One that gets none, or a strange one, hangs up, and its reason may come too late."""
    ours, strange = certificates(tmp_path / "ours"), certificates(tmp_path / "strange")
    with redis_server(tmp_path / "redis", *ours.options, binary=full_server(), tls=True) as server:
        shown = {"certfile": ours.certificate, "keyfile": ours.key}
        open_store(server.url, cafile=ours.authority, **shown).check()
        with pytest.raises(StoreError, match=r"(certificate required|EOF).*store\.certfile"):
            open_store(server.url, cafile=ours.authority).check()
        other = {"certfile": strange.certificate, "keyfile": strange.key}
        with pytest.raises(StoreError, match=r"(unknown ca|EOF).*store\.certfile"):
            open_store(server.url, cafile=ours.authority, **other).check()


def test_tls_to_a_server_without_it_says_what_may_be_wrong(
    server: RedisServer, open_store: OpenStore
) -> None:
    with pytest.raises(StoreAwayError, match="a server without TLS never answers rediss://"):
        open_store(server.url.replace("redis", "rediss"), timeout_seconds=0.1).check()


def test_files_of_certificates_are_checked_before_they_are_used(
    tmp_path: Path, open_store: OpenStore
) -> None:
    with pytest.raises(StoreRefusedError, match=r"store\.cafile = '.*/ca\.pem' is no file"):
        open_store("rediss://localhost", cafile=str(tmp_path / "ca.pem"))
    with pytest.raises(StoreRefusedError, match=r"store\.cafile is for TLS.*use rediss://"):
        open_store("redis://localhost", cafile=str(tmp_path / "ca.pem"))


def test_the_head_of_another_run_is_refused_and_stays(
    server: RedisServer, open_store: OpenStore
) -> None:
    theirs = open_store(server.url, run="theirs")
    seven = publication(7)
    theirs.publish(seven)
    ours = open_store(server.url, run="ours")
    says = r"holds the head of another run under 'resprout'; choose another store\.prefix"
    with pytest.raises(StoreRefusedError, match=says):
        ours.check()
    with pytest.raises(StoreRefusedError, match=says):
        ours.publish(publication(8))
    mask = theirs.put(masks(7))
    with pytest.raises(StoreRefusedError, match=says):
        ours.retain(())
    assert theirs.names() == (mask,)
    assert open_store(server.url, run=None).head() == seven
    assert theirs.head() == seven
    theirs.check()
    open_store(server.url, run="ours", prefix="ours").check()


def test_a_key_that_holds_something_else_is_named(
    server: RedisServer, open_store: OpenStore
) -> None:
    store, key = open_store(server.url), "resprout:head:sparse"
    with server.client() as client:
        client.set(key, "theirs")
        with pytest.raises(StoreRefusedError, match=r"WRONGTYPE|wrong kind of value"):
            store.publish(publication(1))
        client.delete(key)
        client.hset(key, mapping={"version": "7", "run": "run"})
    with pytest.raises(StoreRefusedError, match=f"{key} .*is no head; delete the key"):
        store.head()


def test_a_database_that_does_not_exist_is_refused(
    server: RedisServer, open_store: OpenStore
) -> None:
    with pytest.raises(StoreRefusedError, match="/77: DB index is out of range"):
        open_store(server.url.replace("/0", "/77")).check()


# The password stays where it is.


def test_the_password_is_in_nothing_that_can_be_printed() -> None:
    config = StoreConfig(kind="redis", url="rediss://ann:s%40cret@masks:6379/2")
    assert config.password is not None
    assert config.password.get_secret_value() == "s@cret"
    store = RedisMaskStore(config, "run")
    shown = [repr(config), str(config), repr(store), config.model_dump_json(), config.url]
    shown.append(repr(store._client))
    shown.append(json.dumps(config.model_dump(mode="json")))
    assert not [one for one in shown if re.search("s@cret|s%40cret", one)]
    assert config.url == "rediss://ann@masks:6379/2"
    store.close()


def test_a_password_of_its_own_goes_before_that_in_the_url() -> None:
    config = StoreConfig(url="redis://:old@masks", password=SecretStr("new"))
    assert config.password == SecretStr("new")
    assert config.url == "redis://masks"


@pytest.mark.parametrize(
    "url", ["redis:/:s3cret@masks", "http://ann:s3cret@masks", "s3cret@masks", "redis://:s3cret@"]
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match=r"names no Redis server; use redis://") as caught:
        StoreConfig.model_validate({"url": url, "password": "s3cret2"})
    assert "s3cret" not in str(caught.value).replace("'s3cret@masks'", "")


@pytest.mark.parametrize("prefix", ["", "a*", "a b", "{a}"])
def test_a_prefix_that_would_be_a_pattern_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="prefix"):
        StoreConfig(prefix=prefix)
