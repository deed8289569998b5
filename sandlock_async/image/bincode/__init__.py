"""bincode 1.x with its defaults: values one after the other, nothing in between.

No names, no padding, no types: what the bytes mean is in the schema, a tree of the
kinds below. A schema is finite, so decoding cannot recurse without end, and no
element takes less than a byte, so no count can claim more than the bytes that are
there. Values are those of JSON:

==================  ==========================================================
kind                value, and its bytes
==================  ==========================================================
:class:`UInt`       int; fixed width, little-endian
:class:`Bool`       bool; one byte, 0 or 1
:class:`Text`       str; u64 length in bytes, UTF-8
:class:`ByteArray`  list of ints; as many bytes
:class:`Option`     None or the value; one byte 0, or 1 and the value
:class:`Vec`        list; u64 count, the elements
:class:`Pairs`      list of ``[key, value]``, in stored order; a map's bytes
:class:`Tuple`      list; the parts
:class:`Struct`     dict; the fields
:class:`Enum`       ``"Name"`` or ``{"Name": payload}``; u32 index, the payload
==================  ==========================================================

Every message of :exc:`Malformed` starts with the place: ``.net_allow[0].ports: …``.
"""

from sandlock_async.image.bincode.compounds import (
    ByteArray,
    Enum,
    Option,
    Pairs,
    Struct,
    Tuple,
    Vec,
)
from sandlock_async.image.bincode.kind import Cursor, Kind
from sandlock_async.image.bincode.scalars import Bool, Text, UInt
from sandlock_async.image.strict_json import Malformed

__all__ = [
    "Bool",
    "ByteArray",
    "Enum",
    "Kind",
    "Option",
    "Pairs",
    "Struct",
    "Text",
    "Tuple",
    "UInt",
    "Vec",
    "decode",
    "encode",
]


def encode(kind: Kind, value: object) -> bytes:
    """Return the bytes of *value*.

    :raises Malformed: naming the place that is not of its kind
    """
    out = bytearray()
    kind.encode(value, out)
    return bytes(out)


def decode(kind: Kind, data: bytes, max_items: int = 1 << 14) -> object:
    """Return the value that *data* is, to the last byte.

    :param max_items: how many elements its lists may have together, plain numbers
        aside
    :raises Malformed: naming the place that is wrong
    """
    cursor = Cursor(data, max_items)
    value = kind.decode(cursor)
    if cursor.left:
        raise Malformed(f": {cursor.left} bytes after the end")
    return value
