"""Kafka brokers that ask who is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from stream.log import KafkaConfig, LogAccessError
from stream.log.kafka.store import KafkaLogStore
from tests.kafka_server import Broker, started
from tests.stream.kafka_tools import until
from tests.stream.log_contract import everything, numbered, records

ACLS = (
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found=true",
    "super.users=User:ANONYMOUS",
)


@pytest.fixture(scope="module")
def scram() -> Iterator[Broker]:
    """TLS, and passwords by SCRAM."""
    with started("--auth", "scram", "--tls") as broker:
        yield broker


@pytest.fixture(scope="module")
def plain() -> Iterator[Broker]:
    """Passwords in the clear, and rules of who may do what."""
    rules = (word for rule in ACLS for word in ("--set", rule))
    with started("--auth", "plain", *rules) as broker:
        yield broker


def exchange(config: KafkaConfig) -> None:
    """Write some records and read them."""
    home = KafkaLogStore(config)
    writer = home.writer("clicks")
    writer.append(numbered(3))
    writer.flush()
    assert records(everything(home.reader("clicks"))) == numbered(3)
    home.close()


def test_records_pass_with_a_password_by_scram_under_tls(scram: Broker) -> None:
    config = scram.config()
    assert (config.security_protocol, config.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    exchange(config)


def test_records_pass_with_a_plain_password(plain: Broker) -> None:
    config = plain.config()
    assert (config.security_protocol, config.sasl_mechanism) == ("SASL_PLAINTEXT", "PLAIN")
    exchange(config)


def test_records_pass_under_tls() -> None:
    with started("--tls") as broker:
        assert broker.config().security_protocol == "SSL"
        exchange(broker.config())


@pytest.mark.parametrize("broker", ["scram", "plain"])
def test_a_wrong_password_is_named(broker: str, request: pytest.FixtureRequest) -> None:
    asked: Broker = request.getfixturevalue(broker)
    with pytest.raises(
        LogAccessError,
        match=rf"connecting: the broker at {asked.bootstrap} refused the password of user "
        r"'resprout'; look at stream\.kafka\.username, stream\.kafka\.password and "
        r"stream\.kafka\.sasl_mechanism .*SaslAuthenticationFailedError",
    ) as raised:
        KafkaLogStore(asked.config(password="not-the-secret"))
    assert "not-the-secret" not in str(raised.value)


def test_an_unknown_certificate_authority_is_named(scram: Broker) -> None:
    with pytest.raises(
        LogAccessError,
        match=rf"the broker at {scram.bootstrap} showed a certificate that cannot be verified; "
        r"name the authority that signed it in stream\.kafka\.cafile \(now: None\)",
    ):
        KafkaLogStore(scram.config(cafile=None))


def test_a_mechanism_that_the_broker_does_not_speak_is_named(scram: Broker) -> None:
    with pytest.raises(
        LogAccessError, match=r"does not speak PLAIN; set stream\.kafka\.sasl_mechanism to"
    ):
        KafkaLogStore(scram.config(sasl_mechanism="PLAIN"))


def test_tls_where_none_is_spoken_is_named(plain: Broker, scram: Broker) -> None:
    spoken = scram.config(bootstrap=plain.bootstrap)
    with pytest.raises(
        LogAccessError, match=r"TLS; .* stream\.kafka\.security_protocol \(now: SASL_SSL\)"
    ):
        KafkaLogStore(spoken)


def test_no_tls_where_it_is_asked_for_is_named(scram: Broker) -> None:
    config = scram.config(security_protocol="SASL_PLAINTEXT", cafile=None)
    with pytest.raises(
        LogAccessError, match=r"look at stream\.kafka\.security_protocol \(now: SASL_PLAINTEXT\)"
    ):
        KafkaLogStore(config)


def test_a_topic_that_the_user_may_not_touch_is_named(plain: Broker) -> None:
    config = plain.config()
    home = KafkaLogStore(config)
    home.create({"clicks": 1, "secret": 1})
    reader, writer = home.reader("secret"), home.writer("secret")
    admin = KafkaAdminClient(
        bootstrap_servers=config.bootstrap,
        security_protocol=config.security_protocol,
        sasl_mechanism=config.sasl_mechanism,
        sasl_plain_username=config.username,
        sasl_plain_password="resprout-secret",
    )
    denied = ACL(
        principal="User:resprout",
        host="*",
        operation=ACLOperation.ALL,
        permission_type=ACLPermissionType.DENY,
        resource_pattern=ResourcePattern(ResourceType.TOPIC, "secret"),
    )
    admin.create_acls([denied])
    # A broker takes a rule before it goes by it.
    until(lambda: admin.describe_topics(["secret"])[0]["error_code"])
    admin.close()
    told = r"does not allow this to user 'resprout'; ask for an access rule \(ACL\)"
    with pytest.raises(LogAccessError, match=f"looking up log 'secret': .*{told}"):
        home.reader("secret")
    with pytest.raises(LogAccessError, match=told):
        reader.read(0, 0)
    writer.append(numbered(1))
    with pytest.raises(LogAccessError, match=told):
        writer.flush()
    home.close()


WITHOUT = {"sasl_mechanism": "PLAIN", "username": "x", "password": "y"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"security_protocol": "SASL_SSL"}, "SASL_SSL needs sasl_mechanism, username and passw"),
        (WITHOUT, "not used with security_protocol PLAINTEXT; use SASL_SSL"),
        ({"cafile": "ca.pem"}, "cafile and certfile are not used with security_protocol PLAINT"),
        ({"security_protocol": "SSL", "keyfile": "k.pem"}, "keyfile is the key of certfile; name"),
        ({"bootsrap": "x"}, "Extra inputs are not permitted"),
        ({"prefix": "a b"}, "String should match pattern"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        KafkaConfig(**settings)


def test_the_password_is_never_printed() -> None:
    config = KafkaConfig(security_protocol="SASL_SSL", **WITHOUT | {"password": "hush"})
    assert "hush" not in f"{config!r} {config} {config.model_dump_json()}"
