"""Policies of sandbox objects, against what their releases stored."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandlock_async.image.policy import VERSIONS, policy_from_sandbox
from tests.unit.policies import GOLDEN, STORED, name_of, version_of


def sandbox_of(path: Path) -> SimpleNamespace:
    """Return an object with the attributes of that release's ``Sandbox``."""
    version = version_of(path)
    marks: dict[str, dict[str, object]] = {
        "v1": {"net_bind": [], "max_processes": 64},
        "v2": {"max_processes": 64, "gid": None},
        "v3": {"fs_mount_ro": {}, "max_processes": None, "gid": None},
    }
    actions = {"on_exit": "commit", "on_error": "abort"}
    kwargs = json.loads(path.read_bytes())["kwargs"]
    return SimpleNamespace(**{**marks[version], **actions, **kwargs})


@pytest.mark.parametrize("path", STORED, ids=name_of)
def test_a_sandbox_gives_what_its_release_stored(path: Path) -> None:
    expected = json.loads(path.read_bytes())["fields"]

    policy, warnings = policy_from_sandbox(sandbox_of(path))

    fields = dict(policy.fields)
    if expected["workdir"]:
        assert any(warning.startswith("fs_readable") for warning in warnings)
        upper = expected["fs_readable"].pop()
        assert upper.endswith("/upper")
    else:
        assert not warnings
    for name in ("env", "protection_policy"):  # maps, in any order
        if name in fields:
            fields[name] = sorted(fields[name])  # type: ignore[call-overload]
            expected[name].sort()
    assert policy.version == version_of(path)
    assert fields == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sandbox_in_another_version(version: str) -> None:
    path = GOLDEN / "v3" / "policy" / "minimal.json"
    policy, warnings = policy_from_sandbox(sandbox_of(path), version)

    assert policy.version == version
    assert not warnings


def test_the_installed_sandlock() -> None:
    sandlock = pytest.importorskip("sandlock")
    sandbox = sandlock.Sandbox(fs_readable=["/usr", "/lib64"], max_memory="1G")

    policy, warnings = policy_from_sandbox(sandbox, has_lib64=False)

    assert policy.fields["fs_readable"] == ["/usr"]
    assert policy.fields["max_memory"] == 1 << 30
    assert not warnings


def test_an_image_becomes_its_tree() -> None:
    # What 0.9.0 stores for it, but for the directory of changes.
    config = SimpleNamespace(env=("A=1", "B=2"), working_dir="/tmp")
    sandbox = sandbox_of(GOLDEN / "v3" / "policy" / "minimal.json")
    sandbox.fs_readable = ["/bin"]
    sandbox.env = {"B": "3"}
    sandbox.image = SimpleNamespace(rootfs="/image", config=config)

    policy, _ = policy_from_sandbox(sandbox)

    assert policy.fields["chroot"] == policy.fields["workdir"] == "/image"
    assert policy.fields["fs_readable"] == ["/bin", "/"]
    assert policy.fields["on_exit"] == "Abort"
    assert policy.fields["cwd"] == "/tmp"
    assert policy.fields["env"] == [["B", "3"], ["A", "1"]]


def test_what_no_policy_holds_is_said() -> None:
    @dataclass
    class Sandbox:
        fs_mount_ro: dict[str, str] = field(default_factory=dict)
        policy_fn: object = None
        invented: int = 0

    assert policy_from_sandbox(Sandbox())[1] == ()

    _, warnings = policy_from_sandbox(Sandbox(policy_fn=print, invented=1))

    assert [text.partition(":")[0] for text in warnings] == ["policy_fn", "invented"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net_allow", ["ftp://h:1"]),
        ("net_allow", ["h:0"]),
        ("net_allow", ["h:1,*"]),
        ("net_allow", ["[::1]"]),
        ("net_allow", ["tcp://"]),
        ("net_allow", ["icmp://h:1"]),
        ("net_allow", ["10.0.0.0/33"]),
        ("net_allow_bind", ["1,*"]),
        ("net_allow_bind", ["9-8"]),
        ("net_deny_bind", ["*"]),
        ("http_allow", ["GET"]),
        ("http_ports", [70000]),
        ("max_memory", "1X"),
        ("max_disk", None.__class__),
        ("time_start", "2001-02-03T04:05:06"),
        ("time_start", -1),
        ("time_start", "1969-12-31T23:59:59Z"),
        ("on_exit", "never"),
        ("disable", [6]),
        ("cpu_cores", 3),
    ],
)
def test_an_attribute_that_sandlock_would_not_take(name: str, value: object) -> None:
    sandbox = sandbox_of(GOLDEN / "v3" / "policy" / "minimal.json")
    setattr(sandbox, name, value)

    with pytest.raises(ValueError, match=name):
        policy_from_sandbox(sandbox)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("get h", "/*"),
        ("GET h/a//b/../c", "/a/c"),
        ("GET h/%61*", "/a*"),
        ("GET h/a/..%2f*", "/*"),
        ("GET h/%zz%", "/%zz%"),
        ("GET h/é", "/Ã©"),
    ],
)
def test_paths_of_http_rules(spec: str, path: str) -> None:
    sandbox = sandbox_of(GOLDEN / "v3" / "policy" / "minimal.json")
    sandbox.http_allow = [spec]

    policy, _ = policy_from_sandbox(sandbox)

    assert policy.fields["http_allow"] == [{"method": "GET", "host": "h", "path": path}]
