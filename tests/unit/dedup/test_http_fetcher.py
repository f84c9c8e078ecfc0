"""Downloads from loopback servers, which are reachable only because the policy allows 127.0.0.0/8 or a part of it."""

import asyncio
import gzip
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bucketline.errors import BucketlineError
from bucketline.http.ssrf import AddressRefused, GuardPolicy
from bucketline_dedup.errors import (
    SourceError,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)
from bucketline_dedup.http_fetcher import HttpFetcher
from bucketline_dedup.http_stream import FetchLimits, HttpStream, TransferPace

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
MB = 1024 * 1024
FAST = FetchLimits(connect=1, read=1, total=5, resume_delay=0)


class Source:
    """A raw HTTP/1.1 server that writes exactly what a test specifies."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self.sent = 0

    def url(self, path: str = "/", host: str = "source.example") -> str:
        return f"http://{host}:{self.port}{path}"

    def header(self, name: str, request: int = -1) -> str | None:
        for line in self.requests[request].split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


@asynccontextmanager
async def serve(
    handler: Handler, *, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Source]:
    source = Source(port)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            source.requests.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            await handler(source.requests[-1], writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, address, port, ssl=tls)
    source.port = server.sockets[0].getsockname()[1]
    try:
        yield source
    finally:
        server.close()


def answer(head: str, body: bytes = b"") -> Handler:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode() + body)

    return handler


class Names:
    """A resolver that answers each lookup with the next row of its script, and then always with the last."""

    def __init__(self, *script: Sequence[str] | OSError) -> None:
        self.script = list(script) or [["127.0.0.1"]]
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:  # noqa: ARG002  # the Protocol's signature
        self.asked.append(host)
        row = self.script[min(len(self.asked), len(self.script)) - 1]
        if isinstance(row, OSError):
            raise row
        return row


def fetcher(
    *sources: Source,
    names: Names | None = None,
    limits: FetchLimits = FAST,
    networks: Sequence[str] = ("127.0.0.0/8",),
    tls: ssl.SSLContext | None = None,
) -> HttpFetcher:
    policy = GuardPolicy(
        allowed_ports=frozenset(source.port for source in sources),
        allow_networks=tuple(ip_network(net) for net in networks),
    )
    return HttpFetcher(policy, limits, resolver=names or Names(), tls=tls)


async def read(http: HttpFetcher, url: str, *, max_bytes: int = MB) -> bytes:
    async with http, http.open(url, max_bytes=max_bytes) as stream:
        return b"".join([chunk async for chunk in stream])


async def failure(http: HttpFetcher, url: str, *, max_bytes: int = MB) -> BucketlineError:
    with pytest.raises((SourceError, AddressRefused)) as raised:
        await read(http, url, max_bytes=max_bytes)
    return raised.value


async def measure(stream: HttpStream, sizes: list[int]) -> None:
    async for chunk in stream:
        sizes.append(len(chunk))  # noqa: PERF401  # what came before an error counts


def keep_pace(pace: TransferPace, rate: int, seconds: int) -> int:
    """Return for how many seconds a source of ``rate`` bytes per second was accepted."""
    for second in range(seconds):
        try:
            pace.record(1.0, rate)
        except SourceUnavailable:
            return second
    return seconds


class TestContent:
    async def test_open_yields_the_bytes_and_their_description(self) -> None:
        head = '200 OK\r\nContent-Length: 5\r\nContent-Type: Text/Plain; charset=utf-8\r\nETag: "a"'
        async with (
            serve(answer(head, b"hello")) as source,
            fetcher(source) as http,
            http.open(source.url("/dir/a%20b.txt?x=/y.pdf"), max_bytes=5) as stream,
        ):
            assert (stream.content_length, stream.filename) == (5, "a b.txt")
            assert stream.content_type == "Text/Plain; charset=utf-8", "its charset is needed to read the text"
            assert [chunk async for chunk in stream] == [b"hello"]
            assert stream.received == 5

    @pytest.mark.parametrize(
        ("disposition", "name"),
        [
            ('attachment; filename="report.pdf"', "report.pdf"),
            ("attachment; filename*=UTF-8''na%C3%AFve.pdf", "naïve.pdf"),
            ("attachment; filename*=UTF-8'en'na%C3%AFve.pdf", "naïve.pdf"),
            ("attachment; filename*=iso-8859-1''na%EFve.pdf", "naïve.pdf"),
            # filename* takes precedence in any order (RFC 6266), unless it cannot be decoded
            ("attachment; filename=\"EURO rates.txt\"; filename*=utf-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
            ("attachment; filename*=utf-8''%e2%82%ac%20rates.txt; filename=\"EURO rates.txt\"", "€ rates.txt"),
            ("attachment; FileName=a.txt; FILENAME*=UTF-8''b.txt", "b.txt"),
            ("attachment; filename=ok.txt; filename*=UTF-8''x%FF.txt", "ok.txt"),
            ("attachment; filename=ok.txt; filename*=no-such-charset''x%FF", "ok.txt"),
            ("attachment; filename=ok.txt; filename*=without-quotes.txt", "ok.txt"),
            ("attachment; filename*=no-such-charset''x%FF", "xÿ"),
            ('attachment; filename*0="long "; filename*1="name.pdf"', "long name.pdf"),
            # RFC 2047, and bytes that are not ASCII
            ('attachment; filename="=?UTF-8?B?w6kucGRm?="', "é.pdf"),
            ("attachment; filename==?iso-8859-1?Q?caf=E9_1.pdf?=", "café 1.pdf"),
            ('attachment; filename="=?UTF-8?B?w6k=?= =?UTF-8?B?w6kucGRm?="', "éé.pdf"),
            ('attachment; filename="=?no-such?B?w6kucGRm?="', "=_no-such_B_w6kucGRm_="),
            (b'attachment; filename="caf\xe9.pdf"', "café.pdf"),
            (b"attachment; filename=caf\xe9 \x80.pdf", "café €.pdf"),
            ('attachment; filename="café €.pdf"', "café €.pdf"),
            # quoting
            (r'attachment; filename="a\"b\".pdf"', "a_b_.pdf"),
            ('attachment; filename="a;b, c.pdf"', "a;b, c.pdf"),
            ("attachment; filename=foo bar,1.pdf; size=5", "foo bar,1.pdf"),
            # paths, control and direction characters
            ('attachment; filename="../../etc/passwd"', "passwd"),
            ('attachment; filename="..\\\\..\\\\boot.ini"', "boot.ini"),
            (r'attachment; filename="C:\Users\me\report.pdf"', "report.pdf"),
            ("attachment; filename*=UTF-8''..%2F..%2Fpasswd", "passwd"),
            ("attachment; filename*=UTF-8''a%0D%0Ab%00.pdf", "ab.pdf"),
            ("attachment; filename*=UTF-8''invoice%E2%80%AEfdp.exe", "invoicefdp.exe"),
            # nothing usable
            ("inline", "path.bin"),
            ('attachment; filename=""', "path.bin"),
            ("attachment; filename*0*=UTF-8''a; filename*=UTF-8''b", "path.bin"),
            ("\xff\xfe;;;=", "path.bin"),
        ],
    )
    async def test_open_with_content_disposition_uses_its_filename(self, disposition: str | bytes, name: str) -> None:
        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            value = disposition if isinstance(disposition, bytes) else disposition.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Disposition: " + value + b"\r\n\r\n")

        async with (
            serve(handler) as source,
            fetcher(source) as http,
            http.open(source.url("/path.bin"), max_bytes=5) as stream,
        ):
            assert stream.filename == name

    async def test_open_yields_bounded_chunks(self) -> None:
        body = bytes(range(256)) * 4096 * 5
        async with (
            serve(answer(f"200 OK\r\nContent-Length: {len(body)}", body)) as source,
            fetcher(source) as http,
            http.open(source.url(), max_bytes=len(body)) as stream,
        ):
            chunks = [chunk async for chunk in stream]
        assert b"".join(chunks) == body
        assert all(64 * 1024 <= len(chunk) <= MB for chunk in chunks[:-1])

    async def test_request_has_no_credentials_or_cookies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        head = "200 OK\r\nContent-Length: 2\r\nSet-Cookie: session=1; Path=/"
        async with serve(answer(head, b"ok")) as source, fetcher(source) as http:
            for _ in range(2):
                async with http.open(source.url(), max_bytes=5) as stream:
                    assert [chunk async for chunk in stream] == [b"ok"]
            assert source.header("Host") == f"source.example:{source.port}"
            assert source.header("Accept-Encoding") == "identity"
            for name in ("Cookie", "Authorization", "Referer", "Proxy-Connection"):
                assert source.header(name) is None


class TestAddresses:
    async def test_open_of_loopback_without_allowed_network_is_refused(self) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 0")) as source:
            for url in (
                source.url(),
                source.url(host="127.0.0.1"),
                source.url(host="2130706433"),
                source.url(host="[::1]"),
            ):
                error = await failure(fetcher(source, networks=()), url)
                assert isinstance(error, AddressRefused)
                assert not error.retryable
                assert error.message == "the address is not allowed"
            assert source.requests == []

    async def test_open_with_one_private_address_among_answers_is_refused(self) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 0")) as source:
            names = Names(["127.0.0.1", "10.0.0.7"])
            assert isinstance(await failure(fetcher(source, names=names), source.url()), AddressRefused)
            assert source.requests == []

    async def test_open_of_a_rebinding_name_never_reaches_the_private_server(self) -> None:
        async with (
            serve(answer("200 OK\r\nContent-Length: 6", b"public"), address="127.0.0.2") as public,
            serve(answer("200 OK\r\nContent-Length: 6", b"secret"), address="127.0.0.1", port=public.port) as private,
        ):
            names = Names(["127.0.0.2"], ["127.0.0.1"])
            async with fetcher(public, names=names, networks=["127.0.0.2/32"]) as http:
                async with http.open(public.url(), max_bytes=MB) as stream:
                    assert [chunk async for chunk in stream] == [b"public"]
                assert len(names.asked) == 1  # the checked address is the connected one
                with pytest.raises(AddressRefused):
                    async with http.open(public.url(), max_bytes=MB):
                        pass
            assert private.requests == []

    async def test_redirect_to_a_name_that_rebinds_is_refused(self) -> None:
        async with serve(answer("302 Found\r\nContent-Length: 0\r\nLocation: /again"), address="127.0.0.2") as source:
            names = Names(["127.0.0.2"], ["169.254.169.254"])
            error = await failure(fetcher(source, names=names, networks=["127.0.0.2/32"]), source.url())
            assert isinstance(error, AddressRefused)
            assert len(source.requests) == 1

    async def test_open_of_an_unknown_name_has_the_error_of_a_refused_one(self) -> None:
        async with serve(answer("200 OK")) as source:
            unknown = await failure(fetcher(source, names=Names(socket.gaierror(socket.EAI_NONAME, "x"))), source.url())
            assert isinstance(unknown, AddressRefused)
            again = await failure(fetcher(source, names=Names(socket.gaierror(socket.EAI_AGAIN, "x"))), source.url())
            assert isinstance(again, SourceUnavailable)
            assert isinstance(await failure(fetcher(source, names=Names([])), source.url()), AddressRefused)

    async def test_error_message_contains_no_address(self) -> None:
        async with serve(answer("200 OK")) as source:
            error = await failure(fetcher(source, names=Names(["10.9.8.7"])), source.url())
            assert "10.9.8.7" not in error.message
            assert isinstance(error, AddressRefused)
            assert "10.9.8.7" in error.detail


class TestIpv6:
    @pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]"])
    async def test_open_of_a_literal_in_an_allowed_network_succeeds(self, host: str) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 2", b"v6"), address="::1") as source:
            assert await read(fetcher(source, networks=["::1/128"]), source.url("/a?b=c", host=host)) == b"v6"
            assert source.requests[0].startswith("GET /a?b=c HTTP/1.1")
            assert source.header("Host") == f"[::1]:{source.port}"

    async def test_open_of_a_name_with_an_ipv6_address_succeeds(self) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 2", b"v6"), address="::1") as source:
            assert await read(fetcher(source, names=Names(["::1"]), networks=["::1/128"]), source.url()) == b"v6"

    @pytest.mark.parametrize(
        "host", ["[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[::1%25lo]"]
    )
    async def test_open_of_a_literal_outside_the_allowed_networks_is_refused(self, host: str) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 0"), address="::1") as source:
            assert isinstance(await failure(fetcher(source), source.url(host=host)), AddressRefused)
            assert source.requests == []

    async def test_redirect_to_a_literal_is_checked(self) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 2", b"v6"), address="::1") as target:
            hop = answer(f"302 Found\r\nContent-Length: 0\r\nLocation: http://[::1]:{target.port}/")
            async with serve(hop) as source:
                open_to_both = fetcher(source, target, networks=["127.0.0.0/8", "::1/128"])
                assert await read(open_to_both, source.url()) == b"v6"
                assert isinstance(await failure(fetcher(source, target), source.url()), AddressRefused)
            assert len(target.requests) == 1


class TestTls:
    """The socket connects to a checked address; the certificate is that of the name."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "source.example")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("source.example")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "source.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        return path

    async def test_request_keeps_host_and_sni_of_the_url(self, certificate: Path) -> None:
        names: list[str | None] = []
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate)
        server.sni_callback = lambda _socket, name, _context: names.append(name)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with serve(answer("200 OK\r\nContent-Length: 2", b"ok"), tls=server) as source:
            url = source.url().replace("http:", "https:")
            assert await read(fetcher(source, tls=trusting), url) == b"ok"
            assert names == ["source.example"]
            assert source.header("Host") == f"source.example:{source.port}"

    async def test_redirect_from_https_to_http_is_refused(self, certificate: Path) -> None:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with serve(answer("200 OK\r\nContent-Length: 2", b"ok")) as plain:
            down = answer(f"302 Found\r\nContent-Length: 0\r\nLocation: {plain.url()}")
            async with serve(down, tls=server) as source:
                url = source.url().replace("http:", "https:")
                assert isinstance(await failure(fetcher(source, plain, tls=trusting), url), AddressRefused)
            assert plain.requests == []

    async def test_open_with_a_wrong_certificate_is_refused(self, certificate: Path) -> None:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(certificate)
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with serve(answer("200 OK\r\nContent-Length: 2", b"ok"), tls=server) as source:
            for host, tls in (("other.example", trusting), ("source.example", None)):
                url = source.url(host=host).replace("http:", "https:")
                assert isinstance(await failure(fetcher(source, tls=tls), url), SourceUnreadable)
            assert source.requests == []


