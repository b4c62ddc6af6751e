"""A message of Caffe's with protobuf's Python surface: attributes with defaults, HasField, repeated fields, CopyFrom.

The schema says which attributes there are, so a type checker cannot know them: they read as Any. Float arrays that
came from a file stay views on it until they are changed.
Source: https://protobuf.dev/reference/python/python-generated
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import Any, ClassVar, Self, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from avec.errors import InvalidModel
from avec.formats.caffe import text, wire
from avec.formats.caffe.descriptors import Descriptor, EnumTypeWrapper, FieldDescriptor, descriptor, enum_descriptor
from avec.formats.caffe.schema import (
    ARRAY_DTYPES,
    ENUMS,
    MESSAGES,
    Field,
    Floats,
    MessageType,
    Plain,
    PlainValue,
    Scalar,
    coerce,
)

Changed: TypeAlias = Callable[[], None]


class RepeatedScalar(MutableSequence[Any]):
    """The values of a repeated scalar field; a list, or for floats an array until one is changed."""

    __slots__ = ("_changed", "_field", "_items")

    def __init__(self, field: Field, changed: Changed, items: list[Scalar] | Floats | None = None) -> None:
        self._field = field
        self._changed = changed
        self._items: list[Scalar] | Floats = [] if items is None else items

    def _own(self) -> list[Scalar]:
        """The values as a list of our own, before a change."""
        self._changed()
        items = self._items.tolist() if isinstance(self._items, np.ndarray) else self._items
        self._items = items
        return items

    def as_array(self) -> npt.NDArray[Any]:
        """The values as a numpy array; without a copy when they came from a file or an array."""
        dtype = ARRAY_DTYPES.get(self._field.type)
        return np.asarray(self._items, dtype) if dtype else np.asarray(self._items)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.as_array(), dtype) if copy else np.asarray(self.as_array(), dtype)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = self._items[index]
        return found.tolist() if isinstance(found, (np.ndarray, np.generic)) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._own()[index] = [coerce(self._field, item) for item in value]
        else:
            self._own()[index] = coerce(self._field, value)

    def __delitem__(self, index: int | slice) -> None:
        del self._own()[index]

    def insert(self, index: int, value: Any) -> None:
        self._own().insert(index, coerce(self._field, value))

    def extend(self, values: Iterable[Any]) -> None:
        array = values.as_array() if isinstance(values, RepeatedScalar) else values
        if self._field.holds_array and not len(self._items) and isinstance(array, np.ndarray):
            self._changed()
            self._items = np.array(array.reshape(-1), ARRAY_DTYPES[self._field.type])
            return
        self._own().extend([coerce(self._field, item) for item in values])

    def MergeFrom(self, other: Iterable[Any]) -> None:
        self.extend(other)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        self._own().sort(key=key or _itself, reverse=reverse)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (RepeatedScalar, list, tuple)) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))

    __hash__ = None  # type: ignore[assignment]


class RepeatedMessage(MutableSequence["Message"]):
    """The messages of a repeated field; what is put in is copied, as protobuf does."""

    __slots__ = ("_changed", "_items", "_type")

    def __init__(self, message: str, changed: Changed) -> None:
        self._type = message
        self._changed = changed
        self._items: list[Message] = []

    def add(self, **fields: Any) -> Any:
        """Append a new message and return it."""
        return self._adopt(len(self._items), message_class(self._type)(**fields))

    def _adopt(self, index: int, message: Message) -> Message:
        self._changed()
        message._owner = self._changed
        self._items.insert(index, message)
        return message

    def insert(self, index: int, value: Message) -> None:
        if not isinstance(value, Message):
            raise TypeError(f"{value!r} is no {self._type}")
        copy = message_class(self._type)()
        copy.CopyFrom(value)
        self._adopt(index, copy)

    def MergeFrom(self, other: Iterable[Message]) -> None:
        self.extend(other)

    def sort(self, *, key: Callable[[Any], Any], reverse: bool = False) -> None:
        self._changed()
        self._items.sort(key=key, reverse=reverse)

    def reverse(self) -> None:
        self._changed()
        self._items.reverse()

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._items[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("a message in a repeated field is changed by its own fields or CopyFrom, not replaced")

    def __delitem__(self, index: int | slice) -> None:
        self._changed()
        del self._items[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (RepeatedMessage, list)) and self._items == list(other)

    def __repr__(self) -> str:
        return repr(self._items)

    __hash__ = None  # type: ignore[assignment]


class Message:
    """One message. `message_class(name)` gives the class for a name; its enums' values are class attributes."""

    TYPE: ClassVar[MessageType]
    DESCRIPTOR: ClassVar[Descriptor]
    __slots__ = ("__weakref__", "_owner", "_values", "_views")

    _owner: Changed | None
    _values: dict[str, Any]  # what is set
    _views: dict[str, Any]  # messages and lists that were looked at and are not set (yet)

    def __init__(self, **fields: Any) -> None:
        for name, value in (("_owner", None), ("_values", {}), ("_views", {})):
            object.__setattr__(self, name, value)
        for name, value in fields.items():
            self._initialise(name, value)

    def _initialise(self, name: str, value: Any) -> None:
        if value is None:
            return
        field = self._field(name)
        if not field.repeated:
            if field.type == "message":
                target: Message = getattr(self, name)
                target.MergeFrom(message_class(field.message)(**value) if isinstance(value, dict) else value)
            else:
                setattr(self, name, value)
        elif field.type == "message":
            getattr(self, name).extend(message_class(field.message)(**v) if isinstance(v, dict) else v for v in value)
        else:
            getattr(self, name).extend(value)

    @classmethod
    def _field(cls, name: str) -> Field:
        field = cls.TYPE.by_name.get(name)
        if field is None:
            raise ValueError(f"{cls.TYPE.name} has no field {name!r}")
        return field

    def _touch(self) -> None:
        if self._owner is not None:
            self._owner()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # no field does: without this, a half-made copy would look for its own slots for ever
            raise AttributeError(name)
        found = self._values.get(name)
        if found is not None:
            return found
        field = self.TYPE.by_name.get(name)
        if field is None:
            raise AttributeError(f"{self.TYPE.name} has no field {name!r}")
        if not field.repeated and field.type != "message":
            return field.default
        if name not in self._views:
            self._views[name] = self._new_view(field)
        return self._views[name]

    def _new_view(self, field: Field) -> Message | RepeatedScalar | RepeatedMessage:
        owner = weakref.ref(self)  # a cycle would keep a mapped caffemodel until the next garbage collection

        def changed() -> None:
            message = owner()
            if message is None:
                return
            if field.name in message._views:
                message._values[field.name] = message._views.pop(field.name)
            message._touch()

        if field.type != "message":
            return RepeatedScalar(field, changed)
        if field.repeated:
            return RepeatedMessage(field.message, changed)
        message = message_class(field.message)()
        object.__setattr__(message, "_owner", changed)
        return message

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_owner":
            object.__setattr__(self, name, value)
            return
        field = self.TYPE.by_name.get(name)
        if field is None:
            raise AttributeError(f"{self.TYPE.name} has no field {name!r}")
        if field.repeated or field.type == "message":
            raise AttributeError(f"assignment to {name!r} of {self.TYPE.name}: use its own methods, or CopyFrom")
        self._values[name] = coerce(field, value)
        self._touch()

    def HasField(self, name: str) -> bool:
        """Whether a field that is not repeated is set."""
        if self._field(name).repeated:
            raise ValueError(f"{self.TYPE.name}.{name} is repeated: test its length")
        return name in self._values

    def ClearField(self, name: str) -> None:
        self._field(name)
        self._touch()
        self._values.pop(name, None)
        self._views.pop(name, None)

    def Clear(self) -> None:
        self._touch()
        self._values.clear()
        self._views.clear()

    def SetInParent(self) -> None:
        """Mark this message as set in the one that it belongs to."""
        self._touch()

    def WhichOneof(self, name: str) -> str | None:
        """Refused, as protobuf does: no message of Caffe's has a oneof."""
        raise ValueError(f"{self.TYPE.name} has no oneof {name!r}")

    def ListFields(self) -> list[tuple[FieldDescriptor, Any]]:
        """The set fields with their values, in the order of their numbers."""
        return [(self.DESCRIPTOR.fields_by_name[field.name], value) for field, value in self.set_fields()]

    def set_fields(self) -> list[tuple[Field, Any]]:
        """As ListFields, with fields as the schema has them."""
        return [
            (field, self._values[field.name])
            for field in self.TYPE.fields
            if field.name in self._values and (not field.repeated or len(self._values[field.name]))
        ]

    def CopyFrom(self, other: Message) -> None:
        if other is not self:
            self.Clear()
            self.MergeFrom(other)

    def MergeFrom(self, other: Message) -> None:
        if other.TYPE is not self.TYPE:
            raise TypeError(f"a {other.TYPE.name} cannot be merged into a {self.TYPE.name}")
        self._touch()
        for field, value in other.set_fields():
            if field.repeated:
                getattr(self, field.name).extend(value)
            elif field.type == "message":
                getattr(self, field.name).MergeFrom(value)
            else:
                self._values[field.name] = value

    def IsInitialized(self) -> bool:
        """Whether all required fields are set, in this message and in those within."""
        return not self.FindInitializationErrors()

    def FindInitializationErrors(self) -> list[str]:
        """The required fields that are not set, "layer[0].clip_param.max" for instance."""
        missing = [field.name for field in self.TYPE.fields if field.required and field.name not in self._values]
        for field, value in self.set_fields():
            if field.type != "message":
                continue
            inner = {f"{field.name}[{place}]": item for place, item in enumerate(value)} if field.repeated else None
            for where, message in (inner or {field.name: value}).items():
                missing += [f"{where}.{name}" for name in message.FindInitializationErrors()]
        return missing

    def to_plain(self) -> Plain:
        """This message as plain values; float arrays are shared, not copied."""
        return {field.name: _to_plain(field, value) for field, value in self.set_fields()}

    def update_from_plain(self, plain: Plain) -> None:
        """Set what `plain` holds; it must be new, for its lists and arrays are kept."""
        for name, value in plain.items():
            field = self._field(name)
            if field.type == "message":
                self._update_messages(field, value)
            elif field.repeated:
                view: RepeatedScalar = getattr(self, name)
                view._changed()
                view._items = cast("list[Scalar] | Floats", value)
            else:
                self._values[name] = value
        self._touch()

    def _update_messages(self, field: Field, value: PlainValue) -> None:
        if not field.repeated:
            target: Message = getattr(self, field.name)
            target._touch()
            target.update_from_plain(cast(Plain, value))
            return
        for item in cast("list[Plain]", value):
            getattr(self, field.name).add().update_from_plain(item)

    @classmethod
    def from_wire(cls, data: wire.Buffer, source: str) -> Self:
        """Read a binary file's bytes; float arrays are views on them. Raises InvalidModel."""
        message = cls()
        message.update_from_plain(wire.decode(cls.TYPE, data, source))
        return message

    @classmethod
    def from_text(cls, content: str, source: str) -> Self:
        """Read a text file's contents. Raises InvalidModel."""
        message = cls()
        message.update_from_plain(text.decode(cls.TYPE, content, source))
        return message

    def SerializeToString(self, **_options: bool) -> bytes:
        """This message in protobuf's wire format, always the same bytes for the same contents.

        Raises:
            InvalidModel: a required field is not set.
        """
        if missing := self.FindInitializationErrors():
            raise InvalidModel(f"{self.TYPE.name} lacks what it must have: set {', '.join(missing)}")
        return self.SerializePartialToString()

    def SerializePartialToString(self, **_options: bool) -> bytes:
        return b"".join(wire.encode(self.TYPE, self.to_plain()))

    @classmethod
    def FromString(cls, data: wire.Buffer) -> Self:
        message = cls()
        message.MergeFromString(data)
        return message

    def MergeFromString(self, data: wire.Buffer) -> int:
        other = type(self).from_wire(data, self.TYPE.name)
        self.MergeFrom(other)
        return len(data)

    def ParseFromString(self, data: wire.Buffer) -> int:
        self.Clear()
        return self.MergeFromString(data)

    def ByteSize(self) -> int:
        return sum(len(piece) for piece in wire.encode(self.TYPE, self.to_plain()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message) or other.TYPE is not self.TYPE:
            return NotImplemented
        return self.set_fields() == other.set_fields()

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self)()
        copy.CopyFrom(self)
        return copy

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple[Callable[[str, bytes], Message], tuple[str, bytes]]:
        return restore, (self.TYPE.name, self.SerializePartialToString())

    def __str__(self) -> str:
        return text.encode(self.TYPE, self.to_plain())

    def __repr__(self) -> str:
        return f"<{self.TYPE.name}: {' '.join(str(self).split())[:200]}>"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.TYPE.by_name]


