"""Whether one share is markedly smaller than another."""

from typing import Final

from scipy import stats

_LEAST_GAP: Final = 0.1
_FACTOR: Final = 2.0
_ALPHA: Final = 0.001


def markedly_fewer(count: int, of: int, usual_count: int, usual_of: int) -> bool:
    """Whether `count` of `of` are markedly fewer than `usual_count` of `usual_of`.

    They are where the shares lie a tenth of all apart or more, and those that count are at most half as many as usual, or the others at
    least twice as many, and Fisher's exact test (one-sided; Fisher 1935) at 0.1 % leaves it to no chance. False of nothing.
    """
    if not of or not usual_of:
        return False
    share, usual = count / of, usual_count / usual_of
    factor = _FACTOR * share <= usual or 1 - share >= _FACTOR * (1 - usual)
    if usual - share < _LEAST_GAP or not factor:
        return False
    table = [[count, of - count], [usual_count, usual_of - usual_count]]
    return float(stats.fisher_exact(table, alternative="less").pvalue) < _ALPHA
