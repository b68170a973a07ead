#!/usr/bin/env python3
"""A reader of floe images, written from format-spec.md alone, with nothing but Python's standard library.

    reader.py list IMAGE           one line for each path: type, mode, uid, gid, size, mtime, path, link target
    reader.py extract IMAGE DIR    files (holes kept), directories, symlinks, hard links, fifos, sockets, devices (root);
                                   names and leaves out files with bytes in the thaw log: exit status 3

It reads images whose frames are raw, xz or zstd. For zstd it needs the C library libzstd.so.1, or the one that
READER_LIBZSTD names. It verifies CRC-32, but neither XXH3 nor BLAKE3, which the standard library does not have. So it
shows that the specification is complete, not that an image is undamaged. Section numbers are those of format-spec.md.
"""

import ctypes
import lzma
import os
import stat
import struct
import sys
import zlib

LOG_START = 32768
FRAME_HEADER = 64
KNOWN_INCOMPAT = 0b11111  # section 3.2: bits 0 to 4; bit 6 is for object stores, which this reader cannot read
FLAG_PARTS = 1
FLAG_DICTIONARY = 2
SUPERCHUNK, TABLE_GROUP, MAP_BLOCK, ROOT = 1, 2, 3, 4
INODES, DIRENTS, CONTENTS, XATTRS, TINY, MAP, THAWED = 1, 2, 3, 4, 5, 8, 10
RAW_LIMIT = 64 << 20
ID_LIMIT = 1 << 62


class Bad(Exception):
    """The image contradicts the specification, or needs a feature that this reader does not have."""


