"""Rules for outbound traffic: as written, as v1 stores them, as v2 and v3 do.

v1 has a host as text, v2 and v3 a target: any address, a range, or a host name.
"""

import ipaddress
from typing import Any

from sandlock_async.image.policy.notation import MAX_PORT, parse_number

Rule = dict[str, Any]
"""A rule as a policy holds it."""

_SCHEMES = {"tcp": "Tcp", "udp": "Udp", "icmp": "Icmp"}


def parse_allow(spec: str) -> Rule:
    """Return v1's rule for a text such as ``host:80,443`` or ``udp://*:53``.

    :raises ValueError: if it is none
    """
    protocol, rest = _split_scheme(spec)
    if protocol == "Icmp":
        if not rest or ":" in rest:
            raise ValueError(f"{spec!r}: an icmp rule is a host or * and has no port")
        return _allow("Icmp", None if rest == "*" else rest, [], all_ports=False)
    host, colon, ports_text = rest.rpartition(":")
    if not colon:
        raise ValueError(f"{spec!r} is not host:port")
    ports, all_ports = _parse_ports(ports_text, spec)
    name = None if host in ("", "*") else host
    return _allow(protocol or "Tcp", name, ports, all_ports=all_ports)


def parse_rules(spec: str) -> list[Rule]:
    """Return the rules of v2 and v3 for a text; without a scheme they are two.

    :raises ValueError: if it is none
    """
    protocol, rest = _split_scheme(spec)
    ports: list[int] = []
    all_ports = True
    cidr = _parse_cidr(rest)
    if not rest:
        raise ValueError(f"{spec!r} is empty: * is any host")
    if protocol == "Icmp":
        if cidr is None and ":" in rest:
            raise ValueError(f"{spec!r}: an icmp rule has no port")
        target = _parse_target(rest)
    elif rest.startswith("["):
        inside, closing, ports_text = rest[1:].rpartition("]:")
        cidr = _parse_cidr(inside)
        if not closing or cidr is None:
            raise ValueError(f"{spec!r} is not [address]:port")
        target = {"Cidr": cidr}
        ports, all_ports = _parse_ports(ports_text, spec)
    elif cidr is not None:
        target = {"Cidr": cidr}
    else:
        host, colon, ports_text = rest.rpartition(":")
        target = _parse_target(host if colon else rest)
        if colon:
            ports, all_ports = _parse_ports(ports_text, spec)
    protocols = ("Tcp", "Udp") if protocol is None else (protocol,)
    return [
        {
            "protocol": name,
            "target": target,
            "ports": list(ports),
            "all_ports": all_ports,
        }
        for name in protocols
    ]


def targeted(allow: Rule) -> Rule:
    """Return v1's rule as one of v2 and v3, of the same effect."""
    host = allow["host"]
    target: object = "AnyIp" if host is None else {"Host": host}
    if host is not None and "/" not in host:
        bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
        cidr = _parse_cidr(bare)
        # v1 resolves the text with a port behind it: IPv6 only in brackets.
        if cidr is not None and ("V6" in cidr["addr"]) == (bare != host):
            target = {"Cidr": cidr}
    return {
        "protocol": allow["protocol"],
        "target": target,
        "ports": list(allow["ports"]),
        # An ICMP rule has no ports; v1 says so with false, the others with true.
        "all_ports": allow["protocol"] == "Icmp" or allow["all_ports"],
    }


def hosted(rule: Rule) -> Rule | None:
    """Return a rule of v2 or v3 as v1's, or None if that has nothing like it."""
    target = rule["target"]
    host: str | None
    if target == "AnyIp":
        host = None
    elif "Host" in target:
        host = target["Host"]
    else:
        ((family, octets),) = target["Cidr"]["addr"].items()
        if target["Cidr"]["prefix_len"] != 8 * len(octets):
            return None
        host = str(ipaddress.ip_address(bytes(octets)))
        host = f"[{host}]" if family == "V6" else host
    return _allow(
        rule["protocol"],
        host,
        list(rule["ports"]),
        all_ports=rule["protocol"] != "Icmp" and rule["all_ports"],
    )


def http_allows(fields: dict[str, Any]) -> list[Rule]:
    """Return v1's rules that let a policy's HTTP rules out, any host first.

    0.8.2 and 0.8.6 store them among ``net_allow``; 0.9.0 does not.
    """
    hosts = [rule["host"] for rule in (*fields["http_allow"], *fields["http_deny"])]
    named = {host.lower(): host for host in reversed(hosts) if host != "*"}
    any_host = [None] if "*" in hosts else []
    first_seen = dict.fromkeys(host.lower() for host in hosts if host != "*")
    return [
        _allow("Tcp", host, list(fields["http_ports"]), all_ports=False)
        for host in (*any_host, *(named[host] for host in first_seen))
        if fields["http_ports"]
    ]


def http_rules(fields: dict[str, Any]) -> list[Rule]:
    """Return :func:`http_allows` as 0.8.6 stores them: an address is a host too."""
    return [
        {
            "protocol": allow["protocol"],
            "target": "AnyIp" if allow["host"] is None else {"Host": allow["host"]},
            "ports": allow["ports"],
            "all_ports": False,
        }
        for allow in http_allows(fields)
    ]


def _allow(
    protocol: str, host: str | None, ports: list[int], *, all_ports: bool
) -> Rule:
    return {
        "protocol": protocol,
        "host": host,
        "ports": ports,
        "all_ports": all_ports,
    }


def _split_scheme(spec: str) -> tuple[str | None, str]:
    scheme, separator, rest = spec.partition("://")
    if not separator:
        return None, spec
    if scheme not in _SCHEMES:
        raise ValueError(f"{spec!r}: neither tcp, udp nor icmp")
    return _SCHEMES[scheme], rest


def _parse_target(text: str) -> Any:  # noqa: ANN401
    if text in ("", "*"):
        return "AnyIp"
    cidr = _parse_cidr(text)
    if cidr is not None:
        return {"Cidr": cidr}
    if "/" in text:
        raise ValueError(f"{text!r} is not an address range")
    return {"Host": text}


def _parse_cidr(text: str) -> dict[str, Any] | None:
    address_text, slash, prefix_text = text.partition("/")
    try:
        address = ipaddress.ip_address(address_text)
    except ValueError:
        return None
    if "%" in address_text:  # a zone, which Rust does not take for an address
        return None
    bits = address.max_prefixlen
    prefix = parse_number(prefix_text, bits) if slash else bits
    if prefix is None:
        return None
    family = f"V{address.version}"
    return {"addr": {family: list(address.packed)}, "prefix_len": prefix}


def _parse_ports(text: str, spec: str) -> tuple[list[int], bool]:
    parts = [part.strip() for part in text.split(",")]
    if all(part == "*" for part in parts):
        return [], True
    ports: list[int] = []
    for part in parts:
        port = parse_number(part, MAX_PORT)
        if not port:
            raise ValueError(f"{spec!r}: {part!r} is not a port")
        ports.append(port)
    return ports, False
