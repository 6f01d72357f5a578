# SPDX-License-Identifier: Apache-2.0
"""Tables of characters, names, words and units, by kind, and how tables are read. Standard library only."""

import re
from collections.abc import Callable, Iterable

# Pattern and replacement
Rewriting = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def table(text: str) -> dict[str, str]:
    """Read the pairs `key=value` of a table, separated by white space; a value "_" stands for a space."""
    return {key: value.replace("_", " ") for key, _, value in (pair.rpartition("=") for pair in text.split())}


def alternatives(words: Iterable[str]) -> str:
    """Return a pattern of any of these words, the longest first."""
    return "|".join(sorted(words, key=len, reverse=True))


def rewritings(*rows: tuple[str, str | Callable[[re.Match[str]], str]], flags: int = 0) -> tuple[Rewriting, ...]:
    return tuple((re.compile(pattern, flags), replacement) for pattern, replacement in rows)


def rewrite(text: str, steps: Iterable[Rewriting]) -> str:
    """Apply the steps to a text, one after the other."""
    for pattern, replacement in steps:
        if pattern.search(text):  # cheaper than a substitution
            text = pattern.sub(replacement, text)
    return text


# --- characters and names of plain text, as LaTeX

MACROS = table(r"""
    ×=times ·=cdot ⋅=cdot ∙=cdot •=cdot ÷=div ±=pm ∓=mp ≤=le ≥=ge ⩽=le ⩾=ge ≦=le ≧=ge ≠=ne ≈=approx ≡=equiv ∼=sim
    ∞=infty ∪=cup ∩=cap ∈=in ∉=notin ∅=emptyset ⊂=subset ⊆=subseteq ∖=setminus ∠=angle △=triangle ∆=Delta ⊥=perp
    ∥=parallel →=to ⇒=Rightarrow ∀=forall ∃=exists ∑=sum ∏=prod ∫=int ∂=partial ⟨=langle ⟩=rangle 〈=langle 〉=rangle
    ⌊=lfloor ⌋=rfloor ⌈=lceil ⌉=rceil ′=prime
""")
CHARACTERS = table("""
    、=,_ 。=. ∶=: −=- –=- ‐=- ‑=- ∣=| ￥=¥ √=sqrt_ ∛=cbrt_ …=\\ldots_ ⋯=\\ldots_ 或=_or_ 和=_and_ 与=_and_ 及=_and_
    °=^\\circ_ ˚=^\\circ_ º=^\\circ_ ℃=^\\circ_ ℝ=\\mathbb{R} ℕ=\\mathbb{N} ℤ=\\mathbb{Z} ℚ=\\mathbb{Q} ℂ=\\mathbb{C}
""")
SYNONYMS = table(
    "dfrac=frac tfrac=frac cfrac=frac dbinom=binom tbinom=binom leq=le leqslant=le geq=ge geqslant=ge neq=ne"
    " varnothing=emptyset lbrace={ rbrace=} dots=ldots cdots=ldots dotsc=ldots dotsb=ldots"
)
SIGNS = table(r"!==\ne_ >==\ge_ <==\le_ <>=\ne_ ->=\to_")
NAMES = "pi|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|phi|psi|omega|rho|tau|Delta|Omega|Theta|Sigma|infinity"
FUNCTIONS = "sqrt|cbrt|exp|abs|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|floor|ceil"
APPLIED = table(
    r"sqrt=\sqrt{%s} cbrt=\sqrt[3]{%s} exp=e^{%s} **=^{%s} abs=|%s| floor=\lfloor_%s\rfloor_ ceil=\lceil_%s\rceil_"
)

