"""What is printed as JSON: whatever an image holds."""

import os

import orjson
import pytest

from sandlock_async.cli.output import _encodable


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ((1 << 64) - 1, (1 << 64) - 1),
        (3 << 63, float(3 << 63)),  # three sparse files of 2^63 bytes
        (True, True),
        (["a" + os.fsdecode(b"\xff")], ["a\ufffd\ufffd\ufffd"]),
    ],
)
def test_what_json_does_not_know(value: object, printed: object) -> None:
    assert orjson.loads(orjson.dumps(_encodable(value))) == printed
