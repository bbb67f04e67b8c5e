"""The members of a closed set, and the patterns that find them in a model's text."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

from moa_dspy.parsing.numbers import read_number
from moa_dspy.parsing.phrases import (
    CHINESE_CLAUSE,
    CHINESE_END,
    CORRECTED,
    IDEOGRAPH,
    PARTICLE,
    WIDE,
)

__all__ = ["CLOSE", "SAYING", "MemberSet", "folded", "member_set"]

Value = TypeVar("Value")

_OPEN: Final = r"[\s*_$`\"'“‘(\[{<【]{0,8}"
CLOSE: Final = r"[*_$`\"'”’)\]}>】]{0,8}"
_ADVERBS: Final = (
    r"(?:[\s,]{1,3}(?:most|very|quite|almost|likely|probably|definitely|clearly|certainly|surely|obviously|undoubtedly|"
    r"thus|therefore|hence|then|indeed|actually|simply|still|also|just|only|in fact|of course|I (?:think|believe|guess|"
    r"would say|am confident)|in my opinion|indicated by|represented by|given by|labell?ed)\b,?){0,4}"
)
_IS: Final = rf"(?:\s(?:is|would be|should be|must be|will be|has to be)\b{_ADVERBS})?\s?[:：=>–—-]?"
_NOUN: Final = (
    r"(?:option|choice|letter|answer|statement|assistant|response|candidate|model|output|system|summary|completion"
    r"|opción|opção|вариант)s?"
)
_KIND: Final = (
    rf"(?:\s(?:la|el|die)(?=\s))?(?:\s?(?:the )?(?:(?:correct|right|best) )?{_NOUN}(?:\b|_):?|\s?(?:选项|選項))?"
)
SAYING: Final = (
    r"(?:it is|it['’]s|it must be|that['’]s|that (?:is|would be)|i(?: would|['’]d| will|['’]ll)? (?:choose|pick|select"
    r"|say|prefer|favou?r|go (?:with|for)|vote for)|i(?: am|['’]m) going with|"
    r"(?:we|you) (?:choose|pick|select)|go with|my (?:choice|pick|vote) is)"
)
_SO: Final = (
    r"(?:i (?:think|believe|guess)|probably|definitely|most likely|clearly|certainly|so|"
    r"thus|therefore|hence|leaving|leaves|that leaves|conclusion)"
    r"\b[,:]?"
)
_CHOSEN: Final = r"(?: (?:only|just|us with|it is|it['’]s|it must be|i choose|we choose|pick|choose))?"
_SUBJECT: Final = (
    r"[.:)]?(?: (?!(?:is|are|was|were|not|and|or|but|because|since|so|says|states|if|then|only|would)\b)"
    r"[^\W\d][\w'’-]*+){0,8}?"
)
_RIGHT: Final = (
    r"(?:correct|right|best|better|appropriate|suitable|likely|true|the answer|answer|accurate|superior|stronger"
    r"|prefer(?:red|able)|winner)"
)
_DEGREE: Final = (
    r"(?:(?:the|only|most|more|slightly|much|far|clearly|marginally|significantly|somewhat|a bit|a little) ){0,3}"
)
_DASHES: Final = "\u2010-\u2015\u2212-"
_ALSO: Final = r"(?:or|and|&|/|nor|vs\.?|versus|>|<|或者?|和|与|與|及|还是|還是|、)"
_SURE: Final = (
    r"(?:(?:because|since|as)\b[^()\[\]\n]{1,80}|(?:very )?(?:slightly|clearly|correct|right|best|(?:much )?better"
    r"|by far|by an? \w{1,12} margin|definitely|certainly|obviously|final(?: answer)?))"
)
_RATED: Final = r"(?<![\w'’])(?-i:[A-Z])[*\"'\s]{0,4}[:=(][\s*]{0,3}[-.]?\d"
"""A letter with a number of its own: `A: 10%, B: 90%` chooses none."""
_AFTER_LETTER: Final = (
    r"(?:because|since|that|which|as|for|over|to|here|in|is|was|and|but|or|nor|rather|instead|by|due|with|without|within|on"
    r"|based|then|too|again|now|if|though|although|while|whereas|when|where|at|from|of|after|before|this|among|given|unless"
    r"|not|even|also|despite|under|than)"
)
"""Words that follow no article."""
_NO_ARTICLE: Final = (
    r"(?:(?<=option A)|(?<=choice A)|(?<=answer A)|(?<=letter A)|(?<=response A)"
    rf"|(?!(?<=(?-i:\sA))\s+(?!{_AFTER_LETTER}\b"
    r"|(?:much |far )?(?:more|first|last|overall|\w+ly)\b\s*(?:[.,;!)]|\Z|than|over|because))(?-i:[a-z])))"
)
"""After a letter: it is not the article of a noun (`I prefer A longer one`)."""


class MemberSet(Generic[Value]):
    """The members of one closed set, and the patterns that find them."""

    def __init__(self, labels: Mapping[str, Value], texts: Sequence[str]) -> None:
        self.labels, self.texts = labels, texts
        self.folded: dict[str, list[str]] = {}
        for label in labels:
            self.folded.setdefault(folded(label), []).append(label)
        letters = [label for label in labels if len(label) == 1 and label.isalpha()]
        words = sorted((label for label in labels if label not in letters and label.strip()), key=len, reverse=True)
        spelt = [_spelt(word) for word in words]
        end = rf"(?!(?!{PARTICLE})[\w+#]|-\w|[-\u2212](?![\s\w])|[-\u2212]\s?\Z|[.,]\d|['’](?!s\b)\w)"
        self.word = re.compile(rf"(?<![\w+#-])(?<!\d[.,])(?P<m>{'|'.join(spelt) or '(?!)'}){end}", re.IGNORECASE)
        both = [*spelt, *map(re.escape, letters)]
        capital = [*spelt, *(f"(?-i:{re.escape(letter.upper())})" for letter in letters)]
        self.member = rf"{_OPEN}(?P<m>{'|'.join(both) or '(?!)'}){end}"
        self.capital = rf"{_OPEN}(?P<m>{'|'.join(capital) or '(?!)'}){end}"
        self.any = "|".join([*spelt, *(["[A-Za-z]"] if letters else [])]) or "(?!)"
        also = _ALSO if letters else rf"(?:{_ALSO}|,)"  # a comma also separates a letter and what follows it
        other = rf"{CLOSE}\s?{also}\s?(?:the )?(?:{_NOUN})?\s?{_OPEN}(?:{self.any})(?!(?!{IDEOGRAPH.pattern})[\w'’])"
        self.several = rf"(?!{other})"
        if letters:
            self.several += (
                rf"(?!{CLOSE},\s?{_OPEN}(?-i:[A-Z]){CLOSE}\s?(?:[,.;]|(?:or|and)\b|\Z)"
                rf"|{CLOSE} is {_OPEN}(?-i:[A-Z])(?![\w'’])"
                rf"|{CLOSE}[\s.#;+]{{0,8}}{_OPEN}(?-i:[A-Z]){CLOSE}[\s.]*\Z)"
            )
        self.one_of_several = re.compile(rf"\A\s?{_KIND}{self.member}{other}", re.IGNORECASE)
        self.letters = bool(letters)
        self.beginning = re.compile("|".join([*spelt, "[A-Za-z]"]), re.IGNORECASE)
        numbers = [read_number(choice, prose=False) for choice in texts]
        self.numbers = numbers if len(set(numbers)) == len(numbers) and None not in numbers else []

    @functools.cached_property
    def stated(self) -> list[re.Pattern[str]]:
        """What follows a marker of an answer."""
        return _compiled(
            rf"\A{_ADVERBS}\s?{_KIND}{self.member}{self.several}",
            rf"\A[^\n]{{0,40}}?\bnot\b{_KIND}{_OPEN}(?:{self.any}){CLOSE},?\s(?:but|rather)\b(?: rather)?{_KIND}"
            rf"{self.capital}",
        )

    @functools.cached_property
    def asserted(self) -> list[re.Pattern[str]]:
        """Sentences that call a member right, or choose it."""
        end = rf"(?={CLOSE}\s*(?:[.!;]|\n|\Z))"
        return _compiled(
            rf"\b(?:(?:correct|right|best|better|final|my|proper|preferred) (?:option|choice|letter|response|one)"
            rf"|winner)\b[*_]{{0,3}}{_IS}{_KIND}{self.member}{self.several}",
            rf"\b{SAYING}\b:?{_ADVERBS}{_KIND}{self.capital}{_NO_ARTICLE}{self.several}",
            rf"(?<![\w'’]){self.capital}{CLOSE}{_SUBJECT}"
            rf" (?:(?:is|must be|should be|would be)|(?:seems|looks|appears)(?: to be)?)"
            rf" {_DEGREE}{_RIGHT}\b",
            rf"(?<!\w){self.capital}{CLOSE} (?:remains|fits best|makes (?:the )?most sense"
            r"|wins(?! (?:nothing|no)\b)"
            rf"|(?:beats|outperforms)\s(?:the (?:others?|rest)|both|all|{_KIND}{_OPEN}(?-i:[A-Z])(?=\W|\Z)))(?!\w)",
            rf"{CHINESE_CLAUSE}(?:[选選][择擇]?|(?:我的选择|正[确確]的?(?:选项|選項))是?)[:为為]?\s?{self.capital}{self.several}(?={CLOSE}{CHINESE_END})",
            rf"{CHINESE_CLAUSE}(?:选项|選項)?{self.capital}{CLOSE}\s?(?:选项|選項|[项項])?是?(?:正[确確]|[对對]的)"
            rf"(?:的|答案|选项|選項){{0,2}}(?={CHINESE_END})",
            rf"\A\s*(?:选项|選項)[:是为為]?\s?{self.capital}{CLOSE}[\s.。]*\Z",
            rf"\b{_SO}{_CHOSEN}{_KIND}{self.capital}{self.several}{end}",
            rf"\bnot{_KIND}{_OPEN}(?:{self.any}){CLOSE},? (?:but|rather)\b(?: rather)?{_KIND}{self.capital}",
            rf"^[ \t#*_]{{0,8}}(?:my |final )?ans(?:wer|\.)?{self.member}{self.several}{end}",
            rf"^[ \t#*_]{{0,8}}(?:choose|pick|select|mark|go with){_KIND}{self.capital}{self.several}",
        )

    @functools.cached_property
    def labelled(self) -> list[re.Pattern[str]]:
        """A line that is a member, or begins with one."""
        beginning = (
            rf"|{CLOSE} ?[.:)\]】、][*_]* ?\S|{CLOSE} [–—-] \S|{CLOSE} [(\[]{_SURE}[)\]][\s.!*_]*\Z"
            if self.letters
            else ""
        )
        return _compiled(
            rf"\A(?!\{{\s*[\"'])(?![^\n]{{0,200}}{_RATED}[^\n]{{0,200}}{_RATED})"
            rf"(?:#{{1,6}} ?|[-=]?>+ ?|[→⇒∴] ?|[-*•] |\d{{1,2}}[.)] )?(?:{_NOUN}(?:\b|_))?{self.member}{self.several}"
            rf"(?:[\s*_$`\"'.:!)\]}}>】]{{0,8}}\Z{beginning}|{CLOSE},? (?:because|since|as|for|by far"
            rf"|by an? (?:\w+ )?(?:margin|lot|bit|mile|hair|nose|landslide))\b|{CLOSE},?\s?因[为為]"
            rf"|{CLOSE}, (?:obviously|clearly|definitely|certainly|i\.e\.))",
        )

    @functools.cached_property
    def key(self) -> list[re.Pattern[str]]:
        """A key of JSON, or a label for a choice."""
        return _compiled(
            rf"[\"'](?:final_?|correct_?)?(?:choice|option|letter)[\"']\s{{0,3}}:{self.member}{CLOSE}\s{{0,3}}(?:[,}}]|\Z)",
            rf"^[ \t#*_]{{0,8}}(?:(?:my|final|correct|best|selected|chosen) )?"
            rf"(?:choice|option|letter|selection|winner|preference)[*_]{{0,3}}\s?[:=][*_]{{0,3}}"
            rf"{_KIND}{self.member}{self.several}",
        )

    @functools.cached_property
    def corrected(self) -> re.Pattern[str]:
        """A member that replaces another one, right after words that take that one back (`A... no, it is B.`)."""
        lead = r"(?:(?:it|that)(?:['’]s| is| should be| must be) |i meant |(?:the )?(?:(?:correct|right) )?answer is )?"
        stop = r"[.;!\n](?!\w)|\)\s|,(?! (?:but|if|only|unless)\b)|\Z|(?:because|since)\b|is (?:right|correct)"
        end = rf"(?={CLOSE}\s*(?:{stop}))"
        return re.compile(
            rf"\A{CLOSE}[^.!?;\n]{{0,60}}?[\s.,;:…—–-]{{1,8}}(?:no )?"
            rf"(?:{CORRECTED}[\s,.:;…—–-]{{0,4}}){{1,3}}{lead}{_KIND}{self.capital}{end}",
            re.IGNORECASE,
        )

    @functools.cached_property
    def mentioned(self) -> list[re.Pattern[str]]:
        """A letter that is called an option, or stands in brackets or emphasis."""
        return _compiled(
            rf"\b(?:option|choice)\b{_IS}{self.member}{self.several}",
            rf"\b(?:choose|pick|select)s?\b{_KIND}{self.capital}{_NO_ARTICLE}{self.several}",
        )


def _compiled(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in patterns]


def folded(text: str) -> str:
    """Return a text in which case, spaces, hyphens and dashes are equal."""
    return re.sub(rf"[\s_{_DASHES}]+", " ", text.strip()).casefold()


def _spelt(word: str) -> str:
    """Return a pattern of a member in which spaces, hyphens and dashes are equal. `A-` is not `A`."""
    dash, parts = f"[{_DASHES}]", folded(word).split()
    before, after = (dash if folded(word)[at] == " " else "" for at in (0, -1))
    return before + rf"[\s_{_DASHES}]{{1,3}}".join(map(re.escape, parts)) + after


@functools.lru_cache(maxsize=128)
def member_set(labels: tuple[tuple[str, Value], ...], texts: tuple[str, ...]) -> MemberSet[Value]:
    """Return the set of members with their values, and what they stand for."""
    narrow = {label.translate(WIDE): value for label, value in labels}
    return MemberSet(narrow, [text.translate(WIDE) for text in texts])