class Cursor:
    """Reads consecutive values from bytes (section 1)."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, n):
        if n > len(self.data) - self.at:
            raise Bad(f"{self.what}: {n} bytes wanted, {len(self.data) - self.at} left")
        out = self.data[self.at : self.at + n]
        self.at += n
        return out

    def u8(self):
        return self.take(1)[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def varint(self):
        value = 0
        for i in range(10):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if value >= 1 << 64 or (byte == 0 and i > 0):
                    raise Bad(f"{self.what}: a varint is too large or not in its shortest form")
                return value
        raise Bad(f"{self.what}: a varint of more than 10 bytes")

    def delta(self, base):
        """Reads a zigzag varint; returns its sum with base, modulo 2^64."""
        return (base + unzigzag(self.varint())) % (1 << 64)

    def end(self):
        if self.at != len(self.data):
            raise Bad(f"{self.what}: {len(self.data) - self.at} bytes too many")


def unzigzag(value):
    return (value >> 1) ^ -(value & 1)


def signed(value):
    return value - (1 << 64) if value >= 1 << 63 else value


def check_crc(data, what):
    """Verifies the CRC-32 at the end of data; returns the bytes before it."""
    if len(data) < 4 or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise Bad(f"CRC-32 of {what} is wrong")
    return data[:-4]


class Place:
    """The place of a frame (3.1)."""

    def __init__(self, offset, copy, clear_len, stored_len, raw_len, codec, flags):
        self.offset, self.copy, self.clear_len = offset, copy, clear_len
        self.stored_len, self.raw_len, self.codec, self.flags = stored_len, raw_len, codec, flags
        if raw_len > RAW_LIMIT or stored_len > RAW_LIMIT + (1 << 20):
            raise Bad(f"the frame at {offset} is beyond the limits")

    @classmethod
    def read(cls, data):
        offset, copy, clear_len, stored_len, raw_len, codec, _, flags, _ = struct.unpack("<QQIIIBBHQ", data)
        return cls(offset, copy, clear_len, stored_len, raw_len, codec, flags)


# For each table: the codings of a leaf's integer columns (section 8), and whether rows have b, a name and a tail.
COLUMNS = {
    1: ("PPPPPDPNNNNNPPPP", False, False, True),
    2: ("NP", False, True, False),
    3: ("NPPP", True, False, True),
    4: ("", True, False, True),
    5: ("", False, False, True),
    6: ("PPPPPDPNNNNNPPPP", False, False, True),
    7: ("P", False, False, True),
    8: ("NDDPPPPP", True, False, True),
    9: ("", False, False, True),
    10: ("PDP", True, False, True),
    11: ("P", True, False, False),
}


def decode_block(raw, table, level):
    """Returns the rows of a table block (7.2) as ((a, b, name), integers, tail)."""
    what = f"block of table {table}"
    cursor = Cursor(raw, what)
    codings, has_b, has_name, has_tail = COLUMNS[table]
    if level > 0:
        codings, has_tail = ("DDPPPP" if table == MAP else "N"), True
    if (cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8()) != (table, level, len(codings), 0):
        raise Bad(f"{what}: it is of another table or level")
    rows = cursor.u32()
    lengths = [cursor.u32() for _ in range(7 + len(codings))]
    streams = [Cursor(cursor.take(n), what) for n in lengths]
    cursor.end()
    if rows < 1 or rows > lengths[0]:
        raise Bad(f"{what}: {rows} rows do not fit")
    a_in, b_in, shared_in, name_len_in, name_in = streams[:5]
    columns, (tail_len_in, tail_in) = streams[5:-2], streams[-2:]
    last = [0] * len(codings)
    out = []
    key = None
    for row in range(rows):
        a = a_in.varint() + (key[0] if key else 0)
        same_a = key is not None and key[0] == a
        b = b_in.varint() + (key[1] if same_a else 0) if has_b else 0
        name = b""
        if has_name:
            shared = shared_in.varint()
            if shared and not (same_a and key[1] == b and shared <= len(key[2])):
                raise Bad(f"{what}: a name shares what is not there")
            name = (key[2][:shared] if shared else b"") + name_in.take(name_len_in.varint())
        if key is not None and (a, b, name) <= key:
            raise Bad(f"{what}: keys do not ascend")
        key = (a, b, name)
        ints = []
        for i, (coding, column) in enumerate(zip(codings, columns)):
            value = column.varint()
            if coding == "D":
                value = last[i] = (last[i] + unzigzag(value)) % (1 << 64)
            elif coding == "N" and value:
                value = last[i] = (last[i] + unzigzag(value - 1)) % (1 << 64)
                if value >= ID_LIMIT:
                    raise Bad(f"{what}: an id is too large")
            ints.append(value)
        tail = tail_in.take(tail_len_in.varint()) if has_tail else b""
        out.append((key, ints, tail))
    for stream in streams:
        stream.end()
    return out


def decode_recipes(data, first, count):
    """Returns the recipes of a row of the map (5.2) as {composed subchunk: [(subchunk, offset, length)]}."""
    cursor = Cursor(data, f"recipes from subchunk {first} on")
    if cursor.u8() != 1:
        raise Bad(f"{cursor.what}: an unknown form")
    if not 1 <= count <= 128:
        raise Bad(f"{cursor.what}: a row of {count}")
    owns = [first]
    for _ in range(count - 1):
        owns.append(owns[-1] + cursor.varint())
    piece_counts = [cursor.varint() for _ in range(count)]
    if 0 in piece_counts or sum(piece_counts) > 4096 or len(set(owns)) != count:
        raise Bad(f"{cursor.what}: ids or piece counts are wrong")
    lengths_len, ids_len = cursor.varint(), cursor.varint()
    lengths, ids = Cursor(cursor.take(lengths_len), cursor.what), Cursor(cursor.take(ids_len), cursor.what)
    recipes, other, other_end = {}, first, 0
    for own, piece_count in zip(owns, piece_counts):
        pieces, own_end = [], 0
        for _ in range(piece_count):
            length, code = lengths.varint(), ids.varint()
            if code == 0:
                subchunk, base = own, own_end
            else:
                subchunk = (other + unzigzag(code - 1)) % (1 << 64)
                base = other_end if subchunk == other else 0
            offset = cursor.delta(base)
            if code == 0:
                own_end = offset + length
            else:
                other, other_end = subchunk, offset + length
            pieces.append((subchunk, offset, length))
        recipes[own] = pieces
    for stream in (lengths, ids, cursor):
        stream.end()
    return recipes


def inflate_zstd(stored, raw_len, words):
    """Decodes one zstd frame. `words` is the dictionary; without one it is empty."""
    try:
        zstd = ctypes.CDLL(os.environ.get("READER_LIBZSTD", "libzstd.so.1"))
    except OSError as e:
        raise Bad(f"the image holds zstd frames, and Python's standard library cannot read zstd: {e}") from e
    size, data = ctypes.c_size_t, ctypes.c_char_p
    zstd.ZSTD_createDCtx.restype = ctypes.c_void_p
    zstd.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
    decode = zstd.ZSTD_decompress_usingDict
    decode.restype, decode.argtypes = size, [ctypes.c_void_p, data, size, data, size, data, size]
    out, context = ctypes.create_string_buffer(raw_len or 1), zstd.ZSTD_createDCtx()
    try:
        done = decode(context, ctypes.cast(out, data), raw_len, stored, len(stored), words, len(words))
    finally:
        zstd.ZSTD_freeDCtx(context)
    # libzstd returns an error as a number near the largest size_t.
    if done > raw_len:
        raise Bad("zstd: these bytes are no frame of that length")
    return out.raw[:done]


class Image:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.size = os.fstat(self.file.fileno()).st_size
        self.superchunks, self.raw = {}, {}
        self.runs, self.recipes = [], {}
        self.read_head()
        self.read_root()
        self.read_map()

    def read_at(self, offset, length):
        data = os.pread(self.file.fileno(), length, offset)
        while len(data) < length:
            more = os.pread(self.file.fileno(), length - len(data), offset + len(data))
            if not more:
                raise Bad(f"the image ends at {offset + len(data)}, {length - len(data)} bytes too soon")
            data += more
        return data

    def read_head(self):
        """Reads the newest head slot that verifies (section 3)."""
        best, errors = None, []
        for offset in (0, 16384):
            try:
                slot = self.read_at(offset, 512)
                if slot[:4] != b"FLOE":
                    raise Bad(f"bad magic at {offset}")
                check_crc(slot, f"the head slot at {offset}")
            except Bad as e:
                errors.append(str(e))
                continue
            generation = struct.unpack_from("<Q", slot, 64)[0]
            if best is None or generation > best[0]:
                best = (generation, slot)
        if best is None:
            raise Bad("no head slot verifies: " + "; ".join(errors))
        slot = best[1]
        version, _, _, _, incompat = struct.unpack_from("<HHQQQ", slot, 4)
        if version != 1 or incompat & ~KNOWN_INCOMPAT:
            raise Bad(f"version {version}, features {incompat:#x}: this reader cannot read that")
        epoch, log_end = struct.unpack_from("<I4xQ", slot, 152)
        if epoch >= 1 << 24 or log_end % 4096:
            raise Bad(f"epoch {epoch}, end of the log {log_end}: one is out of bounds")
        self.root_place = Place.read(slot[72:112])
        self.log_id, self.log_end = struct.unpack_from("<Q", slot, 144)[0], struct.unpack_from("<Q", slot, 160)[0]

    def read_root(self):
        """Reads the root (section 9)."""
        data = self.frame(self.root_place, ROOT)
        logical_len, physical_len = struct.unpack_from("<II", data)
        logical, physical = data[8 : 8 + logical_len], data[8 + logical_len : 8 + logical_len + physical_len]
        if len(physical) != physical_len or logical_len < 632 or physical_len < 144:
            raise Bad("the root is too short")
        self.superchunk_size, self.max_sources = struct.unpack_from("<I20xB", logical, 304)
        self.dictionary_id = struct.unpack_from("<Q", logical, 304 + 56)[0]
        self.trees = {}
        view = [(48 * i, table) for i, table in enumerate((1, 2, 3, 4, 5, 7))]
        for at, table in view + [(440 + 48 * i, table) for i, table in enumerate((6, 10, 11, 9))]:
            number, levels, block = struct.unpack_from("<BB6xQ", logical, at)
            if levels and number != table:
                raise Bad(f"the root names table {number} where {table} belongs")
            self.trees[table] = (levels, block)
        self.map_place, self.map_levels = Place.read(physical[:40]), physical[40]

    def frame(self, place, kind):
        """Returns the raw bytes of a frame, from its copy if the frame is damaged (2.1, 3.1)."""
        error = None
        for offset in (place.offset, place.copy):
            if offset == 0:
                continue
            try:
                header = check_crc(self.read_at(offset, FRAME_HEADER), f"the frame header at {offset}")
                (magic, found, codec, flags, log_id, _, clear_len, _, own_offset, stored_len, raw_len, _, key_id) = (
                    struct.unpack("<4sBBHQIIQQIIQI", header)
                )
                if magic != b"frle" or log_id != self.log_id or own_offset != offset or found != kind or key_id:
                    raise Bad(f"what stands at {offset} is another frame")
                if (clear_len, stored_len, raw_len, codec, flags) != (
                    place.clear_len,
                    place.stored_len,
                    place.raw_len,
                    place.codec,
                    place.flags,
                ):
                    raise Bad(f"the frame at {offset} is not what its place says")
                if kind in (SUPERCHUNK, TABLE_GROUP):
                    self.check_clear_list(self.read_at(offset + FRAME_HEADER, clear_len), raw_len)
                stored = self.read_at(offset + FRAME_HEADER + clear_len, stored_len)
                return self.decode(stored, place)
            except Bad as e:
                error = e
        raise error or Bad("a frame is named that is none")

    def check_clear_list(self, data, raw_len):
        """Verifies a clear list (5.1): its form, and that its lengths have the right sum."""
        cursor = Cursor(check_crc(data, "a clear list"), "clear list")
        cursor.varint()
        total, after = 0, 0
        for _ in range(cursor.varint()):
            first = cursor.delta(after)
            header = cursor.varint()
            count = header >> 1
            bits = cursor.take(-(-count // 8)) if header & 1 else bytes(-(-count // 8))
            after = first + count
            for i in range(count):
                length = cursor.varint()
                if length == 0 and not bits[i // 8] >> i % 8 & 1:
                    raise Bad(f"subchunk {first + i} has no stored bytes and is not composed")
                total += length
        cursor.end()
        if total != raw_len:
            raise Bad(f"a clear list of {total} bytes in front of {raw_len}")

    def decode(self, stored, place):
        """Decodes stored bytes (section 6)."""
        words = self.dictionary() if place.flags & FLAG_DICTIONARY else b""
        bcj = place.flags >> 8
        if not place.flags & FLAG_PARTS:
            return self.unfilter(self.inflate(stored, place.codec, place.raw_len, words), bcj)
        part_size = struct.unpack_from("<I", stored)[0] if len(stored) >= 4 else 0
        if part_size == 0:
            raise Bad("parts without a size")
        count = -(-place.raw_len // part_size)
        table_len = 4 + 12 * count + 4
        table = Cursor(check_crc(stored[:table_len], "a part table"), "part table")
        table.u32()
        out, at = [], table_len
        for i in range(count):
            length, _ = table.u32(), table.u64()
            raw_len = min(part_size, place.raw_len - i * part_size)
            part = stored[at : at + length]
            at += length
            if len(part) != length:
                raise Bad("a part ends behind its frame")
            part = part if length == raw_len else self.inflate(part, place.codec, raw_len, words)
            out.append(self.unfilter(part, bcj))
        if at != len(stored):
            raise Bad("bytes behind the last part")
        return b"".join(out)

    def dictionary(self):
        """Returns the raw bytes of the dictionary's superchunk (6.5), which is compressed without a dictionary."""
        _, place = self.superchunks.get(self.dictionary_id, (0, None))
        if place is None or place.flags & FLAG_DICTIONARY:
            raise Bad(f"superchunk {self.dictionary_id} is no dictionary")
        return self.superchunk(self.dictionary_id)

    @staticmethod
    def inflate(stored, codec, raw_len, words):
        if codec == 0:
            raw = stored
        elif codec == 2:
            try:
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20)
                raw = decoder.decompress(stored, max_length=raw_len + 1)
            except lzma.LZMAError as e:
                raise Bad(f"xz: {e}") from e
        elif codec == 1:
            raw = inflate_zstd(stored, raw_len, words)
        else:
            raise Bad(f"unknown codec {codec}")
        if len(raw) != raw_len:
            raise Bad(f"{len(raw)} bytes decoded, not {raw_len}")
        return raw

    @staticmethod
    def unfilter(raw, number):
        """Undoes a BCJ filter (6.6): lzma decodes an xz stream that has the filter and uncompressed LZMA2 chunks."""
        if number == 0:
            return raw
        if number != 1:
            # Python's lzma names x86, IA-64, ARM, ARM Thumb, PowerPC and SPARC, but not ARM64.
            raise Bad(f"filter {number} is not among those Python's lzma has")
        chunks = b"".join(
            (b"\x01" if i == 0 else b"\x02") + struct.pack(">H", len(raw[i : i + 65536]) - 1) + raw[i : i + 65536]
            for i in range(0, len(raw), 65536)
        )
        filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
        return lzma.decompress(chunks + b"\x00", lzma.FORMAT_RAW, filters=filters)

    def read_map(self):
        """Reads the whole map (8.8), each block of which is a frame."""
        if self.map_place.offset == 0:
            return
        for key, ints, tail in self.map_rows(self.map_place, self.map_levels - 1):
            space, number, _ = key
            if space == 0:
                kind, offset, copy, clear_len, stored_len, raw_len, codec, flags = ints
                self.superchunks[number] = (kind, Place(offset, copy, clear_len, stored_len, raw_len, codec, flags))
            elif space == 1:
                superchunk, position, _, count, composed, _, _, _ = ints
                cursor = Cursor(tail, "row of the map")
                lengths = [cursor.varint() for _ in range(count)]
                bits = cursor.take(-(-count // 8)) if composed else bytes(-(-count // 8))
                cursor.end()
                for i, length in enumerate(lengths):
                    self.runs.append((number + i, superchunk, position, length, bits[i // 8] >> i % 8 & 1))
                    position += length
            elif space == 2:
                self.recipes.update(decode_recipes(tail, number, ints[3]))
        self.runs = {run[0]: run[1:] for run in self.runs}

    def map_rows(self, place, level):
        if not 0 <= level < 12:
            raise Bad(f"a map of {level + 1} levels")
        rows = decode_block(self.frame(place, MAP_BLOCK), MAP, level)
        if level == 0:
            yield from rows
            return
        for _, (offset, copy, stored_len, raw_len, codec, flags), _ in rows:
            yield from self.map_rows(Place(offset, copy, 0, stored_len, raw_len, codec, flags), level - 1)

    def superchunk(self, number):
        raw = self.raw.get(number)
        if raw is None:
            if number not in self.superchunks:
                raise Bad(f"superchunk {number} is not in the map")
            kind, place = self.superchunks[number]
            if place.raw_len > self.superchunk_size:
                raise Bad(f"superchunk {number} has {place.raw_len} bytes, at most {self.superchunk_size} are allowed")
            raw = self.frame(place, kind)
            while len(self.raw) >= 8:
                self.raw.pop(next(iter(self.raw)))
            self.raw[number] = raw
        return raw

    def stored_part(self, subchunk):
        if subchunk not in self.runs:
            raise Bad(f"subchunk {subchunk} is not in the map")
        superchunk, position, length, _ = self.runs[subchunk]
        raw = self.superchunk(superchunk)
        if position + length > len(raw):
            raise Bad(f"subchunk {subchunk} lies behind the end of superchunk {superchunk}")
        return raw[position : position + length]

    def subchunk(self, number):
        """Returns the bytes of a subchunk (section 13, step 5)."""
        part = self.stored_part(number)
        if not self.runs[number][3]:
            return part
        if number not in self.recipes:
            raise Bad(f"subchunk {number} is composed, but has no recipe")
        sources = {self.runs[source][0] for source, _, _ in self.recipes[number] if source in self.runs}
        if len(sources - {self.runs[number][0]}) > self.max_sources:
            raise Bad(f"subchunk {number} needs more than {self.max_sources} other superchunks")
        out = []
        for source, offset, length in self.recipes[number]:
            piece = self.stored_part(source)[offset : offset + length]
            if len(piece) != length:
                raise Bad(f"a piece of subchunk {number} lies behind the end of {source}")
            out.append(piece)
        return b"".join(out)

    def rows(self, table):
        """Yields all rows of a table, in key order."""
        levels, block = self.trees[table]
        if levels > 12:
            raise Bad(f"a tree of {levels} levels")
        return self.tree_rows(table, levels - 1, block) if levels else iter(())

    def tree_rows(self, table, level, block):
        rows = decode_block(self.subchunk(block), table, level)
        if level == 0:
            yield from rows
            return
        for _, (child,), _ in rows:
            yield from self.tree_rows(table, level - 1, child)


class Inode:
    """A row of the inodes table (8.1)."""

    def __init__(self, ints, tail):
        self.mode, self.uid, self.gid, self.links, self.size, mtime, self.mtime_ns = ints[:7]
        self.subchunk, self.content, self.tiny, self.xattrs, self.parent = ints[7:12]
        self.mtime = signed(mtime)
        self.target, self.inline_xattrs = None, None
        cursor = Cursor(tail, "attributes of an inode")
        while cursor.at < len(tail):
            tag = cursor.varint()
            data = cursor.take(cursor.varint())
            if tag == 1:
                self.target = data
            elif tag == 2:
                self.inline_xattrs = data


class Tree:
    """The filesystem that the image's head describes."""

    def __init__(self, image):
        self.image = image
        self.inodes = {key[0]: Inode(ints, tail) for key, ints, tail in image.rows(INODES)}
        self.children = {}
        for (directory, _, name), (inode, _), _ in image.rows(DIRENTS):
            if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
                raise Bad(f"a name that is none: {name!r}")
            self.children.setdefault(directory, []).append((name, inode))
        self.contents = {}
        for (content, offset, _), ints, tail in image.rows(CONTENTS):
            self.contents.setdefault(content, []).append((offset, ints, tail))
        self.tiny = {key[0]: tail for key, _, tail in image.rows(TINY)}
        self.sets = {}
        for (number, _, _), _, tail in image.rows(XATTRS):
            self.sets[number] = self.sets.get(number, b"") + tail
        self.thawed = {}
        for (inode, offset, _), (length, frame, _), _ in image.rows(THAWED):
            self.thawed.setdefault(inode, []).append((offset, length, frame == 0))
        if 1 not in self.inodes:
            raise Bad("there is no root directory")

    def inode(self, number):
        if number not in self.inodes:
            raise Bad(f"inode {number} is not there")
        return self.inodes[number]

    def walk(self):
        """Yields (path as tuple of names, inode number) of everything, a directory before its entries."""
        stack, seen = [((), 1)], set()
        while stack:
            path, number = stack.pop()
            yield path, number
            if stat.S_ISDIR(self.inode(number).mode):
                if number in seen:
                    raise Bad(f"directory {number} has two names")
                seen.add(number)
                for name, child in sorted(self.children.get(number, ()), reverse=True):
                    stack.append((path + (name,), child))

    def xattrs(self, inode):
        """Returns (name, value) of each extended attribute (8.4)."""
        data = inode.inline_xattrs
        if inode.xattrs:
            if inode.xattrs not in self.sets:
                raise Bad(f"xattr set {inode.xattrs} is not there")
            data = self.sets[inode.xattrs]
        cursor = Cursor(data or b"", "xattr set")
        out = []
        while cursor.at < len(cursor.data):
            name = cursor.take(cursor.varint())
            out.append((name, cursor.take(cursor.varint())))
        return out

    def data(self, inode):
        """Yields (offset, bytes) of a regular file's data; the ranges between are holes (8.1, 8.3)."""
        image = self.image
        if inode.tiny:
            if inode.tiny not in self.tiny:
                raise Bad(f"tiny content {inode.tiny} is not there")
            yield 0, self.tiny[inode.tiny]
        elif inode.subchunk:
            yield 0, image.subchunk(inode.subchunk)
        elif inode.content:
            end = 0
            for offset, (subchunk, count, skip, length), tail in self.contents.get(inode.content, ()):
                if offset != end:
                    raise Bad(f"content {inode.content} has a gap at {end}")
                end = offset + length
                if subchunk == 0:
                    continue
                if count == 1:
                    piece = image.subchunk(subchunk)[skip : skip + length]
                    if len(piece) != length:
                        raise Bad(f"a slice of content {inode.content} is longer than its subchunk")
                    yield offset, piece
                    continue
                lengths = Cursor(tail, "run of a content")
                for i in range(count):
                    want = end - offset if i == count - 1 else lengths.varint()
                    piece = image.subchunk(subchunk + i)
                    if len(piece) != want:
                        raise Bad(f"subchunk {subchunk + i} has {len(piece)} bytes, its content says {want}")
                    yield offset, piece
                    offset += want
                lengths.end()
            if end > inode.size:
                raise Bad(f"content {inode.content} has {end} bytes, its inode only {inode.size}")

    def not_in_the_image(self, number):
        """Says which bytes of a file are not in the image (8.9), so that they cannot be read; None if all can be."""
        for offset, length, lost in self.thawed.get(number, ()):
            return f"{length} bytes at offset {offset} are {'lost' if lost else 'in the thaw log'}"
        return None


LETTERS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}


def escaped(data):
    """Returns bytes as one word. Backslashes, spaces and bytes that are not printable ASCII become \\xHH."""
    return "".join(chr(b) if 0x21 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in data)


def list_image(tree):
    for path, number in tree.walk():
        inode = tree.inode(number)
        size = inode.size
        if stat.S_IFMT(inode.mode) in (stat.S_IFCHR, stat.S_IFBLK):
            size = f"{size >> 32},{size & 0xFFFFFFFF}"
        line = (
            f"{LETTERS.get(stat.S_IFMT(inode.mode), '?')} {stat.S_IMODE(inode.mode):04o} {inode.uid} {inode.gid} {size} "
            f"{inode.mtime}.{inode.mtime_ns:09} {escaped(b'/'.join((b'.',) + path))}"
        )
        print(line + (f" -> {escaped(inode.target)}" if inode.target is not None else ""))


def extract_image(tree, target):
    """Writes the tree to the directory target. Descriptors of directories are used, so a path may have any length."""
    root = os.geteuid() == 0
    first_names = {}  # inode with several links -> (descriptor's path, name) of the one already written
    unreadable = []
    extract_directory(tree, 1, os.open(target, os.O_RDONLY | os.O_DIRECTORY), root, first_names, unreadable)
    for directory, _ in first_names.values():
        os.close(directory)
    return 3 if unreadable else 0


def extract_directory(tree, number, fd, root, first_names, unreadable):
    for name, child in tree.children.get(number, ()):
        inode = tree.inode(child)
        if stat.S_ISDIR(inode.mode):
            os.mkdir(name, 0o700, dir_fd=fd)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            extract_directory(tree, child, below, root, first_names, unreadable)
            continue
        if child in first_names:
            other, other_name = first_names[child]
            os.link(other_name, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)
            continue
        why = tree.not_in_the_image(child)
        if why:
            print(f"reader.py: {escaped(name)} cannot be read: {why}", file=sys.stderr)
            unreadable.append(name)
            continue
        if not extract_node(tree, inode, name, fd, root):
            print(f"reader.py: {escaped(name)} is left out: it needs root", file=sys.stderr)
            continue
        if inode.links > 1:
            first_names[child] = (os.dup(fd), name)
    # The mode and time of a directory are set last: writing its entries changes the time, and the mode may forbid it.
    directory = tree.inode(number)
    if root:
        os.chown(fd, directory.uid, directory.gid)
    set_xattrs(tree, directory, f"/proc/self/fd/{fd}")
    os.chmod(fd, stat.S_IMODE(directory.mode))
    set_times(directory, f"/proc/self/fd/{fd}", None)
    os.close(fd)


def extract_node(tree, inode, name, fd, root):
    """Writes one path that is not a directory; returns False if only root can make it."""
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFLNK:
        os.symlink(inode.target or b"", name, dir_fd=fd)
    elif kind == stat.S_IFREG:
        extract_file(tree, inode, name, fd)
    elif kind == stat.S_IFIFO:
        os.mkfifo(name, 0o600, dir_fd=fd)
    elif kind == stat.S_IFSOCK:
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=fd)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        if not root:
            return False
        os.mknod(name, kind | 0o600, os.makedev(inode.size >> 32, inode.size & 0xFFFFFFFF), dir_fd=fd)
    else:
        raise Bad(f"{name!r} has no type that is known: {inode.mode:o}")
    if root:
        os.chown(name, inode.uid, inode.gid, dir_fd=fd, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        if kind == stat.S_IFREG:
            set_xattrs(tree, inode, b"/proc/self/fd/%d/%s" % (fd, name))
        os.chmod(name, stat.S_IMODE(inode.mode), dir_fd=fd)
    set_times(inode, name, fd)
    return True


def extract_file(tree, inode, name, fd):
    out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=fd)
    try:
        for offset, data in tree.data(inode):
            view = memoryview(data)
            while view:
                done = os.pwrite(out, view, offset)
                view, offset = view[done:], offset + done
        os.ftruncate(out, inode.size)
    finally:
        os.close(out)


def set_xattrs(tree, inode, path):
    for name, value in tree.xattrs(inode):
        if name.startswith(b"user."):
            os.setxattr(path, name, value)


def set_times(inode, path, dir_fd):
    ns = inode.mtime * 1_000_000_000 + inode.mtime_ns
    if dir_fd is None:
        os.utime(path, ns=(ns, ns))
    else:
        os.utime(path, ns=(ns, ns), dir_fd=dir_fd, follow_symlinks=False)


def main(args):
    if len(args) == 2 and args[0] == "list":
        list_image(Tree(Image(args[1])))
    elif len(args) == 3 and args[0] == "extract":
        return extract_image(Tree(Image(args[1])), args[2])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Bad as problem:
        print(f"reader.py: {problem}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
