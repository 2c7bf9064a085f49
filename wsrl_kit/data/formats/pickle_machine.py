"""A stack machine for pickle instructions, protocols 0 to 5.

It builds containers, text, numbers, and the records of `pickle_names`. Instructions check the types that they take from
the stack, and declared sizes against the file's size before reading.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from wsrl_kit.data.formats.pickle_names import (
    Array,
    Bytearray,
    Damaged,
    Dtype,
    Name,
    Refused,
    check_key,
    find_name,
    quoted,
)

NEWEST_PROTOCOL = 5
# In bytes. Every such integer is a finite float.
LARGEST_INTEGER = 127
_LONGEST_NUMBER = 320
_LARGEST_MEMO_INDEX = 2**32
# Containers and memo entries take about 100 bytes each, and can be made by one byte of the file. Real files have far
# fewer of them than a quarter of their bytes.
_SPARE_OBJECTS = 1_000_000
_BYTES_PER_OBJECT = 4

# Bytes of the file that are looked at together.
_WINDOW = 8192

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}


class Machine:
    """Runs the pickles of one file, one after another."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._position = 0
        self.made = 0
        self._copied = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pickles(self) -> Iterator[Any]:
        """What each pickle holds, with records for arrays.

        Raises:
            Damaged: empty, incomplete, or an unknown instruction.
            Refused: it asks for a name that no data file needs.
        """
        count = 0
        try:
            while self._read_on():
                yield self._run()
                count += 1
        except Damaged as reason:
            raise (Damaged(f"{reason}, after {count} whole pickle(s)") if count else reason) from None
        if not count:
            raise Damaged("is empty")

    def _run(self) -> Any:
        self.stack, self.marks, self.memo = [], [], {}
        try:
            self._run_to_stop()
        except IndexError:
            raise Damaged("has an instruction that takes more than there is") from None
        except UnicodeError:
            raise Damaged("has text in another encoding") from None
        except ValueError:
            raise Damaged("has a number that is none") from None
        if len(self.stack) != 1 or self.marks:
            raise Damaged("leaves more than one value, or none")
        return self.stack[0]

    def _run_to_stop(self) -> None:
        stack, memo, window, position = self.stack, self.memo, self._window, self._position
        while True:
            if position + 2 > len(window):
                self._position = position
                if not self._read_on():
                    raise Damaged("ends too early")
                window, position = self._window, self._position
            code = window[position]
            position += 1
            # Without a call: of an array's thirty instructions these are twenty.
            if code == _MEMOIZE:
                memo[len(memo)] = stack[-1]
            elif code == _BINGET:
                stack.append(memo[window[position]] if window[position] in memo else _no_memo())
                position += 1
            elif code == _BININT1:
                stack.append(window[position])
                position += 1
            elif code == _STOP:
                self._position = position
                return
            else:
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise Damaged(f"has {bytes([code])!r} where an instruction was expected")
                self._position = position
                operation(self)
                window, position = self._window, self._position

    def _read_on(self) -> bytes:
        """Moves the window on and returns it; empty at the end of the file."""
        if self.made + len(self.memo) > _SPARE_OBJECTS + self._size // _BYTES_PER_OBJECT:
            raise Damaged(f"makes too many containers of {self._size} bytes")
        self._window = self._window[self._position :] + self._file.read(_WINDOW)
        self._position = 0
        return self._window

    def _leave_window(self) -> None:
        """Continues in the file itself."""
        self._file.seek(self._position - len(self._window), os.SEEK_CUR)
        self._window, self._position = b"", 0

    def take(self, count: int) -> bytes:
        end = self._position + count
        if self._position <= end <= len(self._window):
            content = self._window[self._position : end]
            self._position = end
            return content
        if not 0 <= count <= self._size:
            raise Damaged(f"declares {count} bytes and has {self._size} in all")
        # Large content is read in one piece, without a copy.
        self._leave_window()
        content = self._file.read(count)
        if len(content) != count:
            raise Damaged("ends too early")
        return content

    def line(self) -> bytes:
        """The rest of the line, without its end."""
        end = self._window.find(b"\n", self._position)
        if end >= 0:
            return self.take(end + 1 - self._position)[:-1]
        self._leave_window()
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise Damaged("ends too early")
        return line[:-1]

    def number_line(self) -> bytes:
        line = self.line()
        if len(line) > _LONGEST_NUMBER:
            raise Damaged(f"holds a number of {len(line)} digits")
        return line

    def count_copy(self, value: Any) -> None:
        """Counts what calls copy: a file can repeat a call in a few bytes."""
        if type(value) in _COPIED:
            self._copied += len(value)
            if self._copied > self._size:
                raise Damaged("copies its content again and again")

    def mark(self) -> None:
        self.made += 1
        self.marks.append(len(self.stack))

    def push_object(self, value: Any) -> None:
        self.made += 1
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Pops everything above the last mark."""
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def memoize(self, index: int) -> None:
        if not 0 <= index < _LARGEST_MEMO_INDEX:
            raise Damaged(f"has a memo entry {index}")
        self.memo[index] = self.stack[-1]

    def add_to_dict(self, entries: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(entries) % 2:
            raise Damaged("sets entries of something that is no dict")
        keys = entries[::2]
        for key in keys:
            if type(key) is not str:
                check_key(key)
        target.update(zip(keys, entries[1::2], strict=True))

    def add_to_list(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Damaged("appends to something that is no list")
        target.extend(elements)

    def add_to_set(self, elements: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise Damaged("adds to something that is no set")
        for element in elements:
            check_key(element)
        target.update(elements)

    def push_frozenset(self, elements: list[Any]) -> None:
        for element in elements:
            check_key(element)
        self.push_object(frozenset(elements))

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(arguments) is not tuple:
            raise Damaged("calls something that is no name")
        for argument in arguments:
            self.count_copy(argument)
        try:
            self.push_object(name.function(*arguments))
        except TypeError:
            raise Damaged(f"calls {name.title} with arguments that do not fit") from None

    def set_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not Dtype and type(target) is not Array:
            raise Damaged("sets the state of something that has none")
        if type(state) is tuple and state and type(state[-1]) is str:
            self.count_copy(state[-1])
        target.set_state(state)

    def check_protocol(self) -> None:
        if (protocol := self.take(1)[0]) > NEWEST_PROTOCOL:
            raise Damaged(f"is of protocol {protocol}, expected at most {NEWEST_PROTOCOL}")

    def check_frame(self) -> None:
        (size,) = struct.unpack("<Q", self.take(8))
        if size > self._size:
            raise Damaged(f"declares {size} bytes and has {self._size} in all")

    def push_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Damaged("asks for a name that is no text")
        self.stack.append(find_name(module, name))


_MEMOIZE, _BINGET, _BININT1, _STOP = b"\x94hK."
_COPIED = (str, list, tuple, dict, set, frozenset)
_Operation = Callable[[Machine], None]


def _constant(value: Any) -> _Operation:
    return lambda machine: machine.stack.append(value)


def _empty(kind: Callable[[], Any]) -> _Operation:
    def make(machine: Machine) -> None:
        machine.made += 1
        machine.stack.append(kind())

    return make


def _fixed(layout: str, use: Callable[[Machine, Any], None]) -> _Operation:
    """An instruction followed by a number of fixed size."""
    unpack, size = struct.Struct(layout).unpack, struct.calcsize(layout)
    return lambda machine: use(machine, unpack(machine.take(size))[0])


def _sized(layout: str, make: Callable[[bytes], Any]) -> _Operation:
    """An instruction followed by a size and as many bytes."""
    unpack, width = struct.Struct(layout).unpack, struct.calcsize(layout)

    def push(machine: Machine) -> None:
        machine.stack.append(make(machine.take(unpack(machine.take(width))[0])))

    return push


def _line(make: Callable[[bytes], Any]) -> _Operation:
    return lambda machine: machine.stack.append(make(machine.line()))


def _number_line(make: Callable[[bytes], Any]) -> _Operation:
    return lambda machine: machine.stack.append(make(machine.number_line()))


def _tuple(count: int) -> _Operation:
    def make(machine: Machine) -> None:
        stack = machine.stack
        elements = tuple(stack[-count:])
        if len(elements) != count:
            raise Damaged("has an instruction that takes more than there is")
        machine.made += 1
        stack[-count:] = (elements,)

    return make


def _marked(use: Callable[[Machine, list[Any]], None]) -> _Operation:
    """An instruction for everything above the last mark."""
    return lambda machine: use(machine, machine.since_mark())


def _refused(what: str) -> _Operation:
    def refuse(_machine: Machine) -> None:
        raise Refused(what)

    return refuse


def _utf8(content: bytes) -> str:
    return content.decode("utf-8")


def _latin1(content: bytes) -> str:
    """Text of Python 2, perhaps an array's bytes."""
    return content.decode("latin1")