class TestRedirects:
    @pytest.mark.parametrize(
        "location",
        ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://10.0.0.1/", "http://user@x.example/",
         "file:///etc/passwd", "//0x7f.1:1/"],
    )  # fmt: skip
    async def test_redirect_to_a_refused_url_is_refused(self, location: str) -> None:
        async with serve(answer(f"302 Found\r\nContent-Length: 0\r\nLocation: {location}")) as source:
            assert isinstance(await failure(fetcher(source), source.url()), AddressRefused)

    async def test_redirect_with_a_relative_location_is_followed_and_names_the_file(self) -> None:
        async def handler(request: str, writer: asyncio.StreamWriter) -> None:
            if "GET /start" in request:
                await answer("307 Temporary\r\nContent-Length: 0\r\nLocation: files/end.txt")(request, writer)
            else:
                await answer("200 OK\r\nContent-Length: 3", b"end")(request, writer)

        async with (
            serve(handler) as source,
            fetcher(source) as http,
            http.open(source.url("/start"), max_bytes=MB) as stream,
        ):
            assert stream.filename == "end.txt"
            assert [chunk async for chunk in stream] == [b"end"]

    async def test_redirects_above_the_limit_are_refused(self) -> None:
        async with serve(answer("302 Found\r\nContent-Length: 0\r\nLocation: /again")) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnreadable)
            assert len(source.requests) == 4

    async def test_redirect_without_a_location_is_refused(self) -> None:
        async with serve(answer("302 Found\r\nContent-Length: 0")) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnreadable)


