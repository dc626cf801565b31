"""How the tones of Mandarin syllables change between neighbours: third tones, 不 and 一.

pypinyin has such rules for single words. These work on clauses, so that 不去 changes although it is two words, and know
numbers: 一 keeps its tone in 一九九一年 and 第一.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DIGITS = "零〇一二三四五六七八九两"


@dataclass
class Syllable:
    """A character, and its syllable in pinyin with the tone 1 to 5 at the end, in a word of `word_len` syllables."""

    character: str
    pinyin: str
    word_len: int
    is_last: bool

    @property
    def tone(self) -> str:
        return self.pinyin[-1]

    @tone.setter
    def tone(self, tone: str) -> None:
        self.pinyin = self.pinyin[:-1] + tone


def apply_tone_sandhi(clause: Sequence[Syllable]) -> None:
    """Change the tones of the syllables of one clause as they are spoken together."""
    # The tone of 不 and 一 depends on tones that third-tone sandhi does not change: 2 and 3 are the same to them.
    for index, syllable in enumerate(clause):
        if syllable.pinyin[:-1] == "bu" and syllable.character == "不":
            syllable.tone = "2" if _next_tone(clause, index) == "4" else "4"
        elif syllable.pinyin[:-1] == "yi" and syllable.character == "一":
            syllable.tone = _tone_of_yi(clause, index)
    for run in _third_tone_runs(clause):
        for unit in _units(run):
            for syllable in unit[:-1]:
                syllable.tone = "2"


def _next_tone(clause: Sequence[Syllable], index: int) -> str:
    return clause[index + 1].tone if index + 1 < len(clause) else ""


def _tone_of_yi(clause: Sequence[Syllable], index: int) -> str:
    before = clause[index - 1].character if index else ""
    after = clause[index + 1].character if index + 1 < len(clause) else ""
    # A digit of a number, an ordinal, a month, the end of a word (统一) or of the clause.
    is_ordinal = before == "第" or after in ("月", "号") or (before == "月" and after == "日")
    is_digit = (before and before in _DIGITS + "十") or (after and after in _DIGITS + "十")
    ends_word = clause[index].is_last and index > 0 and not clause[index - 1].is_last
    if not after or is_ordinal or is_digit or ends_word:
        return "1"
    if before == after:
        return "5"  # Between a verb and itself: 看一看.
    return "2" if _next_tone(clause, index) == "4" else "4"


def _third_tone_runs(clause: Sequence[Syllable]) -> Iterator[list[Syllable]]:
    """All stretches of neighbours in the third tone."""
    run: list[Syllable] = []
    for syllable in clause:
        if syllable.tone == "3":
            run.append(syllable)
        else:
            yield run
            run = []
    yield run


def _units(run: Sequence[Syllable]) -> list[list[Syllable]]:
    """The rhythmic units of a run, in each of which all third tones but the last change.

    A unit is what the run has of a word, or two words of one syllable; a single one that is left joins the word before
    it at the end of the run, as in 保管 + 好, and stays alone before a longer word, as in 老 + 保管.
    """
    units: list[list[Syllable]] = []
    starts_word, can_grow = True, False
    for position, syllable in enumerate(run):
        is_word = syllable.word_len == 1
        if not starts_word or (is_word and units and (can_grow or position == len(run) - 1)):
            units[-1].append(syllable)
            can_grow = False
        else:
            units.append([syllable])
            can_grow = is_word
        starts_word = syllable.is_last
    return units
