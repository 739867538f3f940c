"""Pickled batches are read as data, whatever they say."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from mlp_mixer.data import open_dataset, pickles
from mlp_mixer.data.pickles import read_arrays
from mlp_mixer.errors import UserError

PIXELS = np.arange(250, 262).astype(np.uint8).reshape(3, 4)
LABELS = [0, 200, 70000]
BATCH = {b"batch_label": b"testing", b"data": PIXELS, b"labels": LABELS}

# What cPickle of Python 2 wrote of BATCH, opcode by opcode.
PYTHON_2 = b"".join(
    [
        b"\x80\x02}q\x01(",
        b"U\x0bbatch_labelq\x02U\x07testingq\x03",
        b"U\x06labelsq\x04]q\x05(K\x00K\xc8J\x70\x11\x01\x00e",
        b"U\x04dataq\x06",
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07",
        b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
        b"(K\x01K\x03K\x04\x86",
        b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b",
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"\x89T\x0c\x00\x00\x00",
        PIXELS.tobytes(),
        b"tbu.",
    ]
)

# The same in protocol 0, where everything is a line of text.
PYTHON_2_TEXT = "\n".join(
    [
        "(dp1",
        "S'labels'",
        "p2",
        "(lp3",
        "I0",
        "aI200",
        "aL70000L",
        "asS'data'",
        "p4",
        "cnumpy.core.multiarray",
        "_reconstruct",
        "p5",
        "(cnumpy",
        "ndarray",
        "p6",
        "(I0",
        "tS'b'",
        "tRp7",
        "(I1",
        "(I3",
        "I4",
        "tcnumpy",
        "dtype",
        "p8",
        "(S'u1'",
        "I0",
        "I1",
        "tRp9",
        "(I3",
        "S'|'",
        "NNNI-1",
        "I-1",
        "I0",
        "tbI00",
        f"S{repr(PIXELS.tobytes())[1:]}",
        "tbs.",
    ]
).encode()


def python_3(protocol: int, numpy: int = 2) -> bytes:
    data = pickle.dumps(BATCH, protocol=protocol)
    if numpy == 1:
        data = data.replace(b"numpy._core.", b"numpy.core.")
    return data


OFFICIAL = {
    "Python 2, protocol 2": PYTHON_2,
    "Python 2, protocol 0": PYTHON_2_TEXT,
    **{f"Python 3, NumPy 2, protocol {p}": python_3(p) for p in range(5)},
    # In protocol 4 a name carries its length, which replacing does not change.
    **{f"Python 3, NumPy 1, protocol {p}": python_3(p, 1) for p in range(4)},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data_batch_1"


@pytest.mark.parametrize("data", OFFICIAL.values(), ids=OFFICIAL.keys())
def test_every_spelling_is_read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    pixels, labels = read_arrays(path, ["data", "labels"])
    np.testing.assert_array_equal(pixels, PIXELS)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i8", ">i4", "<u8"])
@pytest.mark.parametrize("protocol", range(5))
def test_labels_may_be_an_array(path: Path, dtype: str, protocol: int) -> None:
    labels = np.array([3, 0, 9]).astype(dtype)
    path.write_bytes(pickle.dumps({"labels": labels}, protocol=protocol))
    (found,) = read_arrays(path, ["labels"])
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, labels)


def test_arrays_without_values(path: Path) -> None:
    """Protocol 2 of Python 3 writes no bytes as a call of `bytes`."""
    empty = np.zeros((0, 3072), np.uint8)
    path.write_bytes(pickle.dumps({b"data": empty, b"labels": []}, protocol=2))
    pixels, labels = read_arrays(path, ["data", "labels"])
    assert (pixels.shape, labels.shape) == ((0, 3072), (0,))


def refused(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_arrays(path, ["data", "labels"])
    sentence = str(caught.value)
    assert sentence.startswith(f"cannot read {str(path)!r}: ")
    assert sentence.endswith("; download it again from its official page")
    assert "\n" not in sentence
    assert len(sentence) < 400 + len(str(path))


class Attack:
    def __reduce__(self):
        return (exec, ("import sys; sys.attacked = True",))


@pytest.mark.parametrize("protocol", range(6))
def test_a_program_is_refused_without_running(path: Path, protocol: int) -> None:
    data = pickle.dumps({b"data": Attack(), b"labels": []}, protocol=protocol)
    refused(path, data, r"it asks for (builtins|__builtin__)\.exec, which is not allow")
    assert not hasattr(sys, "attacked")


@pytest.mark.parametrize(
    "value", [np.float64(3), np.int64(3), np.arange(3, dtype=object), Path("x"), {1, 2}]
)
def test_other_objects_are_refused(path: Path, value: object) -> None:
    data = pickle.dumps({b"data": value, b"labels": [1]}, protocol=4)
    refused(path, data, "it (asks for|calls|has a)")


def test_object_pointers_are_not_followed(shared: Path) -> None:
    """A dtype whose fields are objects made NumPy take the file for addresses."""
    place = shared / "data" / "hostile" / "cifar10_pickles"
    if not place.is_dir():
        pytest.skip(f"no hostile pickles at {place}")
    with pytest.raises(UserError, match="download it again from its official page"):
        open_dataset(f"cifar10:{place}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # The dtype: another kind, fields, a sub-array, a size, flags, no byte order.
        (b"U\x02u1", b"U\x02O8", "it calls numpy.dtype with other arguments"),
        (b"U\x02u1", b"U\x02V8", "it calls numpy.dtype with other arguments"),
        (b"U\x02u1", b"U\x02f8", "it calls numpy.dtype with other arguments"),
        (b"NNNJ", b"N(U\x01xtNJ", "its dtype is more than a plain integer"),
        (b"NNNJ", b"NN}J", "its dtype is more than a plain integer"),
        (b"NNNJ\xff\xff\xff\xff", b"NNNK\x08", "its dtype is more than a plain integer"),
        (b"K\x00tb", b"K\x3ftb", "its dtype is more than a plain integer"),
        (b"U\x01|", b"K\x01", "its dtype is more than a plain integer"),
        (b"U\x01|", b"U\x01=", "its 'data' has a dtype without a byte order"),
        # The array: shapes, column order, bytes.
        (b"K\x03K\x04\x86", b"K\x03K\x05\x86", r"'data' has 12 bytes for the shape .3, 5"),
        (b"K\x03K\x04\x86", b"K\x01K\x03K\x04\x87", "its array has a shape that is none"),
        (b"K\x03K\x04\x86", b"]K\x0ca", "its array has a shape that is none"),
        (b"K\x03K\x04\x86", b"\x88K\x0c\x86", "its array has a shape that is none"),
        (b"K\x03K\x04\x86", b"J\xfd\xff\xff\xffJ\xfc\xff\xff\xff\x86", "a shape that is none"),
        (b"K\x03K\x04\x86", b"\x8a\x09" + bytes(8) + b"\x01\x85", "a shape that is none"),
        (b"\x89T", b"\x88T", "its array is stored column by column"),
        (b"\x89T", b"NT", "its array is stored column by column"),
        (b"\x89T\x0c", b"\x89T\x0b", "."),
        (b"\x89T", b"\x89]0T", "it has a POP, which no dataset needs"),
        (PIXELS.tobytes() + b"t", PIXELS.tobytes() + b"Nt", "."),
        # Calls, keys and labels.
        (b"cnumpy\nndarray\nq\x08", b"cnumpy\ndtype\nq\x08", "it calls numpy.core.multiarr"),
        (b"cnumpy\nndarray\n", b"cnumpy\nmatrix\n", "it asks for numpy.matrix, which is"),
        (b"U\x06labels", b"K\x06", "it has a key or name that is no short text"),
        (b"U\x06labels", b"U\x07labels2", "it has no 'labels'"),
        (b"K\xc8", b"G" + bytes(8), "it has a BINFLOAT, which no dataset needs"),
        (b"K\xc8", b"N", "its 'labels' are not all whole numbers"),
        (b"K\xc8", b"\x88", "its 'labels' are not all whole numbers"),
        (b"K\xc8", b"\x8a\x09" + bytes(8) + b"\x01", "its 'labels' are not all whole numb"),
        (b"K\xc8", b"h\x05", "its 'labels' are not all whole numbers"),
    ],
)  # fmt: skip
def test_changed_opcodes(
    path: Path, old: bytes, new: bytes, message: str | None
) -> None:
    assert PYTHON_2.count(old) == 1
    data = PYTHON_2.replace(old, new)
    refused(path, data, message)


# Pickles that keep a reader busy, or kill it

# Each of 60 tuples holds the one before twice: to hash, compare or print it takes 2 ** 60
# steps.
DOUBLED = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60

# A hundred thousand tuples inside each other: to hash it overflows the C stack.
DEEP = b")" + b"\x85" * 100_000


@pytest.mark.parametrize("trap", [DOUBLED, DEEP, b"]q\x00h\x00a"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        # As a key.
        (b"}", b"K\x01s"),
        # As an entry, and in a list of labels.
        (b"}U\x06labels]sU\x04data", b"s"),
        (b"}U\x04data]sU\x06labels]", b"as"),
        # As an argument, and as all arguments.
        (b"c_codecs\nencode\nU\x01x", b"\x86R"),
        (b"c_codecs\nencode\n", b"U\x06latin1\x86R"),
        (b"cnumpy\ndtype\n", b"\x85R"),
        (b"cnumpy\ndtype\n", b"R"),
        (b"cnumpy.core.multiarray\n_reconstruct\n", b"\x85R"),
        # As a function, as a name, and as what gets a state.
        (b"", b")R"),
        (b"U\x05numpy", b"\x93"),
        (b"", b")b"),
        # As a state, and in one.
        (b"cnumpy\ndtype\nU\x02u1\x85R", b"b"),
        (b"cnumpy\ndtype\nU\x02u1\x85RK\x03", b"\x86b"),
        (b"cnumpy\ndtype\nU\x02u1\x85RK\x03U\x01|", b"\x87b"),
    ],
)
def test_traps_end_in_a_sentence(
    path: Path, trap: bytes, before: bytes, after: bytes
) -> None:
    refused(path, b"\x80\x02" + before + trap + after + b".", ".")


def test_too_many_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_STEPS", 100)
    refused(path, b"\x80\x02]" + b"K\x01a" * 60 + b".", "it takes over 100 steps")


@pytest.mark.parametrize("data", OFFICIAL.values(), ids=OFFICIAL.keys())
def test_every_truncated_file(path: Path, data: bytes) -> None:
    for length in range(len(data)):
        refused(path, data[:length], ".")


@pytest.mark.parametrize("data", [PYTHON_2, PYTHON_2_TEXT, python_3(4)])
def test_every_flipped_byte(path: Path, data: bytes) -> None:
    """Some flips change a value, and no reader could tell; the others are refused."""
    rng = np.random.default_rng(0)
    for place in range(len(data)):
        for mask in rng.integers(1, 256, 3):
            garbled = bytearray(data)
            garbled[place] ^= int(mask)
            path.write_bytes(garbled)
            try:
                arrays = read_arrays(path, ["data", "labels"])
            except UserError:
                continue
            assert all(array.dtype.kind in "iu" for array in arrays)


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b".",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02N.",
        b"e.",
        b"t.",
        b"(.",
        b"h\x00.",
        b"I" + b"9" * 5000 + b"\n.",
        b"\x8d" + b"\xff" * 8 + b".",
        b"\x8e" + b"\x00" * 7 + b"\x10" + b".",
        b"S'no end\n.",
        b"Sx\n.",
        b"S'\\u1234'\nN\x86.",
        b"c\n\n.",
        b"i",
        b"K\x01N\x93.",
    ],
)
def test_garbled_files(path: Path, data: bytes) -> None:
    refused(path, data, ".")
