"""The URL and address checks. Names are resolved by a table, and nothing is connected."""

from ipaddress import ip_address, ip_network

import pytest

from bucketline.http.ssrf import AddressRefused, CheckedUrl, GuardPolicy, check_address, check_redirect, check_url

STRANGERS = GuardPolicy()

# The answers of a hostile zone.
ZONE = {
    "localhost": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "ip6-localhost": ["::1"],
    "127.0.0.1.nip.io": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "kubernetes.default.svc": ["10.96.0.1"],
    "mixed.example": ["93.184.215.14", "10.0.0.7"],
    "mixed6.example": ["93.184.215.14", "fd12::1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "xn--bcher-kva.example": ["192.168.1.1"],
    "good.example": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
}

HOSTILE_URLS = [
    # plain
    "http://127.0.0.1/",
    "http://127.0.0.1",
    "http://127.8.9.10/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.254/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/latest/meta-data",
    "http://168.63.129.16/",
    "http://0.0.0.0/",
    "http://0/",
    "http://0.1.2.3/",
    "http://192.0.0.192/opc/v1/instance/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://198.51.100.7/",
    "http://203.0.113.9/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    # decimal, octal, hex, short, mixed
    "http://2130706433/",
    "http://2852039166/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0X7F.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://10.1/",
    "http://0xa9.0376.169.0xfe/",
    "http://0xA9FEA9FE/",
    "http://0251.0376.0251.0376/",
    "http://00000177.0.0.1/",
    "http://127.0.0.1./",
    "http://2130706433./",
    # numbers that are not an address under any rule
    "http://4294967296/",
    "http://256.1.1.1/",
    "http://1.2.3.4.5/",
    "http://09.0.0.1/",
    "http://127.0.0.0x/x",
    "http://1.2.3.foo.4/",
    # IPv6 and embedded IPv4
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a00:1]/",
    "http://[64:ff9b:1:7f00:0:100::]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "http://[fe80::5efe:10.0.0.1]/",
    "http://[2606:2800::5efe:10.0.0.1]/",
    "http://[2606:2800::200:5efe:a9fe:a9fe]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[2001:2::1]/",
    "http://[100::1]/",
    "http://[4000::1]/",
    "http://[::1]:80:80/",
    "http://[::1/",
    "http://::1/",
    # names that point inside
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://localhost.localdomain/",
    "http://ip6-localhost/",
    "http://127.0.0.1.nip.io/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://kubernetes.default.svc/api",
    "http://mixed.example/",
    "http://mixed6.example/",
    "http://mapped.example/",
    "http://nat64.example/",
    "http://bücher.example/",
    # IDNA maps these to an address or another name
    "http://127。0。0。1/",
    "http://127．0．0．1/",
    "http://127｡0｡0｡1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.0.0.1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://ｌｏｃａｌｈｏｓｔ/",
    "http://local\u00adhost/",
    "http://good.example\u2024/",
    "http://good\u200b.example/",
    # userinfo and parser disagreements
    "http://user:secret@good.example/",
    "http://good.example@127.0.0.1/",
    "http://127.0.0.1@good.example/",
    "http://good.example:80@127.0.0.1/",
    "http://@good.example/",
    "http://good.example%40127.0.0.1/",
    "http://good.example\\@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http://127.0.0.1\\.good.example/",
    "http://good.example\t/",
    "http://good.example/a\r\nHost: localhost",
    "ht\ntp://good.example/",
    "http://good.example/\x00",
    "http://good.example\u2028/",
    "http://127%2e0%2e0%2e1/",
    "http://%6c%6f%63alhost/",
    "http:///127.0.0.1/",
    "http:127.0.0.1",
    "http:/127.0.0.1/",
    "//127.0.0.1/",
    "127.0.0.1",
    "http://",
    "http://./",
    "http://../",
    "http://good..example/",
    "http://good.example../",
    "http://-good.example/",
    "http://good example/",
    " http://good.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/",
    "http://good.example/" + "a" * 5000,
    "http://good.example/\ud800",
    "",
    # schemes and ports
    "ftp://good.example/",
    "file:///etc/passwd",
    "gopher://good.example:70/_x",
    "dict://good.example:11211/",
    "jar:http://good.example!/",
    "javascript:alert(1)",
    "data:text/plain;base64,aGk=",
    "ws://good.example/",
    "http://good.example:22/",
    "http://good.example:8080/",
    "https://good.example:6443/",
    "http://good.example:0/",
    "http://good.example:65616/",
    "http://good.example:99999/",
    "http://good.example:-80/",
    "http://good.example:８０/",
    "http://good.example:80:443/",
]  # fmt: skip


def reaches(url: str, policy: GuardPolicy) -> list[str]:
    """Return the addresses to which a client that uses the checks would connect."""
    checked = check_url(url, policy)
    answers = [str(checked.address)] if checked.address else ZONE[checked.host]
    return [str(check_address(answer, policy, host=checked.host)) for answer in answers]


@pytest.mark.parametrize("url", HOSTILE_URLS, ids=ascii)
def test_check_url_refuses_hostile_urls(url: str) -> None:
    with pytest.raises(AddressRefused) as refused:
        reaches(url, STRANGERS)
    assert refused.value.message == "the address is not allowed"
    assert refused.value.detail


