"""Lists a standard CIM: read_cim.py DIRECTORY NAME

A reader of its own, made from the description of the format alone, to check what is written against. One line a path
and stream, in the order of the link tables: path, file id, flags, size, times, buffers and SHA-256 of the data.
"""

import hashlib
import os
import struct
import sys
import uuid

directory, name = sys.argv[1:]


def read(name):
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()


def header(data, file_type):
    magic, _, found, _, major, _, _ = struct.unpack_from("<8sIB3sIIQ", data)
    assert magic == b"cimfile0" and found == file_type and major in (1, 2, 3)
    return major


image = read(name)
major = header(image, 0)
own = struct.unpack_from("<16sH6x", image, 32)
file_system, parent_count = struct.unpack_from("<Q6xH", image, 56)
sets = [struct.unpack_from("<16sH6x", image, 72 + 24 * i) for i in range(parent_count)] + [own]
assert len(image) == 72 + 24 * parent_count

regions = []
for guid, count in sets:
    for i in range(count):
        region = read("region_%s_%d" % (uuid.UUID(bytes_le=guid), i))
        header(region, 1)
        index, kind = struct.unpack_from("<HB", region, 32)
        assert index == i and kind == i  # as it is written here
        regions.append(region)


def at(offset, size, align=8):
    region, byte = regions[offset >> 48], offset & (1 << 48) - 1
    assert 40 <= byte and byte + size <= len(region) and byte % align == 0, hex(offset)
    return region[byte : byte + size]


def counted(offset):
    if not offset:
        return b""
    (size,) = struct.unpack("<H", at(offset, 2))
    return at(offset, 2 + size)[2:]


upcase_at, tables_at, table_count, root = struct.unpack("<QQII", at(file_system, 24))
upcase = struct.unpack("<65536H", at(upcase_at, 131072))
tables = [struct.unpack_from("<QHHI", at(tables_at, 16 * table_count), 16 * i) for i in range(table_count)]
assert all(table[1] == 1024 for table in tables[:-1])
record_size = {1: 0x58, 2: 0x60, 3: 0x68}[major]


def links(table, value):
    length, count = struct.unpack_from("<II", table)
    assert length == len(table) and count > 0
    size = struct.calcsize(value)
    last = None
    end = 8 + count * (size + 4)
    for i in range(count):
        target = struct.unpack_from(value, table, 8 + size * i)
        (name,) = struct.unpack_from("<I", table, 8 + size * count + 4 * i)
        assert name == end
        (units,) = struct.unpack_from("<H", table, name)
        raw = table[name + 2 : name + 2 + 2 * units]
        end = name + 2 + 2 * units
        key = [upcase[unit] for unit in struct.unpack("<%dH" % units, raw)]
        assert last is None or last < key
        last = key
        yield raw.decode("utf-16-le", "surrogatepass"), target
    assert end == length


def stream(offset, word):
    size, kind, sparse = word & (1 << 48) - 1, word >> 48 & 0xFF, word >> 56
    assert kind == 0 and sparse in (0, 1)
    if sparse or not size:
        at(offset, 0)
        return bytes(size)
    return at(offset, size, 4096 if size >= 4096 else 8)


def show(*fields):
    print("|".join(str(field) for field in fields))


def walk(path, file, parent):
    table, count, size, _ = tables[(file - 1) // 1024]
    assert size == record_size and (file - 1) % 1024 < count
    record = at(table, count * size)[(file - 1) % 1024 * size :][:size]
    flags, ea_size, tag, *times = struct.unpack_from("<HHIqqqq", record)
    data, word, security, ea, reparse, streams = struct.unpack_from("<QQQQQQ", record, 40)
    is_dir = word >> 48 == 1
    if major > 1:
        assert seen.setdefault(file, parent) == struct.unpack_from("<I", record, 88)[0]
    reparse = counted(reparse)
    assert tag == (struct.unpack_from("<I", reparse)[0] if reparse else 0)
    attributes = flags & 7 | (flags & 8) << 2 | (flags & 16) << 5 | is_dir << 4 | bool(reparse) << 10
    content = b"" if is_dir else stream(data, word)
    ea = at(ea, ea_size) if ea else b""
    buffers = [buffer.hex() for buffer in (counted(security), ea, reparse)]
    show(path, file, attributes, len(content), *times, *buffers, hashlib.sha256(content).hexdigest())
    if streams:
        (size,) = struct.unpack("<I", at(streams, 4))
        for name, record in links(at(streams, size), "<QQ"):
            content = stream(*record)
            show(path + ":" + name, len(content), hashlib.sha256(content).hexdigest())
    size = word & (1 << 48) - 1
    if is_dir and size:
        for name, (child,) in links(at(data, size), "<I"):
            walk((path + "\\" if path else "") + name, child, file)


seen = {}
sys.stdout.reconfigure(encoding="utf-8", errors="surrogatepass")
walk("", root, root)