# --- words of numbers

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_ONES += " seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: value for value, word in enumerate(_ONES.split())}
SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
NUMBER_WORDS = frozenset(SMALL) | frozenset(POWERS)
MULTIPLIERS = {f"{word}{plural}": 10**power for word, power in POWERS.items() for plural in ("", "s")}
_MULTIPLIERS = "mn=6 bn=9 lakh=5 lakhs=5 crore=7 crores=7 myriad=4 十=1 百=2 千=3 万=4 萬=4 十万=5 百万=6 千万=7"
_MULTIPLIERS += " 亿=8 億=8 十亿=9 百亿=10 万亿=12"
MULTIPLIERS |= {word: 10 ** int(power) for word, power in table(_MULTIPLIERS).items()}
MULTIPLIERS |= {"dozen": 12, "dozens": 12, "score": 20, "gross": 144}
_ORDINALS = "half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth"
PARTS = {f"{word}{plural}": value for value, word in enumerate(_ORDINALS.split(), start=2) for plural in ("", "s")}
_PARTS = "halves=2 fourth=4 fourths=4 twentieth=20 twentieths=20 hundredth=100 hundredths=100 thousandth=1000"
_PARTS += " thousandths=1000 millionth=1000000 millionths=1000000"
PARTS |= {word: int(value) for word, value in table(_PARTS).items()}
HAN_DIGITS = "零一二三四五六七八九十"
BASE_NAMES = {"binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}

# --- units

_NAMES = """
    mm=millimeter,millimetre cm=centimeter,centimetre dm=decimeter,decimetre m=meter,metre km=kilometer,kilometre
    in=inch,inches ft=foot,feet yd=yard mi=mile g=gram,gm kg=kilogram,kilos mg=milligram t=ton,tonne lb=pound,lbs
    oz=ounce l=liter,litre,L ml=milliliter,millilitre,mL gal=gallon qt=quart pt=pint acre= hectare=ha
    s=second,sec,secs min=minute,mins h=hour,hr,hrs day= week=wk month= year=yr,yrs decade= century=centuries
    degree=deg rad=radian N=newton J=joule W=watt kW=kilowatt V=volt Hz=hertz Pa=pascal mol=mole,moles bit= byte=
    dollar=usd cent= penny=pennies,pence euro=eur pound_sterling=gbp rupee=inr,rs yen=jpy yuan=cny,rmb cad= aud= chf=
    percent=pct unit= time= box=boxes dish=dishes person=people,persons child=children man=men woman=women mouse=mice
    tooth=teeth sheep= fish= deer= moose= mph= kph=kmh,kmph mps= blue= red= green= yellow= white= black= brown= pink=
    orange=
"""
# Each name with its unit; plural forms are added.
UNITS = {
    name if len(name) < 3 else name.casefold(): unit.replace("_", " ")
    for unit, others in ((unit, others.split(",")) for unit, _, others in (e.partition("=") for e in _NAMES.split()))
    for name in [unit, *others, *(f"{other}s" for other in [unit, *others] if len(other) > 2)]
    if name
}
SPEEDS = {"mph": "mi/h", "kph": "km/h", "mps": "m/s"}
HAN_UNITS = table(
    "米=m 厘米=cm 分米=dm 毫米=mm 千米=km 公里=km 克=g 千克=kg 公斤=kg 吨=t 升=l 毫升=ml 秒=s 秒钟=s 分=min 分钟=min"
    " 时=h 小时=h 天=day 日=day 周=week 星期=week 月=month 个月=month 年=year 岁=year"
    " 元=yuan 块钱=yuan 美元=dollar 度=degree"
)
COUNTED = "个只人次倍种条本张块支枝辆名位件棵段组页朵头匹台套包箱袋瓶杯双对篇根间层排队场题道节步所座艘架颗粒"
CURRENCIES = table(
    r"\pounds=pound £=pound gbp=pound €=euro \euro=euro eur=euro ₹=rupee inr=rupee rs=rupee rs.=rupee ¥=yuan cny=yuan"
    r" rmb=yuan jpy=yuan cad=cad c\$=cad aud=aud a\$=aud chf=chf"
)
# Words behind a unit that change nothing; of a phrase with "of", only what stands before.
REMARKS = frozenset("each total altogether left remaining long wide tall high deep old ago away apart all in".split())
# Words that change or hedge the number before them, and functions; they never belong to a unit.
NOT_UNITS = frozenset(
    "sin cos tan cot sec csc log ln exp max gcd lcm mod and or to pi sqrt frac half halves third thirds factorial "
    "million thousand mille plus minus over by not no is are as this thus less least most more than fewer maybe about "
    "off below above thousands hundreds millions billions dozens sixths tenths inclusive exclusive perhaps "
    "always versus".split()
)
EXPONENTS = {"square": 2, "sq": 2, "squared": 2, "平方": 2, "cubic": 3, "cu": 3, "cubed": 3, "立方": 3}
SIZES = {
    "time": {"week": 604_800, "day": 86_400, "h": 3_600, "min": 60, "s": 1},
    "money": {"dollar": 100, "cent": 1},
    "length": {"ft": 12, "in": 1},
    "weight": {"lb": 16, "oz": 1},
}
