"""The formats of image data, written as their publishers wrote them."""

from __future__ import annotations

import struct

import numpy as np


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()
    )


def python2_string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python2_pickle(images: np.ndarray, labels: list[int], key: bytes) -> bytes:
    """What Python 2 wrote, opcode for opcode: byte strings, numpy's old module name."""
    shape = b"(J" + struct.pack("<i", len(images)) + b"J" + struct.pack("<i", 3072) + b"t"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + python2_string(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + python2_string(b"u1") + b"K\x00K\x01tR(K\x03" + python2_string(b"|")
    dtype += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    state = b"(K\x01" + shape + dtype + b"\x89" + python2_string(images.astype(np.uint8).tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + python2_string(b"data") + made + state + python2_string(key) + numbers + b"u."


def draw(n: int, shape: tuple[int, ...], classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are all different, and labels that hold every class equally often."""
    generator = np.random.default_rng(seed)
    return generator.integers(256, size=(n, *shape), dtype=np.uint8), generator.permutation(np.arange(n) % classes)
