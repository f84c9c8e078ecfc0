"""Private authorities, client certificates and access tokens, over real TLS connections on loopback."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr
from tenacity import wait_none

from bucketline.blobs.s3 import S3BlobStore
from bucketline.errors import DependencyUnavailable, InvalidSetting
from bucketline.kafka.client_config import client_options, token_provider
from bucketline.settings import KafkaSettings, S3Settings

DATA = b"content"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """A certificate of localhost that is its own authority, in one file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "cert.pem").write_bytes(plain + signed.public_bytes(Encoding.PEM))
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "locked.pem").write_bytes(locked)
    return str(tmp_path / "cert.pem")


def server_context(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@asynccontextmanager
async def s3_over_tls(certificate: str) -> AsyncIterator[str]:
    async def handle(_: web.BaseRequest) -> web.Response:
        return web.Response(
            headers={"ETag": '"x"', "Content-Length": str(len(DATA)), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        )

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost", 0, ssl_context=server_context(certificate)).start()
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def s3_store(url: str, cafile: str | None) -> S3BlobStore:
    settings = S3Settings(endpoint_url=url, ssl_cafile=cafile, access_key="key", secret_key=SecretStr("secret"))
    return S3BlobStore(settings, retry_wait=wait_none())


async def test_s3_with_a_private_authority_is_reached_with_its_certificate(certificate: str) -> None:
    async with s3_over_tls(certificate) as url, s3_store(url, certificate) as store:
        assert await store.put_if_absent("key", DATA, sha256=SHA256, content_type="text/plain")
        assert (await store.head("key")).size == len(DATA)


@pytest.mark.parametrize("cafile", [None, ""])
async def test_s3_with_an_unknown_authority_is_refused(certificate: str, cafile: str | None) -> None:
    async with s3_over_tls(certificate) as url, s3_store(url, cafile) as store:
        with pytest.raises(DependencyUnavailable):
            await store.put_if_absent("key", DATA, sha256=SHA256, content_type="text/plain")
        with pytest.raises(DependencyUnavailable):
            await store.head("key")


async def test_s3_with_a_missing_authority_file_names_the_setting() -> None:
    with pytest.raises(InvalidSetting, match=r"BUCKETLINE_S3_SSL_CAFILE=/nowhere/ca.crt: No such file"):
        async with s3_store("https://localhost:1", "/nowhere/ca.crt"):
            pass


@pytest.mark.parametrize("presented", [True, False])
async def test_broker_that_asks_for_a_certificate_gets_it(certificate: str, presented: bool) -> None:
    context = server_context(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.close()

    server = await asyncio.start_server(greet, "localhost", 0, ssl=context)
    settings = KafkaSettings(
        security_protocol="SSL", ssl_cafile=certificate, ssl_certfile=certificate if presented else None
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port, ssl=client_options(settings)["ssl_context"])
        try:
            answer = await reader.read()
        except ssl.SSLError:
            answer = b""
        writer.close()
    assert answer == (b"welcome" if presented else b"")


@pytest.mark.parametrize(
    ("certfile", "keyfile", "problem"),
    [
        ("/nowhere/tls.crt", None, "CERTFILE=/nowhere/tls.crt: No such file"),
        ("cert.pem", "locked.pem", "CERTFILE=.*: is not a valid PEM file"),
        ("locked.pem", None, "CERTFILE=.*: is not a valid PEM file"),
    ],
)
def test_client_certificate_that_cannot_be_read_names_the_setting(
    certificate: str, certfile: str, keyfile: str | None, problem: str
) -> None:
    folder = Path(certificate).parent
    settings = KafkaSettings(
        security_protocol="SSL",
        ssl_certfile=str(folder / certfile),
        ssl_keyfile=str(folder / keyfile) if keyfile else None,
    )
    with pytest.raises(InvalidSetting, match=f"BUCKETLINE_KAFKA_SSL_{problem}"):
        client_options(settings)


async def test_each_connection_reads_the_current_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", sasl_token_file=str(file))
    provider = client_options(settings)["sasl_oauth_token_provider"]
    for token in ("first", "second"):
        file.write_text(f"{token}\n", encoding="ascii")
        assert await provider.token() == token


def test_oauthbearer_without_a_token_file_names_the_setting() -> None:
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER")
    with pytest.raises(InvalidSetting, match="needs BUCKETLINE_KAFKA_SASL_TOKEN_FILE"):
        token_provider(settings)