class TestStatus:
    @pytest.mark.parametrize(
        ("head", "error", "permanent"),
        [
            ("404 Not Found", SourceNotFound, True),
            ("410 Gone", SourceNotFound, True),
            ("401 Unauthorized", SourceUnreadable, True),
            ("403 Forbidden", SourceUnreadable, True),
            ("204 No Content", SourceUnreadable, True),
            ("206 Partial Content", SourceUnreadable, True),
            ("304 Not Modified", SourceUnreadable, True),
            ("429 Too Many Requests", SourceUnavailable, False),
            ("500 Internal Server Error", SourceUnavailable, False),
            ("503 Service Unavailable", SourceUnavailable, False),
        ],
    )
    async def test_status_maps_to_an_error(self, head: str, error: type[SourceError], permanent: bool) -> None:
        async with serve(answer(f"{head}\r\nContent-Length: 0")) as source:
            raised = await failure(fetcher(source), source.url())
            assert isinstance(raised, error)
            assert raised.retryable is not permanent

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("7", 7.0), ("86400", 300.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), ("-1", None)],
    )
    async def test_retry_after_is_bounded(self, header: str, seconds: float | None) -> None:
        async with serve(answer(f"503 Busy\r\nContent-Length: 0\r\nRetry-After: {header}")) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnavailable)
            assert error.retry_after_seconds == seconds

    async def test_open_of_a_closed_port_is_retryable(self) -> None:
        async with serve(answer("200 OK")) as source:
            pass
        error = await failure(fetcher(source), source.url())
        assert isinstance(error, SourceUnavailable)
        assert "127.0.0.1" not in error.message

    async def test_open_of_a_server_without_http_is_retryable(self) -> None:
        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 smtp.example ESMTP\r\n")

        async with serve(handler) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)

    async def test_open_of_a_plain_server_with_https_fails(self) -> None:
        async with serve(answer("200 OK")) as source:
            error = await failure(fetcher(source), source.url().replace("http:", "https:"))
            assert not isinstance(error, AddressRefused)


