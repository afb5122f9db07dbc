"""Kafka brokers that ask for a certificate of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream.log import KafkaConfig, LogAccessError
from stream.log.kafka.store import KafkaLogStore
from tests.kafka_server import Broker, started
from tests.stream.test_kafka_access import exchange


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certfile: Path
    keyfile: Path


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def signed(folder: Path, name: str, authority: Pair | None = None) -> Pair:
    """Make a certificate that an authority has signed; without one, it is one itself."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    asked = (*key, "-keyout", pair.keyfile, "-subj", f"/CN={name}")
    if authority is None:
        openssl("req", "-x509", *asked, "-out", pair.certfile)
        return pair
    openssl("req", *asked, "-out", request)
    signing = ("-CA", authority.certfile, "-CAkey", authority.keyfile, "-set_serial", "7")
    openssl("x509", "-req", "-in", request, *signing, "-out", pair.certfile)
    return pair


@pytest.fixture(scope="module", params=["none", "scram"])
def mutual(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker that lets in who shows a certificate of its authority, and perhaps a password."""
    asks = "listener.name.client.ssl.client.auth=required"
    with started("--tls", "--auth", request.param, "--set", asks) as broker:
        yield broker


@pytest.fixture(scope="module")
def ours(mutual: Broker, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The certificate that the broker's own authority has signed."""
    tls = Path(mutual.told["dir"]) / "tls"
    return signed(tmp_path_factory.mktemp("ours"), "us", Pair(tls / "ca.pem", tls / "ca.key"))


def test_records_pass_with_a_certificate_that_the_broker_trusts(mutual: Broker, ours: Pair) -> None:
    exchange(mutual.config(certfile=ours.certfile, keyfile=ours.keyfile))


def test_a_key_may_stand_in_the_file_of_its_certificate(
    mutual: Broker, ours: Pair, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(ours.keyfile.read_bytes() + ours.certfile.read_bytes())
    exchange(mutual.config(certfile=both, prefix="both."))


ASKS = r"connecting: the broker at {} asks for a certificate and does not accept ours; name one "


def test_without_a_certificate_that_is_said(mutual: Broker) -> None:
    with pytest.raises(
        LogAccessError,
        match=ASKS.format(mutual.bootstrap)
        + r"that it trusts in stream\.kafka\.certfile \(now: None\) .*keyfile \(now: None\)",
    ):
        KafkaLogStore(mutual.config())


def test_a_certificate_of_an_authority_that_the_broker_does_not_know_is_named(
    mutual: Broker, tmp_path: Path
) -> None:
    stranger = signed(tmp_path, "stranger", signed(tmp_path, "elsewhere"))
    with pytest.raises(
        LogAccessError,
        match=ASKS.format(mutual.bootstrap)
        + rf".*certfile \(now: {stranger.certfile}\) .*keyfile \(now: {stranger.keyfile}\)",
    ):
        KafkaLogStore(mutual.config(certfile=stranger.certfile, keyfile=stranger.keyfile))


# What the files hold is seen without a broker.


def refused(told: str, **files: Path) -> None:
    with pytest.raises(LogAccessError, match=told):
        KafkaLogStore(KafkaConfig(bootstrap="nobody:9092", security_protocol="SSL", **files))


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    one, other = signed(tmp_path, "one"), signed(tmp_path, "other")
    told = r"{} does not hold a certificate as PEM whose key is in {} \(.*\); look at stream\.kafka"
    refused(told.format(one.certfile, other.keyfile), certfile=one.certfile, keyfile=other.keyfile)
    refused(told.format(one.certfile, one.certfile), certfile=one.certfile)
    refused(told.format(one.keyfile, one.keyfile), certfile=one.keyfile)


def test_a_file_without_certificates_of_authorities_is_named(tmp_path: Path) -> None:
    key = signed(tmp_path, "one").keyfile
    refused(
        rf"{key} does not hold certificates of authorities .* stream\.kafka\.cafile", cafile=key
    )


@pytest.mark.parametrize("setting", ["certfile", "keyfile"])
def test_a_key_with_a_password_is_named_and_nobody_is_asked_for_it(
    setting: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, locked = signed(tmp_path, "one"), tmp_path / "locked.key"
    openssl("pkey", "-in", one.keyfile, "-aes256", "-passout", "pass:hush", "-out", locked)
    locked.write_bytes(locked.read_bytes() + one.certfile.read_bytes())
    files = {"certfile": one.certfile} | {setting: locked}
    refused(rf"the key in {locked} has a password; .* stream\.kafka\.{setting}$", **files)
    assert capfd.readouterr() == ("", "")