def _raw_unicode(line: bytes) -> str:
    text = line.decode("raw-unicode-escape")
    # Escapes can spell halves of a character, which nothing can print.
    text.encode("utf-8")
    return text


def _quoted_string(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Damaged("has text without quotes")
    return _latin1(_ESCAPE.sub(_unescaped, line[1:-1]))


def _unescaped(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if len(escape) == 3:
        return bytes.fromhex(escape[1:].decode())
    if escape not in _ESCAPED:
        raise Damaged("has text with an unknown escape")
    return _ESCAPED[escape]


def _integer(content: bytes) -> int:
    if len(content) > LARGEST_INTEGER:
        raise Damaged(f"holds a number of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def _decimal(line: bytes) -> int:
    value = int(line.removesuffix(b"L"))
    if value.bit_length() >= 8 * LARGEST_INTEGER:
        raise Damaged(f"holds a number of {len(line)} digits")
    return value


def _decimal_or_bool(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _pop(machine: Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _dict_of(machine: Machine, entries: list[Any]) -> None:
    machine.push_object({})
    machine.add_to_dict(entries)


def _set_entry(machine: Machine) -> None:
    stack = machine.stack
    value, key = stack.pop(), stack.pop()
    target = stack[-1]
    if type(target) is not dict:
        raise Damaged("sets an entry of something that is no dict")
    if type(key) is not str:
        check_key(key)
    target[key] = value


def _global(machine: Machine) -> None:
    machine.stack.append(find_name(_utf8(machine.line()), _utf8(machine.line())))


def _recall(machine: Machine, index: int) -> None:
    machine.stack.append(machine.memo[index] if index in machine.memo else _no_memo())


def _no_memo() -> Any:
    raise Damaged("refers to something that was not there before")


def _persistent(machine: Machine, identifier: Any) -> None:
    raise Refused(f"persistent object {quoted(identifier)}")


# By code, without those that `_run_to_stop` does itself.
_OPERATIONS: dict[int, _Operation] = {
    code[0]: operation
    for code, operation in {
        b"\x80": Machine.check_protocol,
        b"\x95": Machine.check_frame,
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"I": _number_line(_decimal_or_bool),
        b"L": _number_line(_decimal),
        b"F": _number_line(float),
        b"M": _fixed("<H", lambda machine, value: machine.stack.append(value)),
        b"J": _fixed("<i", lambda machine, value: machine.stack.append(value)),
        b"G": _fixed(">d", lambda machine, value: machine.stack.append(value)),
        b"\x8a": _sized("<B", _integer),
        b"\x8b": _sized("<i", _integer),
        b"S": _line(_quoted_string),
        b"V": _line(_raw_unicode),
        b"U": _sized("<B", _latin1),
        b"T": _sized("<i", _latin1),
        b"\x8c": _sized("<B", _utf8),
        b"X": _sized("<I", _utf8),
        b"\x8d": _sized("<Q", _utf8),
        b"C": _sized("<B", bytes),
        b"B": _sized("<I", bytes),
        b"\x8e": _sized("<Q", bytes),
        b"\x96": _sized("<Q", Bytearray),
        b"(": Machine.mark,
        b"0": _pop,
        b"1": _marked(lambda _machine, _values: None),
        b"2": lambda machine: machine.stack.append(machine.stack[-1]),
        b")": _constant(()),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"t": _marked(lambda machine, values: machine.push_object(tuple(values))),
        b"]": _empty(list),
        b"l": _marked(Machine.push_object),
        b"a": lambda machine: machine.add_to_list([machine.stack.pop()]),
        b"e": _marked(Machine.add_to_list),
        b"}": _empty(dict),
        b"d": _marked(_dict_of),
        b"s": _set_entry,
        b"u": _marked(Machine.add_to_dict),
        b"\x8f": _empty(set),
        b"\x90": _marked(Machine.add_to_set),
        b"\x91": _marked(Machine.push_frozenset),
        b"p": lambda machine: machine.memoize(_decimal(machine.number_line())),
        b"q": _fixed("<B", Machine.memoize),
        b"r": _fixed("<I", Machine.memoize),
        b"g": lambda machine: _recall(machine, _decimal(machine.number_line())),
        b"j": _fixed("<I", _recall),
        b"c": _global,
        b"\x93": Machine.push_name,
        b"R": Machine.call,
        b"b": Machine.set_state,
        # What only pickles of other objects need.
        b"P": lambda machine: _persistent(machine, _latin1(machine.line())),
        b"Q": lambda machine: _persistent(machine, machine.stack.pop()),
        b"\x82": _refused("a registered extension"),
        b"\x83": _refused("a registered extension"),
        b"\x84": _refused("a registered extension"),
        b"\x81": _refused("an object of a class"),
        b"\x92": _refused("an object of a class"),
        b"i": _refused("an object of a class"),
        b"o": _refused("an object of a class"),
        b"\x97": _refused("a buffer outside of the file"),
        b"\x98": _refused("a buffer outside of the file"),
    }.items()
}