class TestSize:
    async def test_body_announced_too_large_is_refused_before_reading(self) -> None:
        async with serve(answer(f"200 OK\r\nContent-Length: {MB + 1}")) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceTooLarge)
            assert str(MB) in error.message

    async def test_body_without_end_is_stopped_at_the_limit(self) -> None:
        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                source.sent += 65536

        limit = 8 * MB
        async with (
            serve(handler) as source,
            fetcher(source) as http,
            http.open(source.url(), max_bytes=limit) as stream,
        ):
            handed_on: list[int] = []
            with pytest.raises(SourceTooLarge):
                await measure(stream, handed_on)
            assert sum(handed_on) <= limit
            assert limit < stream.received <= limit + 64 * 1024
            # the rest fits into the sockets of this machine
            assert source.sent < limit + 16 * MB

    async def test_body_of_exactly_the_limit_is_accepted(self) -> None:
        async with serve(answer("200 OK", b"x" * 1000)) as source:
            assert len(await read(fetcher(source), source.url(), max_bytes=1000)) == 1000
        async with serve(answer("200 OK", b"x" * 1001)) as source:
            assert isinstance(await failure(fetcher(source), source.url(), max_bytes=1000), SourceTooLarge)

    async def test_body_shorter_than_announced_is_retryable(self) -> None:
        async with serve(answer("200 OK\r\nContent-Length: 100", b"x" * 60)) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnavailable)
            assert error.message == "the transfer was interrupted"

    @pytest.mark.parametrize("announced", [60, 200_000])
    @pytest.mark.parametrize("connection", ["close", "keep-alive"])
    async def test_body_longer_than_announced_is_retryable(self, announced: int, connection: str) -> None:
        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: {connection}\r\n\r\n"
            writer.write(head.encode() + b"x" * (announced + 40))

        async with serve(handler) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnavailable)
            assert len(error.detail) <= 500

    async def test_body_closed_before_a_slow_consumer_has_read_is_complete(self) -> None:
        closed = asyncio.Event()

        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await writer.drain()
            await go_on.wait()
            writer.write(b"hello")
            writer.close()
            await writer.wait_closed()
            closed.set()

        go_on = asyncio.Event()
        async with (
            serve(handler) as source,
            fetcher(source) as http,
            http.open(source.url(), max_bytes=MB) as stream,
        ):
            go_on.set()
            await closed.wait()
            for _ in range(10):  # let our side notice the end of the connection
                await asyncio.sleep(0)
            assert [chunk async for chunk in stream] == [b"hello"]

    async def test_chunked_body_without_its_end_is_retryable(self) -> None:
        async with serve(answer("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n")) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)

    @pytest.mark.parametrize("reset", [False, True])
    async def test_body_that_ends_with_its_connection_depends_on_how_it_closed(self, reset: bool) -> None:
        """Without a length or chunks only a close marks the end of the body; a reset does not."""

        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
            await writer.drain()
            await arrived.wait()
            if reset:
                no_lingering = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
                writer.transport.abort()

        arrived = asyncio.Event()
        async with (
            serve(handler) as source,
            fetcher(source) as http,
            http.open(source.url(), max_bytes=MB) as stream,
        ):
            arrived.set()
            if reset:
                with pytest.raises(SourceUnavailable):
                    [chunk async for chunk in stream]
            else:
                assert [chunk async for chunk in stream] == [b"hello"]

    @pytest.mark.parametrize(
        "header", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: -5", "Content-Length: x"]
    )
    async def test_body_with_an_invalid_length_is_retryable(self, header: str) -> None:
        async with serve(answer(f"200 OK\r\n{header}", b"hello")) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)


