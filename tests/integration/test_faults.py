"""Whatever a system call says, a capture ends as documented, and nothing is left."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandlock_async as sa
from tests.conftest import Tracee
from tests.faults import Fault, Gate, Site, intercepted
from tests.integration.aftermath import Aftermath, Way

pytestmark = pytest.mark.usefixtures("nothing_left")


def _silent(_: sa.Event) -> None:
    pass


WAYS = (
    Way(name="direct", old=False, options={"strategy": "direct"}),
    Way(name="fork", options={"strategy": "fork", "durable": True}),
    Way(
        name="spilled",
        options={"strategy": "direct", "memory_limit": 0, "format": "v3"},
    ),
    Way(
        name="tree",
        old=False,
        options={"strategy": "direct", "tree": True, "durable": True},
    ),
    Way(
        name="loop",
        options={"strategy": "direct", "durable": True, "on_event": _silent},
    ),
    Way(name="fork-tree", options={"strategy": "fork", "tree": True}),
    Way(
        name="named",
        options={"strategy": "direct", "operation_id": "another", "format": "v2"},
    ),
    Way(name="many", many=True, options={"strategy": "fork"}),
    Way(name="together", many=True, options={"strategy": "fork", "consistent": True}),
    Way(name="memory", old=False, in_memory=True),
)


@pytest.fixture
def aftermath(
    spawn: Callable[..., Tracee], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Way], Aftermath]:
    def make(way: Way) -> Aftermath:
        if way.in_memory:  # and what does not fit there
            module = sys.modules["sandlock_async.capture"]  # sa.capture is a function
            monkeypatch.setattr(module, "DEFAULT_LIMIT", 0)
        mapped = tmp_path / "mapped"
        mapped.write_bytes(bytes(range(256)) * 2048)
        return Aftermath(way, spawn("varied", mapped), tmp_path / f"to-{way.name}")

    return make


async def sites_of(it: Aftermath) -> list[Site]:
    """Return from where a capture makes system calls, in the order of the first."""
    gate = Gate()
    await it.attempt("a capture", intercepted(gate))
    it.check()
    it.outcomes.clear()
    return list(gate.seen)


async def fail(it: Aftermath, fault: Fault) -> None:
    gate = Gate(fault)
    await it.attempt(fault, intercepted(gate))
    it.outcomes["not reached"] += not gate.hit


async def test_calls_fail_once(aftermath: Callable[[Way], Aftermath]) -> None:
    """Of all ways only what the ones before have not."""
    seen: set[Site] = set()
    for way in WAYS:
        it = aftermath(way)
        async with it.watched():
            for site in await sites_of(it):
                if site.place not in seen:
                    error = site.errnos[len(seen) % len(site.errnos)]
                    seen.add(site.place)
                    await fail(it, Fault(site, 0, error))
        it.check()
    print(f"{len(seen)} places")
    assert len(seen) > 200


@pytest.mark.timeout(3600)
@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_every_call_fails_once_with_every_error(
    way: Way, aftermath: Callable[[Way], Aftermath]
) -> None:
    it = aftermath(way)
    async with it.watched():
        sites = await sites_of(it)
        for site in sites:
            for error in site.errnos:
                await fail(it, Fault(site, 0, error))
    print(f"{way.name}: {len(sites)} sites, {dict(it.outcomes)}")
    it.check()
