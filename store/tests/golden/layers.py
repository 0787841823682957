#!/usr/bin/env python3
"""Makes the golden files of a layer from the tables in FORMAT.md, section 10, with no code of the store.

Run in this directory. A file of a released version is never made anew: a change of the format adds files of its own.
"""
import struct


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283

STORE, LAYER, PARENT, BOOT = (bytes(range(first, first + 16)) for first in (0x10, 0x20, 0x30, 0x40))


def slot(flags, parent, numbers, times):
    body = b"OUTCROPM" + struct.pack("<II", 1, flags) + STORE + LAYER + parent
    body += struct.pack("<6Q", *numbers) + struct.pack("<3q", *times)
    body = body.ljust(508, b"\0")
    return body + struct.pack("<I", crc32c(body))


def record(index, flush, chunks):
    """chunks: for each of three, {block: state}."""
    states = bytearray(384)
    for number, chunk in enumerate(chunks):
        for block, state in chunk.items():
            states[number * 128 + block // 4] |= state << block % 4 * 2
    body = b"OCMR" + bytes(4) + struct.pack("<Q", index) + LAYER + struct.pack("<Q", flush)
    body = body.ljust(128, b"\0") + bytes(states)
    return body[:4] + struct.pack("<I", crc32c(body)) + body[8:]


def pending_header(state, mount, epochs):
    body = b"OUTCROPP" + struct.pack("<II", 1, state) + LAYER + BOOT + struct.pack("<3Q", mount, *epochs)
    body = body.ljust(508, b"\0")
    return body + struct.pack("<I", crc32c(body))


def entry(epoch, index, first, size, mtime, kind, count):
    body = struct.pack("<QQqI", first, size, mtime, kind << 30 | count)
    return body + struct.pack("<I", crc32c(struct.pack("<QQ", epoch, index) + body))


def write(name, data):
    with open(name, "wb") as file:
        file.write(data)


# A head with a parent, not sealed, its count uncertain; then a sealed root. Revision, sequence, flush, size, floor, blocks.
head = slot(4, PARENT, (3, 6, 5, (1 << 40) + 4097, 4096, 77), (-1, 1_700_000_000_123_456_789, 2))
root = slot(1, bytes(16), (0, 7, 1, 8192, 8192, 2), (10, 11, 12))
cut = slot(2, PARENT, (3, 8, 5, 5, 5, 1), (0, 0, 0))
write("map-header-1.bin", head + root + cut)
# Data first and last, zeros next to them, in the first and the last chunk.
write("map-record-1.bin", record(9, 5, ({0: 1, 1: 2, 5: 1}, {}, {510: 2, 511: 1})))
# Half 0 is the newer one. Its third entry is one of an earlier epoch: the list ends there.
write("pending-header-1.bin", pending_header(1, 0x1_0000_0005, (4, 3)) + pending_header(2, 7, (0, 9)))
newer = entry(4, 0, 600, 3 << 20, 9, 1, 3) + entry(4, 1, (1 << 64) - 5, 3 << 20, 10, 3, 0) + entry(2, 2, 1, 1, 1, 1, 1)
older = entry(3, 0, 7, 1 << 20, 8, 2, 500) + entry(3, 1, 0, 2 << 20, -9, 1, 0)
write("pending-entries-1.bin", newer + older)


def sums_header():
    body = (b"OUTCROPS" + struct.pack("<II", 1, 0) + LAYER).ljust(508, b"\0")
    return body + struct.pack("<I", crc32c(body))


def sums_chunk(chunk, sums):
    """sums: {block of the chunk: sum}; five records of 103, 103, 103, 103 and 100 blocks."""
    out = b""
    for part in range(5):
        mine = {block - 103 * part: value for block, value in sums.items() if block // 103 == part}
        body = bytes(512)
        if mine:
            present, values = bytearray(16), bytearray(464)
            for place, value in mine.items():
                present[place // 8] |= 1 << place % 8
                values[4 * place:4 * place + 4] = struct.pack("<I", value)
            body = b"OCSR" + bytes(4) + struct.pack("<Q", chunk * 5 + part) + LAYER + bytes(present) + bytes(values)
            body = body[:4] + struct.pack("<I", crc32c(body)) + body[8:]
        out += body
    return out


# The first and the last block of a record, a sum that is zero, a record without any.
write("sums-records-1.bin", sums_chunk(9, {0: 0xDEADBEEF, 1: 0, 102: 7, 103: 8, 411: 0xFFFFFFFF, 412: 1, 511: 2}))
write("sums-header-1.bin", sums_header())
# A sealed root whose blocks all have sums.
write("map-header-summed-1.bin", slot(9, bytes(16), (0, 7, 1, 8192, 8192, 2), (10, 11, 12)))
