"""Our checkpoints and those of the three published releases of sandlock.

A release shows of a checkpoint no more than its name and state: what else it has
understood is seen in what it saves again.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandlock_async as sa
from sandlock_async.image.policy import (
    convert_policy,
    decode_policy,
    default_policy,
    encode_policy,
)
from tests.conftest import Tracee, on_one_cpu
from tests.integration.wheels import (
    READABLE,
    RELEASES,
    Wheel,
    assert_same,
    files,
    syscall,
)
from tests.unit.policies import GOLDEN

LAYOUTS = pytest.mark.parametrize("layout", RELEASES)
POLICIES = {layout: encode_policy(default_policy(layout)) for layout in RELEASES}
ODD_NAME = "a b é\n\\.dat"
CASES = [
    "cwd",
    "default",
    "env",
    "fs",
    "limits",
    "net_udp_icmp",
    "syscalls",
    "time_frac",
]
"""Settings that sandboxes are captured with, as in the golden policies."""
MAPS = ("env", "protection_policy")
"""Fields of a policy that a release keeps in no particular order."""

Wheels = Callable[[str], Wheel]


@pytest.fixture
def varied(spawn: Callable[..., Tracee], tmp_path: Path) -> Tracee:
    """A process with memory and descriptors of every kind."""
    folder = tmp_path / "mapped"
    folder.mkdir()
    with on_one_cpu():
        return spawn("mappings", folder, ODD_NAME)


@LAYOUTS
@pytest.mark.parametrize(
    "state", [None, b"", b"\0app\xff"], ids=["no-state", "empty-state", "state"]
)
async def test_a_release_loads_ours(
    layout: str, state: bytes | None, varied: Tracee, wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    await sa.capture_to(
        varied,
        tmp_path / "ours" / "web",
        format=layout,
        policy=POLICIES[layout],
        app_state=state,
    )

    shown = theirs.do(
        "resave", store=tmp_path / "ours", other=tmp_path / "theirs", names=["web"]
    )

    # Of an empty state it shows nothing, but keeps the file.
    assert shown == {"web": ["web", state.hex() if state else None]}
    assert_same(files(tmp_path / "theirs" / "web"), files(tmp_path / "ours" / "web"))


@LAYOUTS
async def test_every_way_to_capture_is_the_same(
    layout: str, varied: Tracee, tmp_path: Path
) -> None:
    content = {"policy": POLICIES[layout], "name": "web"}
    await sa.capture_to(varied, tmp_path / "streamed", format=layout, **content)
    await sa.capture_to(
        varied, tmp_path / "spilled", format=layout, memory_limit=0, **content
    )
    async with await sa.capture(varied, **content) as checkpoint:
        await checkpoint.save(tmp_path / "kept", format=layout)

    assert_same(files(tmp_path / "spilled"), files(tmp_path / "streamed"))
    assert_same(files(tmp_path / "kept"), files(tmp_path / "streamed"))


@LAYOUTS
async def test_a_release_loads_ours_without_a_policy(
    layout: str, sleeper: "subprocess.Popen[bytes]", wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    await sa.capture_to(sleeper, tmp_path / "web", format=layout)

    assert theirs.do("refused", store=tmp_path, names=["web"]) == {"web": None}


@LAYOUTS
async def test_we_load_what_a_release_saved(
    layout: str, wheel: Wheels, tmp_path: Path
) -> None:
    # GIVEN checkpoints of sandboxes with settings of several kinds
    golden = {
        name: json.loads((GOLDEN / layout / "policy" / f"{name}.json").read_bytes())
        for name in CASES
    }
    cases = {
        name: {"fs_readable": READABLE, **stored["kwargs"]}
        for name, stored in golden.items()
    }
    for options in cases.values():
        options["fs_readable"] = [*filter(os.path.exists, options["fs_readable"])]
    wheel(layout).do(
        "capture",
        store=tmp_path / "theirs",
        cases=cases,
        argv=["/bin/sleep", "60"],
        syscall=syscall("clock_nanosleep"),
        app_state=b"\0state".hex(),
    )

    # THEN all of them are found, understood, and written again to the byte
    assert await sa.list_checkpoints(tmp_path / "theirs") == CASES
    for name in CASES:
        async with await sa.Checkpoint.load(tmp_path / "theirs" / name) as checkpoint:
            assert checkpoint.format == layout
            assert checkpoint.name == name
            assert checkpoint.app_state == b"\0state"
            assert checkpoint.process_state.exe.endswith("/sleep")
            policy = decode_policy(layout, checkpoint.policy)
            fields = {
                **golden[name]["fields"],
                "fs_readable": cases[name]["fs_readable"],
            }
            assert unordered(policy.fields) == unordered(fields)
            assert encode_policy(policy) == checkpoint.policy
            await checkpoint.save(tmp_path / "ours" / name, format=layout)
        assert_same(files(tmp_path / "ours" / name), files(tmp_path / "theirs" / name))

    # AND what we have written, the release shows as it showed its own
    for store in ("ours", "theirs"):
        shown = wheel(layout).do(
            "resave", store=tmp_path / store, other=tmp_path / "again", names=CASES
        )
        assert shown == {name: [name, b"\0state".hex()] for name in CASES}


@LAYOUTS
@pytest.mark.parametrize("source", RELEASES)
async def test_a_release_loads_what_was_converted(
    source: str, layout: str, varied: Tracee, wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    # GIVEN one process captured in each of two layouts
    await sa.capture_to(varied, tmp_path / "source", format=source, name="web")
    policy, _ = convert_policy(default_policy(source), layout)
    await sa.capture_to(varied, tmp_path / "ours" / "web", format=layout, policy=policy)

    # WHEN the one is brought to the other
    report = await sa.convert(
        tmp_path / "source", tmp_path / "converted" / "web", format=layout
    )

    # THEN it is what the capture itself has written, and the release takes it
    assert report.warnings == ()
    ours = files(tmp_path / "ours" / "web")
    assert_same(files(tmp_path / "converted" / "web"), ours)
    theirs.do(
        "resave",
        store=tmp_path / "converted",
        other=tmp_path / "theirs",
        names=["web"],
    )
    assert_same(files(tmp_path / "theirs" / "web"), ours)


@LAYOUTS
@pytest.mark.parametrize("program", ["cat", "mappings"])
async def test_both_capture_one_process(
    layout: str,
    program: str,
    wheel: Wheels,
    compiled: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    theirs = wheel(layout)
    folder = tmp_path / "mapped"
    folder.mkdir()
    if program == "cat":
        # One end of a pipe that nobody writes to, opened by the sandboxed program.
        os.mkfifo(folder / "silent")
        argv = ["/bin/cat", str(folder / "silent")]
        keep_open = os.open(folder / "silent", os.O_RDWR)
        call = syscall("read")
    else:
        (folder / "status").write_bytes(bytes(4096))
        argv = [*map(str, (compiled(program), folder / "status", folder, ODD_NAME))]
        keep_open = os.open(folder, os.O_RDONLY)
        call = syscall("pause")
    try:
        with theirs.keeping(
            "capture_and_keep",
            store=tmp_path / "theirs",
            name="web",
            options={
                "fs_readable": [*READABLE, os.path.dirname(argv[0]), folder],
                "fs_writable": [folder],
            },
            argv=argv,
            syscall=call,
        ) as pid:
            policy = (tmp_path / "theirs" / "web" / "policy.dat").read_bytes()
            report = await sa.capture_to(
                pid, tmp_path / "ours" / "web", format=layout, policy=policy
            )
    finally:
        os.close(keep_open)

    # Without rights, shared memory that only others have touched cannot be had.
    reasons = {this.reason for this in report.skipped}
    assert not reasons or (
        os.geteuid() and all("cannot be opened" in r for r in reasons)
    )
    same = files(tmp_path / "ours" / "web")
    extra = same.keys() - files(tmp_path / "theirs" / "web").keys()
    assert bool(extra) == (layout != "v1")
    if extra:
        assert extra == await changed_read_only(tmp_path / "ours" / "web")
    for name in extra:
        del same[name]
    assert_same(same, files(tmp_path / "theirs" / "web"))


async def changed_read_only(path: Path) -> set[str]:
    """The memory files that only we have: a restore needs them."""
    async with await sa.Checkpoint.load(path) as checkpoint:
        state = checkpoint.process_state
        captured = {segment.start for segment in state.memory_data}
        return {
            f"process/memory/{this.start:x}.bin"
            for this in state.memory_maps
            if this.start in captured
            and this.perms.startswith("r-")
            and this.private
            and not this.is_unreopenable
        }


@LAYOUTS
async def test_each_release_refuses_the_others(
    layout: str, sleeper: "subprocess.Popen[bytes]", wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    for other in RELEASES:
        await sa.capture_to(
            sleeper, tmp_path / other, format=other, policy=POLICIES[other]
        )
        async with await sa.Checkpoint.load(tmp_path / other) as checkpoint:
            assert checkpoint.format == other

    how = theirs.do("refused", store=tmp_path, names=[*RELEASES])

    assert how == {
        other: None
        if other == layout
        else f"RuntimeError: Failed to load checkpoint from {tmp_path / other}"
        for other in RELEASES
    }


@LAYOUTS
async def test_more_than_sandlock_knows_is_ignored(
    layout: str, sleeper: "subprocess.Popen[bytes]", wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    ours = tmp_path / "ours" / "web"
    await sa.capture_to(sleeper, ours, format=layout, policy=POLICIES[layout])
    base = files(ours)
    assert (ours / "extended" / "process.json").exists()

    for folder in (ours, ours / "process", ours / "process" / "memory"):
        (folder / "more").mkdir()
        (folder / "more" / "file").write_bytes(b"more")
    (ours / "notes.txt").write_bytes(b"more")
    meta = json.loads(base["meta.json"])
    (ours / "meta.json").write_text(json.dumps({**meta, "more": [1]}, indent=2))

    assert theirs.do("listed", store=tmp_path / "ours") == ["web"]
    theirs.do(
        "resave", store=tmp_path / "ours", other=tmp_path / "theirs", names=["web"]
    )
    assert_same(files(tmp_path / "theirs" / "web"), base)
    assert not (tmp_path / "theirs" / "web" / "extended").exists()
    async with await sa.Checkpoint.load(ours) as checkpoint:
        assert checkpoint.name == "web"


@LAYOUTS
async def test_policies_pass_through(
    layout: str, sleeper: "subprocess.Popen[bytes]", wheel: Wheels, tmp_path: Path
) -> None:
    theirs = wheel(layout)
    policies = {
        f"{path.parent.name}-{path.stem}": path.read_bytes()
        for path in sorted((GOLDEN / layout).glob("policy*/*.dat"))
    }
    assert policies
    for name, policy in policies.items():
        await sa.capture_to(
            sleeper,
            tmp_path / "ours" / name,
            format=layout,
            policy=policy,
            durable=False,
        )
        assert (tmp_path / "ours" / name / "policy.dat").read_bytes() == policy

    theirs.do(
        "resave",
        store=tmp_path / "ours",
        other=tmp_path / "theirs",
        names=[*policies],
    )

    for name, policy in policies.items():
        saved = (tmp_path / "theirs" / name / "policy.dat").read_bytes()
        decoded = decode_policy(layout, saved)
        wanted = decode_policy(layout, policy)
        assert unordered(decoded.fields) == unordered(wanted.fields), name
        # In the order of before, they are the same bytes.
        kept = {field: wanted.fields[field] for field in MAPS if field in wanted.fields}
        ordered = replace(decoded, fields={**decoded.fields, **kept})
        assert encode_policy(ordered) == policy, name


def unordered(fields: Any) -> dict[str, object]:
    """The fields of a policy, its maps sorted."""
    return {
        name: sorted(value) if name in MAPS else value for name, value in fields.items()
    }
