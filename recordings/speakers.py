"""Tells voices apart: the regions of a recording by their embeddings, then the voices of all recordings."""

from collections.abc import Callable, Sequence

import numpy as np

from recordings.voice import Region

# A shorter region says little about its voice: it gets the nearest of those that longer regions have. Chosen on five
# talks of two speakers each, where preferring the voice of the turn before or after was no better.
_MIN_CLUSTERED_SECONDS = 1.0
# A recording has few speakers, which may be told apart by a larger distance than those of a whole corpus. Chosen on 26
# speakers of three corpora; the manual says how well both work on others.
_WITHIN_RECORDING = 1.15
# More voices than this are clustered in blocks first: the distances of all pairs are in memory.
_MAX_CLUSTERED = 5000


def voices_of(
    regions: Sequence[Region], embed: Callable[[Region], np.ndarray], max_distance: float
) -> tuple[list[int], np.ndarray]:
    """The voice of each region of a recording, numbered from 0, and the mean embedding of each voice, (voices, E).

    `embed` gives the unit-length embedding (E,) of a region. The means are not of unit length: the product of two is
    the mean cosine of all pairs of their regions.
    """
    if not regions:
        return [], np.zeros((0, 0))
    embeddings = np.stack([embed(region) for region in regions])
    seconds = np.array([region.end - region.start for region in regions])
    is_long = seconds >= _MIN_CLUSTERED_SECONDS
    if not is_long.any():
        is_long[:] = True
    labels = np.full(len(regions), -1)
    labels[is_long] = cluster(embeddings[is_long], max_distance * _WITHIN_RECORDING)
    means = np.stack(
        [
            np.average(embeddings[labels == voice], axis=0, weights=seconds[labels == voice])
            for voice in range(labels.max() + 1)
        ]
    )
    cosines = embeddings @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    labels[~is_long] = cosines[~is_long].argmax(1)
    return labels.tolist(), means


def cluster(means: np.ndarray, max_distance: float) -> list[int]:
    """Number the speakers of voices with mean embeddings (N, E), in the order of their first appearance.

    Average linkage: speakers are joined while their mean cosine distance is at most `max_distance`.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(means) > _MAX_CLUSTERED:
        return _cluster_blocks(means, max_distance)
    if len(means) < 2:
        return [0] * len(means)
    distances = np.clip(1 - means @ means.T, 0, None)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    return _numbered(fcluster(tree, max_distance, "distance").tolist())


def _cluster_blocks(means: np.ndarray, max_distance: float) -> list[int]:
    """Cluster blocks, and then the means of their clusters."""
    found: list[int] = []
    joined: list[np.ndarray] = []
    for first in range(0, len(means), _MAX_CLUSTERED):
        block = means[first : first + _MAX_CLUSTERED]
        labels = np.array(cluster(block, max_distance))
        found += (len(joined) + labels).tolist()
        joined += [block[labels == label].mean(0) for label in range(labels.max() + 1)]
    if len(joined) == len(means):
        return found  # Nothing was joined in any block.
    merged = cluster(np.stack(joined), max_distance)
    return _numbered([merged[label] for label in found])


def _numbered(labels: Sequence[int]) -> list[int]:
    order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]