class TestEncodings:
    CONTENT = bytes(range(256)) * 400

    @pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP", "identity, gzip"])
    @pytest.mark.parametrize("announced", [True, False])
    async def test_content_encoding_is_undone(self, name: str, announced: bool) -> None:
        body = gzip.compress(self.CONTENT)
        length = f"Content-Length: {len(body)}\r\n" if announced else ""
        async with (
            serve(
                answer(f"200 OK\r\n{length}Content-Type: application/pdf\r\nContent-Encoding: {name}", body)
            ) as source,
            fetcher(source) as http,
            http.open(source.url("/a.pdf"), max_bytes=MB) as stream,
        ):
            assert stream.content_length is None
            assert b"".join([chunk async for chunk in stream]) == self.CONTENT
            assert (stream.content_type, stream.filename, stream.received) == ("application/pdf", "a.pdf", len(body))

    async def test_content_encoding_in_several_headers_is_undone(self) -> None:
        body = gzip.compress(zlib.compress(self.CONTENT))
        head = "200 OK\r\nContent-Encoding: deflate\r\nContent-Encoding: gzip"
        async with serve(answer(head, body)) as source:
            assert await read(fetcher(source), source.url()) == self.CONTENT

    async def test_decode_content_off_returns_the_body_as_sent(self) -> None:
        body = gzip.compress(self.CONTENT)
        head = f"200 OK\r\nContent-Length: {len(body)}\r\nContent-Encoding: gzip, compress"
        async with serve(answer(head, body)) as source:
            policy = GuardPolicy(allowed_ports=frozenset({source.port}), allow_networks=(ip_network("127.0.0.0/8"),))
            http = HttpFetcher(policy, FAST, decode_content=False, resolver=Names())
            assert await read(http, source.url()) == body

    async def test_archive_with_its_own_format_as_encoding_is_kept_as_sent(self) -> None:
        body = gzip.compress(self.CONTENT)
        head = f"200 OK\r\nContent-Length: {len(body)}\r\nContent-Type: application/x-gzip\r\nContent-Encoding: x-gzip"
        async with serve(answer(head, body)) as source:
            assert await read(fetcher(source), source.url("/a.tar.gz")) == body

    async def test_decompression_bomb_is_refused(self) -> None:
        body = gzip.compress(b"0" * (20 * MB))
        async with serve(answer("200 OK\r\nContent-Encoding: gzip", body)) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceTooLarge)

    @pytest.mark.parametrize("announced", [True, False])
    async def test_encoded_body_that_ends_too_early_is_retryable(self, announced: bool) -> None:
        body = gzip.compress(self.CONTENT)[:-10]
        length = f"Content-Length: {len(body)}\r\n" if announced else ""
        async with serve(answer(f"200 OK\r\n{length}Content-Encoding: gzip", body)) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)

    @pytest.mark.parametrize("name", ["compress", "dcz"])
    async def test_unsupported_content_encoding_is_refused(self, name: str) -> None:
        async with serve(answer(f"200 OK\r\nContent-Length: 1\r\nContent-Encoding: {name}", b"x")) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnreadable)
            assert name in error.message

    @pytest.mark.parametrize("name", ["utf-8", "none", "aws-chunked"])
    async def test_content_encoding_that_is_none_is_ignored(self, name: str) -> None:
        async with serve(answer(f"200 OK\r\nContent-Length: 1\r\nContent-Encoding: {name}", b"x")) as source:
            assert await read(fetcher(source), source.url()) == b"x"

    async def test_gzip_file_is_stored_as_sent(self) -> None:
        body = gzip.compress(b"0" * MB)
        head = f"200 OK\r\nContent-Length: {len(body)}\r\nContent-Type: application/gzip\r\nContent-Encoding: identity"
        async with serve(answer(head, body)) as source:
            assert await read(fetcher(source), source.url()) == body

    async def test_large_headers_are_read_up_to_64_kb(self) -> None:
        async with serve(answer(f"200 OK\r\nContent-Length: 2\r\nX-Policy: {'a' * 64_000}", b"ok")) as source:
            assert await read(fetcher(source), source.url()) == b"ok"
        async with serve(answer(f"200 OK\r\nContent-Length: 2\r\nX-Policy: {'a' * 80_000}", b"ok")) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)


