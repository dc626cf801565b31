"""Which phone each frame speaks: the most probable paths of frames over phones. All functions are pure.

T frames, S phones. Scores are log-probabilities of phones for each frame, taken from attention.
"""

import math

import numpy as np

# Added to probabilities before their logarithm, so that one frame cannot decide a path.
_FLOOR = 1e-4


def attention_of_frames(attention: np.ndarray, frames_per_step: int, num_frames: int) -> np.ndarray:
    """Attention of steps (K, N, S) of K heads as that of frames (T, S), whose rows add up to 1.

    Heads are averaged. A frame gets the attention between those of the two steps whose centres are nearest to it.
    """
    mean = attention.mean(0)
    position = (np.arange(num_frames) + 0.5) / frames_per_step - 0.5
    position = position.clip(0, max(0, len(mean) - 1))
    before = np.floor(position).astype(int)
    share = (position - before)[:, None]
    frames = (1 - share) * mean[before] + share * mean[np.minimum(before + 1, len(mean) - 1)]
    return frames / frames.sum(1, keepdims=True).clip(1e-9)


def log_scores(attention: np.ndarray) -> np.ndarray:
    """The scores of attention (..., T, S)."""
    return np.log(attention + _FLOOR)


def monotone_path(scores: np.ndarray) -> np.ndarray:
    """The phone of each frame (..., T), for scores (..., T, S): the path with the largest sum of scores.

    It starts at the first phone, ends at the last, never goes back, and advances by at most one phone a frame, or, if
    there are fewer frames than phones, by as few as possible.
    """
    num_frames, num_phones = scores.shape[-2:]
    if num_frames < 2:
        return scores.argmax(-1)
    most = math.ceil((num_phones - 1) / (num_frames - 1))
    best = np.full((*scores.shape[:-2], num_phones), -np.inf)
    best[..., 0] = scores[..., 0, 0]
    advances = np.zeros(scores.shape, np.int16)
    for frame in range(1, num_frames):
        # Where each phone is best reached from: itself, or one of the `most` phones before it.
        reached = best.copy()
        for advance in range(1, min(most, num_phones - 1) + 1):
            earlier = best[..., :-advance]
            is_better = earlier > reached[..., advance:]
            np.copyto(reached[..., advance:], earlier, where=is_better)
            np.copyto(advances[..., frame, advance:], advance, where=is_better)
        best = reached + scores[..., frame, :]
    path = np.full(scores.shape[:-1], num_phones - 1)
    for frame in range(num_frames - 1, 0, -1):
        steps_back = np.take_along_axis(advances[..., frame, :], path[..., frame, None], -1)[..., 0]
        path[..., frame - 1] = path[..., frame] - steps_back
    return path


def diagonality(attention: np.ndarray) -> np.ndarray:
    """How well attention (K, T, S) of each head follows the text, (K,): at most 1, and about 0 if it does not.

    The mean, over the frames of the head's own monotone path, of the pointwise mutual information of frame and phone,
    relative to its maximum log(S). A head that always attends to the same phones has 0, as has one that attends to all.
    """
    scores = log_scores(attention) - log_scores(attention.mean(-2, keepdims=True))
    along = np.take_along_axis(scores, monotone_path(scores)[..., None], -1)
    return along.mean((-2, -1)) / math.log(max(2, attention.shape[-1]))


def free_path(scores: np.ndarray, start: int, forward_cost: float, backward_cost: float) -> np.ndarray:
    """The phone of each frame (T,), for scores (T, S), if phones may be skipped and repeated.

    The path stays or advances by one phone for free. Further forward and backward jumps cost as given. It should start
    at the phone `start`.
    """
    num_frames, num_phones = scores.shape
    phones = np.arange(num_phones)
    best = np.select([phones > start, phones < start], [-forward_cost, -backward_cost], 0.0) + scores[0]
    sources = np.zeros((num_frames, num_phones), int)
    for frame in range(1, num_frames):
        # The best phone at or before, and at or after, each phone.
        from_before, before = _running_best(best)
        from_after, after = (row[::-1] for row in _running_best(best[::-1]))
        options = np.full((4, num_phones), -np.inf)
        options[0] = best
        options[1, 1:] = best[:-1]
        options[2, 2:] = from_before[:-2] - forward_cost
        options[3, :-1] = from_after[1:] - backward_cost
        choice = options.argmax(0)
        before, after = np.roll(before, 2), np.roll(num_phones - 1 - after, -1)
        sources[frame] = np.choose(choice, [phones, phones - 1, before, after])
        best = np.take_along_axis(options, choice[None], 0)[0] + scores[frame]
    path = np.full(num_frames, best.argmax())
    for frame in range(num_frames - 1, 0, -1):
        path[frame - 1] = sources[frame, path[frame]]
    return path


def _running_best(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest of the values (N,) up to each index, and where it lies."""
    largest = np.maximum.accumulate(values)
    is_new = np.concatenate([[True], values[1:] > largest[:-1]])
    return largest, np.maximum.accumulate(np.where(is_new, np.arange(len(values)), 0))
