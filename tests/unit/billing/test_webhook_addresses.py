"""Webhooks go to public addresses only, however the others are spelled."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from services.billing.notices.addresses import UrlRefused, check_url, refusal

PRIVATE = {
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254", "fec0::1"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local, where clouds serve credentials": ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0"],
    "shared between a provider's customers": ["100.64.0.1", "100.100.100.200"],
    "this network": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "reserved": ["192.0.0.192", "240.0.0.1", "255.255.255.255", "2001::1", "100::1"],
    "for documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"],
    "for benchmarks": ["198.18.0.1"],
    "a cloud's own": ["168.63.129.16"],
}
CARRIED = {
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "link-local, where clouds serve credentials",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b::169.254.169.254": "link-local, where clouds serve credentials",
    "2002:7f00:1::": "loopback",
    "2002:c0a8:101::1": "private",
    "::127.0.0.1": "reserved",
}
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize(("address", "what"), [(a, what) for what, group in PRIVATE.items() for a in group])
def test_an_address_that_only_we_can_reach_is_refused(address: str, what: str) -> None:
    assert refusal(ip_address(address)) == what


@pytest.mark.parametrize(("address", "what"), CARRIED.items())
def test_an_address_that_carries_another_is_judged_by_that(address: str, what: str) -> None:
    assert refusal(ip_address(address)) == what


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not_refused(address: str) -> None:
    assert refusal(ip_address(address)) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "is not https"),
        ("ftp://example.com/", "is not https"),
        ("file:///etc/passwd", "is not https"),
        ("https://", "needs a host"),
        ("https:///path", "needs a host"),
        ("https://user:secret@example.com/", "needs a host, and neither user"),
        ("https://example.com/#part", "needs a host, and neither user"),
        ("https://example.com:99999/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://exa mple.com/", "none of them a space"),
        ("https://example.com/\r\nx: y", "none of them a space"),
        ("https://example.com/" + "a" * 2048, "at most 2048"),
        ("https://example.com/ü", "is not a URL"),
        ("https://127.0.0.1/", "that is loopback"),
        ("https://[::ffff:10.0.0.1]/", "that is private"),
        ("https://169.254.169.254/latest/meta-data", "that is link-local"),
        ("https://localhost:8443/", "that is loopback"),
        ("https://a.localhost/", "that is loopback"),
    ],
)
def test_a_url_that_could_never_be_delivered_to_is_refused(url: str, why: str) -> None:
    with pytest.raises(UrlRefused, match=why):
        check_url(url, allow_http=False, allow_private=False)


def test_a_url_is_stored_as_it_is_sent_to() -> None:
    def check(url: str) -> str:
        return check_url(url, allow_http=False, allow_private=False)

    assert check("https://Example.com") == "https://example.com/"
    assert check("https://bücher.example:8443/hook?a=1") == "https://xn--bcher-kva.example:8443/hook?a=1"
    assert check("https://[2606:4700:4700::1111]/x") == "https://[2606:4700:4700::1111]/x"


def test_http_and_private_addresses_are_taken_where_they_are_allowed() -> None:
    assert check_url("http://127.0.0.1:8080/x", allow_http=True, allow_private=True) == "http://127.0.0.1:8080/x"
