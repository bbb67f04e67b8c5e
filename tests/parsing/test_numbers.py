"""Numbers as models write them: clear ones are read in every notation, all others are refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from moa_dspy.data.metrics.numbers import final_number
from moa_dspy.parsing import read_number

NUMBERS = [
    ("42", 42),
    ("42.", 42),
    ("$18", 18),
    ("18$", 18),
    ("€18", 18),
    ("18 €", 18),
    ("18€", 18),
    ("18 EUR", 18),
    ("EUR 18", 18),
    ("USD 18.50", Fraction(37, 2)),
    ("£3", 3),
    ("₹1,00,000", 100000),
    ("12,34,567", 1234567),
    ("1,23,456.78", Fraction(6172839, 50)),
    ("1.234.567", 1234567),
    ("1.234,56", Fraction(30864, 25)),
    ("1.234.567,89", Fraction(123456789, 100)),
    ("1 234,56", Fraction(30864, 25)),
    ("1 234 567", 1234567),
    ("1 234", 1234),
    ("1 234,5", Fraction(2469, 2)),
    ("1'234.50", Fraction(2469, 2)),
    ("1’234", 1234),
    ("1_234", 1234),
    ("−5", -5),
    ("–5", -5),
    ("－5", -5),
    ("- 5 is the bullet", None),
    ("minus 5", -5),
    ("negative five", None),
    ("negative 5", -5),
    ("-$5", -5),
    ("$-5", -5),
    ("($5)", 5),
    ("٤٢", 42),
    ("४२", 42),
    ("４２", 42),
    ("4２", 42),
    ("1/2", Fraction(1, 2)),
    ("½", Fraction(1, 2)),
    ("1½", Fraction(3, 2)),
    ("1 ½", Fraction(3, 2)),
    ("3 1/2", Fraction(7, 2)),
    (r"\frac{3}{4}", Fraction(3, 4)),
    (r"\dfrac34", Fraction(3, 4)),
    (r"-\frac{3}{4}", Fraction(-3, 4)),
    ("50%", 50),
    ("50 %", 50),
    ("50 percent", 50),
    ("12.5%", Fraction(25, 2)),
    (r"50\%", 50),
    ("1e3", 1000),
    ("1.5E-3", Fraction(3, 2000)),
    ("6.02 × 10^23", 602000000000000000000000),
    ("6.02x10^23", 602000000000000000000000),
    (r"6.02 \times 10^{23}", 602000000000000000000000),
    ("3·10⁸", 300000000),
    ("3 * 10**8", 300000000),
    ("5 km", 5),
    ("5km/h", 5),
    ("5 m²", 5),
    ("5 m^2", 5),
    ("20 °C", 20),
    ("20°C", 20),
    ("5 kg per day", 5),
    ("3 million", 3000000),
    ("$2.5 billion", 2500000000),
    ("$5M", 5000000),
    ("5k", 5000),
    ("2 lakh", 200000),
    ("3 Millionen Euro", 3000000),
    ("2,5 Mio. €", 2500000),
    ("2 millones", 2000000),
    ("3 millions of dollars", 3000000),
    ("5 Milliarden", 5 * 10**9),
    ("10 crores", 10**8),
    ("5 млн", 5 * 10**6),
    ("5 тыс. руб.", 5000),
    ("5万円", 50000),
    ("3.5亿元", 350000000),
    ("100만", 10**6),
    ("1万5千", None),
    ("2 dozen", 2),
    ("forty-two", 42),
    ("one hundred and five", 105),
    ("5th", 5),
    ("#5", 5),
    ("approx. 3.14", Fraction(157, 50)),
    ("≈ 3.14", Fraction(157, 50)),
    ("~42", 42),
    ("x = 5", 5),
    ("x=5", 5),
    ("5 = x", 5),
    ("x = -5", -5),
    ("x = - 5", -5),
    ("3 * 6 = 18", 18),
    ("3*6=18", 18),
    ("= 18", 18),
    ("2+2=4 and 3+3=6", None),
    ("2+2=4, 3+3=6", None),
    ("2+2=4; 3+3=6", None),
    ("2+2=4, so 4+3=7", 7),
    ("2 + 2 = 4, and 4 + 3 = 7", 7),
    ("2+2=4=4", 4),
    ("16 - 3 - 4 = 9, 9 * 2 = 18", 18),
    ("5-7", None),
    ("5–7", None),
    ("5 to 7", None),
    ("between 5 and 7", None),
    ("5 or 7", None),
    ("5 - 7", None),
    ("from 5 to 7", None),
    ("5, 7", None),
    ("[5, 7]", None),
    ("(5, 7)", None),
    ("5..7", None),
    ("2024-05-01", None),
    ("01/05/2024", None),
    ("1.5.2024", None),
    ("May 5, 2024", None),
    ("5 May 2024", None),
    ("9:30", None),
    ("9:30 pm", None),
    ("5 pm", None),
    ("2^10", None),
    ("10²", None),
    ("10^3", None),
    ("H2O", None),
    ("COVID-19", None),
    ("GPT-4", None),
    ("1.2.3", None),
    ("0x1F", None),
    ("4:1", None),
    ("3 out of 4", 3),
    ("The answer is not 9.", None),
    ("not 9", None),
    ("It is not 9.", None),
    ("It isn't 9", None),
    ("Answer: not 9", None),
    ("9 is wrong.", None),
    ("9 is not the answer.", None),
    ("9 is incorrect", None),
    ("The answer isn't 9.", None),
    ("the answer cannot be 9", None),
    ("**not 9**", None),
    (r"\boxed{\text{not }9}", None),
    ("#### not 9", None),
    ("never 9", None),
    ("anything but 9", None),
    ("The answer is not 9 but 18.", 18),
    ("It is 18, not 9.", 18),
    ("18 rather than 9", 18),
    ("18 instead of 9", 18),
    ("not 9, 18", 18),
    ("The answer is 18, not 9.", 18),
    ("The answer is not 18 eggs.", None),
    ("On 2024-05-01 there were 42 apples.", 42),
    ("At 9:30 there were 42 people.", 42),
    ("1. 42", 42),
    ("1) 42", 42),
    ("1. Add\n2. 42 apples", 42),
    ("Step 3: 42", 42),
    ("In 3 days she makes 42 dollars.", 42),
    ("She makes $18 a day for 3 days.", 18),
    ("There are 42 apples in total.", 42),
    ("42 apples and 3 pears", None),
    ("The total is **42** apples.", 42),
    ("The answer is 42. I used 3 steps.", 42),
    ("Answer: 42 (3 steps)", 42),
    ("42 (that is 6 * 7)", 42),
    ("6 * 7", None),
    ("6 * 6", None),
    ("x = 3 or x = 4", None),
    ("The answer is 6 * 6.", None),
    ("2 + 2 = 5 is wrong", None),
    ("The answer is 6 * 7.", None),
    ("The answer is 3 or 4.", None),
    ("The answer is 9. The answer is 18.", None),
    ("The answer is 9. Wait, the answer is 18.", 18),
    ("The answer to part 1 is 9. So the answer is 18.", 18),
    ("Answer: 9\nFinal answer: 18", 18),
    (r"\boxed{9} or \boxed{18}", None),
    (r"\boxed{18} and \boxed{18}", 18),
    ("Ans: 18", 18),
    ("Ans. = 18", 18),
    ("Result: 18", 18),
    ("Total = 18", 18),
    ("The answer is $18.00.", 18),
    ("The answer is 18.5.", Fraction(37, 2)),
    ("The answer is: 18", 18),
    ("The answer is\n18", 18),
    ("Final Answer: **18**", 18),
    (r"The final answer is: $\boxed{18}$", 18),
    ("It costs $1,234.50 in total.", Fraction(2469, 2)),
    ("approximately 1,000 km", 1000),
    ("answer: 18 and 19", None),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_read_or_refused(text: str, value: Fraction | None) -> None:
    assert read_number(text) == value
    assert final_number(text) == value


def _indian(value: int) -> str:
    head, tail = str(value)[:-3], str(value)[-3:]
    pairs = []
    while head:
        head, pair = head[:-2], head[-2:]
        pairs.insert(0, pair)
    return ",".join([*pairs, tail])


NOTATIONS = {
    "plain": str,
    "commas": lambda value: f"{value:,}",
    "European": lambda value: f"{value:,}".replace(",", ".") if value >= 10**6 else str(value),
    "Indian": _indian,
    "thin spaces": lambda value: f"{value:,}".replace(",", "\u202f"),
    "apostrophes": lambda value: f"{value:,}".replace(",", "'"),
    "Arabic digits": lambda value: str(value).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
    "wide digits": lambda value: str(value).translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    "LaTeX": lambda value: f"{value:,}".replace(",", "{,}"),
    "two decimals": lambda value: f"{value:,}.00",
    "dollars": lambda value: f"${value:,}",
    "euros": lambda value: f"{value} €",
    "percent": lambda value: f"{value}%",
    "unit": lambda value: f"{value} km/h",
    "equation": lambda value: f"x = {value}",
    "sum": lambda value: f"{value - 1} + 1 = {value}",
}
FRAMES = [
    "{}",
    "**{}**",
    "{}.",
    "({})",
    "The answer is {}.",
    "The answer is **{}**, as shown.",
    "So the answer is {}.\nLet me know if the answer is unclear.",
    "Answer: {}",
    "Final answer: {}",
    "Ans: {}",
    "#### {}",
    "\\boxed{{{}}}",
    "Let me think step by step.\n1. Add them.\n2. Multiply them.\n\nIn total it is {}.",
    "On 2024-05-01 at 9:30 it was {}.",
    "<answer>{}</answer>",
    '{{"answer": "{}"}}',
]


@settings(deadline=None, max_examples=300)
@given(st.integers(1000, 10**9), st.sampled_from(sorted(NOTATIONS)), st.sampled_from(FRAMES))
def test_any_number_in_any_notation_and_frame(value: int, notation: str, frame: str) -> None:
    text = frame.format(NOTATIONS[notation](value))
    assert read_number(text) == value
    assert final_number(text) == value


@settings(deadline=None, max_examples=200)
@given(
    st.integers(10, 10**6),
    st.integers(10, 10**6),
    st.sampled_from(
        ["{} or {}", "{} and {}", "{} to {}", "between {} and {}", "{}-{}", "{}, {}", "{} + {}", "1+1={} and 2+2={}"]
    ),
    st.sampled_from(FRAMES),
)
def test_of_two_candidates_none_is_read(one: int, other: int, pair: str, frame: str) -> None:
    if one == other or {one, other} & {2, 4} or frame == "The answer is **{}**, as shown.":
        return
    text = frame.format(pair.format(one, other))
    assert read_number(text, integer=True) is None
    assert final_number(text) is None


@settings(deadline=None, max_examples=100)
@given(
    st.integers(10, 10**6),
    st.sampled_from(
        [
            "not {}",
            "It is not {}.",
            "The answer is not {}.",
            "It isn't {}",
            "{} is wrong.",
            "#### not {}",
            "\\boxed{{\\text{{not }}{}}}",
        ]
    ),
)
def test_a_denied_number_is_not_read(value: int, frame: str) -> None:
    assert read_number(frame.format(value)) is None
    assert final_number(frame.format(value)) is None
    assert final_number(f"The answer is not {value} but {value + 1}.") == value + 1