def drip(head: str, piece: bytes, every: float) -> Handler:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode())
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return handler


class TestTime:
    """Thresholds are settings, so that each case is decided within half a second, on a loaded machine somewhat later:
    at any rate long before the default of the same setting would decide it."""

    LATE = 12.0

    async def took(self, handler: Handler, limits: FetchLimits) -> tuple[BucketlineError, float]:
        loop = asyncio.get_running_loop()
        async with serve(handler) as source:
            began = loop.time()
            return await failure(fetcher(source, limits=limits), source.url()), loop.time() - began

    async def test_slow_body_is_aborted(self) -> None:
        handler = drip("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x", 0.02)
        error, seconds = await self.took(handler, FetchLimits(min_rate=10_000, min_rate_window=0.3))
        assert isinstance(error, SourceUnavailable)
        assert error.message == "the source is too slow"
        assert 0.25 < seconds < self.LATE

    async def test_silent_body_is_aborted(self) -> None:
        async def handler(_: str, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            await writer.drain()
            await asyncio.sleep(60)

        error, seconds = await self.took(handler, FetchLimits(read=0.3))
        assert isinstance(error, SourceUnavailable)
        assert seconds < self.LATE

    async def test_slow_headers_are_aborted(self) -> None:
        handler = drip("HTTP/1.1 200 OK\r\nX-Slow: ", b"x", 0.02)
        error, seconds = await self.took(handler, FetchLimits(connect=0.2, read=0.2))
        assert isinstance(error, SourceUnavailable)
        assert seconds < self.LATE

    async def test_body_above_the_total_time_is_aborted(self) -> None:
        handler = drip("HTTP/1.1 200 OK\r\n\r\n", b"x" * 500, 0.02)
        error, seconds = await self.took(handler, FetchLimits(total=0.4, min_rate=10))
        assert isinstance(error, SourceUnavailable)
        assert seconds < self.LATE

    async def test_redirects_share_the_total_time(self) -> None:
        async def handler(request: str, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.25)
            await answer("302 Found\r\nContent-Length: 0\r\nLocation: /again")(request, writer)

        error, seconds = await self.took(handler, FetchLimits(total=0.4))
        assert isinstance(error, SourceUnavailable)
        assert seconds < self.LATE

    async def test_slow_consumer_does_not_count_against_the_source(self) -> None:
        body = bytes(8 * MB)
        limits = FetchLimits(read=1.5, total=1.5, min_rate_window=1.5, sustained_rate=10**12, max_resumes=0)
        received, pauses = 0, [0.5] * 6  # longer in all than every limit
        async with (
            serve(answer(f"200 OK\r\nContent-Length: {len(body)}", body)) as source,
            fetcher(source, limits=limits) as http,
            http.open(source.url(), max_bytes=len(body)) as stream,
        ):
            async for chunk in stream:
                if pauses:
                    await asyncio.sleep(pauses.pop())  # this test is about time
                received += len(chunk)
        assert not pauses, "it was slow long enough"
        assert received == len(body)


class TestPace:
    """Limits are computed without waiting."""

    def test_pace_of_a_large_file_may_exceed_the_total(self) -> None:
        assert keep_pace(TransferPace(FetchLimits(total=120, sustained_rate=256_000)), 300_000, 1000) == 1000

    def test_pace_at_the_minimum_rate_is_ended_after_the_total(self) -> None:
        assert 120 <= keep_pace(TransferPace(FetchLimits(total=120)), 11_000, 1000) <= 130

    def test_pace_below_the_minimum_rate_is_ended_after_one_window(self) -> None:
        assert keep_pace(TransferPace(FetchLimits()), 9_000, 1000) <= 20

    def test_pace_after_a_burst_still_requires_the_minimum_rate(self) -> None:
        pace = TransferPace(FetchLimits())
        pace.record(20.0, 50_000_000)
        assert keep_pace(pace, 1, 1000) <= 20


class TestResume:
    BODY = bytes(range(256)) * 1024

    def source(
        self,
        *,
        ranges: bool = True,
        etag: str = '"v1"',
        second: str = "206",
        breaks: int = 1,
        encodings: Sequence[str] = ("",),
        body: bytes = BODY,
    ) -> Handler:
        served = 0

        async def handler(request: str, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            served += 1
            total = len(body)
            start = 0
            head = f"HTTP/1.1 200 OK\r\nETag: {etag}\r\n" + ("Accept-Ranges: bytes\r\n" if ranges else "")
            if "Range: bytes=" in request:
                if second == "503":
                    writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                if second.startswith("206"):
                    tag = etag if second == "206" else '"v2"'
                    start = int(request.partition("Range: bytes=")[2].partition("-")[0])
                    head = (
                        f"HTTP/1.1 206 Partial\r\nETag: {tag}\r\nContent-Range: bytes {start}-{total - 1}/{total}\r\n"
                    )
            if encoding := encodings[min(served, len(encodings)) - 1]:
                head += f"Content-Encoding: {encoding}\r\n"
            writer.write((head + f"Content-Length: {total - start}\r\nConnection: close\r\n\r\n").encode())
            end = total if served > breaks else start + (total - start) // 2
            writer.write(body[start:end])

        return handler

    @pytest.mark.parametrize("breaks", [1, 3])
    async def test_broken_transfer_is_resumed_at_its_position(self, breaks: int) -> None:
        async with serve(self.source(breaks=breaks)) as source:
            assert await read(fetcher(source), source.url()) == self.BODY
            assert len(source.requests) == breaks + 1
            assert source.header("Range", 1) == f"bytes={len(self.BODY) // 2}-"
            assert source.header("If-Range", 1) == '"v1"'

    async def test_encoded_transfer_is_resumed_by_its_encoded_bytes(self) -> None:
        body = gzip.compress(self.BODY, compresslevel=0)
        async with serve(self.source(body=body, encodings=["gzip"])) as source:
            assert await read(fetcher(source), source.url()) == self.BODY
            # Bytes that arrived when the connection broke may not have been read.
            start = int((source.header("Range", 1) or "").removeprefix("bytes=").removesuffix("-"))
            assert 0 < start <= len(body) // 2

    async def test_resumed_transfer_with_another_encoding_is_refused(self) -> None:
        body = gzip.compress(self.BODY, compresslevel=0)
        async with serve(self.source(body=body, encodings=["gzip", ""])) as source:
            error = await failure(fetcher(source), source.url())
            assert error.message == "the source changed while it was read"

    async def test_resumes_are_limited(self) -> None:
        async with serve(self.source(breaks=100)) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)
            assert len(source.requests) == 4

    async def test_resume_survives_a_short_outage_only(self) -> None:
        async with serve(self.source(second="503")) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnavailable)
            assert len(source.requests) == 4

    @pytest.mark.parametrize("second", ["200", "206 of another version"])
    async def test_resume_of_a_changed_source_is_refused(self, second: str) -> None:
        async with serve(self.source(second=second)) as source:
            error = await failure(fetcher(source), source.url())
            assert isinstance(error, SourceUnavailable)
            assert error.message == "the source changed while it was read"

    @pytest.mark.parametrize(("ranges", "etag"), [(False, '"v1"'), (True, 'W/"v1"'), (True, "")])
    async def test_broken_transfer_without_ranges_is_retryable(self, ranges: bool, etag: str) -> None:
        async with serve(self.source(ranges=ranges, etag=etag)) as source:
            assert isinstance(await failure(fetcher(source), source.url()), SourceUnavailable)
            assert len(source.requests) == 1

    async def test_resume_checks_the_url_again(self) -> None:
        async with serve(self.source(), address="127.0.0.2") as source:
            names = Names(["127.0.0.2"], ["127.0.0.1"])
            http = fetcher(source, names=names, networks=["127.0.0.2/32"])
            assert isinstance(await failure(http, source.url()), AddressRefused)


async def test_stream_left_early_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        gone.set()

    async with serve(handler) as source, fetcher(source) as http:
        async with http.open(source.url(), max_bytes=1000 * MB) as stream:
            async for _ in stream:
                break
        await asyncio.wait_for(gone.wait(), 30)
