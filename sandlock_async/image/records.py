"""Dataclasses of the model as JSON objects, and back, by the types of their fields.

======================  ===================================================
type                    JSON
======================  ===================================================
``int``                 integer of an u64, or of the range it is annotated with
``bool``, ``str``       the same
``bytes``               string of hexadecimal digits
``X | None``            null, or an X
``tuple[X, ...]``       list
a dataclass             object; a key that is absent is null
several dataclasses     object; its ``kind`` names which
======================  ===================================================

As strict as :mod:`.strict_json`: nothing of another type or range passes.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as type_hints

from sandlock_async.image.strict_json import U64, Malformed

T = TypeVar("T")
Decoder = Callable[[object, str], Any]

_PLAIN = frozenset((int, str, bool, NoneType))


def encode_record(value: object) -> Any:  # noqa: ANN401 - JSON
    """Return *value* as what JSON knows."""
    kind: Any = type(value)
    return value if kind in _PLAIN else _encoder(kind)(value)


def decode_record(record: type[T], value: object, where: str) -> T:
    """Return the *record* that a JSON value encodes.

    :param where: what to call it in an error
    :raises Malformed: naming the first field that is wrong
    """
    return cast("T", _decoder(cast("Any", record))(value, where))


@cache
def _encoder(record: type[Any]) -> Callable[[Any], object]:
    # Asked once for each type: an image has thousands of values.
    if issubclass(record, bytes):
        return bytes.hex
    if issubclass(record, tuple):
        return _encode_items
    if not is_dataclass(record):
        return _as_it_is
    # Written out, as dataclasses write their __init__: that takes a sixth of the time.
    code = f"lambda this: {_object_code(record, 'this')}"
    return cast("Callable[[Any], object]", eval(code, {"encode": encode_record}))


def _object_code(record: type[Any], value: str) -> str:
    hints = type_hints(record, include_extras=True)
    kind = getattr(record, "kind", None)
    items = [] if kind is None else [f"'kind': {kind!r}"]
    items += [
        f"{field.name!r}: {_code(hints[field.name], f'{value}.{field.name}')}"
        for field in fields(record)
    ]
    return f"{{{', '.join(items)}}}"


def _code(wanted: Any, value: str) -> str:  # noqa: ANN401 - a type, or a form of it
    """Return the code that encodes *value*, of type *wanted*."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if _is_plain(wanted):
        return value
    if wanted is bytes:
        return f"{value}.hex()"
    if origin in (Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
        (option,) = (option for option in arguments if option is not NoneType)
        return f"None if {value} is None else {_code(option, value)}"
    if origin is tuple:
        item = f"{value}_".replace(".", "_")
        code = _code(arguments[0], item)
        return f"list({value})" if code == item else f"[{code} for {item} in {value}]"
    if is_dataclass(wanted):
        return _object_code(cast("type[Any]", wanted), value)
    return f"encode({value})"


def _is_plain(wanted: Any) -> bool:  # noqa: ANN401 - a type
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _is_plain(arguments[0])
    if origin in (Union, UnionType):
        return all(map(_is_plain, arguments))
    return wanted in _PLAIN


def _encode_items(value: tuple[object, ...]) -> list[object]:
    return [item if type(item) in _PLAIN else encode_record(item) for item in value]


def _as_it_is(value: object) -> object:
    return value


@cache
def _decoder(wanted: Any) -> Decoder:  # noqa: ANN401 - a type, or a form of typing's
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _integer(arguments[1])
    if origin in (Union, UnionType):
        options = [option for option in arguments if option is not NoneType]
        inner = _decoder(options[0]) if len(options) == 1 else _tagged(options)
        return _optional(inner) if NoneType in arguments else inner
    if origin is tuple:
        return _list(_decoder(arguments[0]))
    simple = {int: _integer(U64), bool: _boolean, str: _text, bytes: _hex}
    return simple[wanted] if wanted in simple else _object(wanted)


def _integer(within: range) -> Decoder:
    def decode(value: object, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value not in within:
            raise Malformed(
                f"{where} is not an integer from {within.start} to {within.stop - 1}"
            )
        return value

    return decode


def _boolean(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{where} is neither true nor false")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{where} is not a string")
    return value


def _hex(value: object, where: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, where))
    except ValueError as error:
        raise Malformed(f"{where} is not hexadecimal") from error


def _optional(inner: Decoder) -> Decoder:
    def decode(value: object, where: str) -> object:
        return None if value is None else inner(value, where)

    return decode


def _list(inner: Decoder) -> Decoder:
    def decode(value: object, where: str) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise Malformed(f"{where} is not a list")
        items = cast("list[object]", value)
        return tuple(inner(item, f"{where}[{at}]") for at, item in enumerate(items))

    return decode


def _object(record: type[Any]) -> Decoder:
    hints = type_hints(record, include_extras=True)
    known: list[tuple[Field[Any], Decoder]] = [
        (field, _decoder(hints[field.name])) for field in fields(record)
    ]

    def decode(value: object, where: str) -> object:
        found = _mapping(value, where)
        decoded: dict[str, object] = {}
        for field, inner in known:
            if field.name not in found and field.default is not MISSING:
                continue
            decoded[field.name] = inner(found.get(field.name), f"{where}.{field.name}")
        return record(**decoded)

    return decode


def _tagged(records: list[type[Any]]) -> Decoder:
    by_kind = {record.kind: _object(record) for record in records}

    def decode(value: object, where: str) -> object:
        kind = _text(_mapping(value, where).get("kind"), f"{where}.kind")
        if kind not in by_kind:
            shown = reprlib.repr(kind)
            raise Malformed(f"{where}.kind is {shown}, which is unknown here")
        return by_kind[kind](value, where)

    return decode


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Malformed(f"{where} is not an object")
    return cast("Mapping[str, object]", value)
