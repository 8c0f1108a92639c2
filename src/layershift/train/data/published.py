"""Images that come in files of a known content: looked for in their layouts, verified, fetched by torchvision."""

from __future__ import annotations

from typing import ClassVar

from layershift._checks import import_extra
from layershift.train.data.files import DataError, Layout, Part, described, find_layout, read_layout
from layershift.train.data.images import ImageData


class PublishedImages(ImageData):
    """Images in the layouts that torchvision knows, and in their publisher's others.

    Attributes:
        layouts: in which they are looked for, in this order.
        source: torchvision's class that fetches them.
    """

    layouts: ClassVar[tuple[Layout, ...]]
    source: ClassVar[str]

    def read(self) -> dict[str, Part]:
        """The official parts."""
        found = find_layout(self.root, self.layouts)
        if found is None:
            raise self.absent(described(self.layouts))
        return read_layout(*found, verify=self.verify)

    def fetch(self) -> None:
        """Let torchvision download them, one process at a time."""
        from filelock import FileLock

        datasets = import_extra("torchvision.datasets", extra="train")
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{self.title}.lock"):
            if find_layout(self.root, self.layouts) is None:
                try:
                    getattr(datasets, self.source)(self.root, download=True)
                except (OSError, RuntimeError) as error:
                    raise DataError(
                        f"{self.title}: the download failed ({error}). {self.absent(described(self.layouts))}"
                    ) from error