def _to_plain(field: Field, value: Any) -> PlainValue:
    if field.type == "message":
        return [item.to_plain() for item in value] if field.repeated else cast(Plain, value.to_plain())
    if field.holds_array:
        return cast(RepeatedScalar, value).as_array()
    return list(value) if field.repeated else cast(Scalar, value)


def _itself(value: Any) -> Any:
    return value


def _make_class(message: MessageType) -> type[Message]:
    prefix = message.name + "."
    enums = [enum for enum in ENUMS.values() if enum.name.startswith(prefix)]
    constants: dict[str, Any] = {name: number for enum in enums for name, number in enum.values.items()}
    constants |= {enum.name.removeprefix(prefix): EnumTypeWrapper(enum_descriptor(enum.name)) for enum in enums}
    constants |= {f"{field.name.upper()}_FIELD_NUMBER": field.number for field in message.fields}
    own = {"__slots__": (), "TYPE": message, "DESCRIPTOR": descriptor(message.name), "__module__": __name__}
    return type(message.name, (Message,), {**own, **constants})


_CLASSES = {name: _make_class(message) for name, message in MESSAGES.items()}


def message_class(name: str) -> type[Message]:
    """The class of a message by its name, "NetParameter" for instance; KeyError when Caffe has none."""
    return _CLASSES[name]


def restore(name: str, data: bytes) -> Message:
    """The message that SerializePartialToString wrote; for copy and pickle."""
    return message_class(name).FromString(data)
