#!/usr/bin/env python3
"""Prints the test vectors of the wire protocol that README.md shows, from its text alone: it shares nothing with the crate.

    python3 firmware-host/wire/vectors.py
"""

import struct
import zlib


def header(kind, stream, boot=0, sequence=0, time_us=0, version=1):
    return struct.pack("<BBBBIQ", version, kind, stream, boot, sequence, time_us)


def text(value, size):
    data = value.encode()
    assert len(data) <= size
    return data + bytes(size - len(data))


def stuff(data):
    """COBS by its definition: cut at the zeros, and each run after 254 bytes."""
    out = bytearray()
    runs = data.split(b"\0")
    for i, run in enumerate(runs):
        while len(run) > 254 or (len(run) == 254 and i + 1 < len(runs)):
            out += b"\xff" + run[:254]
            run = run[254:]
        if len(run) == 254:
            out += b"\xff" + run
        else:
            out += bytes([len(run) + 1]) + run
    return bytes(out)


def descriptor(stream, boot, sequence, time_us, rate_hz, element, name, channels):
    body = struct.pack("<fBBH", rate_hz, element, len(channels), 0) + text(name, 24)
    for channel, unit, scale in channels:
        body += text(channel, 24) + text(unit, 8) + struct.pack("<f", scale)
    return header(0x01, stream, boot, sequence, time_us) + body


def samples(stream, boot, sequence, time_us, span_us, element, channels, values):
    body = struct.pack("<IBBH", span_us, element, channels, len(values) // channels)
    code = {0: "h", 1: "i", 2: "f"}[element]
    return header(0x02, stream, boot, sequence, time_us) + body + struct.pack(f"<{len(values)}{code}", *values)


def prediction(stream, sequence, time_us, score, values):
    body = struct.pack("<fI", score, len(values)) + struct.pack(f"<{len(values)}f", *values)
    return header(0x85, stream, 0, sequence, time_us) + body


IMU = [("accel_x", "m/s^2", 0.00119710083), ("température", "°C", 0.01)]
# Numbers without a zero byte in them: a run of COBS that is too long for one code.
LONG = [256 * (1 + i % 100) + 1 + i % 200 for i in range(130)]
VECTORS = [
    ("describe", header(0x81, 255)),
    ("start", header(0x82, 255)),
    ("stop", header(0x83, 3)),
    ("rate", header(0x84, 3) + struct.pack("<f", 200)),
    ("prediction", prediction(3, 4242, 42_420_000, 0.75, [1.5, -2.0, 0.0])),
    ("prediction without a score", prediction(3, 4242, 42_420_000, float("nan"), [0.5])),
    ("descriptor", descriptor(3, 7, 0, 1_000_007, 100, 0, "imu", IMU)),
    ("samples i16", samples(3, 7, 4242, 42_420_000, 10_000, 0, 2, [1, -1, 256, -32768])),
    ("samples i32", samples(3, 7, 2**32 - 1, 42_420_000, 0, 1, 2, [70_000, -70_000])),
    ("samples f32", samples(3, 7, 0, 2**40, 0, 2, 2, [21.25, -0.5])),
    ("samples long", samples(3, 7, 4242, 42_420_000, 64_000, 0, 2, LONG)),
    ("status", header(0x03, 3, 7, 4244, 42_500_000) + struct.pack("<IIII", 1, 5, 17, 2)),
    ("bad: version", header(0x81, 255, version=2)),
    ("bad: kind", header(0x7F, 255)),
    ("bad: length", header(0x81, 255) + b"\x00"),
    ("bad: rate", header(0x84, 3) + struct.pack("<f", 0)),
]


def rows(name, data):
    lines = [data[i : i + 24].hex(" ") for i in range(0, len(data), 24)]
    return "\n".join(f"  {name if i == 0 else '':6} {line}" for i, line in enumerate(lines))


if __name__ == "__main__":
    for name, record in VECTORS:
        crc = struct.pack("<I", zlib.crc32(record))
        print(name)
        if len(record) < 250:
            print(rows("record", record))
        print(rows("crc", crc))
        print(rows("frame", stuff(record + crc) + b"\0"))
