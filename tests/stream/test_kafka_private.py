"""What is used of kafka-python though it is not public; a release that lacks it is named."""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

from stream.log import kafka

USED = {
    "kafka.consumer.group.KafkaConsumer": ("_fetcher",),
    "kafka.consumer.fetcher.Fetcher": ("send_fetches",),
    "kafka.producer.kafka.KafkaProducer": ("_sender",),
    "kafka.producer.sender.Sender": ("force_close",),
    "kafka.net.compat.KafkaNetClient": ("_manager", "close"),
    "kafka.net.inet.KafkaNetSocket": ("dns_lookup", "sock_connect"),
    "kafka.net.manager.KafkaConnectionManager": (
        "_build_transport",
        "_net",
        "bootstrapped",
        "close",
        "cluster",
        "config",
        "get_connection",
        "ssl_enabled",
    ),
    "kafka.net.connection.KafkaConnection": ("init_future",),
    "kafka.net.selector.NetworkSelector": ("__init__",),
    "kafka.record.default_records.DefaultRecordBatch": ("_buffer", "_read_msg"),
    "kafka.net.transport.KafkaSSLTransport": ("_sock_recv", "close", "handshake"),
    "kafka.net.transport.KafkaTCPTransport": ("_sock_recv", "close", "handshake"),
}
"""By class; ``stream/log/kafka/network.py`` is the one module that uses them."""
FOLDER = Path(kafka.__file__).parent


@pytest.mark.parametrize("name", USED)
def test_kafka_python_still_has_what_network_uses(name: str) -> None:
    module, _, owner = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), owner)
    except (ImportError, AttributeError) as error:
        pytest.fail(_lacks(name, str(error)))
    sources = "".join(inspect.getsource(one) for one in found.__mro__[:-1])
    for used in USED[name]:
        if not hasattr(found, used) and f"self.{used} =" not in sources:
            pytest.fail(_lacks(f"{name}.{used}", "it is neither a method nor set by one"))


def _lacks(name: str, why: str) -> str:
    return (
        f"kafka-python {version('kafka-python')} has no {name} any more ({why}): adapt "
        "stream/log/kafka/network.py, or lower the bound of kafka-python in pyproject.toml"
    )


def test_no_other_module_uses_what_is_private() -> None:
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted(FOLDER.glob("*.py"))
        if path.name != "network.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr[1] != "_"
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert found == []


def test_what_is_named_is_used() -> None:
    text = (FOLDER / "network.py").read_text("utf-8")
    names = {one for used in USED.values() for one in used} - {"__init__"}
    assert {name for name in names if name not in text} == set()
