"""Train a library of Gaussian mixtures for the patch prior of Jolideco, in place of that of its authors.

``python benchmarks/quality/jolideco_library.py FOLDER`` trains a mixture on photographs from scikit-image,
as Zoran & Weiss (2011, ICCV, 479) did with other photographs, and writes it with an index as Jolideco reads
it from the folder that JOLIDECO_GMM_LIBRARY names. It needs scikit-image and scikit-learn, and takes a
minute.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table

SIDE, COMPONENTS, PATCHES = 8, 40, 18_000
PHOTOGRAPHS = (
    "camera",
    "coins",
    "moon",
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "hubble_deep_field",
    "grass",
)


def main(folder: Path) -> None:
    from skimage import color, data
    from sklearn.mixture import GaussianMixture

    generator = np.random.default_rng(1)
    patches = []
    for name in PHOTOGRAPHS:
        image = getattr(data, name)()
        grey = color.rgb2gray(image) if image.ndim == 3 else image / 255.0
        views = np.lib.stride_tricks.sliding_window_view(grey, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
        patches.append(views[generator.choice(len(views), PATCHES // len(PHOTOGRAPHS), replace=False)])
    flat = np.concatenate(patches)
    flat -= flat.mean(axis=1, keepdims=True)
    mixture = GaussianMixture(
        COMPONENTS, max_iter=15, reg_covar=1e-5, init_params="k-means++", random_state=1
    ).fit(flat)
    folder.mkdir(parents=True, exist_ok=True)
    # The patches have no mean, and so has the prior.
    table = Table(
        {"means": 0 * mixture.means_, "weights": mixture.weights_, "covariances": mixture.covariances_}
    )
    table.meta["PNPTYPE"] = "subtract-mean"
    table.write(folder / "zoran-weiss.fits", overwrite=True)
    index = {"zoran-weiss": {"filename": "$JOLIDECO_GMM_LIBRARY/zoran-weiss.fits", "format": "table"}}
    (folder / "jolideco-gmm-library-index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