def test_hostile_urls_are_numerous() -> None:
    assert len(set(HOSTILE_URLS)) >= 120


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://good.example", "http://good.example/"),
        ("HTTP://Good.Example:80/A?b=C#d", "http://good.example/A?b=C"),
        ("https://good.example:443/x", "https://good.example/x"),
        ("https://good.example./x", "https://good.example/x"),
        ("http://good.example:443/x", "http://good.example:443/x"),
        ("https://good.example/a%2Fb%20c+d?sig=a%2Bb%3D&x=~1", "https://good.example/a%2Fb%20c+d?sig=a%2Bb%3D&x=~1"),
        ("https://good.example/räksmörgås 1.pdf", "https://good.example/r%C3%A4ksm%C3%B6rg%C3%A5s%201.pdf"),
        ("https://good.example?x=1", "https://good.example/?x=1"),
        ("https://good.example/@user/x:y", "https://good.example/@user/x:y"),
        ("https://good。example/", "https://good.example/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://134744072/", "http://8.8.8.8/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
    ],
)
def test_check_url_normalizes_public_urls(url: str, written: str) -> None:
    assert reaches(url, STRANGERS)
    assert str(check_url(url, STRANGERS)) == written


def test_check_url_accepts_underscores_in_host_names() -> None:
    assert check_url("https://my_bucket.s3.example/x", STRANGERS).host == "my_bucket.s3.example"


def test_check_url_converts_international_names_to_ascii() -> None:
    assert check_url("https://BÜCHER.example/", STRANGERS).host == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "address",
    ["0.0.0.1", "10.255.255.255", "100.127.255.255", "192.0.0.8", "192.88.99.1", "fe80::1%lo", "fd20:ce::254",
     "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "not an address", "", "2001:10::1", "5f00::1",
     "2606:2800::5efe:8.8.8.8"],
)  # fmt: skip
def test_check_address_refuses_non_public_addresses(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(address, STRANGERS, host="good.example")


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"])
def test_check_address_accepts_public_addresses(address: str) -> None:
    assert check_address(address, STRANGERS) == ip_address(address)


class TestAllowed:
    def test_allow_networks_allows_only_addresses_inside(self) -> None:
        policy = GuardPolicy(allow_networks=(ip_network("10.1.0.0/16"),))
        assert check_address("10.1.2.3", policy)
        for refused in ("10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3"):
            with pytest.raises(AddressRefused):
                check_address(refused, policy)

    def test_allow_hosts_allows_private_but_not_metadata_addresses(self) -> None:
        policy = GuardPolicy(allow_hosts=("files.corp.example", "*.lab.example"))
        assert check_address("10.0.0.7", policy, host="files.corp.example")
        assert check_address("fd12::7", policy, host="a.b.lab.example")
        for host, address in (
            ("files.corp.example", "169.254.169.254"),
            ("files.corp.example", "fd00:ec2::254"),
            ("files.corp.example", "100.100.100.200"),
            ("files.corp.example", "224.0.0.1"),
            ("other.corp.example", "10.0.0.7"),
            ("files.corp.example.evil.example", "10.0.0.7"),
            ("evillab.example", "10.0.0.7"),
            ("lab.example", "10.0.0.7"),
        ):
            with pytest.raises(AddressRefused):
                check_address(address, policy, host=host)

    def test_allowed_dns64_prefix_still_checks_the_embedded_address(self) -> None:
        policy = GuardPolicy(allow_networks=(ip_network("64:ff9b::/96"),))
        assert check_address("64:ff9b::8.8.8.8", policy)
        with pytest.raises(AddressRefused):
            check_address("64:ff9b::10.0.0.1", policy)

    def test_only_hosts_refuses_every_other_host(self) -> None:
        policy = GuardPolicy(only_hosts=("*.partner.example",))
        assert check_url("https://cdn.partner.example/x", policy)
        for url in ("https://good.example/", "http://8.8.8.8/", "https://cdn.partner.example.evil.example/"):
            with pytest.raises(AddressRefused):
                check_url(url, policy)

    def test_allowed_ports_allows_the_port(self) -> None:
        policy = GuardPolicy(allowed_ports=frozenset({443, 9000}))
        assert check_url("http://good.example:9000/", policy).port == 9000
        with pytest.raises(AddressRefused):
            check_url("http://good.example/", policy)


class TestRedirects:
    START = check_url("https://good.example/a/b?c", STRANGERS)

    @pytest.mark.parametrize(
        "location",
        ["http://good.example/", "//169.254.169.254/", "https://127.0.0.1/", "https://user@good.example/",
         "https://good.example:22/", "\\\\127.0.0.1\\", "https://good\t.example/", "file:///etc/passwd", "//[::1",
         "ftp:x", "javascript:1", "https://2130706433/", "https://good.example/\x7f", "https://" + "a" * 5000],
        ids=ascii,
    )  # fmt: skip
    def test_check_redirect_refuses_hostile_locations(self, location: str) -> None:
        with pytest.raises(AddressRefused):
            check_redirect(self.START, location, STRANGERS)

    @pytest.mark.parametrize(
        ("location", "written"),
        [
            ("d", "https://good.example/a/d"),
            ("/d?e", "https://good.example/d?e"),
            ("//other.example/d", "https://other.example/d"),
            ("https://other.example", "https://other.example/"),
            ("?e", "https://good.example/a/b?e"),
        ],
    )
    def test_check_redirect_resolves_relative_locations(self, location: str, written: str) -> None:
        assert str(check_redirect(self.START, location, STRANGERS)) == written

    def test_check_redirect_allows_http_to_https(self) -> None:
        start = CheckedUrl(scheme="http", host="good.example", port=80, target="/")
        assert check_redirect(start, "https://good.example/", STRANGERS).scheme == "https"
